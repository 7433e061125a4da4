"""Merges requests that wait at the same time into one call of the model.

A batch costs less than its photos one by one, as the weights travel from memory once. A request
that comes alone is computed at once, and those that come in the meantime are the next batch. Where
the last batch was of several requests, the next one waits a moment for as many: clients that were
answered together ask again together, and the first of them would else be a batch of its own.
"""

import collections
import concurrent.futures
import dataclasses
import threading
import time
from collections.abc import Callable, Hashable, Mapping, Sequence

import numpy as np

from keras_alexnet.serving.local_server.errors import RequestError

Arrays = Mapping[str, np.ndarray]


@dataclasses.dataclass(eq=False)
class _Request:
    key: Hashable
    inputs: Arrays
    rows: int
    taken: bool = False
    outputs: concurrent.futures.Future = dataclasses.field(
        default_factory=concurrent.futures.Future
    )


class Batcher:
    """A function that many threads call, with as few calls as there can be.

    No thread of its own: of those that wait, one computes for all that fit into its batch.

    Args:
        compute: (key, inputs by name, arrays [N, ...]) -> outputs by name, arrays [N, ...].
            Row i of the outputs depends on row i of the inputs alone.
        on_batch: called with the number of rows of each batch.
        batch_rows: rows of a batch that is merged; a request with more is a batch of its own.
        waiting_rows: rows of all requests that wait; what comes on top is refused.
        linger: seconds that a batch waits, at most, to become as large as the last one.
    """

    def __init__(
        self,
        compute: Callable[[Hashable, Arrays], dict[str, np.ndarray]],
        on_batch: Callable[[int], None],
        *,
        batch_rows: int = 32,
        waiting_rows: int = 4096,
        linger: float = 0.02,
    ) -> None:
        self._compute = compute
        self._on_batch = on_batch
        self._batch_rows = batch_rows
        self._most_waiting_rows = waiting_rows
        self._linger = linger
        self._is_computing = False
        self._waiting: collections.deque[_Request] = collections.deque()
        self._waiting_rows = 0
        # How many requests the last batch had, and until when the next waits to have as many.
        self._expected = 1
        self._patience = 0.0
        self._changed = threading.Condition()

    def run(self, key: Hashable, inputs: Arrays, timeout: float) -> dict[str, np.ndarray]:
        """Return the outputs for some inputs.

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
        deadline = time.monotonic() + timeout
        request = _Request(key, inputs, len(next(iter(inputs.values()))))
        with self._changed:
            self._enqueue(request)
            while not request.outputs.done():
                left = deadline - time.monotonic()
                is_full = len(self._waiting) >= self._expected
                patience = 0.0 if is_full else self._patience - time.monotonic()
                if request.taken:
                    self._changed.wait()
                elif not self._is_computing and patience <= 0:
                    self._lead()
                elif left <= 0:
                    self._drop(request)
                    raise RequestError(
                        "DEADLINE_EXCEEDED", "the server was busy with other requests"
                    )
                else:
                    self._changed.wait(left if self._is_computing else min(left, patience))
        return request.outputs.result()

    def _enqueue(self, request: _Request) -> None:
        if self._waiting and self._waiting_rows + request.rows > self._most_waiting_rows:
            raise RequestError(
                "UNAVAILABLE",
                "The batch scheduling queue to which this task was submitted is full; "
                f"currently {self._waiting_rows} photos wait",
            )
        self._waiting.append(request)
        self._waiting_rows += request.rows
        if not self._is_computing and len(self._waiting) >= self._expected:
            self._changed.notify_all()  # it is what the others waited for

    def _drop(self, request: _Request) -> None:
        self._waiting.remove(request)
        self._waiting_rows -= request.rows

    def _lead(self) -> None:
        """Compute the batch that stands in front, for whomever it is."""
        batch = self._take()
        self._is_computing = True
        self._changed.release()
        try:
            self._answer(batch)
        finally:
            self._changed.acquire()
            self._is_computing = False
            self._expected = len(batch)
            self._patience = time.monotonic() + self._linger
            self._changed.notify_all()

    def _take(self) -> list[_Request]:
        first = self._waiting[0]
        batch, rows = [], 0
        for request in self._waiting:
            fits = not batch or rows + request.rows <= self._batch_rows
            if request.key == first.key and fits:
                batch.append(request)
                rows += request.rows
        for request in batch:
            self._drop(request)
            request.taken = True
        return batch

    def _answer(self, batch: Sequence[_Request]) -> None:
        """Set the outputs, or the error, of each request, by one call where none fails."""
        rows = [request.rows for request in batch]
        self._on_batch(sum(rows))
        try:
            merged = {
                name: np.concatenate([request.inputs[name] for request in batch])
                for name in batch[0].inputs
            }
            outputs = self._compute(batch[0].key, merged)
            parts = [
                {name: array[end - count : end] for name, array in outputs.items()}
                for count, end in zip(rows, np.cumsum(rows), strict=True)
            ]
        except Exception as error:
            if len(batch) == 1:
                batch[0].outputs.set_exception(error)
            else:  # whose fault it was is not known: alone, each gets what is due to it
                for request in batch:
                    self._answer([request])
            return
        for request, part in zip(batch, parts, strict=True):
            request.outputs.set_result(part)
