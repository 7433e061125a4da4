import threading

import pytest

from keras_alexnet.serving.client import batches as client_batches
from keras_alexnet.serving.client.batches import Limits, PhotoFile


def sizes_of_batches(sizes, **limits):
    photos = [PhotoFile(str(number), size) for number, size in enumerate(sizes)]
    batches = list(client_batches.batches(photos, Limits(**limits)))
    assert [photo for batch in batches for photo in batch] == photos
    return [[photo.size for photo in batch] for batch in batches]


def test_batches():
    assert sizes_of_batches([]) == []
    assert sizes_of_batches([1] * 5, photos=2) == [[1, 1], [1, 1], [1]]
    # 300 bytes in base64 are 400.
    assert sizes_of_batches([200, 100, 1, 299, 1], request_bytes=400) == [[200, 100], [1, 299], [1]]
    assert sizes_of_batches([500, 1, 500, 500], request_bytes=400) == [[500], [1], [500], [500]]


def test_batches_are_made_when_they_are_asked_for():
    def photos():
        yield from (PhotoFile("a"), PhotoFile("b"))
        raise AssertionError("too early")

    assert len(next(client_batches.batches(photos(), Limits(photos=1)))) == 1


def test_order_whatever_is_ready_first():
    """The first item is done after the second, which another worker does meanwhile."""
    second = threading.Event()

    def worker(item):
        if item == 0:
            assert second.wait(60)
        if item == 1:
            second.set()
        return 10 * item

    results = client_batches.in_order(range(30), [worker, worker])
    assert list(results) == [10 * item for item in range(30)]


def test_items_are_taken_a_few_ahead():
    taken = []

    def items():
        for item in range(1000):
            taken.append(item)
            yield item

    results = client_batches.in_order(items(), [lambda item: item] * 2)
    assert next(results) == 0
    assert len(taken) <= 8
    results.close()


def test_an_exception_comes_in_its_turn():
    def worker(item):
        return 6 / (item - 2)

    results = client_batches.in_order([0, 1, 2, 3], [worker])
    assert [next(results), next(results)] == [-3, -6]
    with pytest.raises(ZeroDivisionError):
        next(results)


def test_the_threads_end():
    before = threading.active_count()
    threads = []

    def worker(item):
        threads.append(threading.current_thread())
        return item

    results = client_batches.in_order(range(100), [worker, worker])
    next(results)
    results.close()
    for thread in set(threads):
        thread.join(60)
        assert not thread.is_alive()
    assert threading.active_count() <= before + 1  # the other may not have had an item to do
