import gzip
import io
import os
import tarfile

import numpy as np
import pytest
import scipy.io

from data_prep import records, sources
from data_prep.command_line import UserError

# By ILSVRC2012_ID, which is not the order of the wnids; the last two are no classes.
SYNSETS = (
    (1, "n03", "third, 3rd", 0),
    (2, "n01", "first", 0),
    (3, "n02", "second", 0),
    (4, "n09", "thing", 3),
    (5, "n10", "entity", 1),
)
LABELS = {"n01": 0, "n02": 1, "n03": 2}


def tar_bytes(entries, mode="w"):
    """A tar of (name, content) or of tarfile.TarInfo."""
    output = io.BytesIO()
    with tarfile.open(fileobj=output, mode=mode) as tar:
        for entry in entries:
            if isinstance(entry, tarfile.TarInfo):
                tar.addfile(entry)
                continue
            member = tarfile.TarInfo(entry[0])
            member.size = len(entry[1])
            tar.addfile(member, io.BytesIO(entry[1]))
    return output.getvalue()


def meta_mat(synsets):
    dtype = [(name, object) for name in ("ILSVRC2012_ID", "WNID", "words", "num_children")]
    output = io.BytesIO()
    rows = np.array([tuple(row) for row in synsets], dtype).reshape(-1, 1)
    scipy.io.savemat(output, {"synsets": rows})
    return output.getvalue()


def train_tar(wnids=("n03", "n01", "n02"), photos=(0, 1)):
    return tar_bytes(
        (f"{wnid}.tar", tar_bytes((f"{wnid}_{n}.JPEG", f"{wnid} {n}".encode()) for n in photos))
        for wnid in wnids
    )


def validation_tar(numbers=(2, 1, 3)):
    return tar_bytes((f"ILSVRC2012_val_{n:08d}.JPEG", f"val {n}".encode()) for n in numbers)


def devkit_tar(synsets=SYNSETS, truth="3\n1\n2\n", folder="ILSVRC2012_devkit_t12/data"):
    entries = [
        (f"{folder}/meta.mat", synsets if isinstance(synsets, bytes) else meta_mat(synsets)),
        (f"{folder}/ILSVRC2012_validation_ground_truth.txt", truth.encode()),
    ]
    return tar_bytes(entries, "w:gz")


def write_release(folder, train=None, validation=None, devkit=None):
    contents = {
        sources.TRAIN_TAR: train_tar() if train is None else train,
        sources.VALIDATION_TAR: validation_tar() if validation is None else validation,
        sources.DEVKIT_TAR: devkit_tar() if devkit is None else devkit,
    }
    for name, content in contents.items():
        (folder / name).write_bytes(content)
    return str(folder)


def content_of(reference):
    with open(reference.path, "rb") as file:
        file.seek(reference.offset)
        return file.read(reference.length).decode()


def test_ilsvrc2012_photos_are_byte_ranges_with_labels_by_sorted_wnid(tmp_path):
    source = sources.open_source("ilsvrc2012", write_release(tmp_path))
    assert source.classes == (
        records.ClassName("n01", "first"),
        records.ClassName("n02", "second"),
        records.ClassName("n03", "third, 3rd"),
    )
    train = [(r.key, r.filename, r.label, content_of(r)) for r in source.splits["train"]]
    assert train == [
        (f"{wnid}/{wnid}_{n}.JPEG", f"{wnid}_{n}.JPEG", label, f"{wnid} {n}")
        for wnid, label in LABELS.items()
        for n in (0, 1)
    ]
    # Ground truth 3, 1, 2 in the order of the names, not in the tar's: ids of n02, n03, n01.
    validation = [(content_of(r), r.label) for r in source.splits["validation"]]
    assert validation == [("val 1", 1), ("val 2", 2), ("val 3", 0)]


