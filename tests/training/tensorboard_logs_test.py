import collections
import dataclasses
import itertools
import os
import signal
import subprocess
import sys

import numpy as np
import pytest
import tensorflow as tf
from repository import ROOT
from tensorboard.backend.event_processing import event_accumulator

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import place_columns
from keras_alexnet.network import variables
from keras_alexnet.training.tensorboard_logs import TensorBoardLogs, filter_picture

pytestmark = pytest.mark.slow

PROFILE = dataclasses.replace(PROFILES["paper"].scaled(0.25), input_size=128)
VALIDATION = ("cross_entropy", "top1", "top5")
TRAIN = ("loss", *VALIDATION, "learning_rate", "images_per_second", "input_wait_seconds")
COLUMNS = pytest.mark.parametrize("columns", [False, True], ids=["one device", "columns"])


def alexnet():
    return AlexNet(PROFILE, classes=7, classifier_activation=None, seed=1)


def epoch_logs(epoch):
    """Another number for everything."""
    names = [*TRAIN, *(f"val_{name}" for name in VALIDATION)]
    return {name: epoch + (1 + at) / 100 for at, name in enumerate(names)}


def run(folder, network, epochs):
    logs = TensorBoardLogs(str(folder), network)
    logs.on_train_begin()
    for epoch in epochs:
        logs.on_epoch_end(epoch, epoch_logs(epoch))
    logs.on_train_end()


def read(folder):
    """Return TensorBoard's own view: {tag: {step: its points there}}."""
    everything = event_accumulator.EventAccumulator(str(folder), {event_accumulator.TENSORS: 0})
    everything.Reload()
    found = collections.defaultdict(lambda: collections.defaultdict(list))
    for tag in everything.Tags()["tensors"]:
        for event in everything.Tensors(tag):
            found[tag][event.step].append(tf.make_ndarray(event.tensor_proto))
    return found, everything


def scalars(folder):
    found, _ = read(folder)
    return {
        tag: {step: [float(value) for value in values] for step, values in points.items()}
        for tag, points in found.items()
        if tag != "conv1/filters"
    }


def expected(names, epochs, prefix=""):
    return {
        name: {e + 1: [pytest.approx(epoch_logs(e)[prefix + name])] for e in epochs}
        for name in names
    }


def test_a_run_that_is_gone_on_with_adds_what_is_new(tmp_path):
    run(tmp_path, alexnet(), range(2))
    assert scalars(tmp_path / "train") == expected(TRAIN, range(2))
    run(tmp_path, alexnet(), range(1, 4))  # killed before the checkpoint of its second epoch
    assert scalars(tmp_path / "train") == expected(TRAIN, range(4))
    assert scalars(tmp_path / "validation") == expected(VALIDATION, range(4), "val_")
    pictures, _ = read(tmp_path / "train")
    found = {step: len(found) for step, found in pictures["conv1/filters"].items()}
    assert found == dict.fromkeys(range(1, 5), 1)
    assert len(os.listdir(tmp_path / "train")) == 2, "a file a command"


def test_a_file_that_was_cut_is_gone_on_with(tmp_path):
    run(tmp_path, alexnet(), range(1))
    (path,) = (tmp_path / "train").iterdir()
    path.write_bytes(path.read_bytes()[:-7])  # of the last, the picture
    run(tmp_path, alexnet(), range(2))
    found, _ = read(tmp_path / "train")
    assert {step: len(points) for step, points in found["loss"].items()} == {1: 1, 2: 1}
    assert sorted(found["conv1/filters"]) == [1, 2]


def test_what_was_logged_outlives_a_kill(tmp_path):
    script = f"""
import os, signal, sys
sys.path[:0] = ["tests/support", "tests/training"]
import tensorflow_process, tensorboard_logs_test as test
logs = test.TensorBoardLogs({str(tmp_path)!r}, test.alexnet())
logs.on_epoch_end(0, test.epoch_logs(0))
logs.log_histograms(9, {{}})
os.kill(os.getpid(), signal.SIGKILL)
"""
    done = subprocess.run(
        [sys.executable, "-c", script], cwd=ROOT, capture_output=True, check=False, text=True
    )
    assert done.returncode == -signal.SIGKILL, done.stderr
    found, _ = read(tmp_path / "train")
    assert list(found["loss"]) == [1]
    assert list(found["fc8/bias"]) == [9]
    assert sorted(scalars(tmp_path / "validation")) == sorted(VALIDATION)


