"""Converts the weights of another system's AlexNet, and compares the logits before and after."""

import contextlib
import hashlib
import json
import os
import tempfile
import time
from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from data_prep import files
from keras_alexnet.foreign_weights import fitting, layouts, parity, recognition
from keras_alexnet.foreign_weights.recognition import AUTO, FORMATS
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profile import LAYER_NAMES, Profile

ENDING = ".weights.h5"  # Keras requires it
_REPORT_ENDING = ".report.json"


def convert(
    *,
    weights: str,
    output: str,
    profile: str | Profile = AUTO,
    file_format: str = AUTO,
    classes: int | None = None,
    width: float = 1.0,
) -> dict[str, object]:
    """Convert another system's weights, and prove the result on a fixed input.

    Args:
        weights: the file.
        output: path of the result, NAME.weights.h5; NAME.report.json is written beside it.
        profile: a name in `PROFILES`, a `Profile`, or "auto": the only one of `PROFILES` that the
            file's shapes, its order of layers (where it says) and its format allow.
        file_format: a name in `foreign_weights.FORMATS`, or "auto".
        classes: outputs that fc8 must have; None for as many as it has.
        width: as of `Profile.scaled`.

    Returns:
        output, report (paths), format, profile, classes, tensors and parameters (how many),
        left_out (names of what the file holds besides weights), relative_difference and tolerance
        (see `parity.compare`), seconds.

    Raises:
        ValueError: the file is damaged, does not fit, or gives other logits after the conversion
            than before; nothing is written then.
    """
    started = time.perf_counter()
    if not output.endswith(ENDING) or os.path.basename(output) == ENDING:
        raise ValueError(f"output must be NAME{ENDING}, which Keras requires; it is {output}")
    chosen, source_sha256 = recognition.recognize(weights, file_format)
    network = FORMATS[chosen].read(weights)
    if classes is None:
        classes = fitting.count_classes(network)
    profile = recognition.choose_profile(network, profile, chosen, width, classes, weights)
    with _exact_arithmetic():
        model = AlexNet(profile, classes=classes)
        tensors = _set_weights(model, network, profile)
        compared = _compare(model, network, profile, weights)
    report_path = output.removesuffix(ENDING) + _REPORT_ENDING
    output_sha256 = _save(model, output)
    report = {
        "source": {
            "file": os.path.basename(weights),
            "bytes": os.path.getsize(weights),
            "sha256": source_sha256,
            "format": chosen,
            "title": network.title,
            "left_out": list(network.left_out),
        },
        "output": {"file": os.path.basename(output), "sha256": output_sha256},
        "profile": profile.to_dict(),
        "width": width,
        "classes": classes,
        "logits": compared,
        "tensors": tensors,
    }
    files.write_file(report_path, json.dumps(report, indent=1) + "\n")
    return {
        "output": output,
        "report": report_path,
        "format": chosen,
        "profile": profile.name,
        "classes": classes,
        "tensors": len(tensors),
        "parameters": model.count_params(),
        "left_out": list(network.left_out),
        "relative_difference": compared["relative_difference"],
        "tolerance": compared["tolerance"],
        "seconds": round(time.perf_counter() - started, 1),
    }


@contextlib.contextmanager
def _exact_arithmetic() -> Iterator[None]:
    """Compute in float32 within the block, whatever policy the process has.

    On the CPU, because a GPU rounds what convolutions multiply to 10 bits (TensorFloat-32).
    """
    policy = keras.mixed_precision.global_policy()
    keras.mixed_precision.set_global_policy("float32")
    try:
        with tf.device("CPU:0"):
            yield
    finally:
        keras.mixed_precision.set_global_policy(policy)


def _set_weights(
    model: keras.Model, network: layouts.ForeignNetwork, profile: Profile
) -> list[dict[str, object]]:
    """Fill the model; return the report's line of each tensor, in the order of the network."""
    lines = []
    for layer in LAYER_NAMES:
        pair = []
        for kind in ("kernel", "bias"):
            name = f"{layer}/{kind}"
            source = network.tensors[network.names[name]]
            pair.append(layouts.to_ours(name, source, network.layout, profile))
            lines.append(
                {
                    "name": name,
                    "shape": list(pair[-1].shape),
                    "dtype": pair[-1].dtype.name,
                    "sha256": _sha256(pair[-1]),
                    "source": network.names[name],
                    "source_shape": list(source.shape),
                    "source_dtype": source.dtype.name,
                    "source_sha256": _sha256(source),
                }
            )
        model.get_layer(layer).set_weights(pair)
    return lines


def _sha256(tensor: np.ndarray) -> str:
    """Return the sha256 of the numbers, little-endian, the last axis varying fastest."""
    little_endian = tensor.astype(tensor.dtype.newbyteorder("<"), copy=False)
    return hashlib.sha256(np.ascontiguousarray(little_endian).data).hexdigest()


def _compare(
    model: keras.Model, network: layouts.ForeignNetwork, profile: Profile, path: str
) -> dict[str, float | bool]:
    images = parity.fixed_input(profile)
    to_logits = keras.Model(model.input, model.get_layer("fc8").output)
    ours = to_logits(images, training=False).numpy()
    compared = parity.compare(ours, parity.source_logits(network, profile, images))
    if not compared["within_tolerance"]:
        raise ValueError(
            f"{path}: the same logits before and after are needed, to {parity.TOLERANCE:g} of the "
            f"largest; they differ by {compared['relative_difference']:g}; weights of so wild a "
            "size are none of a trained network; nothing is written"
        )
    return compared


def _save(model: keras.Model, output: str) -> str:
    """Write the weights so that they are whole or not there; return the file's sha256."""
    folder = os.path.dirname(os.path.abspath(output))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert.", dir=folder) as aside:
        saved = os.path.join(aside, f"saved{ENDING}")
        model.save_weights(saved)
        with open(saved, "rb") as file:
            content = file.read()
    files.write_file(output, content)
    return hashlib.sha256(content).hexdigest()
