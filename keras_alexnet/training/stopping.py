"""Ends of a run before its last epoch: SIGTERM when a machine is taken back, or a time limit."""

import contextlib
import signal
import threading
import time
from collections.abc import Callable, Iterator, Mapping

import keras


class Stopped(Exception):  # noqa: N818 (no error: the same command goes on)
    """A run that was stopped from outside; started again, it goes on from its checkpoint."""


class StopSignal:
    """A flag that is set once the process was asked to end."""

    def __init__(self) -> None:
        self.is_set = False

    def set(self, *args: object) -> None:
        """Set the flag; a handler of signals."""
        del args
        self.is_set = True


@contextlib.contextmanager
def handle_signals() -> Iterator[StopSignal]:
    """Note a SIGTERM instead of dying of it, so that the work can end where it is whole.

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
    """A callback that ends training after the epoch in which a time is over.

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
        """Start the time."""
        self._ends = self._clock() + self._seconds

    def on_epoch_end(self, epoch: int, logs: Mapping | None = None) -> None:
        """End training, if the time is over."""
        if self._clock() >= self._ends:
            self.is_over = True
            self.model.stop_training = True
