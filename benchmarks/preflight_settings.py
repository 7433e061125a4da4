"""The settings that the preflight is calibrated on: every profile, and the usual mistakes.

All are a quarter as wide as their profile, with batches of 32, so that hundreds of steps take a
minute on two CPU cores. A narrow layer sums fewer inputs, so weights of the same deviation send
less of the photo on: the profiles as `--width=0.25` has them ("narrow") are harder to train than
the real ones. Beside them stand some whose deviations are enlarged by 1/sqrt(width) behind conv1
("as wide"): there the photo's share at each layer is about that of the network of full width.
"""

import dataclasses
import math
import os
import shutil
from collections.abc import Callable, Mapping

import numpy as np

from data_prep import records, tfrecord
from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.training.options import TrainingOptions

WIDTH = 0.25
BATCH_SIZE = 32
STEPS = 300

Example = dict[str, bytes | int]


@dataclasses.dataclass(frozen=True)
class Setting:
    """A way to train.

    Attributes:
        profile: the network.
        rate: what the profile's learning rate is multiplied by.
        data: which copy of the data set, a key of `DATA_COPIES`.
    """

    profile: Profile
    rate: float = 1.0
    data: str = "as it is"

    def options(self, seed: int) -> TrainingOptions:
        """The profile's recipe; the rate is not lowered in so short a run."""
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


def _narrow(name: str) -> Profile:
    return PROFILES[name].scaled(WIDTH)


def _as_wide(name: str) -> Profile:
    profile = _narrow(name)
    first, *rest = profile.kernel_init
    return dataclasses.replace(
        profile, kernel_init=(first, *(std / math.sqrt(WIDTH) for std in rest))
    )


# configs/quickstart.flags
_QUICKSTART = dataclasses.replace(
    _narrow("paper"),
    kernel_init=("he_normal",) * 8,
    bias_init=(0.0,) * 8,
    pixel_scale=0.0167,
    optimizer="adam",
    learning_rate=0.0005,
    weight_decay=0.0,
)
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
    "quickstart, sgd 0.01": Setting(
        dataclasses.replace(_QUICKSTART, optimizer="sgd", learning_rate=0.01)
    ),
    "quickstart, rate / 10": Setting(_QUICKSTART, rate=0.1),
    "quickstart, rate / 1000": Setting(_QUICKSTART, rate=0.001),
    "quickstart, mean not subtracted": Setting(_QUICKSTART, data="no mean"),
    "quickstart, rate * 10": Setting(_QUICKSTART, rate=10.0),
    "krizhevsky2012, narrow": Setting(_narrow("krizhevsky2012")),
    "paper, as wide, unit-sized input": Setting(
        dataclasses.replace(_as_wide("paper"), pixel_scale=1 / 60)
    ),
    "quickstart, shuffled labels": Setting(_QUICKSTART, data="shuffled"),
    "quickstart, train labels + 1": Setting(_QUICKSTART, data="train + 1"),
    "quickstart, labels from 1": Setting(_QUICKSTART, data="from 1"),
    "paper, narrow": Setting(_narrow("paper")),
    "caffe, narrow": Setting(_narrow("caffe")),
    "caffenet, narrow": Setting(_narrow("caffenet")),
}


def _shuffled(split: str, examples: list[Example]) -> list[Example]:
    """Photos keep nothing of their class: label, synset and text go to others, together."""
    names = ("image/class/label", "image/class/synset", "image/class/text")
    order = np.random.default_rng(len(split)).permutation(len(examples))
    return [
        example | {name: examples[other][name] for name in names}
        for example, other in zip(examples, order, strict=True)
    ]


def _train_plus_1(split: str, examples: list[Example]) -> list[Example]:
    """Labels of the train photos alone are moved, the last class' to the first."""
    if split != "train":
        return examples
    name = "image/class/label"
    classes = 1 + max(example[name] for example in examples)
    return [example | {name: (example[name] + 1) % classes} for example in examples]


def _from_1(split: str, examples: list[Example]) -> list[Example]:
    """As a program writes them that keeps 0 for the background, under a manifest that says 0."""
    del split
    name = "image/class/label"
    return [example | {name: example[name] + 1} for example in examples]


DATA_COPIES: Mapping[str, Callable[[str, list[Example]], list[Example]] | None] = {
    "as it is": None,
    "no mean": None,
    "shuffled": _shuffled,
    "train + 1": _train_plus_1,
    "from 1": _from_1,
}


def copy_data(data_dir: str, output_dir: str, kind: str) -> None:
    """Copies a data set, with a mistake.

    Args:
        data_dir: of data_prep.prepare.
        output_dir: the copy's, which must not be there.
        kind: a key of `DATA_COPIES`.
    """
    shutil.copytree(data_dir, output_dir)
    if kind == "no mean":
        path = os.path.join(output_dir, records.MEAN_IMAGE)
        np.save(path, np.zeros_like(np.load(path)))
    change = DATA_COPIES[kind]
    if change is None:
        return
    manifest = records.read_manifest(data_dir)
    for name, split in manifest.splits.items():
        examples, ends = [], []
        for shard in split.shards:
            with open(os.path.join(data_dir, shard.name), "rb") as file:
                examples += map(tfrecord.decode_example, tfrecord.read_records(file))
            ends.append(len(examples))
        changed = change(name, examples)
        for shard, start, end in zip(split.shards, [0, *ends[:-1]], ends, strict=True):
            with open(os.path.join(output_dir, shard.name), "wb") as file:
                for example in changed[start:end]:
                    file.write(tfrecord.frame(tfrecord.encode_example(example)))
