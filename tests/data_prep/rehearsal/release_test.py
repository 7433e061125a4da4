import dataclasses
import hashlib
import io
import json
import pathlib
import shutil
import subprocess
import sys
import tarfile
import time
from collections import Counter

import commands
import numpy as np
import pytest
import scipy.io
from PIL import Image

from data_prep.photos import decoding, images
from data_prep.rehearsal import release as release_module
from data_prep.rehearsal.photos import CLASSES, FAULTS, Recipe
from data_prep.rehearsal.release import write_release
from data_prep.sources import ilsvrc2012_devkit

pytestmark = pytest.mark.slow

_CLASSES, _TRAIN_PER_CLASS, _VALIDATION_PER_CLASS = 10, 60, 30
_SMALL = Recipe(classes=3, images_per_class=5, validation_per_class=3, seed=5)


@pytest.fixture(scope="module")
def release(tmp_path_factory):
    folder = tmp_path_factory.mktemp("rehearsal") / "release"
    recipe = Recipe(_CLASSES, _TRAIN_PER_CLASS, _VALIDATION_PER_CLASS, seed=1)
    write_release(output_dir=str(folder), recipe=recipe)
    return folder


@pytest.fixture(scope="module")
def train(release):
    """{wnid: {file name: bytes}}, by tarfile alone."""
    classes = {}
    with tarfile.open(release / "ILSVRC2012_img_train.tar") as outer:
        for member in outer:
            with tarfile.open(fileobj=outer.extractfile(member)) as inner:
                photos = {photo.name: inner.extractfile(photo).read() for photo in inner}
            classes[member.name.removesuffix(".tar")] = photos
    return classes


@pytest.fixture(scope="module")
def validation(release):
    """[(wnid, bytes)] in order of file name, by the devkit."""
    synsets, ground_truth = _read_devkit(release)
    wnids = {int(synset["ILSVRC2012_ID"]): str(synset["WNID"]) for synset in synsets}
    with tarfile.open(release / "ILSVRC2012_img_val.tar") as tar:
        names = sorted(tar.getnames())
        photos = [tar.extractfile(name).read() for name in names]
    return [(wnids[class_id], photo) for class_id, photo in zip(ground_truth, photos, strict=True)]


def _read_devkit(folder):
    data = "ILSVRC2012_devkit_t12/data"
    with tarfile.open(folder / "ILSVRC2012_devkit_t12.tar.gz", "r:gz") as tar:
        meta = io.BytesIO(tar.extractfile(f"{data}/meta.mat").read())
        lines = tar.extractfile(f"{data}/ILSVRC2012_validation_ground_truth.txt").read()
    synsets = scipy.io.loadmat(meta, squeeze_me=True)["synsets"]
    return synsets, [int(line) for line in lines.decode().splitlines()]


def _tree(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(pathlib.Path(folder).rglob("*"))
        if path.is_file()
    }


@pytest.fixture(scope="module")
def small(tmp_path_factory):
    """Return a release of `_SMALL` by one process; tests change copies of it."""
    folder = tmp_path_factory.mktemp("small") / "release"
    write_release(output_dir=str(folder), recipe=_SMALL, workers=1)
    return folder


def test_same_seed_same_bytes_whatever_the_workers(small, tmp_path):
    write_release(output_dir=str(tmp_path), recipe=_SMALL, workers=2)  # an empty folder is filled
    assert _tree(tmp_path) == _tree(small)


def test_another_seed_other_bytes(small, tmp_path):
    recipe = dataclasses.replace(_SMALL, seed=6)
    write_release(output_dir=str(tmp_path / "other"), recipe=recipe, workers=1)
    one, other = _tree(small), _tree(tmp_path / "other")
    assert one.keys() == other.keys()
    # The devkit's differ by the order of the validation photos.
    assert not [name for name in one if one[name] == other[name]]


def test_devkit_does_not_hold_the_day_or_the_platform():
    content = release_module.devkit_bytes(_SMALL, (2, 1, 3))
    assert content[4:8] == bytes(4)  # gzip's time
    with tarfile.open(fileobj=io.BytesIO(content)) as tar:
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}
        meta = tar.extractfile("ILSVRC2012_devkit_t12/data/meta.mat").read()
    assert meta[:116].split() == [b"MATLAB", b"5.0", b"MAT-file,", b"rehearsal", b"release"]
    # What follows the text is the format's: no subsystem, version 1, byte order.
    assert meta[116:128] == bytes(8) + b"\x00\x01IM"
    time.sleep(1.1)
    assert release_module.devkit_bytes(_SMALL, (2, 1, 3)) == content


def test_train_tar_is_one_tar_a_class(train):
    assert sorted(train) == sorted(entry.wnid for entry in CLASSES)
    for wnid, photos in train.items():
        assert sorted(photos) == sorted(f"{wnid}_{k}.JPEG" for k in range(_TRAIN_PER_CLASS))


def test_validation_tar_is_flat_named_and_whole(release):
    with tarfile.open(release / "ILSVRC2012_img_val.tar") as tar:
        names = tar.getnames()
        assert {(member.mtime, member.uid, member.uname) for member in tar} == {(0, 0, "")}
    count = _CLASSES * _VALIDATION_PER_CLASS
    assert names == [f"ILSVRC2012_val_{number:08d}.JPEG" for number in range(1, count + 1)]


