"""The folder of a training run.

run.json                      profile, options, classes, data set; the code's version
flags.txt                     the flags the run was begun with, as a --flagfile
statistics/                   of the train split, so that a model needs no data set to be used
checkpoints/                  see checkpoints.py
metrics.jsonl                 one line an epoch, as the last checkpoint has them
timings.jsonl                 the same for wall-clock metrics: photos a second, seconds
skipped/                      with --skip_bad_records: shards without their broken records
tensorboard/
"""

import dataclasses
import importlib.metadata
import json
import os
import platform
import subprocess
import sys
from collections.abc import Mapping

import keras
import tensorflow as tf

from data_prep import files, records
from keras_alexnet.network import variables
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import checkpoints
from keras_alexnet.training.options import RunOptions, flags_behind

RUN = "run.json"
FLAGS_TEXT = "flags.txt"
TENSORBOARD = "tensorboard"
SKIPPED = "skipped"
_STATISTICS = "statistics"
_VERSION = "version"  # recorded in run.json but ignored when comparing runs
_USUAL = RunOptions()


@dataclasses.dataclass(frozen=True)
class TrainedRun:
    """A trained network and everything needed to use it.

    Attributes:
        model: from network input, float32 [N, S, S, 3], to softmax, float32 [N, classes].
        profile: of the network.
        classes: in the order of their labels.
        statistics: of the train split.
        description: JSON-able: workdir, profile, epoch, top1, top5 of that epoch's validation,
            manifest_sha256 of the data set, precision.
    """

    model: keras.Model
    profile: Profile
    classes: tuple[records.ClassName, ...]
    statistics: records.Statistics
    description: Mapping[str, object]


def start(
    workdir: str,
    run: Mapping[str, object],
    data_dir: str,
    run_options: RunOptions = _USUAL,
) -> None:
    """Make a folder the run's, or check that it is already.

    Args:
        workdir: local folder; made if absent.
        run: JSON-able; everything that decides what the run computes. Its "version" may differ.
        data_dir: the data set whose statistics are kept with the run.
        run_options: its `allow_changed_flags` may differ from those that the run began with; the
            folder then gets the new ones. Its `flags_text` is the content of flags.txt.

    Raises:
        ValueError: the folder belongs to another run (the differences are named), or holds
            something else.
    """
    path = os.path.join(workdir, RUN)
    asked = json.loads(json.dumps(run))
    if is_run(workdir):
        ours = read_run(workdir)
        differences = _differences(ours, asked)
        allowed = set(run_options.allow_changed_flags)
        if refused := sorted(name for name in differences if not flags_behind(name) & allowed):
            named = (
                f"{name}: there {differences[name][0]}, asked for {differences[name][1]}"
                for name in refused
            )
            causes = sorted({min(flags_behind(name)) for name in refused})
            raise ValueError(
                f"{workdir} holds a run with other settings ({'; '.join(named)}); go on with the "
                "same settings, name another workdir, or allow it with "
                f"allow_changed_flags={','.join(causes)}"
            )
        before, now = ours.get(_VERSION), asked.get(_VERSION)
        if before != now:
            print(
                f"note: the run was begun with other code, {before}, than this, {now}: it goes "
                "on, but not bit for bit as it would have",
                file=sys.stderr,
            )
        if not differences:
            return
    else:
        _make(workdir, data_dir)
    # run.json last: with it the folder is a run's.
    files.write_file(os.path.join(workdir, FLAGS_TEXT), run_options.flags_text)
    files.write_file(path, json.dumps(asked, indent=1, sort_keys=True) + "\n")


