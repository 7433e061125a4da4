import os

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
    source = class_folders.open_split_folders(write(tmp_path, [*PHOTOS, *hidden]))
    assert source.classes == (
        records.ClassName("a dog", "a dog"),
        records.ClassName("cat", "cat"),
    )
    assert small_release.listed(source) == [
        ("train", "a dog/1.jpg", "1.jpg", 0, b"train/a dog/1.jpg"),
        ("train", "cat/1.jpg", "1.jpg", 1, b"train/cat/1.jpg"),
        ("train", "cat/2.jpg", "2.jpg", 1, b"train/cat/2.jpg"),
        ("validation", "cat/1.jpg", "1.jpg", 1, b"validation/cat/1.jpg"),
    ]


def test_labels_are_those_of_keras(tmp_path):
    names = [f"{wnid}/{wnid}.jpg" for wnid in ("n02", "N1", "n10", "n01", "a b", "Z", "10", "9")]
    write(tmp_path, [f"train/{name}" for name in names] + ["validation/9/1.jpg"])
    source = class_folders.open_split_folders(str(tmp_path))
    expected = keras.utils.image_dataset_from_directory(str(tmp_path / "train"), shuffle=False)
    assert [entry.wnid for entry in source.classes] == expected.class_names
    train = [p for p in source.photos if p.split == "train"]
    assert sorted(photo.path for photo in train) == sorted(expected.file_paths)
    for photo in train:
        assert photo.filename == f"{expected.class_names[photo.label]}.jpg"


def test_a_photo_is_as_old_and_as_long_as_its_file(tmp_path):
    folder = write(tmp_path, PHOTOS)
    os.utime(tmp_path / PHOTOS[3], ns=(0, 1_234_567_891_234_567_891))
    photo = next(p for p in class_folders.open_split_folders(folder).photos if p.split != "train")
    assert photo.modified_ns == 1_234_567_891_234_567_891
    assert (photo.offset, photo.length) == (0, len("validation/cat/1.jpg"))


@pytest.mark.parametrize("fraction", [None, 0.5])
def test_the_order_of_the_listing_does_not_matter(tmp_path, monkeypatch, fraction):
    write(tmp_path, [f"{place}/{n}.jpg" for place in ("train/a", "train/b") for n in range(9)])
    write(tmp_path, ["validation/a/1.jpg"])

    def photos():
        if fraction is None:
            return list(class_folders.open_split_folders(str(tmp_path)).photos)
        return list(class_folders.open_one_folder(str(tmp_path / "train"), fraction).photos)

    one = photos()
    monkeypatch.setattr(os, "scandir", ReversedScan)
    two = photos()
    assert [p.path for p in one] != [p.path for p in two]
    assert sorted(one) == sorted(two)


def test_names_that_are_no_text_are_made_text(tmp_path):
    write(tmp_path, PHOTOS)
    folder = os.path.join(os.fsencode(tmp_path), b"train", b"d\xff")
    os.mkdir(folder)
    with open(os.path.join(folder, b"\xff\n.jpg"), "w") as file:
        file.write("odd")
    source = class_folders.open_split_folders(str(tmp_path))
    assert source.classes[2].wnid == r"d\udcff"
    odd = next(p for p in source.photos if p.label == 2)
    assert small_release.content_of(odd) == b"odd"
    assert (odd.filename, odd.key) == (r"\udcff\n.jpg", r"d\udcff/\udcff\n.jpg")
    odd.key.encode()


def test_links_count_as_what_they_lead_to(tmp_path):
    write(tmp_path, PHOTOS)
    os.symlink(tmp_path / "train" / "cat", tmp_path / "train" / "pet")
    source = class_folders.open_split_folders(str(tmp_path))
    assert sum(photo.label == 2 for photo in source.photos) == 2


