import hashlib
import io
import json
import os
import pathlib
import re
import shutil
import subprocess
import sys
import tarfile
from collections import Counter

import commands
import cv2
import numpy as np
import pytest
import scipy.io
from PIL import Image

from data_prep.rehearsal import release as devkit
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


def _run(*arguments):
    return commands.in_new_process("data_prep.rehearsal", *arguments)


def test_same_seed_same_bytes_whatever_the_workers(tmp_path):
    for name, workers in (("one", 1), ("two", 2)):
        write_release(output_dir=str(tmp_path / name), recipe=_SMALL, workers=workers)
    assert _tree(tmp_path / "one") == _tree(tmp_path / "two")


def test_another_seed_other_bytes(tmp_path):
    other = Recipe(3, 5, 3, seed=6)
    for name, recipe in (("one", _SMALL), ("other", other)):
        write_release(output_dir=str(tmp_path / name), recipe=recipe, workers=1)
    one, other = _tree(tmp_path / "one"), _tree(tmp_path / "other")
    assert one.keys() == other.keys()
    # The devkit's differ by the order of the validation photos.
    assert not [name for name in one if one[name] == other[name]]


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


def test_validation_photos_are_all_rgb_jpegs_of_varied_size(validation):
    sizes = set()
    for _, content in validation:
        with Image.open(io.BytesIO(content)) as photo:
            photo.load()
            assert (photo.format, photo.mode) == ("JPEG", "RGB")
            assert 120 <= min(photo.size) <= max(photo.size) <= 500
            sizes.add(photo.size)
    assert len(sizes) > len(validation) * 0.9
    assert any(width < height for width, height in sizes)


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
    assert {str(leaf["words"]).split(",")[0] for leaf in leaves} == {e.shape for e in CLASSES}
    assert len(inner) == 3
    for node in inner:
        assert node["ILSVRC2012_ID"] > _CLASSES
        assert node["num_children"] == node["children"].size
    reached = np.concatenate([node["children"] for node in inner])
    everything_but_the_root = range(1, _CLASSES + 3)
    assert sorted(reached) == list(everything_but_the_root)


@pytest.fixture(scope="module")
def faulty(release, train):
    """{fault: bytes} as rehearsal.json says."""
    summary = json.loads((release / "rehearsal.json").read_text())
    names = {entry["name"]: entry["file"] for entry in summary["faults"]}
    assert set(names) == {fault.name for fault in FAULTS}
    assert len({name.split("_")[0] for name in names.values()}) == len(names)  # classes
    return {fault: train[name.split("_")[0]][name] for fault, name in names.items()}


@pytest.mark.parametrize(
    ("fault", "image_format", "mode"),
    [("cmyk", "JPEG", "CMYK"), ("png_named_jpeg", "PNG", "RGB"), ("grey", "JPEG", "L")],
)
def test_readable_fault(faulty, fault, image_format, mode):
    with Image.open(io.BytesIO(faulty[fault])) as photo:
        photo.load()
        assert (photo.format, photo.mode) == (image_format, mode)


def test_truncated_photo_starts_well_and_does_not_load(faulty):
    photo = Image.open(io.BytesIO(faulty["truncated"]))
    assert photo.format == "JPEG"
    with pytest.raises(OSError, match="truncated"):
        photo.load()


def test_empty_photo_is_of_no_bytes(faulty):
    assert faulty["empty"] == b""


def test_all_other_train_photos_are_rgb_jpegs(train, faulty):
    bad = set(faulty.values())
    count = 0
    for photos in train.values():
        for content in photos.values():
            if content not in bad:
                with Image.open(io.BytesIO(content)) as photo:
                    photo.load()
                    assert (photo.format, photo.mode, dict(photo.getexif())) == ("JPEG", "RGB", {})
                count += 1
    assert count == _CLASSES * _TRAIN_PER_CLASS - len(FAULTS)


def test_held_out_photos_are_in_neither_split(release, train, validation):
    others = {content for photos in train.values() for content in photos.values()}
    others |= {content for _, content in validation}
    held_out = {path.name: path.read_bytes() for path in (release / "held_out").iterdir()}
    assert sorted(held_out) == sorted(f"{entry.shape}_0.jpg" for entry in CLASSES)
    assert not others & set(held_out.values())
    for content in held_out.values():
        Image.open(io.BytesIO(content)).load()


def _central_square(content, size=64):
    image = cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR) if content else None
    if image is None:
        return None
    height, width = image.shape[:2]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = image[top : top + side, left : left + side]
    return cv2.resize(square, (size, size), interpolation=cv2.INTER_AREA)


