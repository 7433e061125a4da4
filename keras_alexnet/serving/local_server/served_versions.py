"""The version of a model that answers: the highest in its folder, also when a new one appears.

A new version is loaded and tried while the old one goes on; then it takes over, and the old one
is let go when the last request that uses it is answered. As in TF Serving, whose names of states
these are (get_model_status.proto). `Activity` counts requests, so that a server can end without
dropping one.
"""

import contextlib
import dataclasses
import os
import threading
import time
from collections.abc import Callable, Iterator

from keras_alexnet.saved_model import versions
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import LoadedModel
from keras_alexnet.serving.local_server.metrics import ServerMetrics

# Failed versions and those that ended, kept to be told of.
_REMEMBERED = 16


@dataclasses.dataclass(frozen=True)
class VersionStatus:
    """State of a version.

    Attributes:
        version: its number.
        state: "LOADING", "AVAILABLE", "UNLOADING" or "END".
        error_code: a canonical status of gRPC, "OK" if nothing went wrong.
        error_message: for a person; empty if nothing did.
    """

    version: int
    state: str
    error_code: str = "OK"
    error_message: str = ""


@dataclasses.dataclass(eq=False)
class _Served:
    model: LoadedModel
    users: int = 0
    replaced: bool = False


class ServedVersions:
    """The versions of one model.

    Args:
        model_dir: folder of the model, with its versions in it.
        name: that requests call it by.
        load: (path, version) -> the version, ready to answer; any exception says that it cannot
            be served.
        tell: called with a line for a person when a version comes, goes or fails.

    Attributes:
        name: that requests call it by.
    """

    def __init__(
        self,
        *,
        model_dir: str,
        name: str,
        load: Callable[[str, int], LoadedModel],
        tell: Callable[[str], None] = lambda line: None,
    ) -> None:
        self.name = name
        self._model_dir = model_dir
        self._load = load
        self._tell = tell
        self._served: _Served | None = None
        self._statuses: dict[int, VersionStatus] = {}
        self._lock = threading.Lock()

    @property
    def version(self) -> int | None:
        """The number of the version that answers, None before the first."""
        served = self._served
        return None if served is None else served.model.version

    def load_highest(self) -> None:
        """Serve the highest version, if it is not served already.

        Raises:
            FileNotFoundError: there is no version, and none is served.
            Exception: of `load`; what was served before is served still.
        """
        found = versions.published(self._model_dir)
        if not found and self.version is None:
            raise FileNotFoundError(self._model_dir)
        # If all are gone, the last one that was there goes on, as in TF Serving.
        highest = max(found, default=self.version)
        if highest == self.version:
            return
        self._note(VersionStatus(highest, "LOADING"))
        try:
            model = self._load(found[highest], highest)
        except Exception as error:
            message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self._note(VersionStatus(highest, "END", "UNKNOWN", message))
            raise
        self._take_over(model)

    def watch(self, stop: threading.Event, seconds: float) -> None:
        """Look for another highest version every N seconds, until `stop` is set."""
        failed: tuple[int, list] | None = None
        while not stop.wait(seconds):
            try:
                found = versions.published(self._model_dir)
            except OSError:  # a folder of a network that is away for a moment
                continue
            highest, path = max(found.items(), default=(self.version, ""))
            if highest == self.version:
                continue
            # What is still being copied fails until it is whole: other files are another try.
            attempt = (highest, _files(path))
            if attempt == failed:
                continue
            try:
                self.load_highest()
                failed = None
            except Exception as error:  # TensorFlow has many ways to say that a file is broken
                failed = attempt
                self._tell(
                    f"version {highest} cannot be served ({type(error).__name__}); "
                    f"version {self.version} goes on; export it again"
                )

    @contextlib.contextmanager
    def use(self, name: str, version: int | None) -> Iterator[LoadedModel]:
        """Return the version that a request is for; it stays loaded inside of the `with`.

        Raises:
            RequestError: NOT_FOUND, another model or version.
        """
        with self._lock:
            served = self._served
            number = self.version
            if served is None or name != self.name or version not in (None, number):
                asked = f"Latest({name})" if version is None else f"Specific({name}, {version})"
                raise RequestError("NOT_FOUND", f"Servable not found for request: {asked}")
            served.users += 1
        try:
            yield served.model
        finally:
            with self._lock:
                served.users -= 1
                self._let_go(served)

    def statuses(self, name: str, version: int | None) -> list[VersionStatus]:
        """Return the states of all versions, or of one; the highest first.

        Raises:
            RequestError: NOT_FOUND, there is none.
        """
        with self._lock:
            known = self._statuses if name == self.name else {}
            if version is not None:
                known = {number: known[number] for number in known if number == version}
            if not known:
                which = "any versions" if version is None else f"version {version}"
                raise RequestError("NOT_FOUND", f"Could not find {which} of model {name}")
            return [known[number] for number in sorted(known, reverse=True)]

    def _take_over(self, model: LoadedModel) -> None:
        with self._lock:
            replaced, self._served = self._served, _Served(model)
            self._set_status(VersionStatus(model.version, "AVAILABLE"))
            if replaced is not None:
                replaced.replaced = True
                self._set_status(VersionStatus(replaced.model.version, "UNLOADING"))
                self._let_go(replaced)
        if replaced is not None:
            self._tell(f"version {model.version} is served now, instead of what was before")

    def _let_go(self, served: _Served) -> None:
        """Note the end of a version that is replaced and not in use any more."""
        if served.replaced and not served.users:
            self._set_status(VersionStatus(served.model.version, "END"))

    def _note(self, status: VersionStatus) -> None:
        with self._lock:
            self._set_status(status)

    def _set_status(self, status: VersionStatus) -> None:
        self._statuses[status.version] = status
        ended = [number for number, known in self._statuses.items() if known.state == "END"]
        for number in ended[:-_REMEMBERED]:
            del self._statuses[number]


