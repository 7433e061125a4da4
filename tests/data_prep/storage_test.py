import importlib.util
import os
import subprocess
import sys
import time

import beam_file_systems
import pytest
from apache_beam.io.filesystems import FileSystems
from apache_beam.options.pipeline_options import HadoopFileSystemOptions

from data_prep import storage

STORES = {
    "objects": beam_file_systems.ObjectStore,
    "folders": beam_file_systems.FolderStore,
}
needs_remote = pytest.mark.parametrize("root", sorted(STORES), indirect=True)


@pytest.fixture(params=["local", *STORES])
def root(request, tmp_path):
    """An empty place of each kind: its path."""
    if request.param == "local":
        return str(tmp_path)
    STORES[request.param].start(tmp_path)
    return f"{request.param}://bucket"


@pytest.fixture
def store(root):
    return STORES[root.partition("://")[0]]


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
    storage.write_file(path, "ä")
    storage.write_file(path, b"\x00two")
    assert get(path) == b"\x00two"
    assert storage.size(path) == 4
    assert storage.exists(path)
    assert not storage.is_folder(path)
    assert {stat.name for stat in storage.files(root, 1)} == {"other", "photos.gz"}
    storage.remove(path)
    storage.remove(path)
    assert not storage.exists(path)


def test_an_empty_file_is_a_file(root):
    path = storage.join(root, "empty")
    storage.write_file(path, b"")
    assert get(path) == b""
    assert storage.size(path) == 0
    assert not storage.is_folder(path)
    assert [stat.name for stat in storage.files(root, 1)] == ["empty"]
    assert storage.folders(root) == []


def test_a_file_is_read_from_any_position(root):
    path = storage.join(root, "file")
    content = os.urandom(300_000)
    storage.write_file(path, content)
    for read_ahead in 1000, 1 << 24:
        with storage.open_file(path, read_ahead=read_ahead) as file:
            assert file.seekable()
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
    assert not storage.is_folder(storage.join(root, "tra"))
    assert not storage.exists(storage.join(root, "tra"))


def test_files_of_one_depth_are_found_with_their_stat(root):
    put(root, "a.jpg", "train/b.jpg", "train/cat/c.jpg", "train/dog/d.jpg", "train/dog/x/e.jpg")
    put(root, ".hidden", "train/.hidden/f.jpg", ".hidden_too/dog/g.jpg", "train/dog/.h")
    found = {stat.name: stat for stat in storage.files(root, 3)}
    assert sorted(found) == ["train/cat/c.jpg", "train/dog/d.jpg"]
    assert found["train/cat/c.jpg"].length == len("train/cat/c.jpg")
    assert abs(found["train/cat/c.jpg"].modified_ns - time.time_ns()) < 60e9
    assert [stat.name for stat in storage.files(root, 1)] == ["a.jpg"]
    assert [stat.name for stat in storage.files(storage.join(root, "train"), 1)] == ["b.jpg"]
    assert list(storage.files(storage.join(root, "train"), 4)) == []


def test_folders_are_visible_sorted_and_no_files(root):
    put(root, "c/1", "a/1", "b/x/1", ".hidden/1", "file")
    assert storage.folders(root) == ["a", "b", "c"]
    assert storage.folders(storage.join(root, "a")) == []


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


def test_depth_counts_from_1(root):
    with pytest.raises(ValueError, match=r"at least 1\. Received: 0"):
        storage.files(root, 0)


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


def test_what_a_crash_left_aside_is_written_over(root):
    put(root, "aside")
    with storage.create(storage.join(root, "file"), storage.join(root, "aside")) as file:
        file.write(b"new")
    assert get(storage.join(root, "file")) == b"new"
    assert not storage.exists(storage.join(root, "aside"))


def test_a_folder_is_removed_and_its_neighbour_stays(root):
    put(root, "out/a", "out/b/.hidden", "out2/c")
    for _ in range(2):
        storage.remove_folder(storage.join(root, "out"))
        assert not storage.exists(storage.join(root, "out"))
    assert get(storage.join(root, "out2/c")) == b"out2/c"


def test_join_keeps_slashes_single():
    assert storage.join("a", "b", "c") == os.path.join("a", "b", "c")
    assert storage.join("gs://b/", "c/d", "e") == "gs://b/c/d/e"
    assert storage.is_local("a/b")
    assert not storage.is_local("gs://b")


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


def test_local_paths_import_no_beam(tmp_path):
    program = (
        "import sys; from data_prep import storage\n"
        "path = storage.join(sys.argv[1], 'file'); storage.configure([])\n"
        "storage.write_file(path, b'1'); storage.open_file(path).close(); storage.remove(path)\n"
        "storage.remove_folder(path); storage.folders(sys.argv[1]); storage.exists(path)\n"
        "with storage.create(path, path + '.tmp') as file: file.write(b'1')\n"
        "list(storage.files(sys.argv[1], 1)); storage.size(path); storage.is_folder(path)\n"
        "sys.exit('apache_beam' in sys.modules)"
    )
    assert subprocess.run([sys.executable, "-c", program, str(tmp_path)]).returncode == 0


# Remote paths.


def test_an_object_store_has_names_that_folders_cannot_have(tmp_path):
    beam_file_systems.ObjectStore.start(tmp_path)
    put("objects://b", "a", "a/b", "a//c", "a/../d")
    put("objects://b", "e/f")
    with storage.create("objects://b/g/", "objects://b/tmp") as file:
        file.write(b"")  # what consoles make to show an empty folder
    assert storage.size("objects://b/a") == 1
    assert storage.is_folder("objects://b/a")
    assert [stat.name for stat in storage.files("objects://b", 1)] == ["a"]
    assert sorted(stat.name for stat in storage.files("objects://b", 2)) == ["a/b", "e/f"]
    assert storage.folders("objects://b") == ["a", "e", "g"]


