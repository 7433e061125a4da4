import hashlib
import io
import itertools
import os
import threading

import keras
import pytest
import small_release
from photo_folders import ReversedScan

from data_prep import records, storage
from data_prep.sources import class_folders

PHOTOS = ("train/cat/1.jpg", "train/cat/2.jpg", "train/a dog/1.jpg", "validation/cat/1.jpg")


def write(root, names):
    return small_release.write(root, {name: name for name in names})


def test_classes_are_labelled_by_sorted_name(tmp_path):
    hidden = ("train/cat/.hidden", "train/.git/x", "train/cat/sub/3.jpg", "train/README")
    source = class_folders.open_folders(write(tmp_path, [*PHOTOS, *hidden]))
    assert source.classes == (records.ClassName("a dog", "a dog"), records.ClassName("cat", "cat"))
    assert small_release.listed(source) == [
        ("train", "a dog/1.jpg", "1.jpg", 0, b"train/a dog/1.jpg"),
        ("train", "cat/1.jpg", "1.jpg", 1, b"train/cat/1.jpg"),
        ("train", "cat/2.jpg", "2.jpg", 1, b"train/cat/2.jpg"),
        ("validation", "cat/1.jpg", "1.jpg", 1, b"validation/cat/1.jpg"),
    ]


def test_labels_are_those_of_keras(tmp_path):
    names = [f"{wnid}/{wnid}.jpg" for wnid in ("n02", "N1", "n10", "n01", "a b", "Z", "10", "9")]
    write(tmp_path, [f"train/{name}" for name in names] + ["validation/9/1.jpg"])
    source = class_folders.open_folders(str(tmp_path))
    expected = keras.utils.image_dataset_from_directory(str(tmp_path / "train"), shuffle=False)
    assert [entry.wnid for entry in source.classes] == expected.class_names
    train = [p for p in source.photos if p.split == "train"]
    assert sorted(photo.path for photo in train) == sorted(expected.file_paths)
    for photo in train:
        assert photo.filename == f"{expected.class_names[photo.label]}.jpg"


def test_links_count_as_what_they_lead_to_and_a_photo_is_as_old_as_its_file(tmp_path):
    folder = write(tmp_path, PHOTOS)
    os.symlink(tmp_path / "train" / "cat", tmp_path / "train" / "pet")
    os.utime(tmp_path / PHOTOS[0], ns=(0, 1_234_567_891_234_567_891))
    train = [p for p in class_folders.open_folders(folder).photos if p.split == "train"]
    found = {photo.key: photo for photo in train}
    assert found.keys() == {"a dog/1.jpg", "cat/1.jpg", "cat/2.jpg", "pet/1.jpg", "pet/2.jpg"}
    for photo in (found["cat/1.jpg"], found["pet/1.jpg"]):
        assert photo.modified_ns == 1_234_567_891_234_567_891
        assert (photo.offset, photo.length) == (0, len("train/cat/1.jpg"))


@pytest.mark.parametrize(("folder", "fraction"), [(".", None), ("train", 0.5)])
def test_the_order_of_the_listing_does_not_matter(tmp_path, monkeypatch, folder, fraction):
    write(tmp_path, [f"{place}/{n}.jpg" for place in ("train/a", "train/b") for n in range(9)])
    write(tmp_path, ["validation/a/1.jpg"])
    one = list(class_folders.open_folders(str(tmp_path / folder), fraction).photos)
    monkeypatch.setattr(os, "scandir", ReversedScan)
    two = list(class_folders.open_folders(str(tmp_path / folder), fraction).photos)
    assert [p.path for p in one] != [p.path for p in two]
    assert sorted(one) == sorted(two)


def test_names_that_are_no_text_are_made_text(tmp_path):
    write(tmp_path, PHOTOS)
    folder = os.path.join(os.fsencode(tmp_path), b"train", b"d\xff")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff\n.jpg"), "w") as file:
        file.write("odd")
    source = class_folders.open_folders(str(tmp_path))
    assert source.classes[2].wnid == r"d\udcff"
    odd = next(p for p in source.photos if p.label == 2)
    assert small_release.content_of(odd) == b"odd"
    assert (odd.filename, odd.key) == (r"\udcff\n.jpg", r"d\udcff/\udcff\n.jpg")
    odd.key.encode()


