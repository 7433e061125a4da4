import hashlib
import json
import os

import pytest

from keras_alexnet.saved_model import versions


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


def change(folder):
    (folder / "variables" / "weights").write_bytes(b"\0" * 2_999_999 + b"\1")


def shorten(folder):
    os.truncate(folder / "variables" / "weights", 1_000_000)


def remove(folder):
    (folder / "empty").unlink()


def add(folder):
    (folder / "variables" / "more").write_bytes(b"")


def forget(folder):
    (folder / "checksums.json").unlink()


def write(text):
    return lambda folder: (folder / "checksums.json").write_text(text)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("spoil", "message"),
    [
        (change, "variables/weights is not the file that was written"),
        (shorten, "variables/weights is not the file that was written"),
        (remove, "empty is missing"),
        (add, "variables/more is not in checksums.json"),
        (forget, "checksums.json is missing"),
        (write("{}"), "checksums.json is broken"),
        (write("[]"), "checksums.json is broken"),
        (write('{"files": 3}'), "checksums.json is broken"),
        (write('{"files": {"../../etc/passwd": null}}'), r"passwd is missing"),
        (write("[" * 100_000), "checksums.json is broken"),
        (write("\0"), "checksums.json is broken"),
    ],
)
def test_what_is_found(folder, spoil, message):
    spoil(folder)
    with pytest.raises(ValueError, match=message):
        versions.check(str(folder))
