"""SIGTERM: a machine that is taken back gives its processes some seconds."""

import contextlib
import signal
import threading
from collections.abc import Iterator


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
