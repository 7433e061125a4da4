import threading
import time

import numpy as np
import pytest

from keras_alexnet.serving.local_server import batching
from keras_alexnet.serving.local_server.errors import RequestError


class Doubler:
    """Doubles its input, one call at a time; `gate` closed: calls wait."""

    def __init__(self):
        self.gate = threading.Event()
        self.gate.set()
        self.entered = threading.Event()
        self.calls = []

    def __call__(self, key, inputs):
        self.calls.append((key, inputs["x"].tolist()))
        self.entered.set()
        assert self.gate.wait(30)
        if 13 in inputs["x"]:
            raise RequestError("INVALID_ARGUMENT", "an unlucky number")
        return {"twice": 2 * inputs["x"], "row": np.stack([inputs["x"]] * 3, axis=1)}


def run(batcher, key, values):
    """Start a request in a thread; return a list that its outputs or its error come into."""
    result = []

    def call():
        try:
            result.append(batcher.run(key, {"x": np.array(values)}, timeout=60))
        except RequestError as error:
            result.append(error)

    thread = threading.Thread(target=call)
    thread.start()
    return thread, result


def waiting(batcher, count):
    deadline = time.monotonic() + 30
    while len(batcher._waiting) != count:
        assert time.monotonic() < deadline
        time.sleep(0.001)


@pytest.fixture
def busy():
    """Return a function that makes a batcher which computes until `doubler.gate` is set."""
    threads = []

    def make(**limits):
        doubler, rows = Doubler(), []
        batcher = batching.Batcher(doubler, rows.append, **limits)
        doubler.gate.clear()
        threads.append(run(batcher, "a", [0])[0])
        assert doubler.entered.wait(30)
        return doubler, batcher, rows

    yield make
    for thread in threads:
        thread.join(30)
        assert not thread.is_alive()


@pytest.mark.parametrize(
    ("requests", "calls"),
    [
        ([("a", [1]), ("a", [2, 3]), ("a", [4])], [("a", [1, 2, 3, 4])]),
        ([("a", [1]), ("b", [2]), ("a", [3])], [("a", [1, 3]), ("b", [2])]),
        # No larger than the limit, but for a single request.
        (
            [("a", [1, 2]), ("a", [3, 4, 5, 6, 7]), ("a", [8])],
            [("a", [1, 2, 8]), ("a", [3, 4, 5, 6, 7])],
        ),
        # One that fails harms no other.
        (
            [("a", [1]), ("a", [13]), ("a", [3])],
            [("a", [1, 13, 3]), ("a", [1]), ("a", [13]), ("a", [3])],
        ),
    ],
)
def test_batches_of_what_came_while_another_was_computed(busy, requests, calls):
    doubler, batcher, rows = busy(batch_rows=4)
    started = []
    for number, (key, values) in enumerate(requests):
        started.append(run(batcher, key, values))
        waiting(batcher, number + 1)  # in this order
    doubler.gate.set()
    for (thread, result), (_, values) in zip(started, requests, strict=True):
        thread.join(30)
        if 13 in values:
            assert isinstance(result[0], RequestError)
        else:
            assert result[0]["twice"].tolist() == [2 * value for value in values]
            assert result[0]["row"].tolist() == [[value] * 3 for value in values]
    assert doubler.calls[1:] == calls
    assert rows[1:] == [len(values) for _, values in calls]


def test_turn_that_does_not_come_in_time(busy):
    doubler, batcher, _ = busy()
    with pytest.raises(RequestError, match="was busy") as error:
        batcher.run("a", {"x": np.array([1])}, timeout=0.01)
    assert error.value.code == "DEADLINE_EXCEEDED"
    doubler.gate.set()
    # What nobody waits for is not computed; and a turn that is free is had without waiting.
    assert batcher.run("a", {"x": np.array([5])}, timeout=60)["twice"].tolist() == [10]
    assert batcher.run("a", {"x": np.array([6])}, timeout=0)["twice"].tolist() == [12]
    assert doubler.calls == [("a", [0]), ("a", [5]), ("a", [6])]


def test_too_many_that_wait_are_refused(busy):
    doubler, batcher, _ = busy(waiting_rows=3)
    thread, _ = run(batcher, "a", [1, 2])
    waiting(batcher, 1)
    with pytest.raises(RequestError, match="currently 2 photos wait") as error:
        batcher.run("a", {"x": np.array([1, 2])}, timeout=60)
    assert error.value.code == "UNAVAILABLE"
    doubler.gate.set()
    thread.join(30)


def test_many_threads():
    batcher = batching.Batcher(Doubler(), lambda rows: None, batch_rows=7)
    started = [run(batcher, number % 3, [number, number + 100]) for number in range(200)]
    for number, (thread, result) in enumerate(started):
        thread.join(30)
        error_or_outputs = result[0]
        if 13 in (number, number + 100):
            assert isinstance(error_or_outputs, RequestError)
        else:
            assert error_or_outputs["twice"].tolist() == [2 * number, 2 * number + 200]


def test_after_a_batch_of_several_the_next_waits_for_as_many(busy):
    doubler, batcher, _ = busy(linger=30)
    threads = []
    for number in (1, 2, 3):
        threads.append(run(batcher, "a", [number])[0])
        waiting(batcher, number)
    doubler.gate.set()
    for thread in threads:
        thread.join(30)
    threads = []
    for number in (4, 5, 6):  # the gate is open: each could be computed at once
        threads.append(run(batcher, "a", [number])[0])
        if number < 6:
            waiting(batcher, number - 3)
    for thread in threads:
        thread.join(10)
        assert not thread.is_alive()
    assert doubler.calls[1:] == [("a", [1, 2, 3]), ("a", [4, 5, 6])]


def test_it_does_not_wait_longer_than_it_may():
    batcher = batching.Batcher(Doubler(), lambda rows: None)
    batcher._expected = 9
    batcher._patience = time.monotonic() + 0.05
    assert batcher.run("a", {"x": np.array([1])}, timeout=60)["twice"].tolist() == [2]


def test_one_after_another_nothing_waits():
    batcher = batching.Batcher(Doubler(), lambda rows: None, linger=60)
    for number in range(5):
        assert batcher.run("a", {"x": np.array([number])}, timeout=30)["twice"] == 2 * number