def test_ground_truth_has_every_class_alike_and_in_no_order(release):
    _, ground_truth = _read_devkit(release)
    assert Counter(ground_truth) == dict.fromkeys(range(1, _CLASSES + 1), _VALIDATION_PER_CLASS)
    assert ground_truth != sorted(ground_truth)


def test_meta_mat_reads_like_the_real_one(release):
    synsets, _ = _read_devkit(release)
    assert synsets.dtype.names == (
        "ILSVRC2012_ID",
        "WNID",
        "words",
        "gloss",
        "num_children",
        "children",
        "wordnet_height",
        "num_train_images",
    )
    # As torchvision picks the classes out: no children.
    leaves = [synset for synset in synsets if synset["num_children"] == 0]
    inner = [synset for synset in synsets if synset["num_children"] > 0]
    assert [leaf["ILSVRC2012_ID"] for leaf in leaves] == list(range(1, _CLASSES + 1))
    assert all(leaf["num_train_images"] == _TRAIN_PER_CLASS for leaf in leaves)
    assert all(leaf["wordnet_height"] == 0 and leaf["children"].size == 0 for leaf in leaves)
    assert [(str(leaf["WNID"]), str(leaf["gloss"])) for leaf in leaves] == [
        (entry.wnid, entry.gloss) for entry in CLASSES
    ]
    assert {str(leaf["words"]).split(",")[0] for leaf in leaves} == {e.shape for e in CLASSES}
    assert len(inner) == 3
    assert [node["ILSVRC2012_ID"] for node in inner] == [11, 12, 13]
    assert [node["wordnet_height"] for node in inner] == [1, 1, 2]
    for node in inner:
        assert node["num_children"] == node["children"].size
    reached = np.concatenate([node["children"] for node in inner])
    everything_but_the_root = range(1, _CLASSES + 3)
    assert sorted(reached) == list(everything_but_the_root)


@pytest.fixture(scope="module")
def faulty(release, train):
    """{fault: bytes} as rehearsal.json says."""
    summary = json.loads((release / "rehearsal.json").read_text())
    names = {entry["name"]: entry["file"] for entry in summary["faults"]}
    assert set(names) == set(FAULTS)
    assert len({name.split("_")[0] for name in names.values()}) == len(names)  # classes
    return {fault: train[name.split("_")[0]][name] for fault, name in names.items()}


def test_faults_are_those_of_real_photos(faulty):
    for fault, kind in (
        ("cmyk", ("JPEG", "CMYK")),
        ("png_named_jpeg", ("PNG", "RGB")),
        ("grey", ("JPEG", "L")),
    ):
        with Image.open(io.BytesIO(faulty[fault])) as photo:
            photo.load()
            assert (photo.format, photo.mode) == kind
    truncated = Image.open(io.BytesIO(faulty["truncated"]))
    assert truncated.format == "JPEG"
    with pytest.raises(OSError, match="truncated"):
        truncated.load()
    assert faulty["empty"] == b""


def test_all_other_photos_are_different_rgb_jpegs_of_varied_size(
    release, train, validation, faulty
):
    held_out = {path.name: path.read_bytes() for path in (release / "held_out").iterdir()}
    assert sorted(held_out) == sorted(f"{entry.shape}_0.jpg" for entry in CLASSES)
    contents = [content for photos in train.values() for content in photos.values()]
    contents += [content for _, content in validation] + list(held_out.values())
    assert len(set(contents)) == len(contents)
    sizes = set()
    for content in set(contents) - set(faulty.values()):
        with Image.open(io.BytesIO(content)) as photo:
            photo.load()
            assert (photo.format, photo.mode, dict(photo.getexif())) == ("JPEG", "RGB", {})
            assert 120 <= min(photo.size) <= max(photo.size) <= 500
            sizes.add(photo.size)
    assert len(sizes) > len(contents) * 0.8
    assert any(width < height for width, height in sizes)


def _square(content):
    try:
        return images.resize_and_crop(decoding.decode(content).pixels, 64)
    except decoding.UnusableError:
        return None


def _pixels(squares):
    small = [images.resize_and_crop(square, 32) for square in squares]
    return np.reshape(small, (len(small), -1)).astype(np.float64)


def _spectrum(squares):
    """Return what is the same of a shape at any place and rotation: rings of its spectrum."""
    grey = np.mean(squares, axis=3)
    grey -= grey.mean(axis=(1, 2), keepdims=True)
    power = np.fft.fftshift(np.abs(np.fft.fft2(grey)) ** 0.5, axes=(1, 2))
    y, x = np.mgrid[-32:32, -32:32]
    radius = np.hypot(y, x)
    rings = [power[:, (radius >= r) & (radius < r + 1)] for r in range(1, 31)]
    features = np.stack([ring.mean(1) for ring in rings] + [ring.std(1) for ring in rings], 1)
    return features / np.sqrt((features**2).mean(1, keepdims=True))