def _files(folder: str) -> list[tuple[str, int, int]]:
    """Return all files in a folder with sizes and times; another list is another content."""
    found = []
    for root, _, names in os.walk(folder):
        for name in names:
            path = os.path.join(root, name)
            with contextlib.suppress(OSError):  # it was just renamed
                facts = os.stat(path)
                found.append((path, facts.st_size, facts.st_mtime_ns))
    return sorted(found)


@dataclasses.dataclass
class Outcome:
    """The result of a request: a canonical status of gRPC, unless an exception leaves it."""

    code: str = "OK"


class Activity:
    """A counter of requests, safe to use from many threads.

    Attributes:
        served: requests that were answered, errors included.
        failed: those of them that were answered with an error.
    """

    def __init__(self, metrics: ServerMetrics) -> None:
        self.served = 0
        self.failed = 0
        self._metrics = metrics
        self._under_way = 0
        self._draining = False
        self._changed = threading.Condition()

    @contextlib.contextmanager
    def request(self, protocol: str) -> Iterator[Outcome]:
        """Count a request, until the last byte of its answer is handed over.

        Args:
            protocol: "rest" or "grpc".

        Raises:
            RequestError: UNAVAILABLE, when the server is about to end.
        """
        with self._changed:
            if self._draining:
                raise RequestError("UNAVAILABLE", "the server is shutting down")
            self._under_way += 1
        outcome = Outcome()
        started = time.perf_counter()
        try:
            yield outcome
        except RequestError as error:
            outcome.code = error.code
            raise
        except (ConnectionError, TimeoutError):
            outcome.code = "CANCELLED"  # the client is gone
            raise
        except BaseException:
            outcome.code = "INTERNAL"
            raise
        finally:
            self._metrics.request(protocol, outcome.code, time.perf_counter() - started)
            with self._changed:
                self._under_way -= 1
                self.served += 1
                self.failed += outcome.code != "OK"
                self._changed.notify_all()

    def drain(self, timeout: float) -> bool:
        """Refuse new requests and wait for those under way; return False if some did not end."""
        with self._changed:
            self._draining = True
            return self._changed.wait_for(lambda: self._under_way == 0, timeout)
