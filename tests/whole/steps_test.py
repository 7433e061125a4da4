import os
import re
import signal
import subprocess
import sys
import time

import pytest

from data_prep.command_line import UserError
from keras_alexnet import quickstart
from keras_alexnet.quickstart import Step, run_steps, table

_TALK = """
import json, sys
print("for a person")
print("progress", file=sys.stderr)
print(json.dumps({"images": 1234, "arguments": sys.argv[1:]}))
"""
_FAIL = """
import sys
print("half of it")
sys.exit("talk_fail: a folder is needed")
"""
_SILENT = ""
# Writes its process id, is ready at once, and notes how it was ended.
_SERVER = """
import os, pathlib, signal, sys, time
folder = pathlib.Path(sys.argv[1])
(folder / "pid").write_text(str(os.getpid()))
def end(number, frame):
    (folder / "ended").write_text(signal.Signals(number).name)
    sys.exit(0)
signal.signal(signal.SIGTERM, end)
signal.signal(signal.SIGINT, end)
print("a notice", file=sys.stderr)
addresses = "http://127.0.0.1:4321 and grpc://127.0.0.1:4322"
print(f"ready: model alexnet at {addresses}", file=sys.stderr, flush=True)
time.sleep(60)
"""
_BROKEN_SERVER = """
import sys
sys.exit("talk_broken_server: the port is in use")
"""
_SLEEP = "import time; print('x', flush=True); time.sleep(60)"


@pytest.fixture(autouse=True)
def _modules(tmp_path, monkeypatch):
    """Return commands to run by `python -m`."""
    folder = tmp_path / "modules"
    folder.mkdir()
    for name, code in {
        "talk": _TALK,
        "talk_fail": _FAIL,
        "talk_silent": _SILENT,
        "talk_server": _SERVER,
        "talk_broken_server": _BROKEN_SERVER,
        "talk_sleep": _SLEEP,
    }.items():
        (folder / f"{name}.py").write_text(code)
    inherited = [path for path in (os.environ.get("PYTHONPATH"), os.getcwd()) if path]
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(folder), *inherited]))


def _server(**changes):
    fields = {"name": "serve", "command": "talk_server {run}", "is_server": True}
    return Step(**{**fields, "outcome": "at {server}", **changes})


_TALKER = Step("talk", "talk --a={run} {configs}", "{images:,} photos")


def _run(*all_steps, run_dir):
    return run_steps(all_steps, run_dir=str(run_dir), configs="a")


def test_steps_run_with_their_places_filled_in(tmp_path, capfd):
    (outcome,) = _run(_TALKER, run_dir=tmp_path)
    assert outcome.result == {"images": 1234, "arguments": [f"--a={tmp_path}", "a"]}
    assert outcome.seconds > 0
    output, messages = capfd.readouterr()
    assert output == ""  # stdout is the quick start's own
    assert f"step 1 of 1, talk\n  python -m talk --a={tmp_path} a\n" in messages
    assert "progress\nfor a person\n" in messages


def test_server_runs_beside_the_steps_after_it_and_is_then_stopped(tmp_path):
    after = Step("ask", "talk {server}", "")
    server, ask = _run(_server(), after, run_dir=tmp_path)
    assert server.result == {"server": "http://127.0.0.1:4321"}
    assert ask.result["arguments"] == ["http://127.0.0.1:4321"]
    assert (tmp_path / "ended").read_text() == "SIGTERM"
    assert server.process.process.returncode == 0
    assert "a notice" in (tmp_path / "server.log").read_text()


def test_failing_step_ends_it_all(tmp_path, capfd):
    failing = Step("fall", "talk_fail", "")
    with pytest.raises(UserError, match=r"step 2 of 3, fall, failed with exit status 1; see above"):
        _run(_server(), failing, _TALKER, run_dir=tmp_path)
    messages = capfd.readouterr().err
    assert "talk_fail: a folder is needed" in messages
    assert "half of it" in messages
    assert "step 3" not in messages
    assert (tmp_path / "ended").read_text() == "SIGTERM"


@pytest.mark.parametrize(
    ("step", "error"),
    [
        (Step("mute", "talk_silent", ""), "IndexError"),
        (Step("talk", "talk", "{records} records"), "KeyError"),
    ],
)
def test_step_without_its_figures_is_refused(tmp_path, step, error):
    with pytest.raises(UserError, match=f"must end with a line of JSON with its figures.*{error}"):
        _run(step, run_dir=tmp_path)


def test_server_that_does_not_start_is_told(tmp_path, capfd):
    with pytest.raises(UserError, match="serve, ended with exit status 1; see above"):
        _run(_server(command="talk_broken_server"), _TALKER, run_dir=tmp_path)
    assert "talk_broken_server: the port is in use" in capfd.readouterr().err


def test_server_that_is_never_ready_is_told(tmp_path, monkeypatch):
    monkeypatch.setattr(quickstart, "_READY_SECONDS", 0.5)
    with pytest.raises(UserError, match=r"was not ready after 0.5 seconds"):
        _run(_server(command="talk_sleep"), run_dir=tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize("how", [signal.SIGINT, signal.SIGTERM])
def test_interrupted_run_leaves_no_process_behind(tmp_path, how):
    script = (
        "import signal\n"
        "from keras_alexnet.quickstart import Step, run_steps\n"
        "signal.signal(signal.SIGTERM, signal.default_int_handler)\n"
        "run_steps([Step('serve', 'talk_server {run}', '', is_server=True),\n"
        "    Step('sleep', 'talk_server {run}/second', '')],\n"
        f"    run_dir={str(tmp_path)!r}, configs='')\n"
    )
    (tmp_path / "second").mkdir()
    running = subprocess.Popen(
        [sys.executable, "-c", script], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    second = tmp_path / "second" / "pid"
    deadline = time.monotonic() + 30
    while not (second.exists() and second.read_text()) and time.monotonic() < deadline:
        time.sleep(0.05)
    time.sleep(0.3)  # until its handlers are set
    running.send_signal(how)
    assert running.wait(30) != 0
    # Each was asked to end, and did before the run itself.
    assert (tmp_path / "second" / "ended").read_text() == "SIGINT"
    assert (tmp_path / "ended").read_text() == "SIGTERM"


@pytest.mark.slow
def test_table_has_a_line_a_step_and_the_sum(tmp_path):
    lines = table(_run(_TALKER, _server(), run_dir=tmp_path)).splitlines()
    assert lines[0].split() == ["step", "what", "it", "did", "seconds", "peak", "MiB"]
    assert re.fullmatch(r"talk +1,234 photos +\d+\.\d +\d+", lines[1])
    assert re.fullmatch(r"serve +at http://127\.0\.0\.1:4321 +\d+\.\d +\d+", lines[2])
    assert re.fullmatch(r"all +\d+\.\d +\d+", lines[3])
    assert len({len(line) for line in lines}) == 1
    seconds = [float(line.split()[-2]) for line in lines[1:]]
    assert seconds[2] == pytest.approx(seconds[0] + seconds[1], abs=0.16)  # each is rounded
