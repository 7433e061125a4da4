"""Set the preflight's verdicts beside the truth: which settings learn, and what it says beforehand.

Trains every setting for a while, measures each as the preflight does, and prints the verdicts
beside what was learned, as Markdown. Each run (a setting, a data set, a seed) adds a line of JSON
to truth.jsonl and to measures.jsonl in --work_dir. What is there is not done again: the same
command goes on where it was stopped, and judges anew at once after rules have changed.

Needs two prepared data sets of ten classes (about 3,000 train photos each; --storage=raw is the
fastest to read). Two CPU cores need more than an hour.

The settings are every profile, and the usual mistakes, a quarter as wide as their profile, with
batches of 32, so that hundreds of steps take a minute on two CPU cores. A narrow layer sums fewer
inputs, so weights of the same deviation send less of the photo on: the profiles as `--width=0.25`
has them ("narrow") are harder to train than the real ones. Beside them stand some whose deviations
are enlarged by 1/sqrt(width) behind conv1 ("as wide"): there the photo's share at each layer is
about that of the network of full width.

Example:
  python -m benchmarks.preflight_truth --data_dirs=CIFAR,SHAPES --work_dir=WORK
"""

import collections
import dataclasses
import itertools
import json
import math
import os
import shutil
import sys
import time
from collections.abc import Callable, Iterable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
from absl import flags

from data_prep import command_line, records, tfrecord
from keras_alexnet.inputs import pipeline
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.preflight_checks import measuring, rules
from keras_alexnet.preflight_checks.rules import VERDICTS
from keras_alexnet.training import build, devices
from keras_alexnet.training.options import TrainingOptions
from keras_alexnet.training.steps import TrainingSteps, means

FLAGS = flags.FlagValues()
_DATA_DIRS = flags.DEFINE_list(
    "data_dirs", None, "folders of data_prep.prepare", required=True, flag_values=FLAGS
)
_WORK_DIR = flags.DEFINE_string(
    "work_dir", None, "for results and copies of the data", required=True, flag_values=FLAGS
)
_SEEDS = flags.DEFINE_integer(
    "seeds", 3, "seeds of each setting; 0 trains nothing more", 0, flag_values=FLAGS
)
_SECONDS = flags.DEFINE_float("seconds", 45.0, "a preflight, at most", 1.0, flag_values=FLAGS)

WIDTH = 0.25
BATCH_SIZE = 32
STEPS = 300
EVALUATIONS = 4  # in a run
_CLEARLY = 10  # standard errors of top-1 above chance, twice in a row: no need to go on

Run = tuple[str, str, int]  # setting, data set, seed


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to train.

    Attributes:
        profile: the network.
        rate: what the profile's learning rate is multiplied by.
        data: "as it is", or the mistake in its copy: "no mean" (zeros are subtracted), "shuffled"
            (labels), "train + 1" (labels of the train split), "from 1" (all labels).
    """

    profile: Profile
    rate: float = 1.0
    data: str = "as it is"

    def options(self, seed: int) -> TrainingOptions:
        """Return the profile's recipe; the rate is not lowered in so short a run."""
        return TrainingOptions(
            optimizer=self.profile.optimizer,
            learning_rate=self.profile.learning_rate * self.rate,
            momentum=self.profile.momentum,
            weight_decay=self.profile.weight_decay,
            schedule="constant",
            patience=5,
            epochs=4,
            batch_size=BATCH_SIZE,
            seed=seed,
            precision="bfloat16",
            strategy="one_device",
        )


def _narrow(name: str, **changes) -> Profile:
    return dataclasses.replace(PROFILES[name].scaled(WIDTH), **changes)


def _as_wide(name: str, **changes) -> Profile:
    first, *rest = PROFILES[name].kernel_init
    stds = (first, *(std / math.sqrt(WIDTH) for std in rest))
    return _narrow(name, kernel_init=stds, **changes)


_QUICKSTART = _narrow(  # configs/quickstart.flags
    "paper",
    kernel_init=("he_normal",) * 8,
    bias_init=(0.0,) * 8,
    pixel_scale=0.0167,
    optimizer="adam",
    learning_rate=0.0005,
    weight_decay=0.0,
)
_SGD = dataclasses.replace(_QUICKSTART, optimizer="sgd", learning_rate=0.01)
# The order is that of the runs: those first whose end is least certain.
SETTINGS: Mapping[str, Setting] = {
    "quickstart": Setting(_QUICKSTART),
    "caffe, as wide": Setting(_as_wide("caffe")),
    "paper, as wide": Setting(_as_wide("paper")),
    "paper, as wide, rate / 10": Setting(_as_wide("paper"), rate=0.1),
    "owt, narrow": Setting(_narrow("owt")),
    "seed, narrow": Setting(_narrow("seed")),
    "caffe, as wide, rate * 10": Setting(_as_wide("caffe"), rate=10.0),
    "caffe, as wide, rate / 10": Setting(_as_wide("caffe"), rate=0.1),
    "caffe, as wide, mean not subtracted": Setting(_as_wide("caffe"), data="no mean"),
    "quickstart, sgd 0.01": Setting(_SGD),
    "quickstart, rate / 10": Setting(_QUICKSTART, rate=0.1),
    "quickstart, rate / 1000": Setting(_QUICKSTART, rate=0.001),
    "quickstart, mean not subtracted": Setting(_QUICKSTART, data="no mean"),
    "quickstart, rate * 10": Setting(_QUICKSTART, rate=10.0),
    "krizhevsky2012, narrow": Setting(_narrow("krizhevsky2012")),
    "paper, as wide, unit-sized input": Setting(_as_wide("paper", pixel_scale=1 / 60)),
    "quickstart, shuffled labels": Setting(_QUICKSTART, data="shuffled"),
    "quickstart, train labels + 1": Setting(_QUICKSTART, data="train + 1"),
    "quickstart, labels from 1": Setting(_QUICKSTART, data="from 1"),
    "paper, narrow": Setting(_narrow("paper")),
    "caffe, narrow": Setting(_narrow("caffe")),
    "caffenet, narrow": Setting(_narrow("caffenet")),
}


