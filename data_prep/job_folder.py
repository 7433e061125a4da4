"""The output folder while a job fills it: whose it is, who holds it, what an earlier run left.

    OUTPUT/.prepare/lock       held by the job that runs
    OUTPUT/.prepare/job.log    what its workers said
    OUTPUT/.prepare/RECIPE/    plans and results of the shards (see `shards`); RECIPE is a hash

Nothing is ever deleted but this folder and shards that a result in it names.
"""

import contextlib
import fcntl
import hashlib
import json
import os
import re
import shutil
import sys
import threading
from collections.abc import Collection, Iterator, Mapping

import tqdm

from data_prep import files, records, shards
from data_prep.command_line import UserError

_HIDDEN = ".prepare"
_SHARD_NAME = re.compile(rf"({'|'.join(records.SPLITS)})-\d{{5}}-of-\d{{5}}")


def finished(output_dir: str, recipe: Mapping[str, object]) -> records.Manifest | None:
    """The manifest of the data set that `recipe` makes, if it is already in the folder.

    Args:
        output_dir: local path; may be missing.
        recipe: that of the manifest to be.

    Raises:
        UserError: the folder holds another data set, or files that no job of ours has put there.
    """
    if not os.path.lexists(output_dir):
        return None
    if not os.path.isdir(output_dir):
        raise UserError(f"--output_dir must be a folder; {output_dir} is a file")
    if os.path.exists(os.path.join(output_dir, records.MANIFEST)):
        manifest = records.read_manifest(output_dir)
        # As JSON has it: what was read back cannot hold a tuple.
        if manifest.recipe != json.loads(json.dumps(recipe)):
            raise UserError(
                f"{output_dir} holds a finished data set, made with other options or photos "
                f"({_differences(manifest.recipe, recipe)}); choose another --output_dir, or "
                "remove that one first"
            )
        return manifest
    visible = [name for name in os.listdir(output_dir) if not name.startswith(".")]
    if visible and not os.path.isdir(os.path.join(output_dir, _HIDDEN)):
        raise UserError(
            f"--output_dir must be new, empty or of an earlier run of prepare; {output_dir} holds "
            f"{min(visible)}; choose another"
        )
    return None


@contextlib.contextmanager
def claim(output_dir: str, recipe: Mapping[str, object]) -> Iterator[str]:
    """Holds the folder for one job; what a job with another recipe left half-done is removed.

    Args:
        output_dir: local path; made if missing.
        recipe: of the job.

    Yields:
        The work folder of `recipe`. It outlives a failure, for the next run to go on from.

    Raises:
        UserError: another job holds the folder, or has finished it since `finished` was asked.
    """
    hidden = os.path.join(output_dir, _HIDDEN)
    os.makedirs(hidden, exist_ok=True)
    with open(os.path.join(hidden, "lock"), "w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            raise UserError(
                f"another job is writing to {output_dir}; wait for it, or choose another "
                "--output_dir"
            ) from error
        if os.path.exists(os.path.join(output_dir, records.MANIFEST)):
            raise UserError(f"another job has just finished {output_dir}; run the command again")
        name = hashlib.blake2b(json.dumps(recipe, sort_keys=True).encode(), digest_size=16)
        work_dir = os.path.join(hidden, name.hexdigest())
        _remove_others(output_dir, hidden, work_dir)
        os.makedirs(work_dir, exist_ok=True)
        yield work_dir


def log_path(output_dir: str) -> str:
    """The file for what the workers say."""
    return os.path.join(output_dir, _HIDDEN, "job.log")


@contextlib.contextmanager
def progress(work_dir: str, names: Collection[str]) -> Iterator[None]:
    """A bar on stderr over the shards, while the block runs.

    It counts the results in the folder, which is the same on every runner.

    Args:
        work_dir: of the job.
        names: of all shards.
    """
    stop = threading.Event()

    def count() -> int:
        return sum(name.endswith(shards.RESULT_SUFFIX) for name in os.listdir(work_dir))

    def watch() -> None:
        with tqdm.tqdm(total=len(names), initial=count(), unit="shard", desc="prepare") as bar:
            while not stop.wait(0.5):
                bar.update(count() - bar.n)
            bar.update(count() - bar.n)

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
    aside = os.path.join(work_dir, os.path.basename(name))
    path = os.path.join(output_dir, name)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_file(aside, data)
    os.replace(aside, path)
    files.sync_folder(os.path.dirname(path))
    return hashlib.sha256(data).hexdigest()


def clean(output_dir: str) -> None:
    """Removes all that is not part of the data set."""
    shutil.rmtree(os.path.join(output_dir, _HIDDEN), ignore_errors=True)


def _remove_others(output_dir: str, hidden: str, work_dir: str) -> None:
    for entry in os.scandir(hidden):
        if not entry.is_dir(follow_symlinks=False) or entry.path == work_dir:
            continue
        print(
            f"prepare: {output_dir} holds the shards of an unfinished job with other options or "
            "photos; they are made anew",
            file=sys.stderr,
        )
        for result in os.listdir(entry.path):
            name = result.removesuffix(shards.RESULT_SUFFIX)
            if name != result and _SHARD_NAME.fullmatch(name):
                with contextlib.suppress(FileNotFoundError):
                    os.unlink(os.path.join(output_dir, name))
        # Also stops a worker that outlived its killed job: it finds no file left to rename.
        shutil.rmtree(entry.path)


def _differences(made: Mapping[str, object], wanted: Mapping[str, object]) -> str:
    """The options that differ, such as "quality 90 there, 95 here"."""
    return ", ".join(
        f"{key} {made.get(key)} there, {wanted.get(key)} here"
        for key in sorted(made.keys() | wanted.keys())
        if made.get(key) != wanted.get(key)
    )
