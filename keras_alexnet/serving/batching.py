"""Several requests that wait at the same time become one call of the model.

A batch costs less than its photos one by one, as the weights travel from memory once. Nothing
waits for a batch to fill: a request that finds a free place is computed at once, and those that
come in the meantime are the next batch.
"""

import collections
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from keras_alexnet.serving.errors import RequestError

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(frozen=True)
class Limits:
    """How much is computed and how much may wait.

    Attributes:
        parallel: batches that are computed at the same time.
        batch_rows: photos of a batch that is merged; a request with more is a batch of its own.
        waiting_rows: photos of all requests that wait; what comes on top is refused.
    """

    parallel: int = 2
    batch_rows: int = 32
    waiting_rows: int = 4096


@dataclasses.dataclass(eq=False)
class _Request:
    key: Hashable
    inputs: Arrays
    rows: int
    taken: bool = False
    outputs: dict[str, np.ndarray] | None = None
    error: Exception | None = None

    @property
    def done(self) -> bool:
        return self.outputs is not None or self.error is not None


class Batcher:
    """Calls a function for many threads, with as few calls as there can be.

    No thread of its own: of those that wait, one computes for all that fit into its batch.

    Args:
        compute: (key, inputs by name, arrays [N, ...]) -> outputs by name, arrays [N, ...].
            Row i of the outputs depends on row i of the inputs alone.
        limits: see there.
        tell: called with the number of rows of each batch.
    """

    def __init__(
        self,
        compute: Callable[[Hashable, Arrays], dict[str, np.ndarray]],
        limits: Limits,
        tell: Callable[[int], None] = lambda rows: None,
    ) -> None:
        self._compute = compute
        self._limits = limits
        self._tell = tell
        self._free = limits.parallel
        self._waiting: collections.deque[_Request] = collections.deque()
        self._waiting_rows = 0
        self._changed = threading.Condition()

    def run(
        self, key: Hashable, inputs: Arrays, timeout: float | None = None
    ) -> dict[str, np.ndarray]:
        """The outputs for some inputs.

        Args:
            key: only requests of the same key share a batch. They must have the same inputs, of
                the same types, and of the same shapes but for the first dimension.
            inputs: arrays by name, all of the same first dimension.
            timeout: seconds to wait for a place; what computes is not interrupted.

        Raises:
            RequestError: no place came in time (DEADLINE_EXCEEDED), or too many wait
                (UNAVAILABLE, as TF Serving says it).
            Exception: what `compute` raised for these inputs alone.
        """
        deadline = None if timeout is None else time.monotonic() + timeout
        request = _Request(key, inputs, len(next(iter(inputs.values()))))
        with self._changed:
            self._enqueue(request)
            while not request.done:
                if self._free and not request.taken:
                    self._lead()
                elif not self._changed.wait(_left(deadline, request)) and not request.taken:
                    self._drop(request)
                    raise RequestError(
                        "DEADLINE_EXCEEDED", "the server was busy with other requests"
                    )
        if request.error is not None:
            raise request.error
        return request.outputs

    def _enqueue(self, request: _Request) -> None:
        if self._waiting and self._waiting_rows + request.rows > self._limits.waiting_rows:
            raise RequestError(
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; "
                f"currently {self._waiting_rows} photos wait",
            )
        self._waiting.append(request)
        self._waiting_rows += request.rows

    def _drop(self, request: _Request) -> None:
        self._waiting.remove(request)
        self._waiting_rows -= request.rows

    def _lead(self) -> None:
        """Computes the batch that stands in front, for whomever it is."""
        batch = self._take()
        self._free -= 1
        self._changed.release()
        try:
            self._answer(batch)
        finally:
            self._changed.acquire()
            self._free += 1
            self._changed.notify_all()

    def _take(self) -> list[_Request]:
        first = self._waiting[0]
        batch, rows = [], 0
        for request in self._waiting:
            fits = not batch or rows + request.rows <= self._limits.batch_rows
            if request.key == first.key and fits:
                batch.append(request)
                rows += request.rows
        for request in batch:
            self._drop(request)
            request.taken = True
        return batch

    def _answer(self, batch: Sequence[_Request]) -> None:
        """Sets the outputs, or the error, of each request."""
        try:
            parts = self._split(batch)
        except Exception as error:
            if len(batch) > 1:
                # Whose fault it was is not known: alone, each gets what is due to it.
                for request in batch:
                    self._answer([request])
            else:
                batch[0].error = error
            return
        for request, outputs in zip(batch, parts, strict=True):
            request.outputs = outputs

    def _split(self, batch: Sequence[_Request]) -> list[dict[str, np.ndarray]]:
        """The outputs of each request of a batch, from one call."""
        rows = [request.rows for request in batch]
        self._tell(sum(rows))
        if len(batch) == 1:
            return [self._compute(batch[0].key, batch[0].inputs)]
        merged = {
            name: np.concatenate([request.inputs[name] for request in batch])
            for name in batch[0].inputs
        }
        outputs = self._compute(batch[0].key, merged)
        ends = np.cumsum(rows)
        return [
            {name: array[end - count : end] for name, array in outputs.items()}
            for count, end in zip(rows, ends, strict=True)
        ]


def _left(deadline: float | None, request: _Request) -> float | None:
    """Seconds that a request may still wait; None: as long as it takes."""
    if deadline is None or request.taken:
        return None
    return max(0.0, deadline - time.monotonic())
