"""Streams and errors of Beam's file systems, made into what Python's own files have.

Each client has exceptions of its own, which Beam sometimes wraps and sometimes lets through, when
a file is opened and at every read, write and close after it.
"""

import contextlib
import errno
import io
from collections.abc import Iterator
from typing import BinaryIO

_ERRNO_OF_HTTP = {401: errno.EACCES, 403: errno.EACCES, 404: errno.ENOENT}


class Stream(io.RawIOBase):
    """A stream of Beam's whose errors are OSErrors that name the path."""

    def __init__(self, handle: BinaryIO, path: str) -> None:
        self._handle = handle
        self._path = path
        self._is_empty = True

    def readable(self) -> bool:
        """See io.IOBase."""
        return self._handle.readable()

    def writable(self) -> bool:
        """See io.IOBase."""
        return self._handle.writable()

    def seekable(self) -> bool:
        """See io.IOBase; only what is read can seek."""
        return self._handle.readable()

    def readinto(self, buffer) -> int:
        """See io.RawIOBase; OSError if the service fails."""
        with errors(self._path):
            return self._handle.readinto(buffer)

    def write(self, data) -> int:
        """See io.RawIOBase; OSError if the service fails."""
        with errors(self._path):
            self._is_empty = False
            return self._handle.write(data)

    def seek(self, offset: int, whence: int = io.SEEK_SET) -> int:
        """See io.IOBase; OSError if the service fails."""
        with errors(self._path):
            return self._handle.seek(offset, whence)

    def tell(self) -> int:
        """See io.IOBase; OSError if the service fails."""
        with errors(self._path):
            return self._handle.tell()

    def close(self) -> None:
        """Ends an upload too; OSError if the service fails."""
        if not self.closed:
            super().close()
            with errors(self._path):
                if self._is_empty:
                    self._upload_nothing()
                self._handle.close()

    def _upload_nothing(self) -> None:
        # Beam's s3:// ends an upload of no bytes without a part, which S3 refuses; an empty part
        # is what S3 wants then.
        uploader = getattr(getattr(self._handle, "raw", None), "_uploader", None)
        if hasattr(uploader, "_write_to_s3"):
            uploader._write_to_s3(b"")


@contextlib.contextmanager
def errors(path: str) -> Iterator[None]:
    """Makes any exception of the block an OSError that names `path`."""
    try:
        yield
    except Exception as error:
        if isinstance(error, OSError) and error.filename:
            raise
        raise os_error(path, error) from error


def os_error(path: str, error: Exception) -> OSError:
    """The cause that Beam has wrapped, as an OSError of one line with the path."""
    cause: object = error
    while details := getattr(cause, "exception_details", None):
        cause = next(iter(details.values()))
    code = _ERRNO_OF_HTTP.get(cause if isinstance(cause, int) else getattr(cause, "code", None))
    if code is None and isinstance(cause, OSError):
        code = cause.errno
    text = " ".join(str(getattr(cause, "strerror", None) or cause).split())
    return OSError(code or errno.EIO, text or type(cause).__name__, path)
