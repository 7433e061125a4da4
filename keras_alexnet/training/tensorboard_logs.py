"""TensorBoard's logs of a run.

FOLDER/train/        a point an epoch of loss, accuracies, rate and speed; the filters of conv1;
                     where asked for, histograms of all weights and their gradients
FOLDER/validation/   a point an epoch of cross-entropy and accuracies
"""

import errno
import os
from collections.abc import Callable, Mapping

import keras
import numpy as np
import tensorflow as tf
from tensorboard.backend.event_processing import event_file_loader
from tensorboard.plugins.histogram import metadata

from keras_alexnet import columns
from keras_alexnet.network.variables import named_variables

_ACCURACY = ("cross_entropy", "top1", "top5")
_SCALARS = {  # by folder: the prefix in the logs of an epoch, and the tags
    "train": (
        "",
        ("loss", *_ACCURACY, "learning_rate", "images_per_second", "input_wait_seconds"),
    ),
    "validation": ("val_", _ACCURACY),
}
_FILTERS_A_ROW = 16  # as in figure 3 of the paper, so that each column of 48 has rows of its own
_PIXELS_A_WEIGHT = 4
_LINE = 0.0  # black
_BUCKETS = 30  # of a histogram; TensorBoard's usual number


class TensorBoardLogs(keras.callbacks.Callback):
    """A callback that writes TensorBoard's event files, with the epoch, from 1, as the step.

    A resumed run writes to new files in the same folders, and skips points that were written before
    a kill.

    Args:
        folder: of all logs of the run.
        network: the AlexNet whose weights are looked at, in columns or not.
    """

    def __init__(self, folder: str, network: keras.Model) -> None:
        super().__init__()
        self._network = network
        self._logs = {name: _EventLog(os.path.join(folder, name)) for name in _SCALARS}

    def log_histograms(self, step: int, gradients: Mapping[str, np.ndarray]) -> None:
        """Write histograms of all weights ("conv1/kernel") and of their gradients.

        Args:
            step: of the run.
            gradients: by "layer/variable", whole: "conv1/kernel" in columns too. What is logged
                is called "conv1/kernel/gradient".
        """
        log = self._logs["train"]
        for name, array in columns.read_weights(self._network).items():
            if array.ndim:  # the step of a dropout is no weight
                log.add(_histogram, name, array, step)
        for name, array in gradients.items():
            log.add(_histogram, f"{name}/gradient", array, step)

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Write the points of the epoch, and a picture of the filters of conv1."""
        for folder, (prefix, tags) in _SCALARS.items():
            for tag in tags:
                self._logs[folder].add(tf.summary.scalar, tag, logs[prefix + tag], epoch + 1)
        variables = named_variables(self._network).items()
        # Of all weights, conv1's alone are copied from their device.
        of_conv1 = {name: v.numpy() for name, v in variables if name.startswith("conv1")}
        picture = filter_picture(columns.merge(of_conv1)["conv1/kernel"])
        self._logs["train"].add(tf.summary.image, "conv1/filters", picture[np.newaxis], epoch + 1)

    def on_train_end(self, logs: Mapping | None = None) -> None:
        """Close the files."""
        for log in self._logs.values():
            log.writer.close()


def filter_picture(kernel: np.ndarray) -> np.ndarray:
    """Return the filters of conv1 in one grid, as in figure 3 of the paper, a line around each.

    Args:
        kernel: [side, side, 3, filters], RGB.

    Returns:
        [height, width, 3], from 0, the smallest of all weights, to 1, the largest. A weight is a
        square of 4x4 pixels.
    """
    side, _, channels, filters = kernel.shape
    low, high = kernel.min(), kernel.max()
    scaled = (kernel - low) / max(high - low, np.finfo(np.float32).tiny)
    a_row = min(filters, _FILTERS_A_ROW)
    rows = -(-filters // a_row)
    cells = np.full([rows * a_row, side + 1, side + 1, channels], _LINE, np.float32)
    cells[:filters, :side, :side] = np.moveaxis(scaled, 3, 0)
    grid = cells.reshape(rows, a_row, side + 1, side + 1, channels).swapaxes(1, 2)
    grid = grid.reshape(rows * (side + 1), a_row * (side + 1), channels)
    grid = np.pad(grid, [(1, 0), (1, 0), (0, 0)], constant_values=_LINE)
    return grid.repeat(_PIXELS_A_WEIGHT, axis=0).repeat(_PIXELS_A_WEIGHT, axis=1)


class _EventLog:
    """A folder of event files, in which a tag has one point a step.

    A point is in the file at once, for a run may be killed at any moment: `as_default` flushes.
    """

    def __init__(self, folder: str) -> None:
        self._written = {
            (value.tag, event.step)
            for path in tf.io.gfile.glob(os.path.join(folder, "events.out.tfevents.*"))
            for event in event_file_loader.EventFileLoader(path).Load()
            for value in event.summary.value
        }
        self._folder = folder
        self.writer = tf.summary.create_file_writer(folder)

    def add(self, kind: Callable, tag: str, value: float | np.ndarray, step: int) -> None:
        """Write a point with `kind`, such as tf.summary.scalar, unless it was written before."""
        if (tag, step) in self._written:
            return
        self._written.add((tag, step))
        try:
            with self.writer.as_default():
                kind(tag, value, step)
        except tf.errors.OpError as error:
            reason = str(error.message).strip().splitlines()[0]
            raise OSError(
                errno.EIO,
                f"logs cannot be written ({reason}); the last checkpoint is whole: make room and "
                "run the same command again",
                self._folder,
            ) from error


def _histogram(tag: str, array: np.ndarray, step: int) -> None:
    """Write a histogram of the finite values.

    By NumPy: `tf.summary.histogram` takes 8 bytes for each value and bucket, 9 GB for fc6.
    """
    values = np.asarray(array, np.float64)  # float32 cannot part equal biases
    counts, edges = np.histogram(values[np.isfinite(values)], _BUCKETS)
    tf.summary.write(
        tag,
        tf.constant(np.stack([edges[:-1], edges[1:], counts], axis=1), tf.float64),
        step,
        metadata=metadata.create_summary_metadata(display_name=None, description=None),
    )
