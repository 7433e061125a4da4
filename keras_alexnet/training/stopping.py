"""The end of a run before its last epoch: SIGTERM, when a machine is taken back."""

import contextlib
import dataclasses
import signal
import threading
from collections.abc import Iterator


class Stopped(Exception):  # noqa: N818 (no error: the same command goes on)
    """A run that was stopped from outside; started again, it goes on from its checkpoint."""


@dataclasses.dataclass
class StopSignal:
    """A flag that is set once the process was asked to end."""

    is_set: bool = False


@contextlib.contextmanager
def handle_signals() -> Iterator[StopSignal]:
    """Note a SIGTERM instead of dying of it, so that the work can end where it is whole.

    In another thread than the main one, where Python allows no handlers, it changes nothing.
    """
    stop = StopSignal()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    before = signal.signal(signal.SIGTERM, lambda *_: setattr(stop, "is_set", True))
    try:
        yield stop
    finally:
        signal.signal(signal.SIGTERM, before)
