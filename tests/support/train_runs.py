"""A small run of training, and how two of them are compared."""

import dataclasses
import json
import re

import numpy as np

from keras_alexnet import AlexNet
from keras_alexnet.columns import read_weights
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.training import checkpoints
from keras_alexnet.training.options import RunOptions, TrainingOptions
from keras_alexnet.training.run import train

PROFILE = dataclasses.replace(
    PROFILES["paper"].scaled(0.0625),
    kernel_init=("he_normal",) * 8,
    bias_init=(0.0,) * 8,
    pixel_scale=1 / 60,
)
# Of TensorFlow 2.21, or of 2.15: "2026-11-26 07:36:37.262250: E external/local_xla/...".
_NOTE = re.compile(r"[IWE]0000 |WARNING: A|[\d-]{10} [\d:.]{15}: [IWE] ")
# The same, and the options below but for the strategy and the epochs, as flags.
FLAGS = (
    *("--profile=paper", "--width=0.0625", "--kernel_init=he_normal", "--bias_init=0"),
    *(f"--pixel_scale={1 / 60}", "--schedule=plateau", "--patience=1", "--seed=5"),
    *("--batch_size=8", "--precision=float32"),
)
_OPTIONS = TrainingOptions(
    optimizer="sgd",
    learning_rate=0.01,
    momentum=0.9,
    weight_decay=0.0005,
    schedule="plateau",
    patience=1,
    epochs=3,
    batch_size=8,
    seed=5,
    precision="float32",
    strategy="mirrored",
)


def options(**changes):
    return dataclasses.replace(_OPTIONS, **changes)


USUAL = RunOptions()


def run(data_dir, folder, profile=PROFILE, run_options=USUAL, **changes):
    return train(
        data_dir=str(data_dir),
        workdir=str(folder),
        profile=profile,
        recipe=options(**changes),
        run_options=run_options,
    )


def own_lines(text):
    """Return lines of stderr without the notes that TensorFlow writes when it starts."""
    return [line for line in text.splitlines() if line and not _NOTE.match(line)]


def metrics_of(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line) for line in lines]


def places_of(folder):
    """Return the places of the checkpoints that are there, ascending."""
    names = [path.name for path in (folder / "checkpoints").glob("epoch-*")]
    matches = [re.fullmatch(r"epoch-(\d+)(?:-step-(\d+))?", name) for name in names]
    return sorted(checkpoints.Place(int(match[1]), int(match[2] or 0)) for match in matches)


def assert_same_run(first, second):
    """Compare metrics to the byte, weights, momentum and plateau to the bit."""
    texts = [(folder / "metrics.jsonl").read_bytes() for folder in (first, second)]
    assert texts[0] == texts[1]
    one, two = (checkpoints.read(str(folder)) for folder in (first, second))
    assert one.state.place == two.state.place
    assert one.schedule == two.schedule
    for field in ("weights", "averages", "optimizer"):
        np.testing.assert_equal(getattr(two, field), getattr(one, field), err_msg=field)


def start_of(profile=PROFILE):
    """Return the weights, by "layer/variable", that a run on the tests' data set starts from."""
    return read_weights(AlexNet(profile, classes=2, classifier_activation=None, seed=_OPTIONS.seed))


def assert_moved_alike(start, expected, found, tolerance=0.2):
    """Compare how far two runs moved each variable, by the norm of the difference.

    Runs that sum in another order round differently, and on some CPUs that decides the sign before
    a ReLU or the maximum of a pooling window, which changes some elements of a gradient by any
    factor but hardly its norm. The norm of the difference, in units of that of the movement, after
    an epoch at a learning rate of 0.001, of the variable that differs most:

        rounding, and no such decision                                            3e-5
        every weight changed by 1e-4 of its layer's, a thousand times rounding    0.02 to 0.07
        gradients of one replica only, a sum for a mean, one share for both       1.0 or more
    """
    assert expected.keys() == found.keys()
    for name, value in expected.items():
        if np.ndim(value) == 0:  # the step of a dropout
            assert found[name] == value, name
            continue
        moved = np.linalg.norm(value - start[name])
        assert moved > 0, f"{name} was not trained"
        difference = np.linalg.norm(found[name] - value) / moved
        assert difference < tolerance, f"{name} moved otherwise: {difference:.2g}"
