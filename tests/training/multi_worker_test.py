"""Two processes that train one model over loopback."""

import contextlib
import dataclasses
import json
import os
import socket
import subprocess
import sys
import time

import pytest
from repository import ROOT
from train_runs import (
    FLAGS,
    PROFILE,
    assert_moved_alike,
    metrics_of,
    own_lines,
    places_of,
    run,
    start_of,
)

from keras_alexnet.training import checkpoints, devices

pytestmark = pytest.mark.slow

# The learning rate is that of `assert_moved_alike`.
_FLAGS = (*FLAGS, "--dropout=0", "--learning_rate=0.001", "--strategy=multi_worker")


def _free_ports(count):
    with contextlib.ExitStack() as stack:
        sockets = [stack.enter_context(socket.socket()) for _ in range(count)]
        for each in sockets:
            each.bind(("127.0.0.1", 0))
        return [each.getsockname()[1] for each in sockets]


def start_workers(data_dir, folder, epochs, *more):
    addresses = [f"127.0.0.1:{port}" for port in _free_ports(2)]
    processes = []
    for index in range(2):
        config = {"cluster": {"worker": addresses}, "task": {"type": "worker", "index": index}}
        arguments = (f"--data_dir={data_dir}", f"--workdir={folder}", f"--epochs={epochs}", *more)
        processes.append(
            subprocess.Popen(
                [sys.executable, "-m", "keras_alexnet.train", *_FLAGS, *arguments],
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                text=True,
                cwd=ROOT,
                env={**os.environ, "TF_CONFIG": json.dumps(config)},
            )
        )
    return processes


def ends(processes, timeout=120):
    """Exit status and messages of each."""
    try:
        said = [process.communicate(timeout=timeout)[1] for process in processes]
        return [(process.returncode, text) for process, text in zip(processes, said, strict=True)]
    finally:
        for process in processes:
            process.kill()


def test_two_workers_train_as_one_process_with_twice_the_batch_and_go_on_after_a_loss(
    data_dir, tmp_path
):
    one, two = tmp_path / "one", tmp_path / "two"
    profile = dataclasses.replace(PROFILE, dropout_rate=0.0)
    run(data_dir, one, profile, epochs=3, learning_rate=0.001, strategy="one_device")
    processes = start_workers(data_dir, two, 3, "--checkpoint_seconds=0")
    while len(places_of(two)) < 2 and all(process.poll() is None for process in processes):
        time.sleep(0.02)
    processes[1].kill()
    (chief_status, chief_said), (killed_status, _) = ends(processes)
    assert killed_status == -9
    assert chief_status == 75, chief_said
    assert "another worker has ended or cannot be reached" in own_lines(chief_said)[-1]
    assert places_of(two)[-1] < checkpoints.Place(3)

    finished = ends(start_workers(data_dir, two, 3))
    assert [status for status, _ in finished] == [0, 0], finished
    weights = [checkpoints.read(str(folder)).weights for folder in (one, two)]
    assert_moved_alike(start_of(profile), *weights)
    for first, second in zip(metrics_of(one), metrics_of(two), strict=True):
        assert first["val_images"] == second["val_images"] == 10
        for name in ("loss", "top1", "val_cross_entropy", "val_top1"):
            assert second[name] == pytest.approx(first[name], rel=0.01, abs=1e-6), name


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no JSON",
        "[]",
        '{"cluster": {"worker": ["a:1"]}}',
        '{"cluster": {"worker": ["a:1"]}, "task": {"type": "worker", "index": 1}}',
        '{"cluster": {"ps": ["a:1"]}, "task": {"type": "ps", "index": 0}}',
    ],
)
def test_an_unusable_tf_config_is_told(text):
    with pytest.raises(ValueError, match=r"needs the environment variable TF_CONFIG .* such as"):
        devices.check_config(text)


def test_a_usable_tf_config_passes():
    config = {"cluster": {"worker": ["a:1", "b:2"]}, "task": {"type": "worker", "index": 1}}
    devices.check_config(json.dumps(config))