def test_ilsvrc2012_does_not_depend_on_the_order_in_the_tars(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    one = sources.open_source("ilsvrc2012", write_release(tmp_path / "one"))
    other_order = write_release(
        tmp_path / "two", train_tar(("n01", "n02", "n03"), (1, 0)), validation_tar((3, 2, 1))
    )
    two = sources.open_source("ilsvrc2012", other_order)
    assert one.fingerprint() == two.fingerprint()
    for split in records.SPLITS:
        assert [r.key for r in one.splits[split]] == [r.key for r in two.splits[split]]


def test_other_photos_have_another_fingerprint(tmp_path):
    folder = write_release(tmp_path)
    before = sources.open_source("ilsvrc2012", folder).fingerprint()
    write_release(tmp_path, train=train_tar(photos=(0, 2)))
    assert sources.open_source("ilsvrc2012", folder).fingerprint() != before


def test_a_devkit_with_one_class_and_plain_gzip_less_tar_is_read(tmp_path):
    devkit = gzip.decompress(devkit_tar(SYNSETS[:1], "1\n"))
    folder = write_release(tmp_path, train_tar(("n03",)), validation_tar((1,)), devkit)
    assert sources.open_source("ilsvrc2012", folder).classes == (
        records.ClassName("n03", "third, 3rd"),
    )


def test_links_folders_and_hidden_files_in_tars_are_passed_over(tmp_path):
    link, folder = tarfile.TarInfo("n01_8.JPEG"), tarfile.TarInfo("n01_9.JPEG")
    link.type, link.linkname = tarfile.SYMTYPE, "/etc/passwd"
    folder.type = tarfile.DIRTYPE
    extra = [(".DS_Store", b"x"), ("._n01_0.JPEG", b"x"), link, folder]
    absolute = ("/../../etc/n01_7.JPEG", b"photo")
    inner = tar_bytes([*extra, absolute])
    train = tar_bytes(
        [("n01.tar", inner), (".hidden", b"x")]
        + [(f"{w}.tar", tar_bytes([(f"{w}_0.JPEG", b"y")])) for w in ("n02", "n03")]
    )
    source = sources.open_source("ilsvrc2012", write_release(tmp_path, train=train))
    keys = [reference.key for reference in source.splits["train"]]
    assert keys == ["n01/n01_7.JPEG", "n02/n02_0.JPEG", "n03/n03_0.JPEG"]
    assert content_of(source.splits["train"][0]) == "photo"
    assert {reference.path for reference in source.splits["train"]} == {
        str(tmp_path / sources.TRAIN_TAR)
    }


def damaged(content, place):
    broken = bytearray(content)
    broken[place] ^= 0xFF
    return bytes(broken)


def large_photos_tar():
    return tar_bytes((f"ILSVRC2012_val_{n}.JPEG", b"x" * 5000) for n in range(3))


@pytest.mark.parametrize(
    ("faulty", "text"),
    [
        ({"train": b"no tar at all" * 99}, r"img_train.tar must be a whole tar file"),
        ({"train": b""}, r"img_train.tar must be a whole tar file"),
        ({"validation": gzip.compress(validation_tar())}, r"img_val.tar must be a whole tar file"),
        ({"validation": large_photos_tar()[:9000]}, r"img_val.tar must be a whole tar file"),
        ({"validation": damaged(large_photos_tar(), 5700)}, r"img_val.tar is damaged at byte 5632"),
        ({"train": tar_bytes([("n01.tar", b"x" * 600)])}, r"'n01.tar' in .* must be a whole tar"),
        ({"train": tar_bytes([("n01/n01_0.JPEG", b"x")])}, r"'n01/n01_0.JPEG' in .* a whole tar"),
        ({"train": train_tar(("n01", "n02", "n03", "n04"))}, r"n04.tar is none"),
        ({"train": train_tar(("n01", "n09"))}, r"n09.tar is none"),
        ({"train": train_tar(("n02", "n03"))}, r"3 classes .* n01 has none \(1 in all\)"),
        ({"train": train_tar(photos=())}, r"n01 has none \(3 in all\)"),
        ({"train": train_tar(photos=(1, 1))}, r"n01/n01_1.JPEG is twice in the train photos"),
        ({"validation": validation_tar((1, 2))}, r"holds 2 photos for 3 lines"),
        ({"validation": tar_bytes([])}, r"holds 0 photos for 3 lines"),
        ({"devkit": b"<html>" * 200}, r"devkit_t12.tar.gz must be a whole tar file"),
        ({"devkit": devkit_tar()[:300]}, r"devkit_t12.tar.gz must be a whole tar file"),
        ({"devkit": tar_bytes([("a/meta.mat", b"")])}, r"must hold data/ILSVRC2012_validation"),
        ({"devkit": devkit_tar(b"no mat")}, r"meta.mat in .* cannot be read"),
        ({"devkit": devkit_tar(SYNSETS[1:])}, r"must have the ids 1 to N"),
        ({"devkit": devkit_tar(SYNSETS[3:])}, r"must have the ids 1 to N"),
        ({"devkit": devkit_tar((*SYNSETS, (4, "n01", "", 0)))}, r"a wnid of its own"),
        ({"devkit": devkit_tar(truth="3\n1\n4\n")}, r"one of the 3 classes .*; 4 is not"),
        ({"devkit": devkit_tar(truth="3\n1\nx\n")}, r"must hold an id a line"),
    ],
)
def test_a_faulty_release_is_refused(tmp_path, faulty, text):
    folder = write_release(tmp_path, **faulty)
    with pytest.raises(UserError, match=text):
        sources.open_source("ilsvrc2012", folder)


@pytest.mark.parametrize("name", [sources.TRAIN_TAR, sources.VALIDATION_TAR, sources.DEVKIT_TAR])
def test_a_missing_file_is_named(tmp_path, name):
    folder = write_release(tmp_path)
    os.unlink(tmp_path / name)
    with pytest.raises(UserError, match=rf"there is no .*{name}"):
        sources.open_source("ilsvrc2012", folder)


def write_folders(root, names):
    for name in names:
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(name)


PHOTOS = ("train/cat/1.jpg", "train/cat/2.jpg", "train/a dog/1.jpg", "validation/cat/1.jpg")


def test_class_folders_are_labelled_by_sorted_name(tmp_path):
    write_folders(tmp_path, [*PHOTOS, "train/cat/.hidden", "train/.git/x", "train/cat/sub/3.jpg"])
    (tmp_path / "train" / "README").write_text("no folder")
    source = sources.open_source("class_folders", str(tmp_path))
    assert source.classes == (
        records.ClassName("a dog", "a dog"),
        records.ClassName("cat", "cat"),
    )
    train = [(r.key, r.filename, r.label, content_of(r)) for r in source.splits["train"]]
    assert train == [
        ("a dog/1.jpg", "1.jpg", 0, "train/a dog/1.jpg"),
        ("cat/1.jpg", "1.jpg", 1, "train/cat/1.jpg"),
        ("cat/2.jpg", "2.jpg", 1, "train/cat/2.jpg"),
    ]
    assert [r.label for r in source.splits["validation"]] == [1]


def test_class_folders_do_not_depend_on_the_order_of_the_listing(tmp_path, monkeypatch):
    write_folders(tmp_path, PHOTOS)
    one = sources.open_source("class_folders", str(tmp_path))
    scan = os.scandir

    class Reversed:
        def __init__(self, path):
            with scan(path) as entries:
                self._entries = sorted(entries, key=lambda entry: entry.name, reverse=True)

        def __enter__(self):
            return iter(self._entries)

        def __exit__(self, *_):
            pass

    monkeypatch.setattr(os, "scandir", Reversed)
    assert sources.open_source("class_folders", str(tmp_path)) == one


def test_a_place_is_no_part_of_the_fingerprint(tmp_path):
    write_folders(tmp_path / "one", PHOTOS)
    one = sources.open_source("class_folders", str(tmp_path / "one")).fingerprint()
    os.rename(tmp_path / "one", tmp_path / "two")
    assert sources.open_source("class_folders", str(tmp_path / "two")).fingerprint() == one


def test_names_that_are_no_text_are_made_text(tmp_path):
    write_folders(tmp_path, PHOTOS)
    with open(os.path.join(os.fsencode(tmp_path), b"train", b"cat", b"\xff\n.jpg"), "w") as file:
        file.write("odd")
    source = sources.open_source("class_folders", str(tmp_path))
    odd = next(r for r in source.splits["train"] if content_of(r) == "odd")
    assert odd.filename == r"\udcff\n.jpg"
    odd.key.encode()


@pytest.mark.parametrize(
    ("names", "text"),
    [
        ([], r"a folder .*/train with a folder for each class is needed; there is none"),
        (PHOTOS[:3], r"a folder .*/validation with a folder for each class is needed"),
        (["train/1.jpg", *PHOTOS[3:]], r"/train must hold a folder for each class; it holds none"),
        ([*PHOTOS, "validation/cow/1.jpg"], r"needs a folder in .*/train; cow has none \(1 in"),
        ([*PHOTOS, "train/cow/.hidden"], r"/train/cow holds none"),
        (
            [*PHOTOS[:3], "validation/cat/.hidden"],
            r"photos are needed in .*/validation/CLASS/; there are none",
        ),
    ],
)
def test_faulty_class_folders_are_refused(tmp_path, names, text):
    write_folders(tmp_path, names)
    with pytest.raises(UserError, match=text):
        sources.open_source("class_folders", str(tmp_path))


@pytest.mark.parametrize("name", sources.SOURCES)
def test_a_missing_input_folder_is_named(tmp_path, name):
    with pytest.raises(UserError, match=r"--input_dir must be a folder; there is none at .*/none"):
        sources.open_source(name, str(tmp_path / "none"))


def test_a_source_that_cannot_be_read_is_a_users_mistake(tmp_path, monkeypatch):
    def refuse(_):
        raise PermissionError(13, "Permission denied", "/secret")

    monkeypatch.setitem(sources.SOURCES, "class_folders", refuse)
    with pytest.raises(UserError, match=r"cannot be read: .*Permission denied: '/secret'"):
        sources.open_source("class_folders", str(tmp_path))
