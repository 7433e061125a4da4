import pytest
from train_runs import assert_same_run, metrics_of, run

from keras_alexnet.training.options import RunOptions


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
    with pytest.raises(ValueError, match=r"one process' clock.*SIGTERM"):
        run(data_dir, tmp_path / "run", run_options=limited, strategy="multi_worker")
    assert not (tmp_path / "run").exists()
