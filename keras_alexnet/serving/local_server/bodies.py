"""Bodies of HTTP requests in memory, with the limits on what clients may take."""

import http
import threading
import zlib

from keras_alexnet.serving.local_server.errors import RequestError, invalid

_UNZIPPED_BYTES = 1 << 20  # at a time


class BodyStore:
    """Counts the bytes of all bodies in memory; safe to use from many threads.

    Args:
        body_bytes: largest body of a request, unpacked.
        all_bodies_bytes: of all requests under way; more is refused for now.
    """

    def __init__(self, body_bytes: int, all_bodies_bytes: int) -> None:
        self.body_bytes = body_bytes
        self._all_bodies_bytes = all_bodies_bytes
        self._bytes = 0
        self._lock = threading.Lock()

    def take(self, count: int) -> None:
        """Count bytes in.

        Raises:
            RequestError: RESOURCE_EXHAUSTED, other requests hold what there is.
        """
        with self._lock:
            if self._bytes + count > self._all_bodies_bytes:
                raise RequestError(
                    "RESOURCE_EXHAUSTED",
                    f"{self._bytes} bytes of requests are under way; try again",
                )
            self._bytes += count

    def give_back(self, count: int) -> None:
        """Count bytes out."""
        with self._lock:
            self._bytes -= count


class Body:
    """A body as it arrives; over a limit, its bytes are counted and not kept.

    Attributes:
        error: why the body is refused.
    """

    def __init__(self, store: BodyStore) -> None:
        self.error: RequestError | None = None
        self._store = store
        self._parts: list[bytes] = []
        self._size = 0

    def __len__(self) -> int:
        return self._size

    def append(self, data: bytes) -> None:
        """Keep more bytes, if there is room."""
        self._size += len(data)
        if self.error is not None:
            return
        limit = self._store.body_bytes
        try:
            if self._size > limit:
                raise RequestError(
                    "INVALID_ARGUMENT",
                    f"a body of at most {limit} bytes is read, this has more; send several",
                    http.HTTPStatus.REQUEST_ENTITY_TOO_LARGE,
                )
            self._store.take(len(data))
        except RequestError as error:
            self.close()
            self.error = error
        else:
            self._parts.append(data)

    def read(self) -> bytes:
        """Return all bytes.

        Raises:
            RequestError: the body is refused.
        """
        if self.error is not None:
            raise self.error
        return b"".join(self._parts)

    def unzipped(self) -> bytes:
        """Return what a gzip'd body holds, which replaces it.

        Raises:
            RequestError: the body is refused, is not gzip, or holds more than a body may have.
        """
        packed, unzip = self.read(), zlib.decompressobj(wbits=16 + zlib.MAX_WBITS)
        self.close()
        self._size = 0
        try:
            while packed and not unzip.eof and self.error is None:
                self.append(unzip.decompress(packed, _UNZIPPED_BYTES))
                packed = unzip.unconsumed_tail
        except zlib.error as error:
            raise invalid(f"the body is not gzip: {error}") from error
        if self.error is None and (not unzip.eof or unzip.unused_data):
            raise invalid("the body is not one whole gzip member")
        return self.read()

    def close(self) -> None:
        """Forget the bytes."""
        self._store.give_back(sum(map(len, self._parts)))
        self._parts = []
