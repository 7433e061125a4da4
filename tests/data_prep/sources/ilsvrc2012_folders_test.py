import pytest
import small_release
from small_release import (
    CLASSES,
    MAPPING,
    SOLUTION,
    SYNSETS,
    devkit_tar,
    flat_files,
    foldered_files,
    train_files,
)

from data_prep import records
from data_prep.sources import ilsvrc2012

TRAIN = train_files()
DEVKIT = {"ILSVRC2012_devkit_t12.tar.gz": devkit_tar()}
CSV = {"LOC_val_solution.csv": SOLUTION}
NAMES = {"LOC_synset_mapping.txt": MAPPING}


def opened(root, contents):
    return ilsvrc2012.open_folders(small_release.write(root, contents))


def test_without_lists_folders_are_enough(tmp_path):
    own = {"val/n01/my photo.jpg": "x", "val/n02/my photo.jpg": "y", "val/n02/.x": "hidden"}
    source = opened(tmp_path, TRAIN | own)
    assert source.classes == tuple(records.ClassName(w, w) for w in ("n01", "n02", "n03"))
    assert [p for p in small_release.listed(source) if p[0] == "validation"] == [
        ("validation", "n01/my photo.jpg", "my photo.jpg", 0, b"x"),
        ("validation", "n02/my photo.jpg", "my photo.jpg", 1, b"y"),
    ]


@pytest.mark.parametrize(
    ("lists", "classes"),
    [
        (CSV, tuple(records.ClassName(w, w) for w in ("n01", "n02", "n03"))),
        (CSV | NAMES, CLASSES),
        (DEVKIT, CLASSES),
        (DEVKIT | {"LOC_synset_mapping.txt": "n01 a\nn02 b\nn03 c\n"}, CLASSES),
    ],
)
def test_names_come_from_the_first_list_there_is(tmp_path, lists, classes):
    assert opened(tmp_path, TRAIN | flat_files() | lists).classes == classes


def test_the_lists_of_kaggle_are_found_from_inside(tmp_path, monkeypatch):
    inside = tmp_path / "ILSVRC" / "Data" / "CLS-LOC"
    small_release.write(inside, TRAIN | flat_files())
    small_release.write(tmp_path, CSV | NAMES)
    expected = small_release.listed(ilsvrc2012.open_folders(str(tmp_path)))
    monkeypatch.chdir(inside)
    for input_dir in (".", f"{inside}/", "../CLS-LOC"):
        source = ilsvrc2012.open_folders(input_dir)
        assert source.classes == CLASSES
        assert small_release.listed(source) == expected


def test_lists_elsewhere_above_are_not_taken(tmp_path):
    small_release.write(tmp_path, CSV)
    small_release.write(tmp_path / "a" / "b" / "c", TRAIN | flat_files())
    with pytest.raises(ValueError, match=r"is needed beside it to tell their classes"):
        ilsvrc2012.open_folders(str(tmp_path / "a" / "b" / "c"))


def without(contents, *names):
    return {name: content for name, content in contents.items() if name not in names}


FLAT = TRAIN | flat_files()


@pytest.mark.parametrize(
    ("contents", "text"),
    [
        # The folders.
        (TRAIN, r"must be in val or validation in .*; neither is there"),
        (
            FLAT | foldered_files(folder="validation"),
            r"must be in val or validation in .*; both are there",
        ),
        (
            FLAT | foldered_files() | DEVKIT,
            r"/val must hold either a folder for each class or all photos; it holds both; move or",
        ),
        (
            FLAT,
            r"in .*/val are not in folders of classes; the devkit .* or Kaggle's LOC_val_solution",
        ),
        (TRAIN | {"val/.x": ""}, r"validation photos are needed in .*/val; there are none"),
        (
            TRAIN | foldered_files(("n01", "n04")),
            r"class of .*/val needs a folder in .*/train; n04 has none \(1 in all\)",
        ),
        # The folders and the classes of the lists.
        (
            FLAT | DEVKIT | train_files(("n04",)),
            r"each folder in .*/train must be one of the 3 classes of .*t12.tar.gz; n04 is none "
            r"\(1 in all\); a part of ImageNet is prepared with the source class_folders",
        ),
        (
            FLAT | CSV | NAMES | train_files(("n04",)),
            r"one of the 3 classes of .*/LOC_synset_mapping.txt; n04 is none \(1 in all\)",
        ),
        (
            flat_files() | DEVKIT | train_files(("n01", "n03")),
            r"each of the 3 classes of .*t12.tar.gz needs a folder in .*/train; n02 has none \(1 ",
        ),
        (
            flat_files() | CSV | train_files(("n01", "n03")),
            r"line 3 of .*/LOC_val_solution.csv must hold one of the 2 classes, not n02",
        ),
        # The photos and the lists.
        (
            without(FLAT | DEVKIT, "train/n02/n02_0.JPEG"),
            r"/train must hold as many photos .* as the devkit counts; n02 has 1, not 2 \(1 in",
        ),
        (
            without(FLAT | DEVKIT, f"val/{small_release.validation_name(2)}"),
            r"there is no ILSVRC2012_val_00000002 \(2 photos for 3 lines\)",
        ),
        (FLAT | CSV | flat_files((4,)), r"ILSVRC2012_val_00000004.JPEG has no line there"),
        (FLAT | DEVKIT | {"val/valprep.sh": ""}, r"valprep.sh has no line there"),
        (
            TRAIN | DEVKIT | foldered_files(("n01", "n03", "n02")),
            r"folder of its class; ILSVRC2012_val_0000000[13].JPEG is a n0[12] in the ground truth",
        ),
        # The lists.
        (
            FLAT | CSV | {"ILSVRC2012_devkit_t12.tar.gz": devkit_tar(truth="3\n2\n1\n")},
            r"/ILSVRC2012_devkit_t12.tar.gz and .*/LOC_val_solution.csv must say the same .*; of "
            r"ILSVRC2012_val_00000002 they say n01 and n03 \(2 such photos\)",
        ),
        (
            FLAT | DEVKIT | small_release.devkit_files(SYNSETS, "1\n3\n2\n"),
            r"t12.tar.gz and .*/ILSVRC2012_devkit_t12 must say the same .*; of "
            r"ILSVRC2012_val_00000001 they say n02 and n03 \(2 such photos\)",
        ),
        (
            FLAT | CSV | {"ILSVRC2012_devkit_t12.tar.gz": devkit_tar(truth="3\n1\n2\n" * 2)},
            r"of ILSVRC2012_val_00000004 they say n02 and nothing \(3 such photos\)",
        ),
    ],
)
def test_what_does_not_fit_together_is_refused(tmp_path, contents, text):
    with pytest.raises(ValueError, match=text):
        list(opened(tmp_path, contents).photos)
