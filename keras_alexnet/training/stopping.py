"""SIGTERM: a machine that is taken back gives its processes some seconds.

An end for a run that has a time, not only epochs.
"""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import keras


class StopSignal:
    """Whether the process was asked to end."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *args: object) -> None:
        """Notes it; a handler of signals."""
        del args
        self.is_set = True


@contextlib.contextmanager
def noted() -> Iterator[StopSignal]:
    """Notes a SIGTERM instead of dying of it, so that the work can end where it is whole.

    In another thread than the main one, where Python allows no handlers, it changes nothing.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, stop.set)
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)


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
