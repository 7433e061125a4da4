import random

import pytest
from full_disk import full_disk

from data_prep.sources.catalog import Catalog
from data_prep.sources.reference import Reference


def photo(number, split="train", **changes):
    return Reference(
        split,
        key=f"cat/{number}.jpg",
        path=f"/photos/\udcff/{number}.jpg",
        offset=512 * number,
        length=1000 + number,
        filename=f"{number}.jpg",
        label=number % 3,
        modified_ns=10**18 + number,
    )._replace(**changes)


def catalog(photos, seed=0):
    made = Catalog(seed)
    made.fill(iter(photos))
    return made


def test_what_goes_in_comes_out_shuffled():
    photos = [photo(n) for n in range(200)] + [photo(n, "validation") for n in range(50)]
    with catalog(photos) as filled:
        assert filled.counts == {"train": 200, "validation": 50}
        train = list(filled.in_order("train"))
        assert sorted(train) == sorted(photos[:200])
        assert train != sorted(train)
        assert sorted(filled.in_order("validation")) == sorted(photos[200:])


def test_the_order_depends_on_the_keys_the_split_and_the_seed_alone():
    photos = [photo(n) for n in range(100)]
    moved = [p._replace(path="/elsewhere", offset=0, modified_ns=1) for p in photos]
    random.Random(3).shuffle(moved)
    validation = [p._replace(split="validation") for p in photos]

    def keys(photos, seed=0):
        with catalog(photos, seed) as filled:
            return [p.key for p in filled.in_order(photos[0].split)]

    assert keys(photos) == keys(moved)
    assert keys(photos) != keys(photos, seed=1)
    assert keys(photos) != keys(validation)


def test_the_order_is_the_same_on_every_machine_and_python():
    # blake2b of "train/KEY", salted with the seed; Python's own hash() differs in each process.
    with catalog([photo(n) for n in range(5)], seed=7) as filled:
        assert [p.offset // 512 for p in filled.in_order("train")] == [3, 4, 2, 0, 1]


@pytest.mark.parametrize(
    "change",
    [
        {"key": "cat/x.jpg"},
        {"length": 7},
        {"filename": "x.jpg"},
        {"label": 9},
        {"split": "validation"},
    ],
)
def test_the_fingerprint_tells_other_photos(change):
    photos = [photo(n) for n in range(4)]
    with catalog(photos) as one, catalog([*photos[:3], photos[3]._replace(**change)]) as other:
        assert one.fingerprint != other.fingerprint


def test_the_fingerprint_does_not_know_places_times_or_orders():
    photos = [photo(n) for n in range(20)]
    moved = [p._replace(path="/b", offset=1, modified_ns=5) for p in reversed(photos)]
    with catalog(photos) as one, catalog(moved) as other, catalog(photos[::-1]) as same:
        assert one.fingerprint == other.fingerprint
        assert len(one.fingerprint) == 32
        assert one.state != other.state  # but knows a file that was written again
        assert one.state == same.state


def test_one_key_for_two_photos_is_refused():
    text = "a name of its own. Received: cat/1.jpg twice"
    photos = [photo(1), photo(2), photo(1, path="/other")]
    with catalog(photos) as filled, pytest.raises(ValueError, match=text):
        list(filled.in_order("train"))


def test_an_error_of_the_source_passes_through():
    def broken():
        yield photo(1)
        raise RuntimeError("the tar is damaged")

    with Catalog(0) as filled, pytest.raises(RuntimeError, match="the tar is damaged"):
        filled.fill(broken())


def test_a_full_disk_is_one_line():
    text = "the list of photos needs room for a temporary database"
    with full_disk(), Catalog(0) as filled, pytest.raises(OSError, match=text):
        filled.fill(photo(n) for n in range(100_000))
