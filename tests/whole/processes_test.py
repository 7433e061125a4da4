import os
import signal
import subprocess
import sys
import time

import pytest

from keras_alexnet import processes
from keras_alexnet.processes import MeasuredProcess, family_memory

needs_proc = pytest.mark.skipif(not os.path.exists("/proc/self/stat"), reason="no /proc")
_MIB = 2**20
# Fills 100 MiB itself, and has a child fill 100 more.
_FAMILY = """
import subprocess, sys, time
code = "import time; x = b'x' * (100 << 20); time.sleep(60)"
child = subprocess.Popen([sys.executable, "-c", code])
x = b"x" * (100 << 20)
print(child.pid, flush=True)
time.sleep({seconds})
child.kill()
"""
_DEAF = """
import signal, time
signal.signal(signal.SIGINT, signal.SIG_IGN)
print(1, flush=True)
time.sleep(60)
"""


def _python(code):
    return [sys.executable, "-c", code]


def _is_running(pid):
    try:
        with open(f"/proc/{pid}/stat") as file:
            return file.read().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


@pytest.mark.slow
@needs_proc
def test_peak_is_that_of_the_whole_family():
    with MeasuredProcess(
        _python(_FAMILY.format(seconds=1.5)), stdout=subprocess.DEVNULL
    ) as measured:
        assert measured.process.wait() == 0
        assert measured.seconds >= 1.5
    assert 200 * _MIB < measured.peak_bytes < 300 * _MIB


@needs_proc
def test_memory_agrees_with_the_kernels_own_summary():
    with open("/proc/self/status") as file:
        own_kib = next(int(line.split()[1]) for line in file if line.startswith("VmRSS"))
    assert family_memory(os.getpid()) == pytest.approx(own_kib * 1024, rel=0.1)


@needs_proc
@pytest.mark.parametrize("own_session", [True, False])
def test_orphans_and_those_of_another_session_belong_to_the_family(own_session):
    # The first starts a second, and that one a third, which fills 100 MiB for three seconds. The
    # second ends at once, unless the third has a session of its own, as a job of prepare's has.
    fill = "import time; x = b'x' * (100 << 20); print(1, flush=True); time.sleep(3)"
    start = f"subprocess.Popen([sys.executable, '-c', {fill!r}], start_new_session={own_session})"
    second = f"import subprocess, sys, time; {start}; time.sleep({60 if own_session else 0})"
    first = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {second!r}])"
    with MeasuredProcess(_python(f"{first}; time.sleep(60)"), stdout=subprocess.PIPE) as measured:
        measured.process.stdout.readline()
        time.sleep(0.3)
        memory = family_memory(measured.process.pid)
    measured.process.stdout.close()
    assert 100 * _MIB < memory < 200 * _MIB


@needs_proc
def test_leaving_the_block_ends_the_whole_family():
    with MeasuredProcess(_python(_FAMILY.format(seconds=60)), stdout=subprocess.PIPE) as measured:
        child = int(measured.process.stdout.readline())
        assert _is_running(child)
    assert measured.process.returncode not in (None, 0)
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)
    measured.process.stdout.close()


@pytest.mark.slow
def test_what_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(processes, "_GRACE_SECONDS", 0.3)
    with MeasuredProcess(_python(_DEAF), stdout=subprocess.PIPE) as measured:
        measured.process.stdout.readline()
    assert measured.process.returncode == -signal.SIGKILL
    measured.process.stdout.close()
