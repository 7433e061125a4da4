"""The output folder while a job fills it: whose it is, who holds it, what an earlier run left.

    OUTPUT/.prepare/lock       held by the job that runs; on an object store .locks/NUMBER
    OUTPUT/.prepare/job.log    what its workers said
    OUTPUT/.prepare/JOB/       plans and results of the shards (see `shards`); JOB is a hash

Nothing is ever deleted but this folder and shards that a result in it names.
"""

import contextlib
import hashlib
import json
import os
import re
import sys
import tempfile
import threading
from collections.abc import Collection, Container, Iterator, Mapping

import tqdm

from data_prep import records, storage
from data_prep.job import lock, shard_results

_HIDDEN = ".prepare"
_SHARD_NAME = re.compile(rf"({'|'.join(records.SPLITS)})-\d{{5}}-of-\d{{5}}")
# Seconds between two looks at the folder, which an object store bills.
_LOOK_EVERY = {True: 0.5, False: 10}


def finished(output_dir: str, recipe: Mapping[str, object]) -> records.Manifest | None:
    """The manifest of the data set that `recipe` makes, if it is already in the folder.

    Args:
        output_dir: may be missing.
        recipe: that of the manifest to be.

    Raises:
        ValueError: the folder holds another data set, or files that no job of ours has put there.
    """
    if not storage.is_folder(output_dir):
        if storage.is_local(output_dir) and os.path.lexists(output_dir):
            raise ValueError(f"output_dir must be a folder; {output_dir} is a file")
        return None
    if storage.exists(storage.join(output_dir, records.MANIFEST)):
        manifest = records.read_manifest(output_dir)
        # As JSON has it: what was read back cannot hold a tuple.
        if manifest.recipe != json.loads(json.dumps(recipe)):
            raise ValueError(
                f"{output_dir} holds a finished data set, made with other options or photos "
                f"({_differences(manifest.recipe, recipe)}); choose another output_dir, or "
                "remove that one first"
            )
        return manifest
    visible = [*storage.folders(output_dir), *(f.name for f in storage.files(output_dir, 1))]
    if visible and not storage.is_folder(storage.join(output_dir, _HIDDEN)):
        raise ValueError(
            f"output_dir must be new, empty or of an earlier run of prepare; {output_dir} holds "
            f"{min(visible)}; choose another"
        )
    return None


@contextlib.contextmanager
def claim(output_dir: str, recipe: Mapping[str, object], state: str) -> Iterator[str]:
    """Holds the folder for one job; what another job left half-done in it is removed.

    Args:
        output_dir: made if missing.
        recipe: of the job.
        state: of its input (`Catalog.state`): of other files, the shards are made anew.

    Yields:
        The job's work folder. It outlives a failure, for the next run to go on from.

    Raises:
        ValueError: another job holds the folder, or has finished it since `finished` was asked.
    """
    hidden = storage.join(output_dir, _HIDDEN)
    with _lock(output_dir, hidden):
        if storage.exists(storage.join(output_dir, records.MANIFEST)):
            raise ValueError(f"another job has just finished {output_dir}; run the command again")
        job = json.dumps([recipe, state], sort_keys=True).encode()
        work_dir = storage.join(hidden, hashlib.blake2b(job, digest_size=16).hexdigest())
        _remove_others(output_dir, hidden, work_dir)
        if storage.is_local(work_dir):
            os.makedirs(work_dir, exist_ok=True)
        _remove_unfinished(work_dir)
        yield work_dir


@contextlib.contextmanager
def _lock(output_dir: str, hidden: str) -> Iterator[None]:
    try:
        with lock.hold(hidden):
            yield
    except BlockingIOError as error:
        raise ValueError(
            f"another job is writing to {output_dir}; wait for it, or choose another output_dir "
            f"(the lock of a job killed on another machine ends after {lock.STALE} seconds)"
        ) from error


