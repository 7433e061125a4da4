"""What is kept of a run while it goes on: checkpoints, and a line of metrics an epoch."""

import time
from collections.abc import Mapping

import keras

from keras_alexnet import checkpoints, column_parallel, schedules


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
