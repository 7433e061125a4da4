"""Finds the records of a data set that cannot be trained on, and sets them aside.

TensorFlow stops at a broken record without naming its place.
"""

import concurrent.futures
import contextlib
import dataclasses
import hashlib
import json
import os
import sys
from collections.abc import Collection, Iterator, Mapping

import tensorflow as tf
import tqdm

from data_prep import files, record_check, records, tfrecord
from data_prep.record_check import BrokenRecord

SKIPPED = "skipped.json"


@dataclasses.dataclass(frozen=True)
class Skipped:
    """A data set without its broken train records.

    Attributes:
        manifest: with the counts that are left.
        shard_paths: paths of the shards that differ from the data set's, by their names.
        count: of the records left out.
    """

    manifest: records.Manifest
    shard_paths: Mapping[str, str]
    count: int


def find(
    data_dir: str,
    manifest: records.Manifest,
    split: str,
    limit: int | None = None,
    shard_paths: Mapping[str, str] | None = None,
) -> list[BrokenRecord]:
    """Find the broken records of a split, with a progress bar on stderr.

    After a record whose length is broken, or that is cut short, nothing in its shard can be read:
    all further records that the manifest counts there are broken, too.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        split: "train" or "validation".
        limit: with more broken records than this, the rest of the split is not read.
        shard_paths: paths of shards that are not to be read from `data_dir`, by their names.

    Returns:
        In the manifest's order.
    """

    def look(shard: records.Shard) -> list[BrokenRecord]:
        path = (shard_paths or {}).get(shard.name, os.path.join(data_dir, shard.name))
        return list(_broken_of_shard(path, shard, manifest))

    shards, broken = manifest.splits[split].shards, []
    # Threads: decoding and checksums, where the time goes, need no lock of Python's.
    executor = concurrent.futures.ThreadPoolExecutor(os.cpu_count() or 1)
    total = manifest.splits[split].records
    with tqdm.tqdm(total=total, unit=" records", desc=f"check {split}", file=sys.stderr) as bar:
        try:
            for shard, found in zip(shards, executor.map(look, shards), strict=True):
                broken += found
                bar.update(shard.records)
                if limit is not None and len(broken) > limit:
                    break
        finally:
            executor.shutdown(cancel_futures=True)
    return broken


def set_aside(data_dir: str, manifest: records.Manifest, folder: str, limit: int) -> Skipped:
    """Copy the train shards that have broken records, without these.

    The split is read once: the list of broken records is kept in `folder`, for another call with
    the same manifest.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: of that folder.
        folder: local; for the copies, whole each, and for skipped.json, which is written last.
        limit: of broken records.

    Returns:
        The data set without its broken records. Of its manifest only the counts of records differ;
        sizes and hashes are the originals'.

    Raises:
        ValueError: there are more broken records than `limit`.
        OSError: the folder cannot be written.
    """
    path = os.path.join(folder, SKIPPED)
    digest = hashlib.sha256(manifest.to_json().encode()).hexdigest()
    broken = _read_list(path, digest)
    is_new = broken is None
    if is_new:
        broken = find(data_dir, manifest, "train", limit)
    if len(broken) > limit:
        raise ValueError(
            f"at most {limit} broken records may be skipped, but {data_dir} has at least "
            f"{len(broken)} in the train split, first {broken[0]}; run data_prep.verify, which "
            "names all that is broken, and prepare again, or raise skip_bad_records"
        )
    numbers: dict[str, set[int]] = {}
    for record in broken:
        numbers.setdefault(record.shard, set()).add(record.number)
    shard_paths = {name: os.path.join(folder, name) for name in numbers}
    if is_new:
        for name, copy in shard_paths.items():
            _copy_without(numbers[name], os.path.join(data_dir, name), copy)
        listed = {"manifest": digest, "skipped": [dataclasses.asdict(record) for record in broken]}
        os.makedirs(folder, exist_ok=True)  # nothing was copied, perhaps
        files.write_file(path, json.dumps(listed, indent=1) + "\n")
    train = manifest.splits["train"]
    shards = tuple(
        dataclasses.replace(
            shard, records=len(set(range(shard.records)) - numbers.get(shard.name, set()))
        )
        for shard in train.shards
    )
    splits = {**manifest.splits, "train": dataclasses.replace(train, shards=shards)}
    return Skipped(dataclasses.replace(manifest, splits=splits), shard_paths, len(broken))


def _broken_of_shard(
    path: str, shard: records.Shard, manifest: records.Manifest
) -> Iterator[BrokenRecord]:
    number, end, rest = 0, 0, "missing: the shard ends before it"
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            found_records = record_check.read_shard(file, shard.name, manifest)
            for number, (frame, found) in enumerate(found_records, start=1):
                if isinstance(found, BrokenRecord):
                    yield found
                elif number > shard.records:
                    reason = "the manifest counts no such record"
                    yield BrokenRecord(shard.name, number - 1, frame.offset, reason)
                end = frame.offset + frame.length
                if not frame.length:  # and so the last one
                    rest = f"cannot be found after record {number - 1}: {frame.fault}"
    except tf.errors.NotFoundError:
        rest = "missing, as the whole shard is"
    for missing in range(number, shard.records):
        yield BrokenRecord(shard.name, missing, end, rest)


def _copy_without(numbers: Collection[int], source: str, copy: str) -> None:
    """Copy a shard but for the records of these numbers; of a missing one nothing is left."""
    with (
        files.create(copy, f"{copy}.tmp") as output,
        contextlib.suppress(tf.errors.NotFoundError),
        tf.io.gfile.GFile(source, "rb") as file,
    ):
        for number, frame in enumerate(tfrecord.read_frames(file)):
            if number not in numbers:
                output.write(tfrecord.frame(frame.payload))


def _read_list(path: str, digest: str) -> list[BrokenRecord] | None:
    """Return the list in skipped.json; None where that is missing or of another manifest."""
    try:
        with open(path) as file:
            listed = json.load(file)
    except FileNotFoundError:
        return None
    if listed["manifest"] != digest:
        return None
    return [BrokenRecord(**record) for record in listed["skipped"]]