def log_path(output_dir: str) -> str:
    """The local file for what the workers say."""
    if storage.is_local(output_dir):
        return os.path.join(output_dir, _HIDDEN, "job.log")
    return os.path.join(tempfile.mkdtemp(prefix="prepare-"), "job.log")


def finished_shards(work_dir: str, names: Container[str]) -> set[str]:
    """Those of `names` that have a result; whether the shard is whole, only its hash tells."""
    return {
        name.removesuffix(shard_results.SUFFIX)
        for name, _, _ in storage.files(work_dir, 1)
        if name.endswith(shard_results.SUFFIX) and name.removesuffix(shard_results.SUFFIX) in names
    }


@contextlib.contextmanager
def progress(
    output_dir: str, work_dir: str, plan: Mapping[str, int], kept: Collection[str]
) -> Iterator[None]:
    """A bar on stderr, while the block runs: photos a second, time left, shards done.

    It looks for the results in the folder, which is the same on every runner.

    Args:
        output_dir: of the job.
        work_dir: of the job.
        plan: how many photos are in each shard, by its name.
        kept: the shards that an earlier run has made, which must not count as speed.
    """
    stop = threading.Event()

    def show(bar: tqdm.tqdm) -> None:
        with contextlib.suppress(OSError):  # a bar is not worth a job
            found = finished_shards(work_dir, plan)
            bar.set_postfix_str(f"{len(found)}/{len(plan)} shards", refresh=False)
            bar.update(sum(plan[name] for name in found) - bar.n)

    def watch() -> None:
        done = sum(plan[name] for name in kept)
        total = sum(plan.values())
        with tqdm.tqdm(total=total, initial=done, unit="photo", desc="prepare") as bar:
            while not stop.wait(_LOOK_EVERY[storage.is_local(output_dir)]):
                show(bar)
            show(bar)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def publish(output_dir: str, work_dir: str, name: str, content: bytes | str) -> str:
    """Puts a file into the data set, whole or not at all; returns its sha256.

    It is made in the work folder, so that a kill leaves nothing that someone has to clean up.

    Args:
        output_dir: the data set.
        work_dir: of the job.
        name: path in the data set, with "/".
        content: bytes, or text that is written as UTF-8.
    """
    data = content.encode() if isinstance(content, str) else content
    aside = storage.join(work_dir, os.path.basename(name) + ".tmp")
    with storage.create(storage.join(output_dir, name), aside) as file:
        file.write(data)
    return hashlib.sha256(data).hexdigest()


def clean(output_dir: str) -> None:
    """Removes all that is not part of the data set."""
    storage.remove_folder(storage.join(output_dir, _HIDDEN))


def _remove_others(output_dir: str, hidden: str, work_dir: str) -> None:
    if not storage.is_folder(hidden):
        return
    for name in storage.folders(hidden):
        other = storage.join(hidden, name)
        if other == work_dir:
            continue
        print(
            f"prepare: {output_dir} holds the shards of an unfinished job with other options or "
            "photos; they are made anew",
            file=sys.stderr,
        )
        for found in storage.files(other, 1):
            shard = found.name.removesuffix(shard_results.SUFFIX)
            if shard != found.name and _SHARD_NAME.fullmatch(shard):
                storage.remove(storage.join(output_dir, shard))
        # Also stops a worker that outlived its killed job: it finds no file left to rename.
        storage.remove_folder(other)


def _remove_unfinished(work_dir: str) -> None:
    """What killed workers had begun: it would fill the disk, kill by kill."""
    if storage.is_folder(work_dir):
        for found in storage.files(work_dir, 1):
            if found.name.endswith(".tmp"):
                storage.remove(storage.join(work_dir, found.name))


def _differences(made: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """The options that differ, such as "quality 90 there, 95 here"."""
    return ", ".join(
        f"{key} {made.get(key)} there, {wanted.get(key)} here"
        for key in sorted(made.keys() | wanted.keys())
        if made.get(key) != wanted.get(key)
    )