def by_hand(kernel, a_row):
    """Return the picture, pixel by pixel."""
    side, filters = kernel.shape[0], kernel.shape[3]
    rows = (filters + a_row - 1) // a_row
    kernel = kernel.astype(np.float64)
    scaled = (kernel - kernel.min()) / (kernel.max() - kernel.min())
    step = 4 * (side + 1)
    picture = np.zeros([rows * step + 4, a_row * step + 4, 3])
    for number, y, x in itertools.product(range(filters), range(4 * side), range(4 * side)):
        top, left = 4 + number // a_row * step, 4 + number % a_row * step
        picture[top + y, left + x] = scaled[y // 4, x // 4, :, number]
    return picture


@pytest.mark.parametrize(("filters", "a_row"), [(96, 16), (24, 16), (8, 8), (1, 1)])
def test_the_picture_is_the_filters_in_a_grid(filters, a_row):
    kernel = np.random.default_rng(0).normal(0, 0.01, (11, 11, 3, filters)).astype(np.float32)
    picture = filter_picture(kernel)
    np.testing.assert_allclose(picture, by_hand(kernel, a_row), atol=1e-6)
    assert (picture.min(), picture.max()) == (0, 1)
    assert not filter_picture(np.full([11, 11, 3, 4], 0.3, np.float32)).any()


@COLUMNS
def test_the_picture_in_the_file_is_that_of_the_network(tmp_path, columns):
    network = alexnet()
    kernel = network.get_layer("conv1").get_weights()[0]
    assert kernel.shape == (11, 11, 3, 24)
    run(tmp_path, place_columns(network, ("CPU:0", "CPU:1")) if columns else network, [4])
    (found,) = read(tmp_path / "train")[0]["conv1/filters"][5]
    width, height, png = found
    picture = tf.io.decode_png(png).numpy()
    assert picture.shape == (int(height), int(width), 3) == (2 * 48 + 4, 16 * 48 + 4, 3)
    np.testing.assert_allclose(picture / 255, by_hand(kernel, 16), atol=1 / 255)


@COLUMNS
def test_histograms_are_of_all_weights_and_gradients(tmp_path, columns):
    network = alexnet()
    named = variables.named_variables(network).items()
    weights = {name: value.numpy() for name, value in named if not name.startswith("drop")}
    assert len(weights) == 16
    if columns:
        network = place_columns(network, ("CPU:0", "CPU:1"))
    gradients = {name: array * 3 + 1 for name, array in weights.items()}
    logs = TensorBoardLogs(str(tmp_path), network)
    for _ in range(2):  # the second as after a kill
        logs.log_histograms(20, gradients)
    found, events = read(tmp_path / "train")
    plugin = events.SummaryMetadata("conv1/kernel").plugin_data.plugin_name
    assert plugin == "histograms"
    gradients = {f"{name}/gradient": array for name, array in gradients.items()}
    assert found.keys() == weights.keys() | gradients.keys()
    for name, array in (weights | gradients).items():
        (histogram,) = found[name][20]
        left, right, counts = histogram.T
        assert counts.sum() == array.size, name
        np.testing.assert_array_equal(left[1:], right[:-1])
        if array.min() < array.max():
            assert (left[0], right[-1]) == (array.min(), array.max())
            for edge, count in zip(left, np.cumsum(counts) - counts, strict=True):
                assert count == np.sum(array.astype(np.float64) < edge), name


def test_histograms_leave_out_what_is_not_finite(tmp_path):
    gradient = np.float32([1, np.nan, 2, np.inf, 3, -np.inf])
    TensorBoardLogs(str(tmp_path), alexnet()).log_histograms(1, {"fc8/bias": gradient})
    (histogram,) = read(tmp_path / "train")[0]["fc8/bias/gradient"][1]
    assert (histogram[0, 0], histogram[-1, 1], histogram[:, 2].sum()) == (1, 3, 3)


def test_a_full_disk_is_one_line(small_disk):
    folder, network = small_disk("64k") / "logs", alexnet()
    with pytest.raises(OSError, match=r"logs cannot be written .*No space left.*make room"):
        run(folder, network, range(40))
