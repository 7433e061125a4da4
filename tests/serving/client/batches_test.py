import contextlib
import os
import pathlib
import socket
import subprocess
import tempfile
import threading

import pytest

from keras_alexnet.serving.client import batches as client_batches
from keras_alexnet.serving.client.batches import PhotoFile, find, read


def found(root):
    """(photos, skipped), relative to a folder."""
    skipped = []
    photos = [photo.path for photo in find([str(root)], skipped.append)]
    return tuple([os.path.relpath(path, root) for path in paths] for paths in (photos, skipped))


def make(folder, *names):
    for name in names:
        path = folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(name.encode())


def test_a_folder_is_walked_by_name(tmp_path):
    root = tmp_path / ".hidden, but named"
    make(root, "b.jpg", "a/z.PNG", "a/y.jpeg", "c/d/e.JPEG", "a.jpg", "B.jpe", "x.jfif")
    make(root, "notes.txt", "a/Thumbs.db", "no_suffix", ".hidden.jpg", ".git/f.jpg")
    os.mkfifo(root / "pipe.jpg")  # to open it would wait for ever
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(root / "socket.jpg"))
    photos, skipped = found(root)
    assert photos == ["B.jpe", "a/y.jpeg", "a/z.PNG", "a.jpg", "b.jpg", "c/d/e.JPEG", "x.jfif"]
    assert skipped == ["a/Thumbs.db", "no_suffix", "notes.txt", "pipe.jpg", "socket.jpg"]


def test_sizes_and_order_of_what_is_named(tmp_path):
    make(tmp_path, "no photo.txt", "folder/a.jpg")
    paths = [str(tmp_path / "no photo.txt"), str(tmp_path / "folder"), str(tmp_path / "folder")]
    inside = PhotoFile(str(tmp_path / "folder" / "a.jpg"), 12)
    assert list(find(paths, None)) == [PhotoFile(paths[0], 12), inside, inside]


def test_links(tmp_path):
    make(tmp_path, "real/a.jpg", "top.jpg")
    (tmp_path / "real" / "up").symlink_to(tmp_path)
    (tmp_path / "real" / "self").symlink_to(tmp_path / "real")
    (tmp_path / "again").symlink_to(tmp_path / "real")
    (tmp_path / "link.jpg").symlink_to(tmp_path / "top.jpg")
    (tmp_path / "loop.jpg").symlink_to(tmp_path / "loop.jpg")
    (tmp_path / "broken").symlink_to(tmp_path / "none")
    # real is again
    assert found(tmp_path) == (["again/a.jpg", "link.jpg", "loop.jpg", "top.jpg"], ["broken"])
    with pytest.raises(ValueError, match=r"^cannot be read: Too many levels of symbolic links$"):
        read(PhotoFile(str(tmp_path / "loop.jpg")), 5)


