import pytest

from data_prep.command_line import UserError
from keras_alexnet import workdir


def test_a_folder_that_is_no_run_is_refused(tmp_path):
    with pytest.raises(UserError, match=r"made by keras_alexnet.train is needed.*run.json"):
        workdir.load_run(str(tmp_path))


def test_another_run_is_refused_and_the_difference_named(tmp_path, data_dir):
    folder = str(tmp_path / "run")
    run = {"profile": {"name": "paper"}, "options": {"seed": 1}}
    workdir.start(folder, run, str(data_dir))
    workdir.start(folder, run, str(data_dir))
    with pytest.raises(UserError, match=r"options.seed: there 1, asked for 2"):
        workdir.start(folder, {**run, "options": {"seed": 2}}, str(data_dir))


def test_a_start_that_was_killed_is_started_again(tmp_path, data_dir):
    folder = tmp_path / "run"
    (folder / "statistics").mkdir(parents=True)
    (folder / "run.json.4711.tmp").write_text("{")
    workdir.start(str(folder), {"options": 1}, str(data_dir))
    assert workdir.read_run(str(folder)) == {"options": 1}


def test_a_folder_with_other_files_is_refused(tmp_path, data_dir):
    (tmp_path / "thesis.txt").write_text("mine")
    with pytest.raises(UserError, match="holds other files"):
        workdir.start(str(tmp_path), {}, str(data_dir))
    assert (tmp_path / "thesis.txt").read_text() == "mine"
