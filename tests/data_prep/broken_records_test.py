import dataclasses
import json
import shutil

import damaged_shards
import numpy as np
import pytest

from data_prep import broken_records, records
from keras_alexnet.inputs import pipeline
from keras_alexnet.network.profiles import PROFILES


@pytest.fixture
def damaged(data_dir, tmp_path):
    """Return a copy of the data set, to break."""
    return shutil.copytree(data_dir, tmp_path / "damaged")


def shard(damaged, number):
    return damaged / f"train-{number:05d}-of-00003"


def count_of(damaged, number):
    return records.read_manifest(damaged).splits["train"].shards[number].records


def find(damaged, limit=None, split="train"):
    found = broken_records.find(str(damaged), records.read_manifest(damaged), split, limit)
    return [(int(record.shard.split("-")[1]), record.number, record.reason) for record in found]


def test_nothing_is_found_in_a_good_data_set(damaged, tmp_path, capfd):
    assert find(damaged) == find(damaged, split="validation") == []
    assert "38/38" in capfd.readouterr().err  # the progress bar
    skipped = set_aside(damaged, tmp_path / "skipped", limit=0)
    assert skipped == broken_records.Skipped(records.read_manifest(damaged), {}, 0)
    assert [path.name for path in (tmp_path / "skipped").iterdir()] == ["skipped.json"]


def test_each_kind_of_broken_record_is_found_with_its_place(damaged):
    damaged_shards.flip_byte(shard(damaged, 0), 3)
    damaged_shards.replace_photo(shard(damaged, 1), 0)
    damaged_shards.flip_byte(shard(damaged, 1), 5)
    offset = damaged_shards.frames(shard(damaged, 1))[5].offset
    assert find(damaged) == [
        (0, 3, "the checksum of its payload is wrong"),
        (1, 0, "a JPEG is required. Received: bytes that do not open as one"),
        (1, 5, "the checksum of its payload is wrong"),
    ]
    found = broken_records.find(str(damaged), records.read_manifest(damaged), "train")
    expected = f"train-00001-of-00003, record 5 at byte {offset}: the checksum of its payload"
    assert str(found[2]).startswith(expected)


@pytest.mark.parametrize(
    ("damage", "reason", "after"),
    [
        (damaged_shards.break_length, "the checksum of its length is wrong", "cannot be found"),
        (damaged_shards.cut, "cut short", "cannot be found"),
        (lambda path, number: damaged_shards.cut(path, number, 7), "its header is", "cannot be"),
        (lambda path, number: damaged_shards.cut(path, number, 0), "missing", "missing"),
        (lambda path, number: path.unlink(), "missing, as the whole shard is", "missing, as the"),
    ],
)
def test_all_that_cannot_be_reached_is_broken(damaged, damage, reason, after):
    damage(shard(damaged, 2), 4)
    first = 4 if shard(damaged, 2).exists() else 0
    found = find(damaged)
    assert [place[:2] for place in found] == [(2, n) for n in range(first, count_of(damaged, 2))]
    assert found[0][2].startswith(reason)
    assert all(why.startswith(after) for _, _, why in found[1:])


def test_a_record_that_the_manifest_does_not_count_is_broken(damaged):
    path, count = shard(damaged, 0), count_of(damaged, 0)
    first = damaged_shards.frames(path)[1].offset
    path.write_bytes(path.read_bytes() + path.read_bytes()[:first])
    assert find(damaged) == [(0, count, "the manifest counts no such record")]


def test_the_search_ends_past_the_limit(damaged):
    for number in range(3):
        damaged_shards.flip_byte(shard(damaged, number), 1)
    assert [place[0] for place in find(damaged, limit=0)] == [0]
    assert [place[0] for place in find(damaged, limit=1)] == [0, 1]
    assert len(find(damaged, limit=3)) == 3


def set_aside(damaged, folder, limit=100):
    return broken_records.set_aside(
        str(damaged), records.read_manifest(damaged), str(folder), limit
    )