def test_folders_nested_deeper_than_calls(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    try:
        for _ in range(1500):
            os.mkdir("d")
            os.chdir("d")
        make(pathlib.Path(), "deep.jpg")
        os.chdir(tmp_path)
        (photo,) = find(["d"], None)
        assert photo.path.count("d/") == 1500
    finally:
        subprocess.run(["rm", "-r", tmp_path / "d"], check=True)  # pytest's own way is recursive


@contextlib.contextmanager
def without_rights(path):
    """Take the rights to a path away; from root, who needs none, by being nobody for a while."""
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


def test_what_cannot_be_read_is_named():
    with tempfile.TemporaryDirectory() as name:  # where nobody may look, too
        folder = pathlib.Path(name)
        folder.chmod(0o755)
        make(folder, "a.jpg", "b/b.jpg", "c.jpg")
        a, b, c = (folder / name for name in ("a.jpg", "b", "c.jpg"))
        with without_rights(b):
            photos = list(find([str(folder)], None))
            assert photos == [PhotoFile(str(a), 5), PhotoFile(str(b)), PhotoFile(str(c), 5)]
            with pytest.raises(ValueError, match=r"^cannot be read: Permission denied$"):
                read(photos[1], 5)
        with without_rights(a), pytest.raises(ValueError, match=r"read: Permission denied$"):
            read(photos[0], 5)


@pytest.mark.parametrize("name", ["none.jpg", "a.jpg/x", "zero\0byte", "x" * 300])
def test_a_path_that_is_not_there(tmp_path, name):
    make(tmp_path, "a.jpg")
    with pytest.raises(ValueError, match=r"cannot be read \(.*nothing was sent; check the path"):
        find([str(tmp_path / "a.jpg"), f"{tmp_path}/{name}"], None)


@pytest.mark.parametrize(
    ("photo", "limit", "message"),
    [
        (PhotoFile("a.jpg", 5), 4, r"more than the 4 bytes.*request_mb"),
        (PhotoFile("a.jpg", 0), 4, r"more than the 4 bytes.*request_mb"),  # it has grown
        (PhotoFile("gone.jpg", 5), 5, r"^cannot be read: No such file"),
        (PhotoFile(".", 5), 5, r"^cannot be read: Is a directory"),
    ],
)
def test_read(tmp_path, monkeypatch, photo, limit, message):
    monkeypatch.chdir(tmp_path)
    make(tmp_path, "a.jpg")
    assert read(PhotoFile("a.jpg", 5), 5) == b"a.jpg"
    with pytest.raises(ValueError, match=message):
        read(photo, limit)


@pytest.mark.parametrize(
    ("sizes", "batch_size", "request_bytes", "batches"),
    [
        ([], 16, 400, []),
        ([1] * 5, 2, 400, [[1, 1], [1, 1], [1]]),
        # 300 bytes in base64 are 400.
        ([200, 100, 1, 299, 1], 16, 400, [[200, 100], [1, 299], [1]]),
        ([500, 1, 500, 500], 16, 400, [[500], [1], [500], [500]]),
    ],
)
def test_batches(sizes, batch_size, request_bytes, batches):
    photos = [PhotoFile(str(number), size) for number, size in enumerate(sizes)]
    cut = list(client_batches.batches(photos, batch_size, request_bytes))
    assert [photo for batch in cut for photo in batch] == photos
    assert [[photo.size for photo in batch] for batch in cut] == batches


def test_order_whatever_is_ready_first():
    """The first item is done after the second, which another worker does meanwhile."""
    second = threading.Event()

    def worker(item):
        if item == 0:
            assert second.wait(60)
        if item == 1:
            second.set()
        return 10 * item

    results = client_batches.in_order(range(30), [worker, worker])
    assert list(results) == [10 * item for item in range(30)]


def test_items_are_taken_a_few_ahead():
    taken = []
    photos = (taken.append(number) or PhotoFile(str(number)) for number in range(1000))
    batches = client_batches.batches(photos, 1, 100)
    results = client_batches.in_order(batches, [len] * 2)
    assert next(results) == 1
    assert len(taken) <= 9  # the first photo of the next batch ends one
    results.close()


def test_an_exception_comes_in_its_turn():
    def worker(item):
        return 6 / (item - 2)

    results = client_batches.in_order([0, 1, 2, 3], [worker])
    assert [next(results), next(results)] == [-3, -6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_closing_ends_the_threads_and_drops_what_they_have_not_begun():
    threads, is_full, end = [], threading.Event(), threading.Event()

    def items():
        yield from range(7)
        is_full.set()
        yield 7

    def worker(item):
        threads.append(threading.current_thread())
        assert (end if item else is_full).wait(60)
        return item

    results = client_batches.in_order(items(), [worker, worker])
    assert next(results) == 0
    results.close()
    end.set()
    for thread in set(threads):
        thread.join(60)
        assert not thread.is_alive()
    assert len(threads) <= 3  # the first item, and one more for each thread
