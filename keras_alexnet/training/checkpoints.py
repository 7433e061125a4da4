"""Checkpoints of a run: written whole or not at all, proven by their sha256 when read.

    RUN/checkpoints/epoch-0003/               after three epochs (renamed into place)
    RUN/checkpoints/epoch-0003-step-000120/   and 120 steps of the fourth
        weights.npz       one array a variable of the network, "conv1/kernel" ...
        averages.npz      the moving average of those that are trained, if the run keeps one
        optimizer.npz     the optimizer's variables, in its order
        state.json        place, plateau, the metrics so far, sha256 of the others

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
from typing import NamedTuple

import keras
import numpy as np

from data_prep import files
from keras_alexnet import columns
from keras_alexnet.network import keras_compat
from keras_alexnet.training import schedules, update_rules

METRICS = "metrics.jsonl"
TIMINGS = "timings.jsonl"
_CHECKPOINTS = "checkpoints"
_NAME = re.compile(r"epoch-(\d{4,})(?:-step-(\d{6,}))?")
_ABANDONED = re.compile(r"\.epoch-\d{4,}(-step-\d{6,})?\..*\.tmp")  # see files.new_folder
_WEIGHTS, _AVERAGES, _OPTIMIZER = "weights.npz", "averages.npz", "optimizer.npz"
_STATE = "state.json"


class Place(NamedTuple):
    """The next epoch of a run, and the next step in it."""

    epoch: int
    step: int = 0


_START = Place(0)


@dataclasses.dataclass
class RunState:
    """The place where a run goes on, and its figures so far.

    Attributes:
        place: the next epoch and step.
        totals: sums over the steps of an epoch that is not whole yet, as `steps.SUMS`.
        learning_rate: at the start of that epoch.
        history: metrics, one dict per epoch; the same whenever and wherever the run is made.
        timings: wall-clock metrics, one dict per epoch.
    """

    place: Place = _START
    totals: Sequence[float] = ()
    learning_rate: float | None = None
    history: list[dict] = dataclasses.field(default_factory=list)
    timings: list[dict] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Checkpoint:
    """Everything needed to resume a run.

    Attributes:
        state: of the run.
        weights: by "layer/variable".
        optimizer: the optimizer's variables, in its order.
        schedule: state of the learning-rate schedule, or None.
        averages: the averages of the trained weights, by the same names; empty if none are kept.
    """

    state: RunState
    weights: Mapping[str, np.ndarray]
    optimizer: Sequence[np.ndarray]
    schedule: Mapping[str, object] | None = None
    averages: Mapping[str, np.ndarray] = dataclasses.field(default_factory=dict)


def write(workdir: str, checkpoint: Checkpoint, keep: int = 2) -> None:
    """Write a checkpoint, then the metrics, then remove checkpoints that are not needed.

    A crash between any two of these leaves a folder from which the run goes on. The last `keep`
    checkpoints, the last of a whole epoch and the best stay.

    Raises:
        OSError: the disk is full; the checkpoints before are as they were.
    """
    run = checkpoint.state
    path = _path(workdir, run.place)
    for name in _names(workdir):  # of a run killed in here: up to half a gigabyte
        if _ABANDONED.fullmatch(name):
            shutil.rmtree(os.path.join(workdir, _CHECKPOINTS, name))
    if os.path.isdir(path):  # a broken one, or read would have gone on from it
        shutil.rmtree(path)
    arrays = {
        _WEIGHTS: checkpoint.weights,
        _AVERAGES: checkpoint.averages,
        _OPTIMIZER: {f"{index:04d}": array for index, array in enumerate(checkpoint.optimizer)},
    }
    with files.new_folder(path) as folder:
        state = {
            **run.place._asdict(),
            "schedule": checkpoint.schedule,
            "totals": list(run.totals),
            "learning_rate": run.learning_rate,
            "history": run.history,
            "timings": run.timings,
            "sha256": {
                name: _write_arrays(os.path.join(folder, name), content)
                for name, content in arrays.items()
                if content
            },
        }
        state["sha256_of_state"] = _digest(state)
        files.write_file(os.path.join(folder, _STATE), json.dumps(state, indent=1) + "\n")
    write_metrics(workdir, run)
    _remove_old(workdir, run.history, keep)


@dataclasses.dataclass(frozen=True)
class RunWriter:
    """A writer of checkpoints of one model.

    Attributes:
        workdir: the run's folder.
        network: the AlexNet inside the model.
        model: the model that is trained, its optimizer built.
        plateau: the schedule whose state must survive, or None.
        keep: number of the last checkpoints to keep.
    """

    workdir: str
    network: keras.Model
    model: keras.Model
    plateau: schedules.Plateau | None
    keep: int

    def write(self, state: RunState) -> None:
        """Write a checkpoint of the state, or raise an OSError if the disk is full, say."""
        network, trained = self.network, self.model.trainable_variables
        averages = update_rules.averages_of(self.model.optimizer)
        checkpoint = Checkpoint(
            state=state,
            weights=columns.read_weights(network),
            averages=columns.named_values(network, trained, averages) if averages else {},
            optimizer=[v.numpy() for v in keras_compat.optimizer_state(self.model.optimizer)],
            schedule=self.plateau.state if self.plateau else None,
        )
        try:
            write(self.workdir, checkpoint, self.keep)
        except OSError as error:
            raise OSError(
                error.errno,
                f"the checkpoint after {state.place.epoch} epochs and {state.place.step} steps "
                f"cannot be written ({error.strerror or error}); the one before is whole: make "
                "room and run the same command again",
                self.workdir,
            ) from error

    def restore(self, checkpoint: Checkpoint) -> None:
        """Restore all that decides the next step; raise a ValueError if the model is another."""
        columns.assign_weights(self.network, checkpoint.weights)
        variables = keras_compat.optimizer_state(self.model.optimizer)
        shapes = [tuple(variable.shape) for variable in variables]
        found = [array.shape for array in checkpoint.optimizer]
        if shapes != found:
            raise ValueError(
                f"an optimizer with {len(found)} variables is needed to go on from the checkpoint "
                f"in {self.workdir}, but the flags make another, with {len(shapes)}; go on with "
                f"the flags of the run's flags.txt"
            )
        for variable, value in zip(variables, checkpoint.optimizer, strict=True):
            variable.assign(value)
        if self.plateau and checkpoint.schedule:
            self.plateau.state = checkpoint.schedule


def write_metrics(workdir: str, run: RunState) -> None:
    """Write metrics.jsonl and timings.jsonl whole: neither ahead of the checkpoint nor behind."""
    for name, lines in ((METRICS, run.history), (TIMINGS, run.timings)):
        text = "".join(json.dumps(line) + "\n" for line in lines)
        files.write_file(os.path.join(workdir, name), text)


def read(workdir: str, which: str = "newest") -> Checkpoint | None:
    """Return a checkpoint that is whole.

    One whose bytes are not those that were written is passed over with a warning, and the next
    older one is taken; None if none is left.

    Args:
        workdir: folder of a run.
        which: "newest", possibly within an epoch; "last", of a whole epoch; or "best", of the epoch
            with the best validation top-1.
    """
    places = _places(workdir)[::-1]
    if which != "newest":
        places = [place for place in places if not place.step]
    if which == "best" and places:
        states = (_read_state(_path(workdir, place)) for place in places)
        newest = next(filter(None, states), None)
        best = best_of(newest["history"])["epoch"] if newest else None
        places.sort(key=lambda place: place.epoch != best)  # stable: the newest come after it
    for place in places:
        try:
            return _read_whole(_path(workdir, place), place)
        except _BrokenError as error:
            print(f"warning: {error} is not as it was written; passed over", file=sys.stderr)
    return None


class _BrokenError(Exception):
    """The path of a file of a checkpoint that is not as it was written."""


def _read_whole(path: str, place: Place) -> Checkpoint:
    state = _read_state(path)
    if not state:
        raise _BrokenError(os.path.join(path, _STATE))
    # What is empty has no file.
    arrays: dict[str, dict[str, np.ndarray]] = {_WEIGHTS: {}, _AVERAGES: {}, _OPTIMIZER: {}}
    for name, digest in state["sha256"].items():
        try:
            with open(os.path.join(path, os.path.basename(name)), "rb") as file:
                content = file.read()
        except OSError:
            content = b""
        if hashlib.sha256(content).hexdigest() != digest:
            raise _BrokenError(os.path.join(path, name))
        with np.load(io.BytesIO(content), allow_pickle=False) as archive:
            arrays[name] = {key: archive[key] for key in archive.files}
    return Checkpoint(
        state=RunState(
            place,
            **{name: state[name] for name in ("totals", "learning_rate", "history", "timings")},
        ),
        weights=arrays[_WEIGHTS],
        averages=arrays[_AVERAGES],
        optimizer=[arrays[_OPTIMIZER][key] for key in sorted(arrays[_OPTIMIZER])],
        schedule=state["schedule"],
    )


def _read_state(path: str) -> dict | None:
    try:
        with open(os.path.join(path, _STATE), encoding="utf-8") as file:
            state = json.load(file)
        digest = state.pop("sha256_of_state")
    except (OSError, ValueError, AttributeError, KeyError):
        return None
    return state if digest == _digest(state) else None


def _digest(state: Mapping[str, object]) -> str:
    return hashlib.sha256(json.dumps(state, sort_keys=True).encode()).hexdigest()


def _places(workdir: str) -> list[Place]:
    """Return the places that have a checkpoint's folder, ascending."""
    matches = filter(None, map(_NAME.fullmatch, _names(workdir)))
    return sorted(Place(int(match[1]), int(match[2] or 0)) for match in matches)


