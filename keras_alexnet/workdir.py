"""What a training run keeps in its folder, and how it is read back.

run.json                      what the run is: profile, options, classes, data set
statistics/                   of the train split, so that a model needs no data set to be used
checkpoints/                  see checkpoints.py
metrics.jsonl                 one line an epoch, as the last checkpoint has them
tensorboard/
"""

import dataclasses
import json
import os
from collections.abc import Mapping

import keras

from data_prep import files, records
from data_prep.command_line import UserError
from keras_alexnet import checkpoints
from keras_alexnet.model import AlexNet
from keras_alexnet.profiles import Profile

RUN = "run.json"
TENSORBOARD = "tensorboard"


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
    # A start that was killed leaves these two behind.
    left = [
        name
        for name in (os.listdir(workdir) if os.path.isdir(workdir) else [])
        if name != "statistics" and not (name.startswith(RUN) and name.endswith(".tmp"))
    ]
    if left:
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


def load_run(workdir: str, checkpoint: str = "best") -> TrainedRun:
    """A trained network from its folder.

    Args:
        workdir: folder of a run.
        checkpoint: "best" (by validation top-1) or "last".

    Raises:
        UserError: no run, or no whole checkpoint.
    """
    run = read_run(workdir)
    found = checkpoints.read(workdir, checkpoint)
    if found is None:
        raise UserError(
            f"a finished epoch is needed, but {workdir} has no whole checkpoint; "
            f"run keras_alexnet.train with this --workdir first"
        )
    profile = Profile.from_dict(run["profile"])
    classes = tuple(records.ClassName(**entry) for entry in run["classes"])
    model = AlexNet(profile=profile, classes=len(classes))
    checkpoints.assign(model, found.weights)
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
