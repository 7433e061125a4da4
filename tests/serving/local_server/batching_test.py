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


def run(batcher, key, values, timeout=None):
    """Starts a request in a thread; gives a list that its outputs or its error come into."""
    result = []

    def call():
        try:
            result.append(batcher.run(key, {"x": np.array(values)}, timeout))
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


def behind_a_closed_gate(requests, **limits):
    """What requests give that all came while another one was computing; and the calls."""
    doubler, rows = Doubler(), []
    batcher = batching.Batcher(doubler, batching.Limits(parallel=1, **limits), rows.append)
    doubler.gate.clear()
    first = run(batcher, "a", [0])
    assert doubler.entered.wait(30)
    started = []
    for number, (key, values) in enumerate(requests):
        started.append(run(batcher, key, values))
        waiting(batcher, number + 1)  # in this order
    doubler.gate.set()
    for thread, _ in (first, *started):
        thread.join(30)
    return [result[0] for _, result in started], doubler.calls[1:], rows[1:]


def test_alone_it_is_the_function():
    rows = []
    batcher = batching.Batcher(Doubler(), batching.Limits(), rows.append)
    outputs = batcher.run("a", {"x": np.array([1, 2])})
    assert outputs["twice"].tolist() == [2, 4]
    assert rows == [2]


def test_what_waits_is_one_batch():
    results, calls, rows = behind_a_closed_gate([("a", [1]), ("a", [2, 3]), ("a", [4])])
    assert calls == [("a", [1, 2, 3, 4])]
    assert rows == [4]
    assert [result["twice"].tolist() for result in results] == [[2], [4, 6], [8]]
    assert results[1]["row"].tolist() == [[2, 2, 2], [3, 3, 3]]


def test_other_keys_are_other_batches():
    results, calls, _ = behind_a_closed_gate([("a", [1]), ("b", [2]), ("a", [3])])
    assert calls == [("a", [1, 3]), ("b", [2])]
    assert [result["twice"].tolist() for result in results] == [[2], [4], [6]]


def test_a_batch_is_no_larger_than_the_limit_but_for_a_single_request():
    requests = [("a", [1, 2]), ("a", [3, 4, 5, 6]), ("a", [7])]
    _, calls, _ = behind_a_closed_gate(requests, batch_rows=3)
    assert calls == [("a", [1, 2, 7]), ("a", [3, 4, 5, 6])]


def test_one_that_fails_harms_no_other():
    results, calls, _ = behind_a_closed_gate([("a", [1]), ("a", [13]), ("a", [3])])
    assert calls == [("a", [1, 13, 3]), ("a", [1]), ("a", [13]), ("a", [3])]
    assert results[0]["twice"].tolist() == [2]
    assert isinstance(results[1], RequestError)
    assert results[2]["twice"].tolist() == [6]


def test_turn_that_does_not_come_in_time():
    doubler = Doubler()
    batcher = batching.Batcher(doubler, batching.Limits(parallel=1))
    doubler.gate.clear()
    thread, result = run(batcher, "a", [0])
    assert doubler.entered.wait(30)
    with pytest.raises(RequestError, match="was busy") as error:
        batcher.run("a", {"x": np.array([1])}, timeout=0.01)
    assert error.value.code == "DEADLINE_EXCEEDED"
    doubler.gate.set()
    thread.join(30)
    assert result[0]["twice"].tolist() == [0]
    assert len(doubler.calls) == 1  # what nobody waits for is not computed
    assert batcher.run("a", {"x": np.array([5])}, timeout=0.01)["twice"].tolist() == [10]


def test_too_many_that_wait_are_refused():
    doubler = Doubler()
    batcher = batching.Batcher(doubler, batching.Limits(parallel=1, waiting_rows=3))
    doubler.gate.clear()
    threads = [run(batcher, "a", [0])[0]]
    assert doubler.entered.wait(30)
    threads.append(run(batcher, "a", [1, 2])[0])
    waiting(batcher, 1)
    with pytest.raises(RequestError, match="currently 2 photos wait") as error:
        batcher.run("a", {"x": np.array([1, 2])})
    assert error.value.code == "UNAVAILABLE"
    doubler.gate.set()
    for thread in threads:
        thread.join(30)


def test_parallel_batches():
    doubler = Doubler()
    batcher = batching.Batcher(doubler, batching.Limits(parallel=2))
    doubler.gate.clear()
    threads = []
    for number in range(3):
        doubler.entered.clear()
        threads.append(run(batcher, "a", [number])[0])
        if number < 2:
            assert doubler.entered.wait(30)
    waiting(batcher, 1)
    assert len(doubler.calls) == 2
    doubler.gate.set()
    for thread in threads:
        thread.join(30)


def test_many_threads():
    batcher = batching.Batcher(Doubler(), batching.Limits(batch_rows=7))
    started = [run(batcher, number % 3, [number, number + 100]) for number in range(200)]
    for number, (thread, result) in enumerate(started):
        thread.join(30)
        error_or_outputs = result[0]
        if 13 in (number, number + 100):
            assert isinstance(error_or_outputs, RequestError)
        else:
            assert error_or_outputs["twice"].tolist() == [2 * number, 2 * number + 200]


def test_after_a_batch_of_several_the_next_waits_for_as_many():
    doubler = Doubler()
    batcher = batching.Batcher(doubler, batching.Limits(parallel=1, linger=30))
    doubler.gate.clear()
    first = run(batcher, "a", [0])
    assert doubler.entered.wait(30)
    threads = [first[0]]
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
    doubler = Doubler()
    batcher = batching.Batcher(doubler, batching.Limits(parallel=1, linger=0.05))
    batcher._expected = 9
    batcher._patience = time.monotonic() + 0.05
    assert batcher.run("a", {"x": np.array([1])})["twice"].tolist() == [2]


@pytest.mark.slow
def test_one_after_another_nothing_waits():
    batcher = batching.Batcher(Doubler(), batching.Limits(linger=60))
    for number in range(5):
        assert batcher.run("a", {"x": np.array([number])}, timeout=30)["twice"] == 2 * number
