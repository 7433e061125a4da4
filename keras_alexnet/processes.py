"""Runs a command and measures it: wall time, and the memory of all its processes together.

Memory is read from Linux's /proc, so that no package is needed for it; where there is none, it
counts as 0.
"""

import contextlib
import os
import signal
import subprocess
import threading
import time
from collections.abc import Sequence
from typing import IO

_SAMPLE_SECONDS = 0.2
_GRACE_SECONDS = 20  # for a stopped command to clean up
# Fields of /proc/PID/stat, counted from the one after the command's name; see proc(5).
_PARENT, _SESSION, _RESIDENT_PAGES = 1, 3, 21


class MeasuredProcess:
    """A command in a session of its own; leaving the `with` block stops it if it still runs.

    Its own session makes Ctrl-C ours to pass on, once, to the command and its workers.

    Attributes:
        peak_bytes: the most that its processes have had in memory at one time, sampled five
            times a second. Memory that processes share counts once for each, so this is an upper
            bound.
        process: the running command.
    """

    def __init__(
        self, command: Sequence[str], *, stdout: IO[bytes], stderr: IO[bytes] | None = None
    ) -> None:
        """Starts the command.

        Args:
            command: program and arguments.
            stdout: where its output goes.
            stderr: where its messages go; None for this process' own.
        """
        self.peak_bytes = 0
        self._started = time.monotonic()
        self.process = subprocess.Popen(
            command,
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
        """Since the start."""
        return time.monotonic() - self._started

    def stop(self, how: signal.Signals) -> None:
        """Ends all processes of its group, if it still runs: by a signal, then by SIGKILL."""
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
        while True:
            self.peak_bytes = max(self.peak_bytes, family_memory(self.process.pid))
            if self._ended.wait(_SAMPLE_SECONDS):
                return


def family_memory(ancestor: int) -> int:
    """Bytes in memory of a process and all its descendants; 0 where there is no /proc.

    A process belongs if its parent or its session's first process does: the one finds sessions
    that a descendant has opened, the other what has lost its parent.
    """
    family: dict[int, int] = {}  # pages, by process
    others = _all_processes()
    while True:
        known = {ancestor, *family}
        found = [pid for pid, (kin, _) in others.items() if pid == ancestor or kin & known]
        if not found:
            return sum(family.values()) * os.sysconf("SC_PAGE_SIZE")
        family.update((pid, others.pop(pid)[1]) for pid in found)


def _all_processes() -> dict[int, tuple[frozenset[int], int]]:
    """By process: its parent and its session's first process, and its pages in memory."""
    processes = {}
    with contextlib.suppress(OSError):
        for entry in filter(str.isdigit, os.listdir("/proc")):
            # A process may end between listing and reading.
            with contextlib.suppress(OSError), open(f"/proc/{entry}/stat", "rb") as file:
                # The command's name comes in brackets and may itself hold any of these.
                fields = file.read().rpartition(b")")[2].split()
                kin = frozenset((int(fields[_PARENT]), int(fields[_SESSION])))
                processes[int(entry)] = kin, int(fields[_RESIDENT_PAGES])
    return processes
