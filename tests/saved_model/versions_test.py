import hashlib
import json
import os

import pytest

from keras_alexnet.saved_model import versions


def make(folder, *names):
    for name in names:
        (folder / name / "variables").mkdir(parents=True)
        (folder / name / "variables" / "weights").write_text(name)


def test_which_names_are_versions():
    names = ["0", "1", "007", "9" * 18]
    others = ["", "9" * 19, "-1", "1.5", "1a", " 1", "1\n", "\u0661", ".1.x.tmp", "latest"]
    assert [name for name in names + others if versions.is_version(name)] == names


def test_published(tmp_path):
    make(tmp_path, "10", "9", "latest", ".11.x.tmp")
    (tmp_path / "12").write_text("no folder")
    assert list(versions.published(str(tmp_path)).items()) == [
        (9, str(tmp_path / "9")),
        (10, str(tmp_path / "10")),
    ]
    assert versions.published(str(tmp_path / "none")) == {}
    assert versions.published(str(tmp_path / "12")) == {}


def test_the_oldest_are_removed(tmp_path):
    others = ["latest", "20.old", ".11.x.tmp"]
    make(tmp_path, "9", "10", "11", "100", *others)
    (tmp_path / "1").write_text("no folder")
    assert versions.remove_oldest(str(tmp_path), 5) == []
    assert versions.remove_oldest(str(tmp_path), 2) == [9, 10]
    assert sorted(os.listdir(tmp_path)) == sorted(["1", "11", "100", *others])
    assert (tmp_path / "11" / "variables" / "weights").read_text() == "11"
    assert versions.remove_oldest(str(tmp_path), 1) == [11]
    assert versions.remove_oldest(str(tmp_path), 1) == []
    for keep in (0, -1):
        with pytest.raises(ValueError, match=f"Received: {keep}"):
            versions.remove_oldest(str(tmp_path), keep)
    assert list(versions.published(str(tmp_path))) == [100]


def test_no_part_of_a_version_is_ever_seen(tmp_path, monkeypatch):
    make(tmp_path, "1", "2", "3")
    seen = []
    remove = versions.shutil.rmtree

    def watch(path, **options):
        seen.append((list(versions.published(str(tmp_path))), os.path.basename(path)))
        remove(path, **options)

    monkeypatch.setattr(versions.shutil, "rmtree", watch)
    versions.remove_oldest(str(tmp_path), 1)
    assert [numbers for numbers, _ in seen] == [[3], [3]]
    assert not any(versions.is_version(name) for _, name in seen)


def test_what_a_removal_left_is_removed_by_the_next(tmp_path, monkeypatch):
    make(tmp_path, "1", "2", "3")
    monkeypatch.setattr(versions.shutil, "rmtree", lambda path, **options: None)  # killed before it
    assert versions.remove_oldest(str(tmp_path), 2) == [1]
    assert len(os.listdir(tmp_path)) == 3
    monkeypatch.undo()
    assert versions.remove_oldest(str(tmp_path), 2) == []
    assert sorted(os.listdir(tmp_path)) == ["2", "3"]


@pytest.mark.slow
def test_links_stay(tmp_path):
    make(tmp_path, "elsewhere", "2", "3")
    (tmp_path / "1").symlink_to(tmp_path / "elsewhere")
    assert versions.remove_oldest(str(tmp_path), 1) == [2]
    assert sorted(os.listdir(tmp_path)) == ["1", "3", "elsewhere"]
    assert (tmp_path / "elsewhere" / "variables" / "weights").exists()


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "variables").mkdir()
    (tmp_path / "saved_model.pb").write_bytes(b"graph")
    (tmp_path / "variables" / "weights").write_bytes(b"\0" * 3_000_000)
    (tmp_path / "empty").write_bytes(b"")
    assert versions.write(str(tmp_path)) == 3
    return tmp_path


def test_what_is_written(folder):
    assert json.loads((folder / "checksums.json").read_text()) == {
        "files": {
            name: {"bytes": len(data), "sha256": hashlib.sha256(data).hexdigest()}
            for name, data in {
                "saved_model.pb": b"graph",
                "variables/weights": b"\0" * 3_000_000,
                "empty": b"",
            }.items()
        }
    }
    assert versions.check(str(folder)) == 3


def write(name, content):
    return lambda folder: (folder / name).write_bytes(content)


def remove(name):
    return lambda folder: (folder / name).unlink()


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (write("variables/weights", b"\0" * 2_999_999 + b"\1"), "weights is not the file"),
        (write("variables/weights", b"\0" * 1_000_000), "weights is not the file"),
        (remove("empty"), "empty is missing"),
        (write("variables/more", b""), "variables/more is not in checksums.json"),
        (remove("checksums.json"), "checksums.json is missing"),
        (write("checksums.json", b"{}"), "checksums.json is broken"),
        (write("checksums.json", b"[]"), "checksums.json is broken"),
        (write("checksums.json", b'{"files": 3}'), "checksums.json is broken"),
        (write("checksums.json", b'{"files": {"../../etc/passwd": null}}'), r"passwd is missing"),
        (write("checksums.json", b"[" * 100_000), "checksums.json is broken"),
        (write("checksums.json", b"\0"), "checksums.json is broken"),
    ],
)
def test_what_is_found(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        versions.check(str(folder))
