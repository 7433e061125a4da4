"""The shape of ILSVRC2012 with three classes and a few bytes for a photo, for tests of sources."""

import importlib.util
import io
import pathlib
import tarfile

import numpy as np
import pytest
import scipy.io

from data_prep import records

TRAIN_TAR = "ILSVRC2012_img_train.tar"
VALIDATION_TAR = "ILSVRC2012_img_val.tar"
DEVKIT_TAR = "ILSVRC2012_devkit_t12.tar.gz"
DEVKIT_FOLDER = "ILSVRC2012_devkit_t12"
# By ILSVRC2012_ID, which is not the order of the wnids; the last two are no classes.
# Fields: id, wnid, words, number of children, number of train photos.
SYNSETS = (
    (1, "n03", "third, 3rd", 0, 2),
    (2, "n01", "first", 0, 2),
    (3, "n02", "second", 0, 2),
    (4, "n09", "thing", 3, 0),
    (5, "n10", "entity", 1, 0),
)
CLASSES = (
    records.ClassName("n01", "first"),
    records.ClassName("n02", "second"),
    records.ClassName("n03", "third, 3rd"),
)
# Of photos 1, 2, 3: n02, n03, n01.
TRUTH = "3\n1\n2\n"
SOLUTION = (
    "ImageId,PredictionString\n"
    "ILSVRC2012_val_00000003,n01 85 1 499 272 \n"
    "ILSVRC2012_val_00000001,n02 1 2 3 4 n02 5 6 7 8 \n"
    "ILSVRC2012_val_00000002,n03 0 0 1 1 \n"
)
MAPPING = "n01 first\nn02 second\nn03 third, 3rd\n"


def tar_bytes(entries, mode="w"):
    """Return a tar of (name, content) or of tarfile.TarInfo."""
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


def meta_mat(synsets=SYNSETS):
    """meta.mat; synsets without a fifth field make one without num_train_images."""
    names = ("ILSVRC2012_ID", "WNID", "words", "num_children", "num_train_images")
    dtype = [(name, object) for name in names[: len(synsets[0])]]
    output = io.BytesIO()
    rows = np.array([tuple(row) for row in synsets], dtype).reshape(-1, 1)
    scipy.io.savemat(output, {"synsets": rows})
    return output.getvalue()


def validation_name(number):
    return f"ILSVRC2012_val_{number:08d}.JPEG"


def train_tar(wnids=("n03", "n01", "n02"), photos=(0, 1)):
    return tar_bytes(
        (f"{wnid}.tar", tar_bytes((f"{wnid}_{n}.JPEG", f"{wnid} {n}".encode()) for n in photos))
        for wnid in wnids
    )


def validation_tar(numbers=(2, 1, 3)):
    return tar_bytes((validation_name(n), f"val {n}".encode()) for n in numbers)


def devkit_files(synsets=SYNSETS, truth=TRUTH):
    """Content by path: what the devkit's tar holds."""
    meta = synsets if isinstance(synsets, bytes) else meta_mat(synsets)
    return {
        f"{DEVKIT_FOLDER}/data/meta.mat": meta,
        f"{DEVKIT_FOLDER}/data/ILSVRC2012_validation_ground_truth.txt": truth.encode(),
    }


def devkit_tar(synsets=SYNSETS, truth=TRUTH):
    return tar_bytes(devkit_files(synsets, truth).items(), "w:gz")


def train_files(wnids=("n03", "n01", "n02"), photos=(0, 1)):
    """Content by path: the train photos unpacked."""
    return {f"train/{w}/{w}_{n}.JPEG": f"{w} {n}".encode() for w in wnids for n in photos}


def flat_files(numbers=(1, 2, 3), folder="val"):
    """Content by path: the validation photos unpacked."""
    return {f"{folder}/{validation_name(n)}": f"val {n}".encode() for n in numbers}


def foldered_files(wnids=("n02", "n03", "n01"), folder="val"):
    """Content by path: the validation photos, from number 1, in folders of their classes."""
    return {
        f"{folder}/{wnid}/{validation_name(n)}": f"val {n}".encode()
        for n, wnid in enumerate(wnids, start=1)
    }


def write(root, contents):
    """Write files by path, text or bytes; return `root` as text."""
    for name, content in contents.items():
        path = pathlib.Path(root) / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(content.encode() if isinstance(content, str) else content)
    return str(root)


def write_release(root, train=None, validation=None, devkit=None):
    """Return the three files as downloaded."""
    contents = {
        TRAIN_TAR: train_tar() if train is None else train,
        VALIDATION_TAR: validation_tar() if validation is None else validation,
        DEVKIT_TAR: devkit_tar() if devkit is None else devkit,
    }
    return write(root, contents)


def content_of(photo):
    with open(photo.path, "rb") as file:
        file.seek(photo.offset)
        return file.read(photo.length)


def listed(source):
    """Return a data set's photos in one order: split, key, filename, label, content."""
    return sorted((p.split, p.key, p.filename, p.label, content_of(p)) for p in source.photos)


def list_of_tensorflow_datasets(name):
    """Return the lines of a list of ImageNet's labels that TensorFlow Datasets has; else a skip."""
    found = importlib.util.find_spec("tensorflow_datasets")
    path = found and pathlib.Path(found.origin).parent / "datasets" / "imagenet2012" / name
    if not path or not path.exists():
        pytest.skip("this TensorFlow Datasets has no list of labels")
    return path.read_text().split()