def _spoiled(examples: list[dict], split: str, mistake: str) -> list[dict]:
    """Return a split's examples with a mistake, a key of `Setting.data`."""
    label = "image/class/label"
    if mistake == "shuffled":  # label, synset and text go to another photo, together
        names = (label, "image/class/synset", "image/class/text")
        order = np.random.default_rng(len(split)).permutation(len(examples))
        others = [{name: examples[other][name] for name in names} for other in order]
        return [example | other for example, other in zip(examples, others, strict=True)]
    classes = 1 + max(example[label] for example in examples)
    if mistake == "train + 1" and split == "train":  # the last class' to the first
        return [example | {label: (example[label] + 1) % classes} for example in examples]
    if mistake == "from 1":  # 0 is kept for the background, under a manifest that says 0
        return [example | {label: example[label] + 1} for example in examples]
    return examples


def copy_data(data_dir: str, output_dir: str, mistake: str) -> None:
    """Copy a data set, with a mistake.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        output_dir: the copy's folder, which must not be there.
        mistake: see `Setting.data`.
    """
    shutil.copytree(data_dir, output_dir)
    if mistake == "no mean":
        path = os.path.join(output_dir, records.MEAN_IMAGE)
        np.save(path, np.zeros_like(np.load(path)))
        return
    for split, content in records.read_manifest(data_dir).splits.items():
        examples, paths = [], []
        for shard in content.shards:
            with open(os.path.join(data_dir, shard.name), "rb") as file:
                examples += map(tfrecord.decode_example, tfrecord.read_records(file))
            paths += [os.path.join(output_dir, shard.name)] * (len(examples) - len(paths))
        spoiled = zip(paths, _spoiled(examples, split, mistake), strict=True)
        for path, part in itertools.groupby(spoiled, key=lambda pair: pair[0]):
            with open(path, "wb") as file:
                for _, example in part:
                    file.write(tfrecord.frame(tfrecord.encode_example(example)))


