"""The version of a model that answers: the highest in its folder, also when a new one appears.

A new version is loaded and tried while the old one goes on; then it takes over, and the old one
is let go when the last request that uses it is answered. As in TF Serving, whose names of states
these are (get_model_status.proto).
"""

import contextlib
import dataclasses
import os
import threading
from collections.abc import Callable, Iterator

from keras_alexnet.saved_model import versions
from keras_alexnet.serving.local_server.errors import RequestError, invalid
from keras_alexnet.serving.local_server.loaded_model import LoadedModel

_REMEMBERED = 16  # statuses of versions that failed or ended


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


class ServedVersions:
    """The versions of one model.

    Args:
        model_dir: folder of the model, with its versions in it.
        name: that requests call it by.
        load: (path, version) -> the version, ready to answer; any exception says that it cannot
            be served.
        log: called with a line for a person when a version comes or fails.
    """

    def __init__(
        self,
        *,
        model_dir: str,
        name: str,
        load: Callable[[str, int], LoadedModel],
        log: Callable[[str], None],
    ) -> None:
        self.name = name
        self._model_dir = model_dir
        self._load = load
        self._log = log
        self._served: _Served | None = None
        self._statuses: dict[int, VersionStatus] = {}
        self._lock = threading.RLock()

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
        highest, path = self._highest()
        if highest == self.version:
            return
        self._set_status(highest, "LOADING")
        try:
            model = self._load(path, highest)
        except Exception as error:
            message = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else ''}"
            self._set_status(highest, "END", "UNKNOWN", message)
            raise
        with self._lock:
            replaced, self._served = self._served, _Served(model)
            self._set_status(highest, "AVAILABLE")
            if replaced is not None:
                self._set_status(replaced.model.version, "UNLOADING")
                self._let_go(replaced)
        if replaced is not None:
            self._log(f"version {highest} is served now, instead of what was before")

    def _highest(self) -> tuple[int, str]:
        """Return number and path of the highest version.

        If all are gone, the last one that was there goes on, as in TF Serving.
        """
        found = versions.published(self._model_dir)
        if not found and self.version is None:
            raise FileNotFoundError(self._model_dir)
        return max(found.items(), default=(self.version, ""))

    def watch(self, stop: threading.Event, seconds: float) -> None:
        """Look for another highest version every N seconds, until `stop` is set."""
        failed: tuple[int, list] | None = None
        while not stop.wait(seconds):
            try:
                highest, path = self._highest()
            except OSError:  # a folder of a network that is away for a moment
                continue
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
                self._log(
                    f"version {highest} cannot be served ({type(error).__name__}); "
                    f"version {self.version} goes on; export it again"
                )

    @contextlib.contextmanager
    def use(self, name: str, version: int | None, label: str | None) -> Iterator[LoadedModel]:
        """Return the version that a request is for; it stays loaded inside of the `with`.

        Raises:
            RequestError: another model or version (NOT_FOUND), or a label, which none has
                (INVALID_ARGUMENT).
        """
        if label:
            raise invalid(f"Unrecognized servable version label: {label}")
        with self._lock:
            served = self._served
            if name != self.name or version not in (None, self.version):
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
            found = [known[number] for number in known if version in (None, number)]
        if not found:
            which = "any versions" if version is None else f"version {version}"
            raise RequestError("NOT_FOUND", f"Could not find {which} of model {name}")
        return sorted(found, key=lambda status: -status.version)

    def _let_go(self, served: _Served) -> None:
        """Note the end of a version that is replaced and not in use any more."""
        if served is not self._served and not served.users:
            self._set_status(served.model.version, "END")

    def _set_status(self, version: int, state: str, *error: str) -> None:
        with self._lock:
            self._statuses[version] = VersionStatus(version, state, *error)
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
