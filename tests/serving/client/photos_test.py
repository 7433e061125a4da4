import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile

import pytest

from keras_alexnet.serving.client.batches import PhotoFile, find, read


def found(*paths):
    """(photos, skipped), relative to the first path."""
    skipped = []
    photos = list(find([str(path) for path in paths], skipped.append))
    root = str(paths[0])
    return (
        [os.path.relpath(photo.path, root) for photo in photos],
        [os.path.relpath(path, root) for path in skipped],
    )


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_a_folder_is_walked_by_name(tmp_path):
    make(tmp_path, "b.jpg", "a/z.PNG", "a/y.jpeg", "c/d/e.JPEG", "a.jpg", "B.jpe", "x.jfif")
    make(tmp_path, "notes.txt", "a/Thumbs.db", "no_suffix", ".hidden.jpg", ".git/f.jpg")
    photos, skipped = found(tmp_path)
    assert photos == [
        *("B.jpe", "a/y.jpeg", "a/z.PNG", "a.jpg", "b.jpg", "c/d/e.JPEG", "x.jfif"),
    ]
    assert skipped == ["a/Thumbs.db", "no_suffix", "notes.txt"]


def test_sizes_and_order_of_what_is_named(tmp_path):
    make(tmp_path, "no photo.txt", "folder/a.jpg")
    paths = [str(tmp_path / "no photo.txt"), str(tmp_path / "folder"), str(tmp_path / "folder")]
    photos = list(find(paths, None))
    inside = PhotoFile(str(tmp_path / "folder" / "a.jpg"), 12)
    assert photos == [PhotoFile(paths[0], 12), inside, inside]


def test_a_hidden_folder_that_is_named(tmp_path):
    make(tmp_path, ".photos/a.jpg")
    assert found(tmp_path / ".photos") == (["a.jpg"], [])


def test_links(tmp_path):
    make(tmp_path, "real/a.jpg", "top.jpg")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "self").symlink_to(tmp_path / "real")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "top.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    photos, skipped = found(tmp_path)
    assert photos == ["again/a.jpg", "link.jpg", "loop.jpg", "top.jpg"]  # real is again
    assert skipped == ["broken"]
    faults = [photo.fault for photo in find([str(tmp_path)], skipped.append)]
    assert [bool(fault) for fault in faults] == [False, False, True, False]
    assert faults[2] == "cannot be read: Too many levels of symbolic links"


def test_what_is_no_file(tmp_path):
    make(tmp_path, "a.jpg")
    os.mkfifo(tmp_path / "pipe.jpg")  # to open it would wait for ever
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "socket.jpg"))
    assert found(tmp_path) == (["a.jpg"], ["pipe.jpg", "socket.jpg"])


def test_folders_nested_deeper_than_calls(tmp_path):
    here = os.getcwd()
    os.chdir(tmp_path)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        make(pathlib.Path(), "deep.jpg")
        os.chdir(tmp_path)
        (photo,) = find(["d"], None)
        assert photo.path.count("d/") == 1500
    finally:
        os.chdir(here)
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own way is recursive


@contextlib.contextmanager
def without_rights(path):
    """Takes the rights to a path away; from root, who needs none, by being nobody for a while."""
    mode = os.stat(path).st_mode
    os.chmod(path, 0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(user)
        os.chmod(path, mode)


@pytest.fixture
def open_folder():
    """Where nobody may look, too."""
    with tempfile.TemporaryDirectory() as folder:
        os.chmod(folder, 0o755)
        yield pathlib.Path(folder)


def test_what_cannot_be_read_is_named(open_folder):
    make(open_folder, "a.jpg", "b/b.jpg", "c.jpg")
    a, b, c = (open_folder / name for name in ("a.jpg", "b", "c.jpg"))
    with without_rights(b):
        assert list(find([str(open_folder)], None)) == [
            PhotoFile(str(a), 5),
            PhotoFile(str(b), 0, "cannot be read: Permission denied"),
            PhotoFile(str(c), 5),
        ]
    with without_rights(a), pytest.raises(ValueError, match=r"^cannot be read: Permission denied$"):
        read(PhotoFile(str(a), 5), 5)


@pytest.mark.parametrize("name", ["none.jpg", "a.jpg/x", "zero\0byte", "x" * 300])
def test_a_path_that_is_not_there(tmp_path, name):
    make(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=r"cannot be read \(.*nothing was sent; check the path"):
        find([str(tmp_path / "a.jpg"), f"{tmp_path}/{name}"], None)


def test_read(tmp_path):
    make(tmp_path, "a.jpg")
    photo = PhotoFile(str(tmp_path / "a.jpg"), 5)
    assert read(photo, 5) == b"a.jpg"
    for size in (5, 0):  # it has grown since it was found
        with pytest.raises(ValueError, match=r"more than the 4 bytes.*request_mb"):
            read(PhotoFile(photo.path, size), 4)
    with pytest.raises(ValueError, match=r"^cannot be read: No such file"):
        read(PhotoFile(str(tmp_path / "gone.jpg"), 5), 5)
    with pytest.raises(ValueError, match=r"^cannot be read: Is a directory"):
        read(PhotoFile(str(tmp_path), 5), 5)
    with pytest.raises(ValueError, match=r"^whatever$"):
        read(PhotoFile(photo.path, 5, "whatever"), 5)
