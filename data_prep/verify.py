"""Read a prepared data set from end to end and check that it is what its manifest says.

    python -m data_prep.verify --data_dir=imagenet

It checks that no file is missing or surplus; size, SHA-256 and number of records of each shard; the
two checksums, the features, the label and the photo of each record; that an index leads to the
records; the SHA-256 of all other files, the manifest's own among them. With --statistics, mean and
covariance are computed again and compared, too.

The exit status is 0 if there is no fault. Faults are listed by file, record and byte.
"""

import concurrent.futures
import dataclasses
import functools
import hashlib
import json
import multiprocessing
import os
import re
import signal
import sys
import time
from collections import Counter
from collections.abc import Iterator, Sequence

import numpy as np
import tqdm
from absl import flags

from data_prep import command_line, record_check, records, storage, tfrecord
from data_prep.command_line import UserError
from data_prep.job import shards, statistics, tfds_metadata
from data_prep.job.statistics import PixelSums
from data_prep.photos import images


def read_shard(
    data_dir: str, manifest: records.Manifest, check_statistics: bool, shard: records.Shard
) -> tuple[list[str], PixelSums | None]:
    """Read every record of a shard, and its index.

    Returns:
        The faults, each of which begins with the file's name; and, for a train shard where
        statistics are checked, the sums over its photos.
    """
    side = manifest.photo_format.short_side
    add_up = check_statistics and shards.split_of(shard.name) == "train"
    sums = PixelSums.zeros(side) if add_up else None
    faults: list[str] = []
    lengths: list[int] = []
    digest, whole = hashlib.sha256(), True
    try:
        with storage.open_file(storage.join(data_dir, shard.name)) as file:
            for frame, found in record_check.read_shard(file, shard.name, manifest):
                lengths.append(frame.length)
                whole = whole and not frame.fault
                if whole:  # then these are the bytes of the file
                    digest.update(tfrecord.frame(frame.payload))
                if isinstance(found, record_check.BrokenRecord):
                    faults.append(str(found))
                elif add_up:
                    sums.add(images.central_square(found, side))
    except OSError as error:
        return [*faults, f"{shard.name}: cannot be read ({error.strerror})"], sums
    if whole:  # else size and hash are wrong, too, and nobody learns more from that
        for what, found, expected in (
            ("records", len(lengths), shard.records),
            ("bytes", sum(lengths), shard.bytes),
            ("SHA-256", digest.hexdigest(), shard.sha256),
        ):
            if found != expected:
                faults.append(f"{shard.name}: {what} {found}, in the manifest {expected}")
        if manifest.recipe.get("index"):
            faults += _index_faults(data_dir, shard, records.index_text(lengths))
    return faults, sums


def _index_faults(data_dir: str, shard: records.Shard, expected: str) -> Iterator[str]:
    name = records.index_name(shard.name)
    try:
        with storage.open_file(storage.join(data_dir, name)) as file:
            if file.read() != expected.encode():
                yield f"{name}: is not where the records of {shard.name} are"
    except OSError as error:
        yield f"{name}: cannot be read ({error.strerror})"


FLAGS = flags.FlagValues()
DATA_DIR = flags.DEFINE_string(
    "data_dir", None, "The folder that data_prep.prepare wrote.", flag_values=FLAGS
)
STATISTICS = flags.DEFINE_bool(
    "statistics", False, "Also compute the statistics again.", flag_values=FLAGS
)
flags.mark_flag_as_required("data_dir", flag_values=FLAGS)

_SHARD_LIKE = re.compile(rf"({'|'.join(records.SPLITS)})-\d+-of-\d+(\.index)?")
# Every data set has these; a manifest that is silent about one proves nothing of it.
_FILES = (
    records.LABELS,
    records.REJECTED,
    records.STATISTICS,
    records.MEAN_IMAGE,
    records.MEAN_IMAGE_CAFFE,
    records.AUDIT,
    records.AUDIT_PAGE,
    tfds_metadata.FEATURES_FILE,
    tfds_metadata.INFO_FILE,
    tfds_metadata.CLASS_NAMES_FILE,
)
_LISTED_FAULTS = 20


def verify(*, data_dir: str, check_statistics: bool = False) -> dict[str, object]:
    """Check a data set from end to end.

    Args:
        data_dir: the folder that `data_prep.prepare` wrote.
        check_statistics: whether to compute the statistics again.

    Returns:
        train_records, validation_records, rejected, shards, files, faults (0), statistics
        ("equal" or "not checked"), seconds and records_per_second.

    Raises:
        ValueError: there is no data set.
        UserError: faults were found: the first one and their number; stderr lists several.
    """
    started = time.monotonic()
    manifest = records.read_manifest(data_dir)
    sums = PixelSums.zeros(manifest.photo_format.short_side)
    faults = list(_file_faults(data_dir, manifest))
    for shard_faults, shard_sums in _read_shards(data_dir, manifest, check_statistics):
        faults += shard_faults
        if shard_sums:
            sums.merge(shard_sums)
    if check_statistics and not faults:
        faults += _statistics_faults(data_dir, sums)
    if faults:
        if len(faults) > 1:  # a single one is in the error itself
            for fault in faults[:_LISTED_FAULTS]:
                print(f"verify: {fault}", file=sys.stderr)
        if len(faults) > _LISTED_FAULTS:
            print(f"verify: and {len(faults) - _LISTED_FAULTS} more", file=sys.stderr)
        raise UserError(
            f"{faults[0]} ({len(faults)} {'fault' if len(faults) == 1 else 'faults'} in "
            f"{data_dir}); remove the folder and run data_prep.prepare again"
        )
    seconds = time.monotonic() - started
    count = sum(split.records for split in manifest.splits.values())
    return {
        **{f"{name}_records": split.records for name, split in manifest.splits.items()},
        "rejected": sum(split.rejected for split in manifest.splits.values()),
        "shards": sum(len(split.shards) for split in manifest.splits.values()),
        "files": len(manifest.files),
        "faults": 0,
        "statistics": "equal" if check_statistics else "not checked",
        "seconds": round(seconds, 2),
        "records_per_second": round(count / seconds, 1),
    }