def train(setting: Setting, data_dir: str, seed: int) -> dict[str, object]:
    """Train for `STEPS` steps, or until there is no doubt.

    Returns:
        steps, losses (cross-entropy, a mean each quarter), top1 (validation, likewise), classes,
        photos (of the validation split), stopped: "" or why the run could not go on.
    """
    manifest = records.read_manifest(data_dir)
    statistics = records.read_statistics(data_dir)
    classes, photos = len(manifest.classes), manifest.splits["validation"].records
    options = setting.options(seed)
    keras.backend.clear_session()
    keras.utils.set_random_seed(seed)
    devices.use_precision(options.precision)
    epoch = pipeline.train_steps(manifest, options.batch_size)
    strategy = devices.make_strategy(options.strategy)
    with strategy.scope():
        _, model = build.build(setting.profile, options, classes, statistics, epoch)
    steps = TrainingSteps(model, strategy, options.batch_size)
    dataset = pipeline.train_dataset(
        data_dir,
        manifest,
        setting.profile,
        pipeline.Feed(options.batch_size, seed, epochs=-(-STEPS // epoch)),
    )
    batches = iter(dataset)
    stored = pipeline.eval_dataset(data_dir, manifest, batch_size=100)
    validation = pipeline.central_views(stored, setting.profile)

    def mean(step: Callable, several: Iterable[tuple]) -> dict[str, float]:
        return means(np.sum([step(batch, tf.constant(0.0)) for batch in several], axis=0))

    bar = 1 / classes + _CLEARLY * standard_error(classes, photos)
    figures = {"classes": classes, "photos": photos, "losses": [], "top1": [], "stopped": ""}
    quarter = STEPS // EVALUATIONS
    for _ in range(EVALUATIONS):
        try:
            trained = mean(steps.train, itertools.islice(batches, quarter))
        except tf.errors.InvalidArgumentError as error:  # labels out of range, loss not finite
            figures["stopped"] = str(error.message).splitlines()[0][:100]
            break
        figures["losses"].append(trained["cross_entropy"])
        figures["top1"].append(mean(steps.validate, validation)["top1"])
        if len(figures["top1"]) > 1 and min(figures["top1"][-2:]) > bar:
            break
    return figures | {"steps": len(figures["top1"]) * quarter}


def standard_error(classes: int, photos: int) -> float:
    """Return the standard error of the top-1 of a network that guesses."""
    return ((1 / classes) * (1 - 1 / classes) / photos) ** 0.5


def measure(setting: Setting, data_dir: str, seed: int) -> dict[str, object]:
    """Measure a run as the preflight does."""
    keras.backend.clear_session()
    options = setting.options(seed)
    measured = measuring.measure(
        data_dir=data_dir, profile=setting.profile, recipe=options, seconds=_SECONDS.value
    )
    return dataclasses.asdict(measured)


def _folders() -> dict[str, str]:
    return {os.path.basename(path): path for path in map(os.path.normpath, _DATA_DIRS.value)}


def _data_of(setting: Setting, data_dir: str) -> str:
    """Return the folder with the data set as the setting has it; make it if it is missing."""
    if setting.data == "as it is":
        return data_dir
    name = f"{os.path.basename(data_dir)} {setting.data}".replace(" ", "_")
    path = os.path.join(_WORK_DIR.value, name)
    if not os.path.exists(path):
        copy_data(data_dir, f"{path}.part", setting.data)
        os.rename(f"{path}.part", path)
    return path


def _complete(file_name: str, runs: Iterable[Run], do: Callable[..., dict]) -> dict[Run, dict]:
    """Return a file's lines by run, after adding those of `runs` that are missing."""
    names = ("setting", "data", "seed")
    path = os.path.join(_WORK_DIR.value, file_name)
    done = {}
    if os.path.exists(path):
        with open(path) as file:
            lines = [json.loads(line) for line in file]
        done = {tuple(line[name] for name in names): line for line in lines}
    for run in (run for run in runs if run not in done):
        name, data, seed = run
        data_dir = _data_of(SETTINGS[name], _folders()[data])
        started = time.perf_counter()
        line = dict(zip(names, run, strict=True)) | do(SETTINGS[name], data_dir, seed)
        line["seconds"] = round(time.perf_counter() - started, 1)
        with open(path, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(f"{do.__name__}: {run}, {line['seconds']} s", file=sys.stderr, flush=True)
        done[run] = line
    return done


def truth_of_run(line: Mapping[str, object]) -> str:
    """Return what validation top-1 says of a run.

    "learns": at the end 5 standard errors of a guess above chance or more, and 3 or more half-way.
    "flat": at the end less than 3 above. "at risk": it began late, or there is little to see.
    """
    top1 = line["top1"]
    if line["stopped"] or not top1:
        return "flat"
    error = standard_error(line["classes"], line["photos"])
    above = [(value - 1 / line["classes"]) / error for value in top1]
    if above[-1] >= 5 and above[min(1, len(above) - 1)] >= 3:
        return "learns"
    return "flat" if above[-1] < 3 else "at risk"


def tables(
    lines: Mapping[Run, Mapping[str, object]], verdicts: Mapping[Run, str]
) -> tuple[str, int]:
    """Return every setting's top-1 at the end, truth and verdicts, and how many agree.

    The truth is "at risk" for all runs of a setting and data set whose seeds differ.
    """
    rows = [
        "| setting | data | top-1 of each seed | truth | verdict of each seed |",
        "|---" * 5 + "|",
    ]
    counts = collections.Counter()
    for name, data in dict.fromkeys(run[:2] for run in lines):
        runs = [run for run in lines if run[:2] == (name, data)]
        truths = {truth_of_run(lines[run]) for run in runs}
        truth = truths.pop() if len(truths) == 1 else "at risk"
        top1 = [lines[run]["top1"][-1:] for run in runs]
        ends = ", ".join(f"{end[0]:.0%}" if end else "stops" for end in top1)
        said = ", ".join(verdicts[run] for run in runs)
        rows.append(f"| {name} | {data} | {ends} | {truth} | {said} |")
        counts.update((truth, verdicts[run]) for run in runs)
    rows += ["", f"| truth \\ verdict | {' | '.join(VERDICTS)} |", "|---|---|---|---|"]
    for truth in VERDICTS:
        rows.append(f"| {truth} | {' | '.join(str(counts[truth, said]) for said in VERDICTS)} |")
    right = sum(counts[verdict, verdict] for verdict in VERDICTS)
    return "\n".join(rows), right


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Train and measure what was not yet, and print the tables."""
    del arguments
    os.makedirs(_WORK_DIR.value, exist_ok=True)
    seeds = range(_SEEDS.value)
    runs = [(name, data, seed) for seed in seeds for name in SETTINGS for data in _folders()]
    lines = _complete("truth.jsonl", runs, train)
    measured = _complete("measures.jsonl", lines, measure)
    verdicts = {}
    for run in lines:
        setting, figures = SETTINGS[run[0]], measured[run]["figures"]
        verdicts[run] = rules.judge(figures, setting.profile, setting.options(run[2])).verdict
    text, right = tables(lines, verdicts)
    print(text)
    return {"runs": len(lines), "right": right}


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)
