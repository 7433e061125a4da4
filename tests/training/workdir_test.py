import keras
import pytest

from keras_alexnet.training import workdir
from keras_alexnet.training.options import RunOptions
from keras_alexnet.training.workdir import start


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"made by keras_alexnet.train is needed.*run.json"):
        workdir.load_run(str(tmp_path))


def test_a_start_that_was_killed_is_started_again(tmp_path, data_dir):
    folder = tmp_path / "run"
    (folder / "statistics").mkdir(parents=True)
    (folder / "run.json.4711.tmp").write_text("{")
    start(str(folder), {"options": 1}, str(data_dir))
    assert workdir.read_run(str(folder)) == {"options": 1}


def test_a_folder_with_other_files_is_refused(tmp_path, data_dir):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(ValueError, match="holds other files"):
        start(str(tmp_path), {}, str(data_dir))
    assert (tmp_path / "thesis.txt").read_text() == "mine"


def test_what_a_flag_allows_may_differ_and_is_then_the_runs(tmp_path, data_dir):
    folder = str(tmp_path / "run")
    first = {"profile": {"dropout_rate": 0.5, "conv_filters": [8]}, "options": {"epochs": 1}}
    second = {"profile": {"dropout_rate": 0.1, "conv_filters": [16]}, "options": {"epochs": 2}}
    start(folder, first, str(data_dir), RunOptions(flags_text="--epochs=1"))
    for allowed in ((), ("dropout", "epochs"), ("epochs", "width"), ("dropout", "width", "seed")):
        with pytest.raises(ValueError, match=r"there .* asked for .*allow_changed_flags="):
            start(folder, second, str(data_dir), RunOptions(allow_changed_flags=allowed))
    assert (tmp_path / "run" / "flags.txt").read_text() == "--epochs=1"
    options = RunOptions(
        allow_changed_flags=("dropout", "epochs", "width"), flags_text="--epochs=2"
    )
    start(folder, second, str(data_dir), options)
    assert workdir.read_run(folder) == second
    assert (tmp_path / "run" / "flags.txt").read_text() == "--epochs=2"


def test_other_code_goes_on_with_a_note(tmp_path, data_dir, capsys):
    folder = str(tmp_path / "run")
    start(folder, {"options": 1, "version": {"keras": "1"}}, str(data_dir))
    start(folder, {"options": 1, "version": {"keras": "2"}}, str(data_dir))
    assert "note: the run was begun with other code, {'keras': '1'}" in capsys.readouterr().err


@pytest.mark.slow
def test_the_codes_version_is_told():
    version = workdir.code_version()
    assert list(version) == ["keras_alexnet", "commit", "tensorflow", "keras", "python"]
    assert version["keras"] == keras.__version__
    assert version["commit"] is None or len(version["commit"].rstrip("+")) == 40