def test_shards_are_copied_without_their_broken_records(damaged, tmp_path):
    good = {
        n: [frame.payload for frame in damaged_shards.frames(shard(damaged, n))] for n in (0, 2)
    }
    damaged_shards.replace_photo(shard(damaged, 0), 5)
    damaged_shards.flip_byte(shard(damaged, 0), 3)
    damaged_shards.break_length(shard(damaged, 2), 2)
    folder, before = tmp_path / "skipped", records.read_manifest(damaged)
    skipped = set_aside(damaged, folder)
    lost = count_of(damaged, 2) - 2
    assert skipped.count == 2 + lost
    names = [shard(damaged, number).name for number in (0, 2)]
    assert skipped.shard_paths == {name: str(folder / name) for name in names}
    counts = [entry.records for entry in before.splits["train"].shards]
    expected = [counts[0] - 2, counts[1], 2]
    assert [entry.records for entry in skipped.manifest.splits["train"].shards] == expected
    assert skipped.manifest.splits["validation"] == before.splits["validation"]
    del good[0][5], good[0][3]
    for number, payloads in ((0, good[0]), (2, good[2][:2])):
        copied = damaged_shards.frames(folder / shard(damaged, number).name)
        assert [frame.payload for frame in copied] == payloads
        assert not any(frame.fault for frame in copied)
    listed = json.loads((folder / "skipped.json").read_text())["skipped"]
    assert [(entry["shard"], entry["number"]) for entry in listed[:2]] == [
        (names[0], 3),
        (names[0], 5),
    ]
    assert listed[0]["reason"] == "the checksum of its payload is wrong"
    assert len(listed) == skipped.count
    assert sorted(path.name for path in folder.iterdir()) == ["skipped.json", *names]


@pytest.mark.slow
def test_training_without_the_broken_records_sees_all_others_once(damaged, tmp_path):
    damaged_shards.flip_byte(shard(damaged, 0), 3)
    damaged_shards.replace_photo(shard(damaged, 1), 0)
    skipped = set_aside(damaged, tmp_path / "skipped")
    assert pipeline.train_steps(skipped.manifest, 6) == 6  # of 38 - 2 photos
    dataset = pipeline.train_dataset(
        str(damaged),
        skipped.manifest,
        dataclasses.replace(PROFILES["seed"], training_crop="centre"),
        pipeline.Feed(batch_size=6, seed=1),
        shard_paths=skipped.shard_paths,
    )
    photos = np.concatenate([features["image"] for features, _ in dataset])
    assert len({photo.tobytes() for photo in photos}) == 36


def test_a_second_call_reads_what_the_first_found(damaged, tmp_path):
    damaged_shards.flip_byte(shard(damaged, 0), 3)
    first = set_aside(damaged, tmp_path / "skipped")
    for number in range(3):
        shard(damaged, number).unlink()  # so whoever looked again would find all broken
    assert set_aside(damaged, tmp_path / "skipped") == first
    with pytest.raises(ValueError, match="at most 0 broken records may be skipped"):
        set_aside(damaged, tmp_path / "skipped", limit=0)


def test_another_data_set_is_looked_at_anew(damaged, tmp_path):
    set_aside(damaged, tmp_path / "skipped")
    damaged_shards.flip_byte(shard(damaged, 0), 3)
    other = dataclasses.replace(records.read_manifest(damaged), notes={"other": 1})
    (damaged / records.MANIFEST).write_text(other.to_json())
    assert set_aside(damaged, tmp_path / "skipped").count == 1


def test_more_broken_records_than_allowed_are_an_error_and_leave_nothing(damaged, tmp_path):
    damaged_shards.break_length(shard(damaged, 1), 4)
    at_least = count_of(damaged, 1) - 4
    message = (
        rf"at most 2 broken records may be skipped, but .* has at least {at_least} in the train "
        r"split, first train-00001-of-00003, record 4 at byte \d+: the checksum of its length is "
        r"wrong; .*raise skip_bad_records"
    )
    with pytest.raises(ValueError, match=message):
        set_aside(damaged, tmp_path / "skipped", limit=2)
    assert not (tmp_path / "skipped").exists()
