import os

import pytest

from data_prep import files


def test_a_new_folder_appears_only_when_it_is_filled(tmp_path):
    path = tmp_path / "parent" / "folder"
    with files.new_folder(str(path)) as aside:
        (tmp_path / aside / "file").write_text("x")
        assert not path.exists()
        assert os.path.basename(aside).startswith(".")
    assert (path / "file").read_text() == "x"
    assert os.stat(path).st_mode & 0o777 == 0o755
    assert os.listdir(tmp_path / "parent") == ["folder"]


def create(path, content):
    with files.create(path, f"{path}.aside") as file:
        file.write(content)


@pytest.mark.parametrize("write", [files.write_file, create])
def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path, monkeypatch, write):
    path = tmp_path / "file"
    write(str(path), b"old")

    def full(*_):
        raise OSError("disk full")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(OSError, match="disk full"):
        write(str(path), b"new")
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["file"]


def test_a_failed_folder_leaves_what_was_there(tmp_path):
    path = tmp_path / "folder"
    with pytest.raises(KeyboardInterrupt), files.new_folder(str(path)):
        raise KeyboardInterrupt
    assert os.listdir(tmp_path) == []
    path.mkdir()
    (path / "mine").write_text("keep")
    with pytest.raises(OSError, match="not empty"), files.new_folder(str(path)):
        pass
    assert (path / "mine").read_text() == "keep"
    assert os.listdir(tmp_path) == ["folder"]
