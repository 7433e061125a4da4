import os
import pickle
import socket
import subprocess
import sys
import threading
import time
import uuid

import pytest

from data_prep import storage

SLOW_STORES = [pytest.param(scheme, marks=pytest.mark.slow) for scheme in ("s3", "gs")]


@pytest.fixture(params=["local", "memory", *SLOW_STORES])
def root(request, tmp_path):
    """Return an empty place of each kind: its path."""
    if request.param in ("s3", "gs"):
        return request.getfixturevalue("new_bucket")(request.param)
    return str(tmp_path) if request.param == "local" else f"memory://{uuid.uuid4().hex}"


def put(root, *names):
    for name in names:
        path = storage.join(root, name)
        with storage.create(path, path + ".tmp") as file:
            file.write(name.encode())


def get(path):
    with storage.open_file(path) as file:
        return file.read()


def write_half(path, aside):
    with storage.create(path, aside) as file:
        file.write(b"half")
        raise KeyboardInterrupt


def test_a_file_is_written_read_and_removed(root):
    put(root, "other")
    path = storage.join(root, "photos.gz")  # not to be unpacked
    assert storage.size(path) is None
    assert not storage.exists(path)
    storage.write_file(path, b"")
    assert (get(path), storage.size(path), storage.is_folder(path)) == (b"", 0, False)
    storage.write_file(path, "ä")
    storage.write_file(path, b"\x00two")
    assert get(path) == b"\x00two"
    assert storage.size(path) == 4
    assert storage.exists(path)
    assert not storage.is_folder(path)
    assert {stat.name for stat in storage.files(root, 1)} == {"other", "photos.gz"}
    assert storage.folders(root) == []
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)


def test_a_file_is_read_from_any_position(root):
    path = storage.join(root, "file")
    content = os.urandom(300_000)
    storage.write_file(path, content)
    for read_ahead in 1000, 1 << 24:
        with storage.open_file(path, read_ahead=read_ahead) as file:
            assert file.seek(-5, os.SEEK_END) == 299_995
            assert file.read() == content[-5:]
            file.seek(1234)
            assert file.read(200_000) == content[1234:201_234]
            assert file.tell() == 201_234
            file.seek(0)
            assert file.read() == content


def test_a_folder_is_what_has_something_in_it(root):
    put(root, "train/cat/1.jpg")
    for name in "train", "train/", "train/cat":
        path = storage.join(root, name)
        assert storage.is_folder(path)
        assert storage.exists(path)
        assert storage.size(path) is None
    assert not storage.exists(storage.join(root, "tra"))


def test_files_of_one_depth_are_found_with_their_stat(root):
    put(root, "a.jpg", "train/b.jpg", "train/cat/c.jpg", "train/dog/d.jpg", "train/dog/x/e.jpg")
    put(root, ".hidden", "train/.hidden/f.jpg", ".hidden_too/dog/g.jpg", "train/dog/.h")
    found = {stat.name: stat for stat in storage.files(root, 3)}
    assert sorted(found) == ["train/cat/c.jpg", "train/dog/d.jpg"]
    assert found["train/cat/c.jpg"].length == len("train/cat/c.jpg")
    if not root.startswith("memory://"):  # whose listings have no time
        assert abs(found["train/cat/c.jpg"].modified_ns - time.time_ns()) < 60e9
    assert [stat.name for stat in storage.files(root, 1)] == ["a.jpg"]
    assert [stat.name for stat in storage.files(storage.join(root, "train"), 1)] == ["b.jpg"]
    assert list(storage.files(storage.join(root, "train"), 4)) == []
    assert storage.folders(root) == ["train"]
    assert storage.folders(storage.join(root, "train")) == ["cat", "dog"]


def test_what_is_not_there_is_named(root):
    put(root, "file")
    missing = storage.join(root, "missing")
    for call in (
        lambda: storage.open_file(missing),
        lambda: storage.folders(missing),
        lambda: list(storage.files(missing, 2)),
    ):
        with pytest.raises(FileNotFoundError, match="missing") as caught:
            call()
        assert "\n" not in str(caught.value)
        assert caught.value.filename == missing


