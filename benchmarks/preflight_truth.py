"""Trains every setting of preflight_settings.py for a while, to know which learn: the truth.

Needs two prepared data sets of ten classes (about 3,000 train photos each; --storage=raw is the
fastest to read). Two CPU cores need more than an hour. A line of JSON a run is added to --output;
runs that are there are not done again, so the same command goes on where it was stopped.

Example:
  python -m benchmarks.preflight_truth --data_dirs=CIFAR,SHAPES --copies_dir=COPIES \
      --output=truth.jsonl
"""

import json
import os
import sys
import time
from collections.abc import Iterator, Mapping, Sequence

import keras
import tensorflow as tf
from absl import flags

from benchmarks import preflight_settings
from data_prep import command_line, records
from keras_alexnet.inputs import pipeline
from keras_alexnet.training import build, devices

FLAGS = flags.FlagValues()
_DATA_DIRS = flags.DEFINE_list(
    "data_dirs", None, "folders of data_prep.prepare", required=True, flag_values=FLAGS
)
_COPIES = flags.DEFINE_string(
    "copies_dir", None, "for copies of the data with mistakes", required=True, flag_values=FLAGS
)
_OUTPUT = flags.DEFINE_string(
    "output", None, "the file of results, JSON lines", required=True, flag_values=FLAGS
)
_SEEDS = flags.DEFINE_integer("seeds", 3, "runs of a setting", 1, flag_values=FLAGS)

EVALUATIONS = 4  # in a run
_CLEARLY = 10  # standard errors of top-1 above chance, twice in a row: no need to go on


def standard_error(classes: int, photos: int) -> float:
    """Of the top-1 of a network that guesses."""
    return ((1 / classes) * (1 - 1 / classes) / photos) ** 0.5


def train(setting: preflight_settings.Setting, data_dir: str, seed: int) -> dict[str, object]:
    """Trains for `STEPS` steps, or until there is no doubt.

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
    steps = pipeline.train_steps(manifest, options.batch_size)
    _, model = build.build(setting.profile, options, len(manifest.classes), statistics, steps)
    batches = iter(
        pipeline.train_dataset(
            data_dir,
            manifest,
            profile=setting.profile,
            batch_size=options.batch_size,
            seed=seed,
            epochs=-(-preflight_settings.STEPS // steps),
        )
    )
    validation = pipeline.central_views(
        pipeline.eval_dataset(data_dir, manifest, batch_size=100), setting.profile
    )
    bar = 1 / classes + _CLEARLY * standard_error(classes, photos)
    figures = {"classes": classes, "photos": photos, "losses": [], "top1": [], "stopped": ""}
    quarter = preflight_settings.STEPS // EVALUATIONS
    for _ in range(EVALUATIONS):
        try:
            model.reset_metrics()
            for _ in range(quarter):
                logs = model.train_on_batch(*next(batches), return_dict=True)
            figures["losses"].append(float(logs["cross_entropy"]))
            evaluated = model.evaluate(validation, verbose=0, return_dict=True)
            figures["top1"].append(float(evaluated["top1"]))
        except tf.errors.InvalidArgumentError as error:  # labels out of range
            figures["stopped"] = str(error.message).splitlines()[0][:100]
            break
        if not figures["losses"][-1] < float("inf"):
            figures["stopped"] = "the loss is not finite"
            break
        if len(figures["top1"]) > 1 and min(figures["top1"][-2:]) > bar:
            break
    return figures | {"steps": len(figures["top1"]) * quarter}


def runs(seeds: int, data_dirs: Sequence[str]) -> Iterator[tuple[str, str, int]]:
    """(setting, data_dir, seed), all of a seed before the next."""
    for seed in range(seeds):
        for name in preflight_settings.SETTINGS:
            for data_dir in data_dirs:
                yield name, data_dir, seed


def data_name(data_dir: str) -> str:
    """What a data set is called in the results: its folder's name."""
    return os.path.basename(os.path.normpath(data_dir))


def data_of(setting: preflight_settings.Setting, data_dir: str, copies_dir: str) -> str:
    """The folder with the data set as the setting has it, made if it is not there."""
    if setting.data == "as it is":
        return data_dir
    name = f"{data_name(data_dir)} {setting.data}".replace(" ", "_")
    path = os.path.join(copies_dir, name)
    if not os.path.exists(path):
        preflight_settings.copy_data(data_dir, f"{path}.part", setting.data)
        os.rename(f"{path}.part", path)
    return path


def read_results(path: str) -> dict[tuple[str, str, int], dict]:
    """The lines of a file of results, by (setting, data, seed)."""
    if not os.path.exists(path):
        return {}
    with open(path) as file:
        lines = [json.loads(line) for line in file]
    return {(line["setting"], line["data"], line["seed"]): line for line in lines}


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and trains what was not trained yet."""
    del arguments
    done = read_results(_OUTPUT.value)
    os.makedirs(_COPIES.value, exist_ok=True)
    for name, data_dir, seed in runs(_SEEDS.value, _DATA_DIRS.value):
        data = data_name(data_dir)
        if (name, data, seed) in done:
            continue
        setting = preflight_settings.SETTINGS[name]
        started = time.perf_counter()
        figures = train(setting, data_of(setting, data_dir, _COPIES.value), seed)
        seconds = round(time.perf_counter() - started, 1)
        line = {"setting": name, "data": data, "seed": seed, **figures, "seconds": seconds}
        with open(_OUTPUT.value, "a") as file:
            file.write(json.dumps(line) + "\n")
        print(json.dumps(line), file=sys.stderr, flush=True)
        done[name, data, seed] = line
    return {"runs": len(done), "output": _OUTPUT.value}


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__)
