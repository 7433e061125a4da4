import hashlib
import io
import itertools
import os
import threading

import pytest

from data_prep import storage
from data_prep.sources import class_folders
from data_prep.sources.reference import Reference


def write(folder, contents):
    """Files with a content each, as references by the order of `contents`."""
    photos = []
    for number, content in enumerate(contents):
        path = folder / f"{number}.jpg"
        path.write_bytes(content)
        photos.append(
            Reference("train", path.name, str(path), 0, len(content), path.name, number % 3, number)
        )
    return photos


def contents(count):
    return [f"photo {n}".encode() * (n + 1) for n in range(count)]


def splits(photos, fraction):
    return {photo.key: photo.split for photo in class_folders.split(photos, fraction)}


def test_the_hash_of_the_bytes_decides(tmp_path):
    photos = write(tmp_path, [*contents(300), b"", b"x" * 3_000_000])
    for photo in class_folders.split(photos, 0.3):
        with open(photo.path, "rb") as file:
            hashed = hashlib.blake2b(file.read(), digest_size=8, salt=b"validation split").digest()
        place = int.from_bytes(hashed, "big") / 2**64
        assert photo.split == ("validation" if place < 0.3 else "train")


def test_nothing_but_the_split_and_no_order_changes(tmp_path):
    photos = write(tmp_path, contents(200))
    result = list(class_folders.split(photos, 0.5))
    assert [photo._replace(split="train") for photo in result] == photos
    assert {photo.split for photo in result} == {"train", "validation"}


def test_a_photo_stays_when_others_come_and_names_change(tmp_path):
    (tmp_path / "one").mkdir()
    (tmp_path / "two").mkdir()
    before = splits(write(tmp_path / "one", contents(50)), 0.4)
    after = splits(write(tmp_path / "two", [b"new", *contents(80)]), 0.4)
    assert [after[f"{n + 1}.jpg"] for n in range(50)] == [before[f"{n}.jpg"] for n in range(50)]


def test_more_validates_with_a_larger_fraction_and_what_did_still_does(tmp_path):
    photos = write(tmp_path, contents(100))
    chosen = [
        {key for key, split in splits(photos, fraction).items() if split == "validation"}
        for fraction in (1e-12, 0.1, 0.5, 0.9, 1 - 1e-12)
    ]
    for fewer, more in itertools.pairwise(chosen):
        assert fewer < more
    assert (len(chosen[0]), len(chosen[-1])) == (0, 100)


def test_duplicates_are_on_one_side(tmp_path):
    photos = write(tmp_path, contents(40) * 2)
    found = splits(photos, 0.5)
    assert all(found[f"{n}.jpg"] == found[f"{n + 40}.jpg"] for n in range(40))


def test_it_looks_ahead_a_little_only(tmp_path):
    photo = write(tmp_path, [b"x"])[0]
    asked = itertools.count()
    endless = (photo._replace(label=n) for n in asked)
    stream = class_folders.split(endless, 0.5)
    for label in range(10):
        assert next(stream).label == label
    assert next(asked) < 10 + 64
    threads = threading.active_count()
    stream.close()
    assert threading.active_count() < threads


@pytest.mark.parametrize("count", [0, 1, 31, 32, 33, 100])
def test_none_is_lost(tmp_path, count):
    photos = write(tmp_path, contents(count))
    assert [photo.key for photo in class_folders.split(photos, 0.5)] == [p.key for p in photos]


def test_a_photo_that_cannot_be_read_is_named(tmp_path, monkeypatch):
    photos = write(tmp_path, contents(100))
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