def _file_faults(data_dir: str, manifest: records.Manifest) -> Iterator[str]:
    """Find the faults of all files that are not shards."""
    wanted, shard_names = set(_FILES), set()
    for split, content in manifest.splits.items():
        for index, shard in enumerate(content.shards):
            shard_names.add(shard.name)
            if shard.name != records.shard_name(split, index, len(content.shards)):
                yield f"{records.MANIFEST}: {shard.name!r} is no name for a shard of {split}"
            if manifest.recipe.get("index"):
                wanted.add(records.index_name(shard.name))
    for name in sorted(wanted - manifest.files.keys()):
        yield f"{records.MANIFEST}: says nothing of {name}"
    for name in sorted(_shard_like(data_dir) - shard_names - manifest.files.keys()):
        yield f"{name}: is in the folder, but not in the manifest"
    for name, digest in manifest.files.items():
        if os.path.isabs(name) or os.path.normpath(name).split(os.sep)[0] == os.pardir:
            yield f"{records.MANIFEST}: {name!r} is not inside the folder"
            continue
        try:
            with storage.open_file(storage.join(data_dir, name)) as file:
                if hashlib.file_digest(file, "sha256").hexdigest() != digest:
                    yield f"{name}: its SHA-256 is not the manifest's"
        except OSError as error:
            yield f"{name}: cannot be read ({error.strerror})"
    yield from _text_faults(data_dir, manifest)


def _shard_like(data_dir: str) -> set[str]:
    """Return the files that a reader's pattern would take for shards or their indices."""
    found = {file.name for file in storage.files(data_dir, 1) if _SHARD_LIKE.fullmatch(file.name)}
    index_dir = storage.join(data_dir, records.INDEX_FOLDER)
    if storage.is_folder(index_dir):
        found |= {f"{records.INDEX_FOLDER}/{file.name}" for file in storage.files(index_dir, 1)}
    return found


def _text_faults(data_dir: str, manifest: records.Manifest) -> Iterator[str]:
    """Compare labels.txt and rejected.jsonl with the manifest's own lists and counts."""
    try:
        with storage.open_file(storage.join(data_dir, records.LABELS)) as file:
            if file.read().decode() != records.labels_text(manifest.classes):
                yield f"{records.LABELS}: is not the manifest's list of classes"
        with storage.open_file(storage.join(data_dir, records.REJECTED)) as file:
            counted = Counter(json.loads(line)["split"] for line in file)
    except (OSError, ValueError, KeyError, TypeError) as error:
        yield f"{records.LABELS} or {records.REJECTED}: cannot be read ({error!r})"
        return
    for split, content in manifest.splits.items():
        if counted[split] != content.rejected:
            yield (
                f"{records.REJECTED}: has {counted[split]} {split} photos, the manifest "
                f"{content.rejected}"
            )


def _read_shards(
    data_dir: str, manifest: records.Manifest, check_statistics: bool
) -> Iterator[tuple[list[str], PixelSums | None]]:
    """Read the shards in the manifest's order; each core reads one at a time."""
    wanted = [
        shard
        for split in manifest.splits.values()
        for shard in split.shards
        if _SHARD_LIKE.fullmatch(shard.name)  # a name is only a name when it is no path
    ]
    read = functools.partial(read_shard, data_dir, manifest, check_statistics)
    workers = min(os.cpu_count() or 1, len(wanted))
    progress = functools.partial(tqdm.tqdm, total=len(wanted), unit="shard", desc="verify")
    if workers <= 1:  # a second process would only cost its start
        yield from progress(map(read, wanted))
        return
    executor = concurrent.futures.ProcessPoolExecutor(
        workers,
        # Not forked: TensorFlow and Beam have threads, whose locks a fork would leave locked.
        multiprocessing.get_context("spawn"),
        # Ctrl-C is for the parent alone.
        functools.partial(signal.signal, signal.SIGINT, signal.SIG_IGN),
    )
    try:
        yield from progress(executor.map(read, wanted))
    finally:
        executor.shutdown(cancel_futures=True)


def _statistics_faults(data_dir: str, sums: PixelSums) -> Iterator[str]:
    computed, stored = statistics.finish(sums), records.read_statistics(data_dir)
    for field in dataclasses.fields(computed):
        one, other = getattr(computed, field.name), getattr(stored, field.name)
        # Equal sums, but perhaps another machine's eigenvalue routine.
        if np.shape(one) != np.shape(other) or not np.allclose(one, other, rtol=1e-6, atol=1e-6):
            yield f"statistics: {field.name} is not that of the records"
    with storage.open_file(storage.join(data_dir, records.MEAN_IMAGE_CAFFE)) as file:
        if file.read() != statistics.caffe_mean(stored.mean_image):
            yield f"{records.MEAN_IMAGE_CAFFE}: is not {records.MEAN_IMAGE}"


def main(arguments: Sequence[str]) -> dict[str, object]:
    """Check the data set that the flags name."""
    del arguments
    return verify(data_dir=DATA_DIR.value, check_statistics=STATISTICS.value)


def run() -> None:
    """Run the console command."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