def _names(workdir: str) -> list[str]:
    folder = os.path.join(workdir, _CHECKPOINTS)
    return os.listdir(folder) if os.path.isdir(folder) else []


def _remove_old(workdir: str, history: Sequence[Mapping[str, object]], keep: int) -> None:
    places = _places(workdir)
    kept = {*places[-keep:], *[place for place in places if not place.step][-1:]}
    if history:
        kept.add(Place(best_of(history)["epoch"]))
    for place in places:
        if place not in kept:
            shutil.rmtree(_path(workdir, place))


def _path(workdir: str, place: Place) -> str:
    name = f"epoch-{place.epoch:04d}" + (f"-step-{place.step:06d}" if place.step else "")
    return os.path.join(workdir, _CHECKPOINTS, name)


def best_of(history: Sequence[Mapping[str, object]]) -> Mapping[str, object]:
    """Return the metrics of the epoch with the highest val_top1; the earliest of equals."""
    return max(history, key=lambda metrics: (metrics["val_top1"], -metrics["epoch"]))


def _write_arrays(path: str, arrays: Mapping[str, np.ndarray]) -> str:
    """Write an .npz file and return its sha256."""
    with open(path, "w+b") as file:
        np.savez(file, **arrays)
        file.seek(0)
        return hashlib.file_digest(file, "sha256").hexdigest()
