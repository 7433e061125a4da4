"""A narrow network with random weights, and photos that it tells apart, for tests of serving."""

import atexit
import dataclasses
import functools
import hashlib
import io
import pathlib
import shutil
import tempfile

import cv2
import numpy as np
from PIL import Image

from data_prep import records
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.saved_model import publishing, signatures
from keras_alexnet.training import workdir

PROFILE = dataclasses.replace(
    PROFILES["paper"].scaled(0.0625),
    kernel_init=("he_normal",) * 8,
    bias_init=(0.0,) * 8,
    pixel_scale=1 / 60,
)


def class_names(count: int) -> tuple[records.ClassName, ...]:
    return tuple(records.ClassName(f"n{i:08d}", f"klasse {i}, naïve") for i in range(count))


def statistics(size: int = 256) -> records.Statistics:
    ramp = np.linspace(60, 180, size, dtype=np.float32)
    mean_image = np.stack([np.broadcast_to(ramp, (size, size)).T, *[np.tile(ramp, (size, 1))] * 2])
    return records.Statistics(
        count=1,
        mean_image=np.moveaxis(mean_image, 0, 2).astype(np.float32),
        channel_mean=np.full(3, 120.0),
        channel_std=np.full(3, 60.0),
        covariance=np.eye(3),
        pca_eigenvalues=np.ones(3),
        pca_eigenvectors=np.eye(3),
    )


def trained_run(classes: int = 7, seed: int = 1, **description) -> workdir.TrainedRun:
    facts = {
        "workdir": "/runs/stand_in",
        "epoch": 3,
        "top1": 0.5,
        "top5": 0.75,
        "profile": PROFILE.to_dict(),
        "manifest_sha256": hashlib.sha256(b"stand-in").hexdigest(),
        "precision": "float32",
    }
    return workdir.TrainedRun(
        model=AlexNet(PROFILE, classes=classes, seed=seed),
        profile=PROFILE,
        classes=class_names(classes),
        statistics=statistics(),
        description={**facts, **description},
    )


@functools.cache
def _exported() -> pathlib.Path:
    folder = pathlib.Path(tempfile.mkdtemp(prefix="keras-alexnet-test-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    publishing.export(trained=trained_run(), photos=[photo()], export_dir=str(folder / "birds"))
    return folder / "birds" / "1"


def publish(model_dir: pathlib.Path, version: int = 1) -> None:
    """Publish `trained_run()` as a version of a model "birds"; it is exported once a process."""
    shutil.copytree(_exported(), model_dir / str(version))


def served_model(run: workdir.TrainedRun, folder: pathlib.Path) -> signatures.ServedModel:
    """Return its signatures; write the label file that they are read from into the folder."""
    labels_file = folder / records.LABELS
    labels_file.write_text(records.labels_text(run.classes))
    return signatures.ServedModel(run, str(labels_file))


def pixels(height: int, width: int, seed: int = 0, channels: int = 3) -> np.ndarray:
    """Smooth colours that fill the whole range, uint8 [height, width, channels]."""
    noise = np.random.default_rng(seed).normal(size=(height, width, channels))
    smooth = cv2.GaussianBlur(noise, (0, 0), 0.02 * (height + width))
    low, high = smooth.min(), smooth.max()
    return np.round(255 * (smooth - low) / (high - low)).astype(np.uint8)


def encoded(image: np.ndarray | Image.Image, kind: str = "JPEG", **options) -> bytes:
    image = Image.fromarray(image) if isinstance(image, np.ndarray) else image
    output = io.BytesIO()
    image.save(output, kind, **options)
    return output.getvalue()


def photo(height: int = 256, width: int = 256, seed: int = 0) -> bytes:
    return encoded(pixels(height, width, seed), quality=95)


def decoded(photo: bytes) -> np.ndarray:
    return np.asarray(Image.open(io.BytesIO(photo)).convert("RGB"))


def scores(run: workdir.TrainedRun, images: np.ndarray) -> np.ndarray:
    """Softmax of the network on the central view, the preprocessing in NumPy: [N, classes]."""
    size = run.profile.input_size
    at = (images.shape[1] - size) // 2
    crop = (slice(None), slice(at, at + size), slice(at, at + size))
    mean = run.statistics.mean_image[np.newaxis]
    network_input = (images[crop].astype(np.float32) - mean[crop]) * run.profile.pixel_scale
    return run.model(network_input, training=False).numpy()
