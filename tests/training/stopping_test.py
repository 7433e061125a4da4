import types

import pytest
from train_runs import assert_same_run, metrics_of, run

from data_prep.command_line import UserError
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.training import stopping
from keras_alexnet.training.options import RunOptions


class Clock:
    def __init__(self):
        self.now = 1000.0

    def __call__(self):
        return self.now


def our_stops(seconds, ends, monkeypatch):
    clock = Clock()
    return stops(stopping.TimeLimit(seconds, clock), clock, ends)


def their_stops(seconds, ends, monkeypatch):
    addons = pytest.importorskip("keras_alexnet.training.addons")
    clock = Clock()
    callback = addons.tfa.callbacks.TimeStopping(seconds)
    module = __import__(type(callback).__module__, fromlist=["time"])
    monkeypatch.setattr(module, "time", types.SimpleNamespace(time=clock))
    return stops(callback, clock, ends)


def stops(callback, clock, ends):
    """Whether training ends after each of some epochs, which end at given seconds."""
    callback.set_model(types.SimpleNamespace(stop_training=False))
    clock.now += 50  # between the making and the beginning
    callback.on_train_begin()
    began, seen = clock.now, []
    for epoch, end in enumerate(ends):
        callback.on_epoch_begin(epoch)
        clock.now = began + end
        callback.on_epoch_end(epoch, {})
        seen.append(callback.model.stop_training)
    return seen


OF_ADDONS = pytest.param(
    their_stops,
    marks=pytest.mark.skipif(not IS_KERAS_2, reason="needs TensorFlow Addons: make test-addons"),
)


@pytest.mark.parametrize("stops_of", [our_stops, OF_ADDONS])
@pytest.mark.parametrize(
    ("seconds", "expected"),
    [(0, [True] * 3), (20, [False, True, True]), (21, [False, False, True]), (31, [False] * 3)],
)
def test_training_ends_after_the_epoch_in_which_the_time_is_over(
    monkeypatch, stops_of, seconds, expected
):
    """Ours as TimeStopping of TensorFlow Addons: epochs that end after 10, 20 and 30 s."""
    assert stops_of(seconds, (10, 20, 30), monkeypatch) == expected


@pytest.mark.slow
def test_a_command_whose_time_is_over_ends_well_and_goes_on(data_dir, tmp_path, capsys):
    whole, cut = tmp_path / "whole", tmp_path / "cut"
    for seconds, epochs in ((0.0, 1), (0.0, 2), (3600.0, 3)):
        limited = RunOptions(stop_after_seconds=seconds)
        figures = run(data_dir, cut, run_options=limited, strategy="one_device")
        assert figures["epochs"] == epochs
        assert figures.get("stopped_after_seconds") == (None if seconds else 0.0)
        said = capsys.readouterr().err.splitlines()[-1]
        assert (f"stopped after epoch {epochs}; run the same command again" in said) == (epochs < 3)
    run(data_dir, whole, strategy="one_device")
    assert_same_run(whole, cut)


@pytest.mark.slow
def test_a_run_whose_time_is_over_with_its_last_epoch_is_whole(data_dir, tmp_path):
    limited = RunOptions(stop_after_seconds=0.0)
    figures = run(data_dir, tmp_path, run_options=limited, epochs=1, strategy="one_device")
    assert "stopped_after_seconds" not in figures
    assert len(metrics_of(tmp_path)) == 1


@pytest.mark.slow
def test_a_dry_run_has_no_time(data_dir, tmp_path):
    limited = RunOptions(stop_after_seconds=0.0, dry_run=True)
    figures = run(data_dir, tmp_path / "run", run_options=limited, strategy="one_device")
    assert "stopped_after_seconds" not in figures


@pytest.mark.slow
def test_several_processes_have_no_common_clock(data_dir, tmp_path, monkeypatch):
    monkeypatch.setattr("keras_alexnet.training.devices.make_strategy", lambda name: None)
    monkeypatch.setattr("keras_alexnet.training.devices.check_batch", lambda size, strategy: None)
    limited = RunOptions(stop_after_seconds=9.0)
    with pytest.raises(UserError, match=r"one process' clock.*SIGTERM"):
        run(data_dir, tmp_path / "run", run_options=limited, strategy="multi_worker")
    assert not (tmp_path / "run").exists()
