"""The output folder while a job fills it: its lock, its work folder, leftovers of earlier runs.

    OUTPUT/.prepare/lock       held by the job that runs; on an object store .locks/NUMBER
    OUTPUT/.prepare/job.log    output of its workers
    OUTPUT/.prepare/JOB/       plans and results of the shards (see `shards`); JOB is a hash

Only this folder and shards that a result in it names are ever deleted.
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
    """Return the manifest of the data set that `recipe` makes, if it is already in the folder.

    Raises:
        ValueError: the folder holds another data set, or files that prepare has not written.
    """
    if not storage.is_folder(output_dir):
        if storage.is_local(output_dir) and os.path.lexists(output_dir):
            raise ValueError(f"output_dir must be a folder; {output_dir} is a file")
        return None
    if storage.exists(storage.join(output_dir, records.MANIFEST)):
        manifest = records.read_manifest(output_dir)
        # As JSON has it: what was read back cannot hold a tuple.
        made, wanted = manifest.recipe, json.loads(json.dumps(recipe))
        if made != wanted:
            differences = ", ".join(
                f"{key} {made.get(key)} there, {wanted.get(key)} here"
                for key in sorted(made.keys() | wanted.keys())
                if made.get(key) != wanted.get(key)
            )
            raise ValueError(
                f"{output_dir} holds a finished data set, made with other options or photos "
                f"({differences}); choose another output_dir, or remove that one first"
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
    """Hold the folder for one job, and remove what another job left half-done in it.

    Args:
        output_dir: made if missing.
        recipe: of the job.
        state: of its input (`Catalog.state`): when files have changed, shards are made anew.

    Yields:
        The job's work folder. It outlives a failure, for the next run to go on from.

    Raises:
        ValueError: another job holds the folder, or has finished it since the call of `finished`.
    """
    hidden = storage.join(output_dir, _HIDDEN)
    with contextlib.ExitStack() as stack:
        try:
            stack.enter_context(lock.hold(hidden))
        except BlockingIOError as error:
            raise ValueError(
                f"another job is writing to {output_dir}; wait for it, or choose another "
                f"output_dir (the lock of a job killed on another machine ends after {lock.STALE} "
                "seconds)"
            ) from error
        if storage.exists(storage.join(output_dir, records.MANIFEST)):
            raise ValueError(f"another job has just finished {output_dir}; run the command again")
        job = json.dumps([recipe, state], sort_keys=True).encode()
        work_dir = storage.join(hidden, hashlib.blake2b(job, digest_size=16).hexdigest())
        _remove_others(output_dir, hidden, work_dir)
        if storage.is_local(work_dir):
            os.makedirs(work_dir, exist_ok=True)
        if storage.is_folder(work_dir):  # what killed workers had begun would fill the disk
            for found in storage.files(work_dir, 1):
                if found.name.endswith(".tmp"):
                    storage.remove(storage.join(work_dir, found.name))
        yield work_dir


def log_path(output_dir: str) -> str:
    """Return the path of a local file for the output of the workers."""
    if storage.is_local(output_dir):
        return os.path.join(output_dir, _HIDDEN, "job.log")
    return os.path.join(tempfile.mkdtemp(prefix="prepare-"), "job.log")


def finished_shards(work_dir: str, names: Container[str]) -> set[str]:
    """Return those of `names` that have a result; only its hash shows whether a shard is whole."""
    return {
        name.removesuffix(shard_results.SUFFIX)
        for name, _, _ in storage.files(work_dir, 1)
        if name.endswith(shard_results.SUFFIX) and name.removesuffix(shard_results.SUFFIX) in names
    }


@contextlib.contextmanager
def progress(work_dir: str, plan: Mapping[str, int], kept: Collection[str]) -> Iterator[None]:
    """Show a bar on stderr while the block runs: photos a second, time left, shards done.

    It counts the results in the folder, which works the same on every runner.

    Args:
        work_dir: of the job.
        plan: number of photos in each shard, by its name.
        kept: the shards that an earlier run has made, which must not count as speed.
    """
    stop = threading.Event()

    def watch() -> None:
        done, total = sum(plan[name] for name in kept), sum(plan.values())
        with tqdm.tqdm(total=total, initial=done, unit="photo", desc="prepare") as bar:
            stopped = False
            while not stopped:
                stopped = stop.wait(_LOOK_EVERY[storage.is_local(work_dir)])
                with contextlib.suppress(OSError):  # a bar is not worth a job
                    found = finished_shards(work_dir, plan)
                    bar.set_postfix_str(f"{len(found)}/{len(plan)} shards", refresh=False)
                    bar.update(sum(plan[name] for name in found) - bar.n)

    watcher = threading.Thread(target=watch, daemon=True)
    watcher.start()
    try:
        yield
    finally:
        stop.set()
        watcher.join()


def clean(output_dir: str) -> None:
    """Remove all that is not part of the data set."""
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
