"""Two file systems for Beam in a local folder, each with the manners of a family of real ones.

`objects://` is like gs:// and s3://: flat keys, an object appears when it is closed (by an
error, too), deleting takes patterns, renaming copies and deletes. `folders://` is like hdfs://
as Beam's HadoopFileSystem has it: listings of one folder that do not say what is a folder, bytes
that are there while being written, and neither writing nor renaming replaces a file.
"""

import io
import os
import shutil
import urllib.parse

from apache_beam.io.filesystem import BeamIOError, FileMetadata, FileSystem
from apache_beam.io.filesystemio import Downloader, DownloaderStream, Uploader, UploaderStream

BEAMS_BUFFER = 1 << 24


class StoreError(Exception):
    """What a client raises: no OSError, more than a line, with the status of HTTP."""

    def __init__(self, code: int) -> None:
        super().__init__(f"the service\nsaid {code}")
        self.code = code


class _Store:
    """What both have in common."""

    root: str
    fails: set[str]  # names of the calls that shall fail
    requests: list[int]  # bytes asked for by each request for a range

    @classmethod
    def start(cls, folder):
        cls.root, cls.fails, cls.requests = str(folder), set(), []

    def join(self, basepath, *paths):
        return "/".join([basepath, *paths])

    def split(self, path):
        return tuple(path.rsplit("/", 1))

    def copy(self, source_file_names, destination_file_names):
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            shutil.copy(self.local(source), self.local(destination))

    def exists(self, path):
        self.check("exists", path)
        return os.path.exists(self.local(path))

    def size(self, path):
        return self.metadata(path).size_in_bytes

    def last_updated(self, path):
        return self.metadata(path).last_updated_in_seconds

    def metadata(self, path):
        status = os.stat(self.local(path))
        length = 0 if os.path.isdir(self.local(path)) else status.st_size
        return FileMetadata(path, length, status.st_mtime)

    def open(self, path, mime_type="", compression_type="auto"):
        assert compression_type == "uncompressed"
        if not os.path.isfile(self.local(path)):
            raise StoreError(404 if not self.has_dirs() else 500)  # hdfs:// has no such sign
        return io.BufferedReader(DownloaderStream(_Download(self, path)), BEAMS_BUFFER)

    def create(self, path, mime_type="", compression_type="auto"):
        assert compression_type == "uncompressed"
        self.check("create", path)
        return io.BufferedWriter(UploaderStream(self.uploader(self, path)))

    def check(self, call, path):
        if call in self.fails:
            raise BeamIOError(f"{call} failed", {path: StoreError(503)})


class ObjectStore(_Store, FileSystem):
    @classmethod
    def scheme(cls):
        return "objects"

    @property
    def uploader(self):
        return _UploadAtClose

    def local(self, path):
        return os.path.join(self.root, urllib.parse.quote(path, safe=""))

    def has_dirs(self):
        return False

    def mkdirs(self, path):
        pass

    def _list(self, dir_or_prefix):
        self.check("list", dir_or_prefix)
        for key in map(urllib.parse.unquote, sorted(os.listdir(self.root))):
            if key.startswith(dir_or_prefix):
                yield self.metadata(key)

    @staticmethod
    def translate_pattern(pattern):
        return FileSystem.translate_pattern(pattern.replace("**", "*").replace("*", "**"))

    def rename(self, source_file_names, destination_file_names):
        self.check("rename", source_file_names[0])
        self.copy(source_file_names, destination_file_names)
        self.delete(source_file_names)

    def delete(self, paths):
        for path in paths:
            if "delete" not in self.fails:  # as Beam's gs://: it logs, and goes on
                for found in self.match([path])[0].metadata_list:
                    os.unlink(self.local(found.path))


class FolderStore(_Store, FileSystem):
    @classmethod
    def scheme(cls):
        return "folders"

    @property
    def uploader(self):
        return _UploadAtOnce

    def local(self, path):
        return os.path.join(self.root, path.partition("://")[2])

    def has_dirs(self):
        return True

    def mkdirs(self, path):
        os.makedirs(self.local(path))

    def _list(self, dir_or_prefix):
        self.check("list", dir_or_prefix)
        folder = dir_or_prefix.rstrip("/")
        if not os.path.isdir(self.local(folder)):
            reason = "is not a directory." if self.exists(folder) else "does not exist."
            raise BeamIOError("List operation failed", {folder: ValueError(f"{folder!r} {reason}")})
        for name in os.listdir(self.local(folder)):
            yield self.metadata(f"{folder}/{name}")

    def rename(self, source_file_names, destination_file_names):
        self.check("rename", source_file_names[0])
        for source, destination in zip(source_file_names, destination_file_names, strict=True):
            if self.exists(destination):
                raise BeamIOError("rename failed", {source: ValueError("Unable to rename")})
            os.rename(self.local(source), self.local(destination))

    def delete(self, paths):
        for path in map(self.local, paths):
            if "delete" not in self.fails:
                shutil.rmtree(path) if os.path.isdir(path) else os.unlink(path)


class _Download(Downloader):
    def __init__(self, store, path):
        self.store, self.path = store, path

    @property
    def size(self):
        return self.store.size(self.path)

    def get_range(self, start, end):
        if "read" in self.store.fails:
            raise StoreError(503)
        self.store.requests.append(end - start)
        with open(self.store.local(self.path), "rb") as file:
            file.seek(start)
            return file.read(end - start)


class _UploadAtClose(Uploader):
    def __init__(self, store, path):
        self.store, self.path, self.parts = store, path, []

    def put(self, data):
        if "write" in self.store.fails:
            raise StoreError(503)
        self.parts.append(bytes(data))

    def finish(self):
        if "close" in self.store.fails:
            raise StoreError(503)
        with open(self.store.local(self.path), "wb") as file:
            file.write(b"".join(self.parts))


class _UploadAtOnce(Uploader):
    def __init__(self, store, path):
        if store.exists(path):
            raise BeamIOError(f"Path already exists: {path}")
        os.makedirs(os.path.dirname(store.local(path)), exist_ok=True)
        self.store = store
        self.file = open(store.local(path), "wb")  # noqa: SIM115, finish() closes it

    def put(self, data):
        if "write" in self.store.fails:
            raise StoreError(503)
        self.file.write(data)
        self.file.flush()

    def finish(self):
        self.file.close()
        if "close" in self.store.fails:
            raise StoreError(503)