def _linear_top1(features, train_squares, train_labels, squares, labels):
    """Ridge regression to one-hot labels; the fraction that is right."""
    x, x_new = features(train_squares), features(squares)
    mean, std = x.mean(0), x.std(0) + 1e-9
    x, x_new = (x - mean) / std, (x_new - mean) / std
    targets = np.equal.outer(train_labels, np.unique(train_labels)) - 1 / _CLASSES
    weights = np.linalg.solve(x.T @ x + 0.1 * len(x) * np.eye(x.shape[1]), x.T @ targets)
    return np.mean(np.unique(train_labels)[(x_new @ weights).argmax(1)] == labels)


def test_classes_are_learnable_but_not_by_a_line_through_the_pixels(train, validation):
    """Also that devkit and tars agree: learned by wnid, judged by ID, as the two have nothing
    else in common."""
    pairs = [
        (wnid, square)
        for wnid, photos in train.items()
        for content in photos.values()
        if (square := _square(content)) is not None
    ]
    labels = np.array([wnid for wnid, _ in pairs])
    squares = [square for _, square in pairs]
    new_labels = np.array([wnid for wnid, _ in validation])
    new_squares = [_square(content) for _, content in validation]
    assert _linear_top1(_spectrum, squares, labels, new_squares, new_labels) > 0.45
    assert _linear_top1(_pixels, squares, labels, new_squares, new_labels) < 0.25


def test_finished_release_is_kept(small):
    before = _tree(small)
    (small / "a_note_of_mine.txt").write_text("no harm")
    kept = write_release(output_dir=str(small), recipe=_SMALL, workers=1)
    (small / "a_note_of_mine.txt").unlink()
    summary = json.loads((small / "rehearsal.json").read_text())
    assert kept == {"output_dir": str(small), "kept": True, **summary}
    assert _tree(small) == before


def test_summary_agrees_with_the_files(release):
    summary = json.loads((release / "rehearsal.json").read_text())
    contents = _tree(release)
    del contents["rehearsal.json"]
    assert summary["files"] == {
        name: hashlib.sha256(content).hexdigest() for name, content in contents.items()
    }
    assert summary["train_images"] == _CLASSES * _TRAIN_PER_CLASS
    assert summary["validation_images"] == _CLASSES * _VALIDATION_PER_CLASS
    assert all((release / name).exists() for name in summary["held_out"])


@pytest.mark.parametrize(
    ("changes", "text"),
    [
        ({"classes": 2}, "holds a release of another recipe.*choose another"),
        ({ilsvrc2012_devkit.VALIDATION_TAR: b"?"}, "a release whose files have changed"),
        ({"rehearsal.json": None}, "holds something that is no finished release"),
        ({"rehearsal.json": b""}, "is no finished release"),
        ({"rehearsal.json": b"[]"}, "is no finished release"),
        ({"rehearsal.json": b'{"recipe": {}, "files": 3}'}, "is no finished release"),
    ],
)
def test_a_folder_of_something_else_is_refused_and_kept(small, tmp_path, changes, text):
    folder = shutil.copytree(small, tmp_path / "release")
    files = dict(changes)
    classes = files.pop("classes", _SMALL.classes)
    for name, content in files.items():
        (folder / name).unlink()
        if content is not None:
            (folder / name).write_bytes(content)
    before = _tree(folder)
    recipe = dataclasses.replace(_SMALL, classes=classes)
    with pytest.raises(ValueError, match=text):
        write_release(output_dir=str(folder), recipe=recipe, workers=1)
    assert _tree(folder) == before


def test_full_disk_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(release_module, "devkit_bytes", full)
    with pytest.raises(ValueError, match=r"cannot be .*No space left.*make room"):
        write_release(output_dir=str(tmp_path / "release"), recipe=_SMALL, workers=1)
    assert not list(tmp_path.iterdir())


def test_path_under_a_file_is_refused(tmp_path):
    (tmp_path / "file").write_text("")
    for path in (tmp_path / "file", tmp_path / "file" / "release"):
        with pytest.raises(ValueError, match="output_dir must be"):
            write_release(output_dir=str(path), recipe=_SMALL, workers=1)


def test_command_ends_with_one_line_of_json(tmp_path):
    output_dir = str(tmp_path / "release") + "/"
    sizes = ("--classes=2", "--images_per_class=4", "--validation_per_class=1")
    done = commands.in_new_process("data_prep.rehearsal", f"--output_dir={output_dir}", *sizes)
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["train_images"], result["validation_images"]) == (8, 2)
    assert result["kept"] is False
    assert "photo/s" in done.stderr
    shutil.rmtree(output_dir)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize("flag", ["--classes=11", "--images_per_class=3", "--seed=-1"])
def test_a_flag_out_of_range_is_one_line(flag):
    done = commands.in_process("data_prep.rehearsal", "--output_dir=x", flag)
    assert (done.returncode, done.stdout, done.stderr.count("\n")) == (2, "", 1)
    assert flag in done.stderr


def test_imports_are_light():
    script = (
        "import data_prep.rehearsal.__main__, sys; "
        "sys.exit(any(name in sys.modules for name in ('apache_beam', 'tensorflow')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