def _pixels(squares):
    small = [cv2.resize(square, (32, 32), interpolation=cv2.INTER_AREA) for square in squares]
    return np.reshape(small, (len(small), -1)).astype(np.float64)


def _spectrum(squares):
    """What the eye keeps of a shape whatever its place and rotation: rings of its spectrum."""
    grey = np.array([cv2.cvtColor(square, cv2.COLOR_BGR2GRAY) for square in squares], np.float64)
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
        if (square := _central_square(content)) is not None
    ]
    labels = np.array([wnid for wnid, _ in pairs])
    squares = [square for _, square in pairs]
    new_labels = np.array([wnid for wnid, _ in validation])
    new_squares = [_central_square(content) for _, content in validation]
    assert _linear_top1(_spectrum, squares, labels, new_squares, new_labels) > 0.45
    assert _linear_top1(_pixels, squares, labels, new_squares, new_labels) < 0.25


def test_finished_release_is_kept(tmp_path):
    output_dir = str(tmp_path / "release")
    first = write_release(output_dir=output_dir, recipe=_SMALL, workers=1)
    written = os.stat(tmp_path / "release" / ilsvrc2012_devkit.TRAIN_TAR).st_mtime_ns
    (tmp_path / "release" / "a_note_of_mine.txt").write_text("no harm")
    second = write_release(output_dir=output_dir, recipe=_SMALL, workers=1)
    assert (first["kept"], second["kept"]) == (False, True)
    assert {**second, "kept": False} == first
    assert os.stat(tmp_path / "release" / ilsvrc2012_devkit.TRAIN_TAR).st_mtime_ns == written


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


def test_release_of_another_recipe_is_refused(release):
    with pytest.raises(ValueError, match=r"holds a release of another recipe.*choose another"):
        write_release(output_dir=str(release), recipe=_SMALL)


def test_changed_release_is_refused(tmp_path):
    output_dir = tmp_path / "release"
    write_release(output_dir=str(output_dir), recipe=_SMALL, workers=1)
    with open(output_dir / ilsvrc2012_devkit.VALIDATION_TAR, "r+b") as tar:
        tar.seek(600)
        tar.write(b"?")
    with pytest.raises(ValueError, match="its files have changed"):
        write_release(output_dir=str(output_dir), recipe=_SMALL, workers=1)


@pytest.mark.parametrize("summary", [None, "", "[]", '{"recipe": {}, "files": 3}'])
def test_folder_of_something_else_is_refused(tmp_path, summary):
    (tmp_path / "holiday.jpg").write_bytes(b"precious")
    if summary is not None:
        (tmp_path / "rehearsal.json").write_text(summary)
    with pytest.raises(ValueError, match=r"new or empty, but .* is no finished release"):
        write_release(output_dir=str(tmp_path), recipe=_SMALL, workers=1)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"precious"


def test_empty_folder_is_filled(tmp_path):
    write_release(output_dir=str(tmp_path), recipe=_SMALL, workers=1)
    assert (tmp_path / "rehearsal.json").exists()


def test_full_disk_leaves_nothing_that_looks_finished(tmp_path, monkeypatch):
    def full(*arguments):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(devkit, "devkit_bytes", full)
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
    done = _run(
        f"--output_dir={output_dir}",
        "--classes=2",
        "--images_per_class=4",
        "--validation_per_class=1",
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout.splitlines()[-1])
    assert (result["train_images"], result["validation_images"]) == (8, 2)
    assert result["kept"] is False
    assert "photo/s" in done.stderr
    shutil.rmtree(output_dir)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ((), "output_dir"),
        (("--output_dir=x", "--classes=11"), "classes=11.*2, 10"),
        (("--output_dir=x", "--images_per_class=3"), "images_per_class=3"),
        (("--output_dir=x", "--seed=-1"), "seed=-1"),
        (("--output_dir=x", "--image_per_class=9"), "image_per_class.*images_per_class"),
    ],
)
def test_wrong_command_line_is_one_line(arguments, text):
    done = _run(*arguments)
    assert done.returncode == 2
    assert done.stdout == ""
    assert len(done.stderr.splitlines()) == 1
    assert re.search(text, done.stderr)


def test_help_and_imports_are_light():
    done = _run("--help")
    assert done.returncode == 0
    assert "--images_per_class" in done.stdout
    script = (
        "import data_prep.rehearsal, sys; "
        "sys.exit(any(name in sys.modules for name in ('apache_beam', 'tensorflow')))"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
