"""An end for a run that has a time, not only epochs."""

import time
from collections.abc import Callable, Mapping

import keras


class TimeLimit(keras.callbacks.Callback):
    """Ends training after the epoch in which a time is over, as TimeStopping of TensorFlow Addons.

    Args:
        seconds: from the start of training, of this command's, on.
        clock: seconds; only differences matter.

    Attributes:
        is_over: whether it has ended training.
    """

    def __init__(self, seconds: float, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self.is_over = False
        self._seconds = seconds
        self._clock = clock
        self._ends = float("inf")

    def on_train_begin(self, logs: Mapping | None = None) -> None:
        """Notes when the time will be over."""
        self._ends = self._clock() + self._seconds

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """Ends training, if the time is over."""
        if self._clock() >= self._ends:
            self.is_over = True
            self.model.stop_training = True
