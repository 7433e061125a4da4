r"""Weights in: an AlexNet that Caffe, PyTorch or TensorFlow 1 trained, as a .weights.h5 file.

    python -m keras_alexnet.convert --weights=bvlc_alexnet.caffemodel --profile=caffe \
        --output=caffe.weights.h5

Reads Caffe's .caffemodel, PyTorch checkpoints of torchvision's alexnet and of
dansuh17/alexnet-pytorch (pip install .[torch]), and the dictionary bvlc_alexnet.npy. Nothing in a
file is carried out, and a file that does not fit is refused with the name of the first tensor that
differs. Beside OUT.weights.h5 it writes OUT.report.json: the hash of every tensor before and
after, and the largest difference between the logits of the converted network and those that plain
NumPy computes from the file's own tensors. AlexNet(profile, classes, weights="OUT.weights.h5")
loads the result.
"""

import contextlib
import hashlib
import json
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from data_prep import command_line, files
from data_prep.command_line import UserError
from keras_alexnet.foreign_weights import fitting, layouts, parity, recognition
from keras_alexnet.foreign_weights.recognition import AUTO, FORMATS
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profile import LAYER_NAMES, Profile
from keras_alexnet.network.profiles import PROFILES

_ENDING = ".weights.h5"  # Keras asks for it
_REPORT_ENDING = ".report.json"

FLAGS = flags.FlagValues()
_WEIGHTS = flags.DEFINE_string(
    "weights", None, "the file to convert", required=True, flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
    "output", None, f"where to: NAME{_ENDING}", required=True, flag_values=FLAGS
)
_PROFILE = flags.DEFINE_enum(
    "profile",
    AUTO,
    [AUTO, *sorted(PROFILES)],
    "which of the systems called AlexNet; auto: the only one that the file fits",
    flag_values=FLAGS,
)
_FORMAT = flags.DEFINE_enum(
    "format", AUTO, [AUTO, *FORMATS], "what wrote the file; auto: by its bytes", flag_values=FLAGS
)
_CLASSES = flags.DEFINE_integer(
    "classes", None, "how many fc8 must have; default: as many as it has", 1, flag_values=FLAGS
)
_WIDTH = flags.DEFINE_float(
    "width", 1.0, "units of each layer, in parts of the profile's", 0.01, 4.0, flag_values=FLAGS
)


def convert(
    *,
    weights: str,
    output: str,
    profile: str | Profile = AUTO,
    file_format: str = AUTO,
    classes: int | None = None,
    width: float = 1.0,
) -> dict[str, object]:
    """Converts another system's weights, and proves the result on a fixed input.

    Args:
        weights: the file.
        output: path of the result, NAME.weights.h5; NAME.report.json is written beside it.
        profile: a name in `PROFILES`, a `Profile`, or "auto": the only one of `PROFILES` that the
            file's shapes, its order of layers (where it says) and its format allow.
        file_format: a name in `foreign_weights.FORMATS`, or "auto".
        classes: how many fc8 must have; None for as many as it has.
        width: as of `Profile.scaled`.

    Returns:
        output, report (paths), format, profile, classes, tensors and parameters (how many),
        left_out (names of what the file holds besides weights), relative_difference and tolerance
        (see `parity.compare`), seconds.

    Raises:
        UserError: the file is damaged, does not fit, or gives other logits after the conversion
            than before; nothing is written then.
    """
    started = time.perf_counter()
    if not output.endswith(_ENDING) or os.path.basename(output) == _ENDING:
        raise UserError(f"--output must be NAME{_ENDING}, as Keras asks; it is {output}")
    chosen, source_sha256 = recognition.recognize(weights, file_format)
    network = FORMATS[chosen].read(weights)
    if classes is None:
        classes = fitting.count_classes(network)
    profile = recognition.choose_profile(network, profile, chosen, width, classes, weights)
    with _exact_arithmetic():
        model = AlexNet(profile, classes=classes)
        tensors = _set_weights(model, network, profile)
        compared = _compare(model, network, profile, weights)
    report_path = output.removesuffix(_ENDING) + _REPORT_ENDING
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
    """Layers made and run in here compute in float32, whatever the process is set to.

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
    """Fills the model; returns the report's line of each tensor, in the order of the network."""
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
    """Of the numbers, little-endian, the last axis varying fastest."""
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
        raise UserError(
            f"{path}: the same logits before and after are needed, to {parity.TOLERANCE:g} of the "
            f"largest; they differ by {compared['relative_difference']:g}; weights of so wild a "
            "size are none of a trained network; nothing is written"
        )
    return compared


def _save(model: keras.Model, output: str) -> str:
    """Writes the weights so that they are whole or not there; returns the file's sha256."""
    folder = os.path.dirname(os.path.abspath(output))
    os.makedirs(folder, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix=".convert.", dir=folder) as aside:
        saved = os.path.join(aside, f"saved{_ENDING}")
        model.save_weights(saved)
        with (
            open(saved, "rb") as source,
            files.create(output, os.path.join(aside, "whole")) as target,
        ):
            sha256 = hashlib.file_digest(source, "sha256").hexdigest()
            source.seek(0)
            shutil.copyfileobj(source, target)
    return sha256


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and converts."""
    del arguments
    figures = convert(
        weights=_WEIGHTS.value,
        output=_OUTPUT.value,
        profile=_PROFILE.value,
        file_format=_FORMAT.value,
        classes=_CLASSES.value,
        width=_WIDTH.value,
    )
    if figures["left_out"]:
        print(f"left out: {fitting.shown_list(figures['left_out'])}", file=sys.stderr)
    print(
        f"{figures['tensors']} tensors of {_WEIGHTS.value} are in {figures['output']}; the logits "
        f"differ by {figures['relative_difference']:.1e} of the largest",
        file=sys.stderr,
    )
    return figures


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