@pytest.mark.parametrize(
    ("names", "fraction", "text"),
    [
        (
            ["cat/1.jpg"],
            None,
            r"a folder .*/train with a folder for each class is needed; there is none; "
            r"validation_fraction splits a folder of classes",
        ),
        (PHOTOS[:3], None, r"a folder .*/validation with a folder .* is needed; there is none$"),
        (["train/1.jpg", *PHOTOS[3:]], None, r"/train must hold a folder for each class; it holds"),
        ([*PHOTOS, "validation/cow/1.jpg"], None, r"in .*/train; cow has none \(1 in all\)"),
        ([*PHOTOS, "train/cow/.hidden"], None, r"3 classes needs train photos in .*; cow has none"),
        (
            [*PHOTOS[:3], "validation/cat/.hidden"],
            None,
            r"validation photos are needed in .*; there",
        ),
        (PHOTOS, 0, r"more than 0 and less than 1; it is 0$"),
        (PHOTOS, 1, r"it is 1$"),
        (PHOTOS, -0.1, r"it is -0.1$"),
        (PHOTOS, float("nan"), r"it is nan$"),
        (PHOTOS, float("inf"), r"it is inf$"),
        (PHOTOS, 0.1, r"is split into train and validation already; .*: leave it away"),
        (["1.jpg"], 0.5, r"must hold a folder for each class; it holds none$"),
        (["cat/1.jpg", "cow/.x"], 1e-9, r"2 classes needs train photos in .*; cow has none \(1"),
        (["cat/1.jpg"], 1 - 1e-9, r"1 classes needs train photos in .*; cat has none \(1"),
        (["cat/1.jpg"], 1e-9, r"validation photos are needed in .*; there are none"),
    ],
)
def test_faulty_folders_are_refused(tmp_path, names, fraction, text):
    with pytest.raises(ValueError, match=text):
        list(class_folders.open_folders(write(tmp_path, names), fraction).photos)


def test_a_folder_that_comes_up_while_listing_is_named(tmp_path):
    source = class_folders.open_folders(write(tmp_path, PHOTOS))
    write(tmp_path, ["train/cow/1.jpg"])
    with pytest.raises(ValueError, match=r"/train must stay as it is .*; cow is new; start again"):
        list(source.photos)


def test_memory_does_not_grow_with_the_photos(tmp_path, monkeypatch):
    # Only as many files are asked for as photos are taken.
    folder = write(tmp_path, PHOTOS)
    taken = []

    def endless(_, depth):
        while True:
            taken.append(depth)
            yield storage.FileStat("cat/1.jpg", 1, 0)

    monkeypatch.setattr(storage, "files", endless)
    photos = class_folders.open_folders(folder).photos
    assert [next(photos).label for _ in range(5)] == [1] * 5
    assert taken == [2] * 5


def test_the_names_of_splits_are_names_of_classes_beside_others(tmp_path):
    folder = write(tmp_path, ["test/1.jpg", "train/1.jpg", "validation/1.jpg"])
    assert len(class_folders.open_folders(folder, 0.1).classes) == 3


def listed(folder, contents):
    """Return photos of one class, in the order of `contents`."""
    names = {f"cat/{number:03d}.jpg": content for number, content in enumerate(contents)}
    small_release.write(folder, names)
    return sorted(class_folders.photos_in(str(folder), "train", {"cat": 0}))


@pytest.mark.parametrize("count", [0, 1, 63, 64, 65, 300])
def test_the_hash_of_the_bytes_decides_the_split_and_nothing_else_changes(tmp_path, count):
    contents = [f"photo {n % 200}".encode() * (n + 1) for n in range(count)]
    photos = listed(tmp_path, [*contents, b"x" * 3_000_000])
    result = list(class_folders.split(photos, 0.3))
    assert [photo._replace(split="train") for photo in result] == photos
    for photo in result:
        with open(photo.path, "rb") as file:
            hashed = hashlib.blake2b(file.read(), digest_size=8, salt=b"validation split").digest()
        place = int.from_bytes(hashed, "big") / 2**64
        assert photo.split == ("validation" if place < 0.3 else "train")


def test_it_looks_ahead_a_little_only(tmp_path):
    photo = listed(tmp_path, [b"x"])[0]
    asked = itertools.count()
    stream = class_folders.split((photo._replace(label=n) for n in asked), 0.5)
    for label in range(10):
        assert next(stream).label == label
    assert next(asked) < 10 + 64
    threads = threading.active_count()
    stream.close()
    assert threading.active_count() < threads


def test_a_photo_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    photos = listed(tmp_path, [b"x"] * 100)
    os.unlink(photos[70].path)
    with pytest.raises(ValueError, match=rf"{photos[70].path} cannot be \(No such file or direct"):
        list(class_folders.split(photos, 0.5))

    class Failing(io.RawIOBase):
        def readable(self):
            return True

        def readinto(self, _):
            raise OSError(5, "Input/output error")

    monkeypatch.setattr(storage, "open_file", lambda _: io.BufferedReader(Failing()))
    with pytest.raises(ValueError, match=rf"{photos[0].path} cannot be \(Input/output error\)"):
        list(class_folders.split(photos, 0.5))