def test_folders_may_be_empty(tmp_path):
    beam_file_systems.FolderStore.start(tmp_path)
    (tmp_path / "b" / "empty").mkdir(parents=True)
    assert storage.is_folder("folders://b/empty")
    assert storage.folders("folders://b") == ["empty"]
    assert list(storage.files("folders://b/empty", 1)) == []
    storage.remove("folders://b/empty")  # takes files only, though Beam's delete would take it
    assert storage.is_folder("folders://b/empty")
    storage.remove_folder("folders://b/empty")
    assert not storage.exists("folders://b/empty")


def test_names_that_look_like_patterns_are_read(tmp_path):
    beam_file_systems.ObjectStore.start(tmp_path)
    put("objects://b", "a!/not_this", "a1/nor_this", "z/1")
    (tmp_path / "objects%3A%2F%2Fb%2Fa%5B%2F%2A.jpg").write_bytes(b"5")
    assert storage.is_folder("objects://b/a[")
    assert not storage.is_folder("objects://b/?1")
    assert [stat.name for stat in storage.files("objects://b/a[", 1)] == ["*.jpg"]
    assert storage.folders("objects://b") == ["a!", "a1", "a[", "z"]
    assert get("objects://b/a[/*.jpg") == b"5"
    assert storage.size("objects://b/a[/*.jpg") == 1


@needs_remote
def test_names_that_look_like_patterns_are_neither_written_nor_removed(root):
    put(root, "a1", "ab/c")
    for call in (
        lambda: storage.remove(storage.join(root, "a?")),
        lambda: storage.remove_folder(storage.join(root, "a*")),
        lambda: storage.write_file(storage.join(root, "a[1]"), b""),
        lambda: write_half(storage.join(root, "b*"), storage.join(root, "aside")),
        lambda: write_half(storage.join(root, "b"), storage.join(root, "aside?")),
    ):
        with pytest.raises(OSError, match=r"without \* \? \["):
            call()
    assert get(storage.join(root, "a1")) == b"a1"
    assert get(storage.join(root, "ab/c")) == b"ab/c"


@pytest.mark.parametrize("root", ["folders"], indirect=True)
def test_folders_that_look_like_patterns_are_refused_rather_than_empty(root, tmp_path):
    (tmp_path / "bucket" / "a[1]").mkdir(parents=True)
    with pytest.raises(OSError, match=r"without \* \? \["):
        storage.folders(storage.join(root, "a[1]"))


@needs_remote
@pytest.mark.parametrize("call", ["create", "write", "close", "rename"])
def test_a_failed_write_leaves_no_half_file(root, store, call):
    put(root, "file")
    store.fails.add(call)
    with pytest.raises(OSError, match=r"the service said 503: .*/") as caught:
        storage.write_file(storage.join(root, "file"), b"new")
    assert caught.value.filename.startswith(storage.join(root, "file"))
    store.fails.clear()
    if (call, root) == ("rename", "folders://bucket"):  # which never replaces: see storage.create
        assert not storage.exists(storage.join(root, "file"))
    else:
        assert get(storage.join(root, "file")) == b"file"


@needs_remote
@pytest.mark.parametrize("call", ["read", "list", "exists"])
def test_an_error_of_the_service_is_one_line_with_the_path(root, store, call):
    put(root, "folder/file")
    store.fails.add(call)
    path = storage.join(root, "folder")
    use = {
        "read": lambda: get(storage.join(path, "file")),
        "list": lambda: storage.folders(path),
        "exists": lambda: storage.size(path),
    }
    with pytest.raises(OSError, match=r"^[^\n]*the service said 503: '[a-z]+://bucket/folder"):
        use[call]()


@needs_remote
def test_a_folder_that_stays_is_told(root, store):
    put(root, "folder/file")
    store.fails.add("delete")
    with pytest.raises(OSError, match="not all of the folder could be deleted"):
        storage.remove_folder(storage.join(root, "folder"))


@needs_remote
def test_no_more_is_asked_for_than_wanted(root, store):
    path = storage.join(root, "tar")
    storage.write_file(path, bytes(1_000_000))
    with storage.open_file(path, read_ahead=4096) as file:
        file.seek(500_000)
        file.read(1000)
    assert store.requests == [4096]
    with storage.open_file(path) as file:
        file.read(1000)
        file.read(100_000)
    assert store.requests == [4096, 1_000_000]


@pytest.mark.parametrize(
    ("scheme", "package", "extra"),
    [("gs", "google.cloud.storage", "gcp"), ("s3", "boto3", "aws"), ("hdfs", "hdfs", "hadoop")],
)
def test_a_client_that_is_not_installed_is_one_clear_line(scheme, package, extra):
    try:
        installed = importlib.util.find_spec(package) is not None
    except ModuleNotFoundError:
        installed = False
    if installed:
        pytest.skip(f"{package} is installed")
    with pytest.raises(OSError, match=rf"{scheme}:// needs .*\[{extra}\]'") as caught:
        storage.folders(f"{scheme}://bucket/folder")
    assert "\n" not in str(caught.value)
    assert caught.value.filename == f"{scheme}://bucket/folder"


def test_an_unknown_scheme_is_one_clear_line():
    with pytest.raises(OSError, match=r"one of gs://, s3://.* is needed. Received: file://"):
        storage.exists("file:///folder")


def test_options_reach_the_file_systems(monkeypatch):
    monkeypatch.setattr(FileSystems, "_pipeline_options", None)
    storage.configure(["--hdfs_host=node", "--runner=FnApiRunner"])
    options = FileSystems._pipeline_options.view_as(HadoopFileSystemOptions)
    assert options.hdfs_host == "node"
