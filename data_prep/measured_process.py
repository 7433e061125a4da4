"""A command whose processes are stopped together, and whose memory and CPU time are measured."""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

import psutil

# Between two samples, at first (a command may be short) and later.
_FIRST_SAMPLE_SECONDS, _SAMPLE_SECONDS = 0.01, 0.2
_GRACE_SECONDS = 20  # for a stopped command to clean up


class MeasuredProcess:
    """A command in a new session; leaving the `with` block stops it if it still runs.

    Ctrl-C does not reach a new session: it is passed on, once, to all its processes.

    Attributes:
        peak_bytes: the largest resident memory of the command and its descendants together,
            sampled every 10 ms at first and five times a second later. Memory that processes
            share counts once for each.
        process: the running command.
    """

    def __init__(
        self,
        command: Sequence[str],
        *,
        stdout: IO[bytes] | int,
        stderr: IO[bytes] | int | None = None,
        folder: str | None = None,
    ) -> None:
        """Start the command in a folder; without `stderr` its messages are this process'."""
        self.peak_bytes = 0
        self._cpu_seconds: dict[psutil.Process, float] = {}
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            command,
            cwd=folder,
            stdin=subprocess.DEVNULL,
            stdout=stdout,
            stderr=stderr,
            start_new_session=True,
        )
        self._ended = threading.Event()
        self._sampler = threading.Thread(target=self._sample, daemon=True)
        self._sampler.start()

    def __enter__(self) -> "MeasuredProcess":
        return self

    def __exit__(self, *exception: object) -> None:
        self.stop(signal.SIGINT)

    @property
    def seconds(self) -> float:
        """Seconds since the start."""
        return time.monotonic() - self._started

    @property
    def cpu_seconds(self) -> float:
        """User and system seconds of all of them, as far as they were sampled."""
        return sum(self._cpu_seconds.values())

    def stop(self, how: signal.Signals) -> None:
        """End all processes of its group, if it still runs: by a signal, then by SIGKILL."""
        if self.process.poll() is None:
            self._signal(how)
            with contextlib.suppress(subprocess.TimeoutExpired):
                self.process.wait(_GRACE_SECONDS)
            # Also when it has ended: a child that was just starting may have missed the signal.
            self._signal(signal.SIGKILL)
            self.process.wait()
        self._ended.set()
        self._sampler.join()

    def _signal(self, which: signal.Signals) -> None:
        with contextlib.suppress(ProcessLookupError):  # all have ended
            os.killpg(self.process.pid, which)

    def _sample(self) -> None:
        family: set[psutil.Process] = set()
        with contextlib.suppress(psutil.NoSuchProcess):
            family.add(psutil.Process(self.process.pid))
        pause = _FIRST_SAMPLE_SECONDS
        while True:
            # A process that was once seen stays in the family when its parent ends.
            for process in list(family):
                with contextlib.suppress(psutil.NoSuchProcess):
                    family.update(process.children(recursive=True))
            family = {process for process in family if process.is_running()}
            resident = 0
            for process in family:
                with contextlib.suppress(psutil.Error):  # it may end at any moment
                    resident += process.memory_info().rss
                    times = process.cpu_times()
                    self._cpu_seconds[process] = times.user + times.system
            self.peak_bytes = max(self.peak_bytes, resident)
            if self._ended.wait(pause):
                return
            pause = min(1.5 * pause, _SAMPLE_SECONDS)
