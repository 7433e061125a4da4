"""Checkpoints of a run: written whole or not at all, proven by their sha256 when read.

    RUN/checkpoints/epoch-0003/   after three epochs (renamed into place)
        weights.npz               one array a variable of the network, "conv1/kernel" ...
        optimizer.npz             the optimizer's variables, in its order
        state.json                epoch, plateau, the metrics so far, sha256 of the two files

Arrays by name, in NumPy's own format without pickle: both Keras generations read them, and no
byte of a checkpoint is ever executed.
"""

import dataclasses
import hashlib
import io
import json
import os
import re
import shutil
import sys
from collections.abc import Mapping, Sequence

import keras
import numpy as np

from data_prep import files
from data_prep.command_line import UserError

METRICS = "metrics.jsonl"
_CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(r"epoch-(\d{4,})")
_ABANDONED = re.compile(r"\.epoch-\d{4,}\..*\.tmp")  # see files.new_folder
_WEIGHTS, _OPTIMIZER, _STATE = "weights.npz", "optimizer.npz", "state.json"


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """What is known after some epochs.

    Attributes:
        epoch: how many epochs are done.
        weights: by "layer/variable".
        optimizer: the optimizer's variables, in its order.
        schedule: state of the learning-rate policy, or None.
        history: a dict of metrics an epoch.
    """

    epoch: int
    weights: Mapping[str, np.ndarray]
    optimizer: Sequence[np.ndarray]
    schedule: Mapping[str, object] | None
    history: Sequence[Mapping[str, object]]


def write(workdir: str, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, then metrics.jsonl, then drops all but the last two and the best.

    A crash between any two of these leaves a folder from which the run goes on.
    """
    path = _checkpoint_path(workdir, checkpoint.epoch)
    _remove_abandoned(workdir)
    if os.path.isdir(path):  # a broken one, or read would have gone on from it
        shutil.rmtree(path)
    with files.new_folder(path) as folder:
        hashes = {
            _WEIGHTS: _write_arrays(os.path.join(folder, _WEIGHTS), checkpoint.weights),
            _OPTIMIZER: _write_arrays(
                os.path.join(folder, _OPTIMIZER),
                {f"{index:04d}": array for index, array in enumerate(checkpoint.optimizer)},
            ),
        }
        state = {
            "epoch": checkpoint.epoch,
            "schedule": checkpoint.schedule,
            "history": list(checkpoint.history),
            "sha256": hashes,
        }
        files.write_file(os.path.join(folder, _STATE), json.dumps(state, indent=1) + "\n")
    write_metrics(workdir, checkpoint.history)
    keep = {*_epochs(workdir)[-2:], best_of(checkpoint.history)["epoch"]}
    for epoch in _epochs(workdir):
        if epoch not in keep:
            shutil.rmtree(_checkpoint_path(workdir, epoch))


def write_metrics(workdir: str, history: Sequence[Mapping[str, object]]) -> None:
    """Writes metrics.jsonl whole: never ahead of, nor behind, what the checkpoint knows."""
    lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
    files.write_file(os.path.join(workdir, METRICS), lines)


def read(workdir: str, which: str = "last") -> Checkpoint | None:
    """The newest whole checkpoint, or the one with the best validation top-1.

    A checkpoint whose bytes are not those that were written is passed over with a warning.

    Args:
        workdir: folder of a run.
        which: "last" or "best".

    Returns:
        None when there is no whole checkpoint.
    """
    epochs = _epochs(workdir)[::-1]
    if which == "best" and epochs:
        newest = next(filter(None, (_read_state(workdir, epoch) for epoch in epochs)), None)
        best = best_of(newest["history"])["epoch"] if newest else None
        epochs.sort(key=lambda epoch: epoch != best)  # stable: the newest come after the best
    for epoch in epochs:
        checkpoint = _read_whole(workdir, epoch)
        if checkpoint:
            return checkpoint
    return None


def _read_whole(workdir: str, epoch: int) -> Checkpoint | None:
    state = _read_state(workdir, epoch)
    path = _checkpoint_path(workdir, epoch)
    arrays = {}
    for name in (_WEIGHTS, _OPTIMIZER):
        try:
            with open(os.path.join(path, name), "rb") as file:
                content = file.read()
        except OSError:
            content = b""
        if not state or hashlib.sha256(content).hexdigest() != state["sha256"][name]:
            _warn(f"{os.path.join(path, name)} is not as it was written; passed over")
            return None
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays[name] = {key: archive[key] for key in archive.files}
    return Checkpoint(
        epoch=state["epoch"],
        weights=arrays[_WEIGHTS],
        optimizer=[arrays[_OPTIMIZER][key] for key in sorted(arrays[_OPTIMIZER])],
        schedule=state["schedule"],
        history=state["history"],
    )


def _read_state(workdir: str, epoch: int) -> dict | None:
    try:
        with open(os.path.join(_checkpoint_path(workdir, epoch), _STATE), encoding="utf-8") as file:
            state = json.load(file)
        return state if {"epoch", "schedule", "history", "sha256"} <= state.keys() else None
    except (OSError, ValueError, AttributeError):
        return None


def named_variables(model: keras.Model) -> dict[str, object]:
    """The variables of a network by "layer/variable": the names a checkpoint has.

    State that is no weight, a dropout's step for example, is among them.
    """
    return {
        # "kernel" under Keras 3, "conv1/kernel:0" under Keras 2
        f"{layer.name}/{variable.name.split('/')[-1].split(':')[0]}": variable
        for layer in model.layers
        for variable in layer.variables
    }


def assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Sets a network's variables from a checkpoint's.

    Raises:
        UserError: a name or a shape differs; the first one is named.
    """
    variables = named_variables(model)
    for name in sorted({*variables, *weights}):
        wanted = tuple(variables[name].shape) if name in variables else "nothing"
        found = weights[name].shape if name in weights else "nothing"
        if wanted != found:
            raise UserError(f"{name}: the network has {wanted}, the checkpoint {found}")
        variables[name].assign(weights[name])


def _epochs(workdir: str) -> list[int]:
    """Epochs that have a checkpoint's folder, ascending."""
    folder = os.path.join(workdir, _CHECKPOINTS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match)


def _remove_abandoned(workdir: str) -> None:
    """Drops what a run that was killed inside of `write` had put aside: up to half a gigabyte."""
    folder = os.path.join(workdir, _CHECKPOINTS)
    for name in os.listdir(folder) if os.path.isdir(folder) else []:
        if _ABANDONED.fullmatch(name):
            shutil.rmtree(os.path.join(folder, name))


def _checkpoint_path(workdir: str, epoch: int) -> str:
    return os.path.join(workdir, _CHECKPOINTS, f"epoch-{epoch:04d}")


def best_of(history: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    """The metrics of the epoch with the highest val_top1; the earliest of equals."""
    return max(history, key=lambda metrics: (metrics["val_top1"], -metrics["epoch"]))


def _write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Writes an .npz file and returns its sha256."""
    with open(path, "w+b") as file:
        np.savez(file, **arrays)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
