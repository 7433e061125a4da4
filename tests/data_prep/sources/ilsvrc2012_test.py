import os
import tarfile

import pytest
import small_release
from small_release import tar_bytes, train_tar, validation_tar

from data_prep.sources import ground_truth, ilsvrc2012, ilsvrc2012_devkit


def test_the_order_in_the_tars_does_not_matter(tmp_path):
    one = small_release.write_release(tmp_path / "one")
    two = small_release.write_release(
        tmp_path / "two", train_tar(("n01", "n02", "n03"), (1, 0)), validation_tar((3, 2, 1))
    )
    first, second = (ilsvrc2012.open_release(folder) for folder in (one, two))
    assert first.classes == second.classes
    assert small_release.listed(first) == small_release.listed(second)


def test_a_photo_is_as_old_as_its_tar(tmp_path):
    folder = small_release.write_release(tmp_path)
    os.utime(tmp_path / ilsvrc2012_devkit.TRAIN_TAR, ns=(0, 111))
    os.utime(tmp_path / ilsvrc2012_devkit.VALIDATION_TAR, ns=(0, 222))
    photos = list(ilsvrc2012.open_release(folder).photos)
    assert {(p.split, p.modified_ns, p.path) for p in photos} == {
        ("train", 111, str(tmp_path / ilsvrc2012_devkit.TRAIN_TAR)),
        ("validation", 222, str(tmp_path / ilsvrc2012_devkit.VALIDATION_TAR)),
    }


def test_a_devkit_without_counts_is_enough(tmp_path):
    synsets = [synset[:4] for synset in small_release.SYNSETS]
    folder = small_release.write_release(
        tmp_path, train_tar(photos=(5,)), devkit=small_release.devkit_tar(synsets)
    )
    assert len(list(ilsvrc2012.open_release(folder).photos)) == 6


def test_in_tars_links_folders_and_hidden_files_are_passed_over_and_names_are_made_text(tmp_path):
    link, folder = tarfile.TarInfo("n01_8.JPEG"), tarfile.TarInfo("n01_9.JPEG")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder.type = tarfile.DIRTYPE
    extra = [(".DS_Store", b"x"), ("._n01_0.JPEG", b"x"), link, folder]
    photos = [("/../../etc/n01_7.JPEG", b"photo"), (os.fsdecode(b"n01_\xff\n.JPEG"), b"odd")]
    train = [("n01.tar", tar_bytes([*extra, *photos])), (".hidden", b"x")]
    for wnid in ("n02", "n03"):
        train.append((f"{wnid}.tar", tar_bytes((f"{wnid}_{n}.JPEG", b"y") for n in (0, 1))))
    input_dir = small_release.write_release(tmp_path, train=tar_bytes(train))
    found = [p for p in ilsvrc2012.open_release(input_dir).photos if p.split == "train"]
    assert [(p.key, small_release.content_of(p)) for p in found[:2]] == [
        ("n01/n01_7.JPEG", b"photo"),
        (r"n01/n01_\udcff\n.JPEG", b"odd"),
    ]
    assert len(found) == 6
    assert {photo.path for photo in found} == {str(tmp_path / ilsvrc2012_devkit.TRAIN_TAR)}


@pytest.mark.parametrize(
    "name",
    [ilsvrc2012_devkit.TRAIN_TAR, ilsvrc2012_devkit.VALIDATION_TAR, ilsvrc2012_devkit.DEVKIT],
)
def test_a_missing_file_is_named(tmp_path, name):
    folder = small_release.write_release(tmp_path)
    os.unlink(tmp_path / name)
    with pytest.raises(ValueError, match=rf"there is no .*/{name}$"):
        ilsvrc2012.open_release(folder)


@pytest.mark.parametrize(
    ("faulty", "text"),
    [
        ({"train": train_tar(("n01", "n02", "n03", "n04"))}, r"called WNID.tar; n04.tar is none"),
        ({"train": train_tar(("n01", "n09"))}, r"n09.tar is none"),
        ({"train": tar_bytes([("n01.zip", tar_bytes([("a", b"b")]))])}, r"n01.zip is none"),
        (
            {"train": train_tar(("n02", "n03"))},
            r"each of the 3 classes needs train photos in .*train.tar; n01 has none \(1 in all\)",
        ),
        ({"train": train_tar(photos=())}, r"n01 has none \(3 in all\)"),
        ({"train": train_tar(photos=(1,))}, r"devkit counts; n01 has 1, not 2 \(3 in all\)"),
        ({"train": train_tar(photos=(1, 2, 3))}, r"n01 has 3, not 2"),
        (
            {"validation": validation_tar((1, 2))},
            r"val.tar must hold .* no ILSVRC2012_val_00000003 \(2 photos for 3 lines\)",
        ),
        ({"validation": tar_bytes([])}, r"no ILSVRC2012_val_00000001 \(0 photos for 3 lines\)"),
        ({"validation": validation_tar((1, 2, 3, 4))}, r"val_00000004.JPEG has no line there"),
        ({"validation": validation_tar((1, 2, 2, 3))}, r"val_00000002.JPEG is there twice; remove"),
        # As many photos as lines, but by their places all labels would be wrong.
        (
            {"validation": tar_bytes([("0_val.sh", b""), ("ILSVRC2012_val_00000001.JPEG", b"x")])},
            r"0_val.sh has no line there",
        ),
        ({"train": b"no tar at all" * 99}, r"img_train.tar must be a whole tar file"),
        ({"devkit": b"<html>" * 200}, r"devkit_t12.tar.gz must be a whole tar file"),
    ],
)
def test_a_faulty_release_is_refused(tmp_path, faulty, text):
    folder = small_release.write_release(tmp_path, **faulty)
    with pytest.raises(ValueError, match=text):
        list(ilsvrc2012.open_release(folder).photos)


@pytest.mark.parametrize(
    ("name", "number"),
    [
        ("ILSVRC2012_val_00048981.JPEG", 48981),
        ("ILSVRC2012_val_00048981", 48981),
        ("ILSVRC2012_val_00000007.tar.gz", 7),
        ("ILSVRC2012_val_7.JPEG", None),
        ("ILSVRC2012_val_000000071.JPEG", None),
        ("ILSVRC2012_val_0000000\u0661.JPEG", None),
        ("xILSVRC2012_val_00000001.JPEG", None),
        ("ILSVRC2012_test_00000001.JPEG", None),
        ("", None),
    ],
)
def test_the_number_is_in_the_name(name, number):
    assert ground_truth.photo_number(name) == number