def test_a_created_file_appears_whole_at_the_end(root):
    path, aside = storage.join(root, "new/out/file"), storage.join(root, "work/aside")
    for content in b"1" * 3_000_000, b"2":
        old = storage.size(path)
        with storage.create(path, aside) as file:
            file.write(content)
            file.flush()
            assert storage.size(path) == old
        assert get(path) == content
        assert not storage.exists(aside)


def test_an_error_leaves_the_old_file_and_no_other(root):
    path, aside = storage.join(root, "out/file"), storage.join(root, "work/aside")
    put(root, "out/file")
    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            write_half(path, aside)
        assert get(path) == b"out/file"
        assert not storage.exists(aside)


def test_a_folder_is_removed_and_its_neighbour_stays(root):
    put(root, "out/a", "out/b/.hidden", "out2/c", "out/*")
    for _ in range(2):
        storage.remove_folder(storage.join(root, "out"))
        assert not storage.exists(storage.join(root, "out"))
    assert get(storage.join(root, "out2/c")) == b"out2/c"


def test_names_that_look_like_patterns_are_names(root):
    if root.startswith("memory://"):
        pytest.skip("fsspec's own rm of memory:// takes patterns")
    put(root, "a1", "a?", "b[1]/c", "b1/c")
    assert get(storage.join(root, "a?")) == b"a?"
    assert [stat.name for stat in storage.files(storage.join(root, "b[1]"), 1)] == ["c"]
    storage.remove(storage.join(root, "a?"))
    storage.remove_folder(storage.join(root, "b[1]"))
    assert [stat.name for stat in storage.files(root, 1)] == ["a1"]
    assert storage.folders(root) == ["b1"]


# Local paths.


def test_links_count_as_what_they_lead_to(tmp_path):
    put(str(tmp_path), "real/photo")
    (tmp_path / "folder").symlink_to("real")
    (tmp_path / "file").symlink_to("real/photo")
    os.mkfifo(tmp_path / "pipe")
    assert storage.folders(str(tmp_path)) == ["folder", "real"]
    assert [stat.name for stat in storage.files(str(tmp_path), 1)] == ["file"]
    assert sorted(storage.files(str(tmp_path), 2))[0][:2] == ("folder/photo", 10)


def test_a_link_that_leads_nowhere_is_no_silent_loss(tmp_path):
    (tmp_path / "photo.jpg").symlink_to("gone")
    with pytest.raises(FileNotFoundError, match=r"photo\.jpg"):
        list(storage.files(str(tmp_path), 1))
    assert list(storage.files(str(tmp_path), 2)) == []


def test_a_file_is_no_folder(tmp_path):
    put(str(tmp_path), "file")
    for call in storage.folders, lambda path: list(storage.files(path, 1)):
        with pytest.raises(NotADirectoryError, match="file"):
            call(str(tmp_path / "file"))
    assert storage.size(str(tmp_path / "file" / "below")) is None


@pytest.mark.skipif(
    os.geteuid() == 0, reason="needs another user than root, who may read everything"
)
def test_a_folder_that_cannot_be_read_is_named(tmp_path):
    put(str(tmp_path), "cat/1")
    (tmp_path / "cat").chmod(0)
    with pytest.raises(PermissionError, match="cat"):
        list(storage.files(str(tmp_path), 2))
    (tmp_path / "cat").chmod(0o700)


