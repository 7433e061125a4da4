"""What happens during Model.fit besides learning: metrics, checkpoints, progress, the guard."""

import math
import sys
import time
from collections.abc import Mapping

import keras
import tensorflow as tf
import tqdm

from data_prep.command_line import UserError
from keras_alexnet import checkpoints, column_parallel, schedules


class ImageCount(keras.metrics.Metric):
    """How many images were counted: the sum of their weights, padding having weight 0."""

    def __init__(self, name: str = "images", **kwargs) -> None:
        super().__init__(name=name, **kwargs)
        self._count = self.add_weight(name="count", initializer="zeros")

    def update_state(
        self, y_true: tf.Tensor, y_pred: tf.Tensor, sample_weight: tf.Tensor | None = None
    ) -> None:
        """Adds the weights of a batch, or its size where it has none."""
        del y_pred
        weights = tf.ones(tf.shape(y_true)[:1]) if sample_weight is None else sample_weight
        self._count.assign_add(tf.reduce_sum(tf.cast(weights, self._count.dtype)))

    def result(self) -> tf.Tensor:
        """The count so far."""
        return tf.convert_to_tensor(self._count)


class EpochRecorder(keras.callbacks.Callback):
    """Writes a checkpoint and a line of metrics.jsonl after each epoch.

    The last of the callbacks: what the others changed at the epoch's end, the learning rate
    above all, is in the checkpoint.

    Args:
        folder: the run's.
        network: the AlexNet inside of the model that is fitted.
        plateau: the policy whose state must survive, or None.
        history: metrics of the epochs before.
        images_per_epoch: of training.
        validation_images: number of records of the validation split.
    """

    def __init__(
        self,
        *,
        folder: str,
        network: keras.Model,
        plateau: schedules.Plateau | None,
        history: list[dict],
        images_per_epoch: int,
        validation_images: int,
    ) -> None:
        super().__init__()
        self.history = history
        self._folder = folder
        self._network = network
        self._plateau = plateau
        self._images = images_per_epoch
        self._validation_images = validation_images
        self._epoch_started = 0.0
        self._train_seconds = 0.0
        self._rate = 0.0

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        """Starts the clock, and notes the rate before a policy changes it."""
        self._epoch_started = time.perf_counter()
        self._rate = float(self.model.optimizer.learning_rate.numpy())

    def on_test_begin(self, logs: Mapping | None = None) -> None:
        """Stops the clock of training: validation begins."""
        self._train_seconds = time.perf_counter() - self._epoch_started

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Writes the checkpoint, if validation counted every record once."""
        counted = round(logs["val_images"])
        if counted != self._validation_images:
            raise RuntimeError(
                f"validation must count each of {self._validation_images} records once; "
                f"it counted {counted}"
            )
        counts = ("cross_entropy", "top1", "top5")
        # Not val_loss: Keras divides it by the padded size of the batches.
        wanted = ("loss", *counts, *(f"val_{name}" for name in counts))
        self.history.append(
            {
                "epoch": epoch + 1,
                "step": int(self.model.optimizer.iterations.numpy()),
                "learning_rate": self._rate,
                **{name: float(logs[name]) for name in wanted},
                "val_images": counted,
                "images_per_second": round(self._images / self._train_seconds, 1),
                "seconds": round(time.perf_counter() - self._epoch_started, 1),
            }
        )
        checkpoints.write(
            self._folder,
            checkpoints.Checkpoint(
                epoch=epoch + 1,
                weights=column_parallel.read_weights(self._network),
                optimizer=[variable.numpy() for variable in self.model.optimizer.variables],
                schedule=self._plateau.state if self._plateau else None,
                history=self.history,
            ),
        )


class StopWhenNotFinite(keras.callbacks.Callback):
    """Ends the run, with its step and rate, when the loss is not a number any more."""

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        """Looks at the loss, which Keras has fetched from the device anyway."""
        if not math.isfinite(logs["loss"]):
            optimizer = self.model.optimizer
            raise UserError(
                f"the loss became {logs['loss']} at step {int(optimizer.iterations.numpy())} "
                f"with learning rate {float(optimizer.learning_rate.numpy()):g}; the last "
                f"checkpoint is whole: lower --learning_rate in a new --workdir"
            )


class Progress(keras.callbacks.Callback):
    """A progress bar an epoch on stderr, with loss, top-1 and images a second.

    Args:
        epochs: of the whole run.
        steps: an epoch.
        batch_size: global.
    """

    def __init__(self, *, epochs: int, steps: int, batch_size: int) -> None:
        super().__init__()
        self._epochs = epochs
        self._steps = steps
        self._batch_size = batch_size
        self._bar = None

    def on_epoch_begin(self, epoch: int, logs: Mapping | None = None) -> None:
        """Opens the bar."""
        self._bar = tqdm.tqdm(
            total=self._steps * self._batch_size,
            desc=f"epoch {epoch + 1}/{self._epochs}",
            unit=" images",
            file=sys.stderr,
            mininterval=1.0,
        )

    def on_train_batch_end(self, batch: int, logs: Mapping | None = None) -> None:
        """Moves it on."""
        self._bar.set_postfix_str(
            f"loss {logs['cross_entropy']:.3f}, top-1 {logs['top1']:.1%}", refresh=False
        )
        self._bar.update(self._batch_size)

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Closes it with the figures of the validation."""
        self._bar.set_postfix_str(
            f"loss {logs['cross_entropy']:.3f}, top-1 {logs['top1']:.1%}; validation "
            f"loss {logs['val_cross_entropy']:.3f}, top-1 {logs['val_top1']:.1%}"
        )
        self._bar.close()
