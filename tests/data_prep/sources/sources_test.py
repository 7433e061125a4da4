import os

import pytest
import small_release
from small_release import CLASSES

from data_prep import sources

EXPECTED = sorted(
    [
        ("train", f"{wnid}/{wnid}_{n}.JPEG", f"{wnid}_{n}.JPEG", label, f"{wnid} {n}".encode())
        for label, wnid in enumerate(("n01", "n02", "n03"))
        for n in (0, 1)
    ]
    + [
        (
            "validation",
            f"ILSVRC2012_val_0000000{n}.JPEG",
            f"ILSVRC2012_val_0000000{n}.JPEG",
            label,
            f"val {n}".encode(),
        )
        for n, label in ((1, 1), (2, 2), (3, 0))
    ]
)
RELEASE = {
    "ILSVRC2012_img_train.tar": small_release.train_tar(),
    "ILSVRC2012_img_val.tar": small_release.validation_tar(),
    "ILSVRC2012_devkit_t12.tar.gz": small_release.devkit_tar(),
}
DEVKIT = {"ILSVRC2012_devkit_t12.tar.gz": small_release.devkit_tar()}
TRAIN = small_release.train_files()
KAGGLE = {
    **{
        f"ILSVRC/Data/CLS-LOC/{name}": content
        for name, content in {**TRAIN, **small_release.flat_files()}.items()
    },
    "LOC_val_solution.csv": small_release.SOLUTION,
    "LOC_synset_mapping.txt": small_release.MAPPING,
}
LAYOUTS = {
    "tars": ("ilsvrc2012", RELEASE, "."),
    "torchvision": ("ilsvrc2012_folders", TRAIN | small_release.foldered_files() | DEVKIT, "."),
    "folders and names": (
        "ilsvrc2012_folders",
        TRAIN
        | small_release.foldered_files(folder="validation")
        | {"LOC_synset_mapping.txt": small_release.MAPPING},
        ".",
    ),
    "flat and devkit": ("ilsvrc2012_folders", TRAIN | small_release.flat_files() | DEVKIT, "."),
    "flat and unpacked devkit": (
        "ilsvrc2012_folders",
        TRAIN | small_release.flat_files(folder="validation") | small_release.devkit_files(),
        ".",
    ),
    "kaggle, its top": ("ilsvrc2012_folders", KAGGLE, "."),
    "kaggle, its photos": ("ilsvrc2012_folders", KAGGLE, "ILSVRC/Data/CLS-LOC"),
    "kaggle and devkit": ("ilsvrc2012_folders", KAGGLE | DEVKIT, "."),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_each_layout_of_the_same_photos_is_the_same_source(tmp_path, layout):
    name, contents, input_dir = LAYOUTS[layout]
    small_release.write(tmp_path, contents)
    source = sources.open_source(name, str(tmp_path / input_dir))
    assert source.classes == CLASSES
    assert small_release.listed(source) == EXPECTED


def test_photos_are_listed_when_asked_for(tmp_path):
    folder = small_release.write(tmp_path, TRAIN | small_release.flat_files() | DEVKIT)
    source = sources.open_source("ilsvrc2012_folders", folder)
    assert iter(source.photos) is source.photos
    os.rename(tmp_path / "val", tmp_path / "gone")
    with pytest.raises(FileNotFoundError, match=rf"'{folder}/val'"):
        list(source.photos)


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_missing_input_folder_is_named(tmp_path, name):
    with pytest.raises(ValueError, match=r"input_dir must be a folder; there is none at .*/none"):
        sources.open_source(name, str(tmp_path / "none"))


@pytest.mark.parametrize("name", ["ilsvrc2012", "ilsvrc2012_folders"])
def test_only_class_folders_are_split(tmp_path, name):
    with pytest.raises(
        ValueError, match=rf"validation_fraction is for the source class_folders, not {name}"
    ):
        sources.open_source(name, str(tmp_path), validation_fraction=0.1)


def test_a_fraction_splits_class_folders(tmp_path):
    names = [f"{wnid}/{n}.jpg" for wnid in ("cat", "a dog") for n in range(200)]
    folder = small_release.write(tmp_path, {name: name for name in names})
    source = sources.open_source("class_folders", folder, validation_fraction=0.25)
    assert [entry.wnid for entry in source.classes] == ["a dog", "cat"]
    photos = list(source.photos)
    assert sorted(photo.key for photo in photos) == sorted(names)
    assert all(photo.key.split("/")[0] == ("a dog", "cat")[photo.label] for photo in photos)
    share = sum(photo.split == "validation" for photo in photos) / len(photos)
    assert 0.15 < share < 0.35  # 5 standard deviations