def test_local_paths_import_no_client(tmp_path):
    program = (
        "import sys; from data_prep import storage\n"
        "path = storage.join(sys.argv[1], 'file')\n"
        "storage.write_file(path, b'1'); storage.open_file(path).close(); storage.remove(path)\n"
        "storage.remove_folder(path); storage.folders(sys.argv[1]); storage.exists(path)\n"
        "list(storage.files(sys.argv[1], 1)); storage.size(path); storage.is_folder(path)\n"
        "sys.exit(bool({'apache_beam', 'fsspec'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 0


# Object stores.


def test_of_writers_at_once_one_creates_an_object(bucket):
    for number in range(20):
        path, won = f"{bucket}/lock{number}", []
        barrier = threading.Barrier(4)

        def race(name, path=path, won=won, barrier=barrier):
            barrier.wait()
            if storage.create_new(path, name):
                won.append(name)

        threads = [threading.Thread(target=race, args=(bytes([n]),)) for n in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert [get(path)] == won


def test_a_lost_answer_to_a_create_is_not_taken_for_another_writer(bucket):
    assert storage.create_new(f"{bucket}/lock", b"mine")
    assert storage.create_new(f"{bucket}/lock", b"mine")  # as a client does that puts again
    assert not storage.create_new(f"{bucket}/lock", b"another's")


def test_a_marker_of_an_empty_folder_is_no_file(bucket):
    storage.write_file(f"{bucket}/a/b", b"")
    store = storage._store(bucket)
    store.pipe_file(f"{bucket}/a/", b"")
    assert [stat.name for stat in storage.files(f"{bucket}/a", 1)] == ["b"]
    assert storage.folders(bucket) == ["a"]


def test_a_fork_reads_and_writes(bucket):
    storage.write_file(f"{bucket}/file", b"1")
    child = os.fork()
    if not child:
        status = 1
        try:
            storage.write_file(f"{bucket}/child", get(f"{bucket}/file"))
            status = 0
        finally:
            os._exit(status)
    assert os.waitpid(child, 0)[1] == 0
    assert get(f"{bucket}/child") == b"1"


def test_a_missing_bucket_is_one_line(bucket):
    with pytest.raises(FileNotFoundError) as caught:
        storage.write_file(f"{bucket}no/file", b"")
    assert caught.value.filename == f"{bucket}no/file"


def failure(path, environment):
    """Return the OSError of a look at a path, in a process with other environment variables."""
    program = (
        "import pickle, sys; from data_prep import storage\n"
        "try: storage.exists(sys.argv[1])\n"
        "except OSError as error: sys.stdout.buffer.write(pickle.dumps(error))\n"
    )
    kept = {k: v for k, v in os.environ.items() if not k.startswith(("AWS_", "STORAGE_"))}
    kept |= {"AWS_EC2_METADATA_DISABLED": "true", "HOME": "/nowhere"}
    command = [sys.executable, "-c", program, path]
    result = subprocess.run(command, env=kept | environment, capture_output=True, timeout=120)
    assert result.stderr == b""
    error = pickle.loads(result.stdout)
    assert "\n" not in str(error)
    assert error.filename == path
    return error


@pytest.mark.slow
@pytest.mark.parametrize("bucket", ["s3"], indirect=True)
def test_wrong_or_missing_credentials_are_one_line(bucket):
    address = {"AWS_ENDPOINT_URL": os.environ["AWS_ENDPOINT_URL"]}
    wrong = {"AWS_ACCESS_KEY_ID": "minioadmin", "AWS_SECRET_ACCESS_KEY": "wrong"}
    for credentials in wrong, {}:
        error = failure(f"{bucket}/file", address | credentials)
        assert isinstance(error, PermissionError)
        assert "AWS_ACCESS_KEY_ID" in str(error)


@pytest.mark.slow
@pytest.mark.parametrize(("scheme", "hangs"), [("s3", False), ("gs", True)])
def test_an_endpoint_that_does_not_answer_is_one_line(scheme, hangs):
    pytest.importorskip({"s3": "s3fs", "gs": "gcsfs"}[scheme])
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        if hangs:
            listener.listen()
        address = f"http://127.0.0.1:{listener.getsockname()[1]}"
        environment = {"AWS_ENDPOINT_URL": address, "STORAGE_EMULATOR_HOST": address}
        environment |= {"AWS_ACCESS_KEY_ID": "a", "AWS_SECRET_ACCESS_KEY": "b"}
        error = failure(f"{scheme}://bucket/file", environment)
    assert "onnect" in str(error) or "no answer in 30 seconds" in str(error)


@pytest.mark.parametrize(("scheme", "package"), [("gs", "gcsfs"), ("s3", "s3fs")])
def test_a_client_that_is_not_installed_is_one_clear_line(scheme, package):
    with pytest.raises(OSError, match=r"one of gs://, s3://.* is needed. Received: file://"):
        storage.exists("file:///folder")
    program = (
        f"import sys; sys.modules[{package!r}] = None\nfrom data_prep import storage\n"
        f"try: storage.folders('{scheme}://bucket')\nexcept OSError as error: print(error)"
    )
    said = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True).stdout
    assert f"{scheme}:// needs {package}: pip install keras-alexnet[" in said
    assert said.count("\n") == 1
