"""Troubles of a run: kills, SIGTERM, time limits, full disks, damage, broken records."""

import contextlib
import dataclasses
import json
import multiprocessing
import multiprocessing.forkserver
import os
import random
import shutil
import signal
import subprocess
import sys
import time

import pytest
from repository import ROOT
from train_runs import FLAGS, assert_same_run, metrics_of, own_lines, places_of, run

from keras_alexnet.training import checkpoints, progress, stopping
from keras_alexnet.training.options import RunOptions

pytestmark = pytest.mark.slow

EACH_STEP = RunOptions(checkpoint_seconds=0.0)
AT_ONCE = RunOptions(stop_after_seconds=0.0)
TWO = {"epochs": 2, "strategy": "one_device"}
SMALL = {"epochs": 4, "strategy": "one_device", "batch_size": 4}
_COMMAND = (*FLAGS, "--batch_size=4", "--epochs=4", "--strategy=one_device")


@pytest.fixture
def whole_run(finished):
    return finished(**TWO)


def _train(data_dir, folder):
    """Run in a process of its own; module level, so that it can be sent there."""
    run(data_dir, folder, run_options=EACH_STEP, **SMALL)


@pytest.fixture(scope="module")
def processes():
    """Return processes that have imported TensorFlow, and not started it."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["keras_alexnet.train", "train_runs"])
    yield context
    # Or it stays, with TensorFlow in its memory, for as long as pytest does.
    multiprocessing.forkserver._forkserver._stop()


@pytest.mark.parametrize("kills", [2, pytest.param(20, marks=pytest.mark.soak)])
def test_kills_and_the_same_run(finished, data_dir, tmp_path, processes, kills):
    killed = tmp_path / "killed"

    def start():
        process = processes.Process(target=_train, args=(data_dir, killed))
        process.start()
        return process

    seconds = random.Random(0)
    moments = []
    for _ in range(kills):
        process, before = start(), places_of(killed)
        while process.is_alive() and places_of(killed) == before:
            time.sleep(0.02)
        time.sleep(seconds.uniform(0, 0.4))
        process.kill()
        process.join()
        moments.append((places_of(killed) or [None])[-1])
    assert any(moments), "no kill was inside of the run"
    if kills == 20:
        assert len(set(moments)) > 5, f"too few of the kills were inside of the run: {moments}"
        assert any(place.step for place in moments), "no kill was inside of an epoch"
    process = start()
    process.join()
    assert process.exitcode == 0
    assert_same_run(finished(**SMALL), killed)
    assert not list((killed / "checkpoints").glob(".*"))


@contextlib.contextmanager
def command(data_dir, folder, *more):
    arguments = (f"--data_dir={data_dir}", f"--workdir={folder}", *_COMMAND, *more)
    process = subprocess.Popen(
        [sys.executable, "-m", "keras_alexnet.train", *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield process
    finally:
        process.kill()
        process.communicate()


def test_sigterm_writes_a_checkpoint_and_the_same_command_goes_on(finished, data_dir, tmp_path):
    ended = tmp_path / "ended"
    with command(data_dir, ended, "--checkpoint_seconds=0") as process:
        while not places_of(ended) and process.poll() is None:
            time.sleep(0.01)
        process.send_signal(signal.SIGTERM)
        _, said = process.communicate(timeout=30)
    assert process.returncode == 75, said
    assert "asked to end: the checkpoint after" in own_lines(said)[-1]
    assert places_of(ended)[-1] < checkpoints.Place(4)
    with command(data_dir, ended) as process:
        output, _ = process.communicate()
        assert process.returncode == 0
        assert json.loads(output)["epochs"] == 4
    assert_same_run(finished(**SMALL), ended)


@pytest.mark.parametrize("when", ["on_train_batch_end", "on_test_begin"])
def test_asked_to_end_in_training_or_in_validation(
    data_dir, tmp_path, monkeypatch, whole_run, when
):
    ended = tmp_path / "ended"
    original = getattr(progress.Progress, when)

    def asked_to_end(self, *args, **kwargs):
        os.kill(os.getpid(), signal.SIGTERM)
        return original(self, *args, **kwargs)

    with monkeypatch.context() as patch:
        patch.setattr(progress.Progress, when, asked_to_end)
        with pytest.raises(stopping.Stopped, match="asked to end: the checkpoint after 0 epochs"):
            run(data_dir, ended, **TWO)
    (place,) = places_of(ended)
    assert place.epoch == 0
    # Asked after the first step: the second tells all processes, the sums come one step later.
    assert place.step == {"on_test_begin": 4, "on_train_batch_end": 3}[when]
    assert signal.getsignal(signal.SIGTERM) == signal.SIG_DFL
    run(data_dir, ended, **TWO)
    assert_same_run(whole_run, ended)


def test_a_damaged_checkpoint_is_recognised_and_the_one_before_is_taken(
    data_dir, tmp_path, capsys, whole_run
):
    """checkpoints_test.py has every kind of damage."""
    again = tmp_path / "again"
    shutil.copytree(whole_run, again)
    path = again / "checkpoints" / "epoch-0002" / "optimizer.npz"
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)
    run(data_dir, again, **TWO)
    assert "passed over" in capsys.readouterr().err
    assert_same_run(whole_run, again)


def test_a_full_disk_stops_the_run_and_the_last_checkpoint_is_whole(
    data_dir, tmp_path, small_disk, whole_run
):
    folder = small_disk("6m") / "run"
    with pytest.raises(OSError, match=r"cannot be written .*No space left on device.*make room"):
        run(data_dir, folder, run_options=EACH_STEP, **TWO)
    assert places_of(folder), "not even one checkpoint fits"
    assert checkpoints.read(str(folder)).state.place == places_of(folder)[-1]
    subprocess.run(["mount", "-o", "remount,size=60m", folder.parent], check=True)
    run(data_dir, folder, **TWO)
    assert_same_run(whole_run, folder)


def test_a_run_of_other_flags_refuses_and_what_is_allowed_may_differ(data_dir, tmp_path, whole_run):
    again = tmp_path / "again"
    shutil.copytree(whole_run, again)
    three = {**TWO, "epochs": 3}
    message = r"options.epochs: there 2, asked for 3.*allow_changed_flags=epochs"
    with pytest.raises(ValueError, match=message):
        run(data_dir, again, **three)
    allowed = RunOptions(allow_changed_flags=("epochs",))
    assert run(data_dir, again, run_options=allowed, **three)["epochs"] == 3
    assert metrics_of(again)[:2] == metrics_of(whole_run)
    run(data_dir, again, **three)  # it is the run's now


def test_broken_records_stop_the_run_or_are_left_out_and_counted(data_dir, tmp_path):
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    shard = sorted(copy.glob("train-*"))[1]
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=rf"{shard.name}, record \d+"):
        run(copy, tmp_path / "stopped", epochs=1)
    skip = RunOptions(skip_bad_records=1)
    figures = run(copy, tmp_path / "run", epochs=2, run_options=skip)
    assert figures["skipped_records"] == 1
    assert [line["skipped_records"] for line in metrics_of(tmp_path / "run")] == [1, 1]
    again = tmp_path / "again"
    shutil.copytree(tmp_path / "run", again)
    shutil.rmtree(again / "checkpoints" / "epoch-0002")
    run(copy, again, epochs=2, run_options=skip)
    assert_same_run(tmp_path / "run", again)


def test_a_dry_run_takes_two_steps_and_keeps_nothing(data_dir, tmp_path):
    folder = tmp_path / "run"
    figures = run(data_dir, folder, run_options=dataclasses.replace(AT_ONCE, dry_run=True))
    assert figures.keys() == {"dry_run", "loss", "val_cross_entropy", "seconds"}
    assert figures["loss"] > 0
    assert not folder.exists()


def test_a_command_whose_time_is_over_ends_well_and_goes_on(data_dir, tmp_path, capsys, whole_run):
    folder = tmp_path / "a"
    for epochs in (1, 2):  # with the last epoch the run is whole, whatever the time
        figures = run(data_dir, folder, run_options=AT_ONCE, **TWO)
        assert figures["epochs"] == epochs
        assert figures.get("stopped_after_seconds") == (0.0 if epochs == 1 else None)
        said = "the time is over: stopped after epoch 1" in capsys.readouterr().err
        assert said == (epochs == 1)
    assert_same_run(whole_run, folder)
    figures = run(
        data_dir, tmp_path / "b", run_options=RunOptions(stop_after_seconds=3600.0), **TWO
    )
    assert figures["epochs"] == 2


def test_several_processes_have_no_common_clock(data_dir, tmp_path):
    with pytest.raises(ValueError, match=r"one process' clock.*SIGTERM"):
        run(data_dir, tmp_path / "run", run_options=AT_ONCE, strategy="multi_worker")
    assert not (tmp_path / "run").exists()
