"""What a training run keeps in its folder, and how it is read back.

    run.json                      what the run is: profile, options, classes, data set
    statistics/                   of the train split, so that a model needs no data set to be used
    checkpoints/epoch-0003/       after three epochs, whole or not there (renamed into place)
        weights.npz               one array a variable of the network, "conv1/kernel" ...
        optimizer.npz             the optimizer's variables, in its order
        state.json                epoch, plateau, the metrics so far, sha256 of the two files
    metrics.jsonl                 one line an epoch, as the last checkpoint has them
    tensorboard/

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

from data_prep import files, records
from data_prep.command_line import UserError
from keras_alexnet.model import AlexNet
from keras_alexnet.profiles import Profile

RUN = "run.json"
METRICS = "metrics.jsonl"
TENSORBOARD = "tensorboard"
_CHECKPOINTS = "checkpoints"
_CHECKPOINT = re.compile(r"epoch-(\d{4,})")
_WEIGHTS, _OPTIMIZER, _STATE = "weights.npz", "optimizer.npz", "state.json"


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained network and what is needed to use it.

    Attributes:
        model: network input float32 [N, S, S, 3] -> softmax float32 [N, classes].
        profile: of the network.
        classes: in the order of their labels.
        statistics: of the photos it was trained on.
        description: JSON-able: workdir, profile, epoch, top1, top5 of that epoch's validation,
            manifest_sha256 of the data set, precision.
    """

    model: keras.Model
    profile: Profile
    classes: tuple[records.ClassName, ...]
    statistics: records.Statistics
    description: Mapping[str, object]


def start(workdir: str, run: Mapping[str, object], data_dir: str) -> None:
    """Makes a folder the run's, or finds that it is already.

    Args:
        workdir: local folder; made if absent.
        run: JSON-able; all that decides what the run computes.
        data_dir: the data set whose statistics are kept with the run.

    Raises:
        UserError: the folder belongs to another run (the differences are named), or holds
            something else.
    """
    path = os.path.join(workdir, RUN)
    if os.path.exists(path):
        _refuse_other(workdir, read_run(workdir), json.loads(json.dumps(run)))
        return
    if os.path.isdir(workdir) and any(name != "statistics" for name in os.listdir(workdir)):
        raise UserError(
            f"an empty or absent folder is needed for a new run, but {workdir} holds other "
            f"files; name another --workdir"
        )
    try:
        os.makedirs(os.path.join(workdir, "statistics"), exist_ok=True)
    except OSError as error:
        raise UserError(f"--workdir={workdir} cannot be made: {error.strerror}") from error
    for name in (records.STATISTICS, records.MEAN_IMAGE):
        with open(os.path.join(data_dir, name), "rb") as file:
            files.write_file(os.path.join(workdir, name), file.read())
    files.write_file(path, json.dumps(run, indent=1, sort_keys=True) + "\n")


def _refuse_other(workdir: str, ours: Mapping[str, object], asked: Mapping[str, object]) -> None:
    differences = sorted(_differences(ours, asked))
    if differences:
        raise UserError(
            f"{workdir} holds a run with other settings ({'; '.join(differences)}); "
            f"go on with the same settings, or name another --workdir"
        )


def _differences(ours: object, asked: object, name: str = "") -> list[str]:
    """The leaves in which two JSON values differ, as 'name: ours -> asked'."""
    if isinstance(ours, dict) and isinstance(asked, dict):
        return [
            difference
            for key in {*ours, *asked}
            for difference in _differences(
                ours.get(key), asked.get(key), f"{name}.{key}" if name else key
            )
        ]
    return [] if ours == asked else [f"{name}: there {ours}, asked for {asked}"]


def read_run(workdir: str) -> dict[str, object]:
    """The content of run.json.

    Raises:
        UserError: there is none, or it is broken.
    """
    path = os.path.join(workdir, RUN)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise UserError(
            f"a folder made by keras_alexnet.train is needed, but {path} cannot be read "
            f"({type(error).__name__}); train first, or check --workdir"
        ) from error


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


def write_checkpoint(workdir: str, checkpoint: Checkpoint) -> None:
    """Writes a checkpoint, then metrics.jsonl, then drops all but the last two and the best.

    A crash between any two of these leaves a folder from which the run goes on.
    """
    path = _checkpoint_path(workdir, checkpoint.epoch)
    if os.path.isdir(path):  # a broken one, or read_checkpoint would have gone on from it
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
    keep = {*_epochs(workdir)[-2:], _best_epoch(checkpoint.history)}
    for epoch in _epochs(workdir):
        if epoch not in keep:
            shutil.rmtree(_checkpoint_path(workdir, epoch))


def write_metrics(workdir: str, history: Sequence[Mapping[str, object]]) -> None:
    """Writes metrics.jsonl whole: never ahead of, nor behind, what the checkpoint knows."""
    lines = "".join(json.dumps(metrics) + "\n" for metrics in history)
    files.write_file(os.path.join(workdir, METRICS), lines)


def read_checkpoint(workdir: str, which: str = "last") -> Checkpoint | None:
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
        best = _best_epoch(newest["history"]) if newest else None
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


def load_run(workdir: str, checkpoint: str = "best") -> TrainedRun:
    """A trained network from its folder.

    Args:
        workdir: folder of a run.
        checkpoint: "best" (by validation top-1) or "last".

    Raises:
        UserError: no run, or no whole checkpoint.
    """
    run = read_run(workdir)
    found = read_checkpoint(workdir, checkpoint)
    if found is None:
        raise UserError(
            f"a finished epoch is needed, but {workdir} has no whole checkpoint; "
            f"run keras_alexnet.train with this --workdir first"
        )
    profile = Profile.from_dict(run["profile"])
    classes = tuple(records.ClassName(**entry) for entry in run["classes"])
    model = AlexNet(profile=profile, classes=len(classes))
    assign(model, found.weights)
    metrics = found.history[-1]
    description = {
        "workdir": os.path.abspath(workdir),
        "profile": run["profile"],
        "epoch": found.epoch,
        "top1": metrics["val_top1"],
        "top5": metrics["val_top5"],
        "manifest_sha256": run["manifest_sha256"],
        "precision": run["options"]["precision"],
    }
    return TrainedRun(model, profile, classes, records.read_statistics(workdir), description)


def _epochs(workdir: str) -> list[int]:
    """Epochs that have a checkpoint's folder, ascending."""
    folder = os.path.join(workdir, _CHECKPOINTS)
    names = os.listdir(folder) if os.path.isdir(folder) else []
    return sorted(int(match[1]) for match in map(_CHECKPOINT.fullmatch, names) if match)


def _checkpoint_path(workdir: str, epoch: int) -> str:
    return os.path.join(workdir, _CHECKPOINTS, f"epoch-{epoch:04d}")


def _best_epoch(history: Sequence[Mapping[str, object]]) -> int:
    """The epoch (counted from 1) with the highest val_top1; the earliest of equals."""
    return max(history, key=lambda metrics: (metrics["val_top1"], -metrics["epoch"]))["epoch"]


def _write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Writes an .npz file and returns its sha256."""
    with open(path, "w+b") as file:
        np.savez(file, **arrays)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()


def _warn(message: str) -> None:
    print(f"warning: {message}", file=sys.stderr)
