import signal
import subprocess
import sys
import time

import psutil
import pytest

from data_prep import measured_process
from data_prep.measured_process import MeasuredProcess

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


def _is_running(process):
    # A container without an init process keeps killed orphans as zombies.
    return process.is_running() and process.status() != psutil.STATUS_ZOMBIE


@pytest.mark.slow
def test_peak_is_that_of_the_whole_family():
    with MeasuredProcess(
        _python(_FAMILY.format(seconds=1.5)), stdout=subprocess.DEVNULL
    ) as measured:
        assert measured.process.wait() == 0
        assert measured.seconds >= 1.5
    assert 200 * _MIB < measured.peak_bytes < 300 * _MIB


@pytest.mark.slow
@pytest.mark.parametrize("own_session", [True, False])
def test_orphans_and_those_of_another_session_belong_to_the_family(own_session):
    # The first starts a second, and that one a third, which fills 100 MiB for two seconds. The
    # second ends soon, unless the third has a session of its own, as a job of prepare's has.
    fill = "import time; x = b'x' * (100 << 20); time.sleep(2)"
    start = f"subprocess.Popen([sys.executable, '-c', {fill!r}], start_new_session={own_session})"
    second = f"import subprocess, sys, time; {start}; time.sleep({3 if own_session else 0.6})"
    first = f"import subprocess, sys, time; subprocess.run([sys.executable, '-c', {second!r}])"
    with MeasuredProcess(_python(f"{first}; time.sleep(2)"), stdout=subprocess.DEVNULL) as measured:
        time.sleep(1.5)
        measured.peak_bytes = 0
        assert measured.process.wait() == 0
    assert 100 * _MIB < measured.peak_bytes < 200 * _MIB


def test_leaving_the_block_ends_the_whole_family():
    with MeasuredProcess(_python(_FAMILY.format(seconds=60)), stdout=subprocess.PIPE) as measured:
        child = psutil.Process(int(measured.process.stdout.readline()))
    assert measured.process.returncode not in (None, 0)
    deadline = time.monotonic() + 10
    while _is_running(child) and time.monotonic() < deadline:
        time.sleep(0.05)
    assert not _is_running(child)
    measured.process.stdout.close()


@pytest.mark.slow
def test_what_does_not_listen_is_killed(monkeypatch):
    monkeypatch.setattr(measured_process, "_GRACE_SECONDS", 0.3)
    with MeasuredProcess(_python(_DEAF), stdout=subprocess.PIPE) as measured:
        measured.process.stdout.readline()
    assert measured.process.returncode == -signal.SIGKILL
    measured.process.stdout.close()
