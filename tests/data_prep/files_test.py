import os

import pytest

from data_prep import files


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch):
    path = tmp_path / "file"
    files.write_file(str(path), "old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        files.write_file(str(path), "new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_new_folder_appears_only_when_it_is_filled(tmp_path):
    path = tmp_path / "parent" / "folder"
    with files.new_folder(str(path)) as aside:
        (tmp_path / aside / "file").write_text("x")
        assert not path.exists()
        assert os.path.basename(aside).startswith(".")
    assert (path / "file").read_text() == "x"
    assert os.stat(path).st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path / "parent") == ["folder"]


def fail():
    raise KeyboardInterrupt


def test_an_interrupted_folder_leaves_nothing(tmp_path):
    with pytest.raises(KeyboardInterrupt), files.new_folder(str(tmp_path / "folder")):
        fail()
    assert os.listdir(tmp_path) == []


def test_a_folder_with_something_in_it_is_not_replaced(tmp_path):
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").write_text("keep")
    with pytest.raises(OSError, match="not empty"), files.new_folder(str(tmp_path / "folder")):
        pass
    assert (tmp_path / "folder" / "mine").read_text() == "keep"
    assert os.listdir(tmp_path) == ["folder"]


def test_a_full_disk_leaves_the_old_file_of_a_created_one(tmp_path, monkeypatch):
    path, aside = tmp_path / "file", tmp_path / "aside"
    path.write_text("old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"), files.create(str(path), str(aside)) as file:
        file.write(b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]