@pytest.mark.parametrize(
    ("names", "text"),
    [
        (
            ["cat/1.jpg"],
            r"a folder .*/train with a folder for each class is needed; there is none; "
            r"validation_fraction splits a folder of classes",
        ),
        (PHOTOS[:3], r"a folder .*/validation with a folder .* is needed; there is none$"),
        (["train/1.jpg", *PHOTOS[3:]], r"/train must hold a folder for each class; it holds none"),
        (
            [*PHOTOS, "validation/cow/1.jpg"],
            r"each class of .*/validation needs a folder in .*/train; cow has none \(1 in all\)",
        ),
        (
            [*PHOTOS, "train/cow/.hidden"],
            r"3 classes needs train photos in .*/train; cow has none \(1 in all\)",
        ),
        (
            [*PHOTOS[:3], "validation/cat/.hidden"],
            r"validation photos are needed in .*/validation; there are none",
        ),
    ],
)
def test_faulty_folders_are_refused(tmp_path, names, text):
    with pytest.raises(ValueError, match=text):
        list(class_folders.open_split_folders(write(tmp_path, names)).photos)


def test_a_folder_that_comes_up_while_listing_is_named(tmp_path):
    source = class_folders.open_split_folders(write(tmp_path, PHOTOS))
    write(tmp_path, ["train/cow/1.jpg"])
    with pytest.raises(ValueError, match=r"/train must stay as it is .*; cow is new; start again"):
        list(source.photos)


def test_one_folder_is_split(tmp_path):
    names = [f"{wnid}/{n}.jpg" for wnid in ("cat", "a dog") for n in range(200)]
    source = class_folders.open_one_folder(write(tmp_path, names), 0.25)
    assert [entry.wnid for entry in source.classes] == ["a dog", "cat"]
    photos = list(source.photos)
    assert sorted(photo.key for photo in photos) == sorted(names)
    assert all(photo.key.split("/")[0] == ("a dog", "cat")[photo.label] for photo in photos)
    share = sum(photo.split == "validation" for photo in photos) / len(photos)
    assert 0.15 < share < 0.35  # 5 standard deviations


@pytest.mark.parametrize("fraction", [0, 1, -0.1, 1.5, float("nan"), float("inf")])
def test_a_fraction_out_of_range_is_refused(tmp_path, fraction):
    with pytest.raises(ValueError, match=rf"more than 0 and less than 1; it is {fraction}$"):
        class_folders.open_one_folder(write(tmp_path, PHOTOS), fraction)


def test_what_is_split_is_not_split_again(tmp_path):
    folder = write(tmp_path, PHOTOS)
    text = r"is split into train and validation already; validation_fraction .*: leave it away"
    with pytest.raises(ValueError, match=text):
        class_folders.open_one_folder(folder, 0.1)
    # With a third folder, these are names of classes.
    write(tmp_path, ["test/1.jpg", "train/1.jpg", "validation/1.jpg"])
    assert len(class_folders.open_one_folder(folder, 0.1).classes) == 3


@pytest.mark.parametrize(
    ("names", "fraction", "text"),
    [
        (["1.jpg"], 0.5, r"must hold a folder for each class; it holds none$"),
        (["cat/1.jpg", "cow/.x"], 1e-9, r"2 classes needs train photos in .*; cow has none \(1"),
        (["cat/1.jpg"], 1 - 1e-9, r"1 classes needs train photos in .*; cat has none \(1"),
        (["cat/1.jpg"], 1e-9, r"validation photos are needed in .*; there are none"),
    ],
)
def test_a_faulty_folder_is_not_split(tmp_path, names, fraction, text):
    with pytest.raises(ValueError, match=text):
        list(class_folders.open_one_folder(write(tmp_path, names), fraction).photos)


def test_memory_does_not_grow_with_the_photos(tmp_path, monkeypatch):
    # Only as many files are asked for as photos are taken.
    folder = write(tmp_path, PHOTOS)
    taken = []

    def endless(_, depth):
        while True:
            taken.append(depth)
            yield storage.FileStat("cat/1.jpg", 1, 0)

    monkeypatch.setattr(storage, "files", endless)
    photos = class_folders.open_split_folders(folder).photos
    assert [next(photos).label for _ in range(5)] == [1] * 5
    assert taken == [2] * 5