def _make(workdir: str, data_dir: str) -> None:
    # A start that was killed leaves these behind.
    left = [
        name
        for name in (os.listdir(workdir) if os.path.isdir(workdir) else [])
        if name not in (_STATISTICS, SKIPPED, FLAGS_TEXT)
        and not (name.startswith((RUN, FLAGS_TEXT)) and name.endswith(".tmp"))
    ]
    if left:
        raise ValueError(
            f"an empty or absent folder is needed for a new run, but {workdir} holds other "
            f"files; name another workdir"
        )
    try:
        os.makedirs(os.path.join(workdir, _STATISTICS), exist_ok=True)
    except OSError as error:
        raise ValueError(f"the workdir {workdir} cannot be made: {error.strerror}") from error
    for name in (records.STATISTICS, records.MEAN_IMAGE):
        with tf.io.gfile.GFile(os.path.join(data_dir, name), "rb") as file:
            files.write_file(os.path.join(workdir, name), file.read())


def _differences(ours: object, asked: object, name: str = "") -> dict[str, tuple[object, object]]:
    """Return the leaves in which two JSON values differ: by name, both values."""
    if isinstance(ours, dict) and isinstance(asked, dict):
        return {
            leaf: values
            for key in {*ours, *asked} - {_VERSION}
            for leaf, values in _differences(
                ours.get(key), asked.get(key), f"{name}.{key}" if name else key
            ).items()
        }
    return {} if ours == asked else {name: (ours, asked)}


def is_run(workdir: str) -> bool:
    """Return whether a folder is a run's already."""
    return os.path.exists(os.path.join(workdir, RUN))


def read_run(workdir: str) -> dict[str, object]:
    """Return the content of run.json.

    Raises:
        ValueError: there is none, or it is broken.
    """
    path = os.path.join(workdir, RUN)
    try:
        with open(path, encoding="utf-8") as file:
            return json.load(file)
    except (OSError, ValueError) as error:
        raise ValueError(
            f"a folder made by keras_alexnet.train is needed, but {path} cannot be read "
            f"({type(error).__name__}); train first, or check the path"
        ) from error


def load_run(workdir: str, checkpoint: str = "best") -> TrainedRun:
    """Load a trained network from its folder.

    Args:
        workdir: folder of a run.
        checkpoint: "best" (by validation top-1) or "last".

    Raises:
        ValueError: no run, or no whole checkpoint.
    """
    run = read_run(workdir)
    found = checkpoints.read(workdir, checkpoint)
    if found is None:
        raise ValueError(
            f"a finished epoch is needed, but {workdir} has no whole checkpoint; "
            f"run keras_alexnet.train with this workdir first"
        )
    profile = Profile.from_dict(run["profile"])
    classes = tuple(records.ClassName(**entry) for entry in run["classes"])
    model = AlexNet(profile=profile, classes=len(classes))
    variables.assign(model, {**found.weights, **found.averages})
    metrics = found.state.history[-1]
    description = {
        "workdir": os.path.abspath(workdir),
        "profile": run["profile"],
        "epoch": found.state.place.epoch,
        "top1": metrics["val_top1"],
        "top5": metrics["val_top5"],
        "manifest_sha256": run["manifest_sha256"],
        "precision": run["options"]["precision"],
    }
    return TrainedRun(model, profile, classes, records.read_statistics(workdir), description)


def code_version() -> dict[str, str | None]:
    """Return the versions of keras_alexnet, tensorflow, keras and python, and the commit.

    The commit is the checkout's, "+" behind it where files differ; None outside of one.
    """
    try:
        version = importlib.metadata.version("keras-alexnet")
    except importlib.metadata.PackageNotFoundError:  # run from a folder, not installed
        version = None
    commit = _git("rev-parse", "HEAD")
    if _git("ls-files", "--error-unmatch", os.path.basename(__file__)) is None:
        commit = None  # no git, or a checkout of something else around an installed package
    elif _git("status", "--porcelain", "--untracked-files=no"):
        commit = f"{commit}+"
    return {
        "keras_alexnet": version,
        "commit": commit,
        "tensorflow": tf.__version__,
        "keras": keras.__version__,
        "python": platform.python_version(),
    }


def _git(*arguments: str) -> str | None:
    command = ["git", "-C", os.path.dirname(os.path.abspath(__file__)), *arguments]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False)
    except OSError:
        return None
    return done.stdout.strip() if done.returncode == 0 else None
