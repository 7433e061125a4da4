import contextlib
import pathlib
import threading
import time
import types

import pytest

from keras_alexnet.serving.local_server import served_versions
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.served_versions import VersionStatus


def load(path, number):
    """Return a stand-in of a model: a version whose folder has a file "broken" fails."""
    if "broken" in pathlib.Path(path, "content").read_text():
        raise ValueError("this one\nis broken")
    return types.SimpleNamespace(version=number, path=path)


def make_version(folder, number, content="whole"):
    (folder / str(number)).mkdir()
    (folder / str(number) / "content").write_text(content)


def served(folder, lines=None):
    versions = served_versions.ServedVersions(
        model_dir=str(folder), name="m", load=load, log=[].append if lines is None else lines.append
    )
    assert versions.version is None
    versions.load_highest()
    return versions


@contextlib.contextmanager
def watched(versions):
    stop = threading.Event()
    thread = threading.Thread(target=versions.watch, args=(stop, 0.01))
    thread.start()
    try:
        yield
    finally:
        stop.set()
        thread.join()


def states(versions):
    return {status.version: status.state for status in versions.statuses("m", None)}


def test_the_highest_is_served(tmp_path):
    for number in (9, 10):
        make_version(tmp_path, number)
    versions = served(tmp_path)
    assert versions.version == 10
    for asked in (None, 10):
        with versions.use("m", asked, None) as model:
            assert model.path == str(tmp_path / "10")
    assert versions.statuses("m", 10) == [VersionStatus(10, "AVAILABLE")]


def test_what_is_not_served(tmp_path):
    with pytest.raises(FileNotFoundError):
        served(tmp_path)
    make_version(tmp_path, 1)
    versions = served(tmp_path)
    for name, number, asked, which in (
        ("other", None, r"Latest\(other\)", "any versions of model other"),
        ("m", 2, r"Specific\(m, 2\)", "version 2 of model m"),
    ):
        message = f"Servable not found for request: {asked}"
        with pytest.raises(RequestError, match=message) as error, versions.use(name, number, None):
            pass
        assert error.value.code == "NOT_FOUND"
        with pytest.raises(RequestError, match=f"Could not find {which}"):
            versions.statuses(name, number)


def test_a_new_version_takes_over_and_the_old_one_ends_with_its_last_request(tmp_path):
    make_version(tmp_path, 1)
    versions = served(tmp_path)
    with versions.use("m", None, None) as first, versions.use("m", 1, None):
        make_version(tmp_path, 2)
        versions.load_highest()
        assert states(versions) == {2: "AVAILABLE", 1: "UNLOADING"}
        assert first.version == 1
        with versions.use("m", None, None) as second:
            assert second.version == 2
    assert states(versions) == {2: "AVAILABLE", 1: "END"}


def test_a_lower_version_takes_over_when_the_highest_is_taken_away(tmp_path):
    make_version(tmp_path, 1)
    make_version(tmp_path, 2)
    versions = served(tmp_path)
    (tmp_path / "2" / "content").unlink()
    (tmp_path / "2").rmdir()
    versions.load_highest()
    assert versions.version == 1
    (tmp_path / "1" / "content").unlink()
    (tmp_path / "1").rmdir()
    versions.load_highest()
    assert versions.version == 1  # the last one goes on


def wait_for(condition):
    deadline = time.monotonic() + 30
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.005)


def test_watching(tmp_path):
    make_version(tmp_path, 1)
    lines = []
    versions = served(tmp_path, lines)
    with watched(versions):
        make_version(tmp_path, 2, "broken, as it is still being copied")
        wait_for(lambda: lines)
        time.sleep(0.1)
        assert lines == [
            "version 2 cannot be served (ValueError); version 1 goes on; export it again"
        ]
        assert versions.statuses("m", 2) == [
            VersionStatus(2, "END", "UNKNOWN", "ValueError: this one")
        ]
        assert versions.version == 1
        (tmp_path / "2" / "content").write_text("whole")
        wait_for(lambda: versions.version == 2)
        wait_for(lambda: lines[1:] == ["version 2 is served now, instead of what was before"])


def test_a_folder_that_cannot_be_read_for_a_moment_ends_nothing(tmp_path):
    make_version(tmp_path, 1)
    folder = tmp_path.with_name("model")
    folder.symlink_to(tmp_path)
    versions = served(folder)
    with watched(versions):
        folder.unlink()
        folder.symlink_to(folder)  # a loop: the system refuses to list it
        time.sleep(0.1)
        folder.unlink()
        folder.symlink_to(tmp_path)
        make_version(tmp_path, 2)
        wait_for(lambda: versions.version == 2)


def test_statuses_do_not_grow_for_ever(tmp_path):
    make_version(tmp_path, 1)
    versions = served(tmp_path)
    for number in range(2, 101):
        make_version(tmp_path, number)
        versions.load_highest()
    assert len(states(versions)) < 20
    assert states(versions)[100] == "AVAILABLE"
