import contextlib
import tracemalloc

import pytest
from full_disk import full_disk

from data_prep.audit.duplicates import LISTED_GROUPS, LISTED_PHOTOS, Duplicates

SPLITS = ("train", "validation")


def report_of(photos):
    with contextlib.closing(Duplicates(SPLITS)) as duplicates:
        for photo in photos:
            duplicates.add(*photo)
        return duplicates.report()


def test_a_large_group_is_counted_whole_and_listed_in_part():
    count = 25_000  # more than go to the database at once
    photos = [(b"x" * 16, "train", f"{index:06d}", 0) for index in range(count)]
    photos.append((b"x" * 16, "validation", "the one", 0))
    report = report_of(photos[::-1])
    (group,) = report["groups"]
    assert group["photos"] == {"train": count, "validation": 1}
    keys = [photo["key"] for photo in group["listed"]]
    assert keys == [*(f"{index:06d}" for index in range(LISTED_PHOTOS)), "the one"]
    assert group["listed_left_out"] == count - LISTED_PHOTOS
    assert report["within_split"]["train"] == {"groups": 1, "photos": count}
    assert report["within_split"]["validation"] == {"groups": 0, "photos": 0}
    assert report["across_splits"] == {"groups": 1, "photos": {"train": count, "validation": 1}}


def test_many_groups_are_counted_whole_and_listed_in_part():
    count = LISTED_GROUPS + 7
    photos = [
        (index.to_bytes(16, "big"), "train", f"{copy}/{index}", 0)
        for copy in range(2)
        for index in range(count)
    ]
    last = (count - 1).to_bytes(16, "big")
    report = report_of([*photos, (last, "validation", "v", 0)])
    assert len(report["groups"]) == LISTED_GROUPS
    assert report["groups_left_out"] == 7
    assert report["within_split"]["train"] == {"groups": count, "photos": 2 * count}
    assert report["groups"][0]["content"] == last.hex()  # across the splits: before all others


@pytest.mark.slow
@pytest.mark.parametrize("contents", [1, 1 << 30])
def test_memory_does_not_grow_with_the_photos(contents):
    def peak(count):
        tracemalloc.start()
        report_of((b"%016d" % (i % contents), "train", f"{i:030d}", 0) for i in range(count))
        _, most = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        return most

    assert peak(36_000) < 1.1 * peak(12_000)


@pytest.mark.parametrize("limited", ["add", "report"])
def test_a_full_disk_is_said_to_be_one(limited):
    def add():
        for index in range(40_000):
            duplicates.add(b"%016d" % (index // 2), "train", f"{index:01000d}", 0)

    duplicates = Duplicates(SPLITS)
    if limited == "report":  # the disk is too full to sort
        add()
    text = r"the audit needs room .* database.*SQLITE_TMPDIR"
    with full_disk(), pytest.raises(OSError, match=text):
        add() if limited == "add" else duplicates.report()
    duplicates.close()
