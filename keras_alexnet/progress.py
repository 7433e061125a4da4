"""What a person sees while a run goes on."""

import sys
from collections.abc import Mapping

import keras
import tqdm


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
