"""All that the preflight measures, in the order in which it does.

The first steps of a run, as `Model.fit` would take them, and a handful of photos by heart.
"""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from data_prep import records
from data_prep.command_line import UserError
from keras_alexnet.inputs import augmentations, pipeline, preprocessing
from keras_alexnet.network import keras_compat, variables
from keras_alexnet.network.profile import Profile
from keras_alexnet.preflight_checks import labels, network
from keras_alexnet.training import build, devices, starting_weights
from keras_alexnet.training.options import TrainingOptions

Batch = tuple[Mapping[str, tf.Tensor], tf.Tensor]

FIRST_STEPS = 24  # at most; as many of a run's batches as the time allows
HANDFUL_STEPS = 32
HANDFUL = 16  # photos


class State:
    """The start of a run: weights, the steps of dropouts, and optimizer, to go back to.

    Args:
        network: the AlexNet inside of the model.
        model: compiled, its optimizer built.
    """

    def __init__(self, network: keras.Model, model: keras.Model) -> None:
        self._network = network
        self._model = model
        self._values = [variable.numpy() for variable in self._variables()]

    def _variables(self) -> list:
        return [
            *variables.named_variables(self._network).values(),
            *keras_compat.optimizer_state(self._model.optimizer),
        ]

    def restore(self) -> None:
        """Makes the model what it was."""
        for variable, value in zip(self._variables(), self._values, strict=True):
            variable.assign(value)


def take_steps(
    model: keras.Model, batches: Iterator[Batch], limit: int, until: float, at_least: int = 1
) -> list[float]:
    """Trains on a batch after the other.

    Args:
        model: compiled, with the metric "cross_entropy".
        batches: what to train on.
        limit: of steps.
        until: a time of `time.perf_counter`: no step is begun that would end after it, if it takes
            as long as the one before.
        at_least: as many steps are taken, whatever the time.

    Returns:
        The cross-entropy of each batch before its step; it ends with the first that is not finite.
    """
    losses: list[float] = []
    began = time.perf_counter()
    for features, classes in batches:
        model.reset_metrics()  # they are means over all that was trained on
        logs = model.train_on_batch(features, classes, return_dict=True)
        losses.append(float(logs["cross_entropy"]))
        now = time.perf_counter()
        would_end, began = now + (now - began), now
        if not math.isfinite(losses[-1]) or len(losses) >= limit:
            break
        if len(losses) >= at_least and would_end > until:
            break
    return losses


def handful(batch: Batch, count: int = HANDFUL) -> Batch:
    """Photos of a batch, of as many classes as there are, and each class as often, where possible.

    Args:
        batch: features and int64 labels [B].
        count: of photos to take, at most.
    """
    features, labels = batch
    seen: dict[int, int] = {}
    # By how often its class was met before: first one photo of every class, then the seconds.
    ranks = []
    for label in labels.numpy():
        ranks.append(seen.get(int(label), 0))
        seen[int(label)] = ranks[-1] + 1
    chosen = np.argsort(ranks, kind="stable")[:count]
    return {name: tf.gather(value, chosen) for name, value in features.items()}, tf.gather(
        labels, chosen
    )


def class_entropy(labels: tf.Tensor) -> float:
    """Entropy of the classes among labels, in nats: the loss of one answer for all photos."""
    shares = np.unique(labels.numpy(), return_counts=True)[1] / len(labels)
    return float(-(shares * np.log(shares)).sum())


TRAIN_PHOTOS, VALIDATION_PHOTOS = 2000, 500
_GAUGE_PHOTOS = 32
_HANDFUL_SHARE = 0.5  # of the time that is left when the steps begin


@dataclasses.dataclass(frozen=True)
class Measured:
    """What a preflight saw.

    Attributes:
        figures: by name, what `rules.RULES` judge. What was not measured is not there.
        layers: by layer at the start: rms, mean_abs, photo_share and dead of its output,
            gradient_rms of its kernel, and update, the first step's |change| / |kernel|.
        losses: cross-entropy of the run's first batches, each before its step.
        handful_losses: the same of a handful of photos, over and over from the start.
    """

    figures: dict[str, float]
    layers: network.LayerFigures
    losses: list[float]
    handful_losses: list[float]


def measure(
    *, data_dir: str, profile: Profile, options: TrainingOptions, seconds: float
) -> Measured:
    """Measures a run that is not begun yet.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        profile: the network, overrides applied.
        options: the recipe.
        seconds: no further step is begun that would end after so many, if it can be helped.

    Raises:
        UserError: the data set cannot be used.
    """
    until = time.perf_counter() + seconds
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    pipeline.check_stored_size(manifest, profile)
    steps = pipeline.train_steps(manifest, options.batch_size)
    with pipeline.broken_data_is_a_user_error(data_dir, manifest):
        figures = _label_figures(data_dir, manifest)
        if figures["labels_out_of_range"]:
            return Measured(figures, {}, [], [])  # no loss can be computed
        batches = iter(_batches(data_dir, manifest, profile, options))
        first = [next(batches) for _ in range(-(-_GAUGE_PHOTOS // options.batch_size))]

        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(options.seed)
        devices.use_precision(options.precision)
        classes = len(manifest.classes)
        trained, model = build.build(profile, options, classes, statistics, steps)
        if options.init_weights:
            starting_weights.load(trained, options.init_weights)
        figures["planned_steps"] = float(steps * options.epochs)
        inputs = preprocessing.NetworkInput(profile, statistics)(_joined(first)[0])
        return _of_network(
            trained, model, profile, options, inputs, first, batches, figures, classes, until
        )


def _label_figures(data_dir: str, manifest: records.Manifest) -> dict[str, float]:
    try:
        with tf.io.gfile.GFile(os.path.join(data_dir, records.LABELS)) as file:
            text = file.read()
    except tf.errors.NotFoundError as error:
        raise UserError(
            f"labels.txt is needed in {data_dir}, but is not there; run data_prep.prepare again"
        ) from error
    return labels.check(
        labels.read(data_dir, manifest, "train", TRAIN_PHOTOS),
        labels.read(data_dir, manifest, "validation", VALIDATION_PHOTOS),
        manifest,
        text,
    )


def _batches(
    data_dir: str, manifest: records.Manifest, profile: Profile, options: TrainingOptions
) -> tf.data.Dataset:
    """The run's own first batches, in an order that does not wait for 8,192 photos to shuffle."""
    return pipeline.train_dataset(
        data_dir,
        manifest,
        profile=profile,
        batch_size=options.batch_size,
        seed=options.seed,
        epochs=_GAUGE_PHOTOS + FIRST_STEPS,  # however few batches an epoch has
        shuffle_block=max(options.batch_size, 512),
        augment=augmentations.parse(options.augment),
    )


def _joined(batches: Sequence[Batch]) -> Batch:
    """One batch of several."""
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *batches)


def _of_network(
    trained: keras.Model,
    model: keras.Model,
    profile: Profile,
    options: TrainingOptions,
    inputs: tf.Tensor,
    first: Sequence[Batch],
    batches: Iterator[Batch],
    figures: dict[str, float],
    classes: int,
    until: float,
) -> Measured:
    """The start, then a handful of photos by heart, then, from the start again, the run's steps."""
    gauge = network.Gauge(trained, inputs[:_GAUGE_PHOTOS], profile)
    layers, hidden, logits = gauge.read()
    figures |= network.input_figures(inputs[:_GAUGE_PHOTOS])
    figures |= network.overshoot(hidden, classes, options)
    figures |= {
        "is_sgd": float(options.optimizer == "sgd"),
        "photo_share": layers["fc8"]["photo_share"],
        "dead_at_start": network.worst(layers, "dead"),
    }
    photos = _joined(first)
    few = handful(photos)
    some = slice(0, HANDFUL)
    gradients = network.gradient_rms(trained, inputs[some], photos[1][some])
    start = State(trained, model)

    # The handful first: it costs little, and tells more than two or three large batches.
    handful_until = until - (until - time.perf_counter()) * (1 - _HANDFUL_SHARE)
    handful_losses = take_steps(
        model, itertools.repeat(few), HANDFUL_STEPS, handful_until, at_least=2
    )
    handful_after, _, _ = gauge.read()
    start.restore()

    kernels = network.kernels(trained)
    losses = take_steps(model, iter(first[:1]), 1, until)
    updates = network.relative_changes(kernels, network.kernels(trained))
    _, _, stepped = gauge.read()
    seen = slice(0, min(_GAUGE_PHOTOS, options.batch_size))  # photos that the step was taken on
    pace = network.pace(logits[seen], stepped[seen], photos[1][seen].numpy())
    figures |= _speed_figures(pace, updates, options, figures["planned_steps"])
    if math.isfinite(losses[-1]):
        rest = itertools.chain(first[1:], batches)
        losses += take_steps(model, rest, FIRST_STEPS - 1, until)
    after, _, _ = gauge.read()
    for layer, row in layers.items():
        row |= {"gradient_rms": gradients[layer], "update": updates[layer]}
    figures |= {
        "photo_share_after": after["fc8"]["photo_share"],
        "dead_after": network.worst(after, "dead"),
        "handful_photo_share": handful_after["fc8"]["photo_share"],
        "handful_dead": network.worst(handful_after, "dead"),
        "steps": float(len(losses)),
        **_loss_figures(losses, handful_losses, few, figures["class_entropy"], classes),
    }
    return Measured(figures, layers, losses, handful_losses)


def _speed_figures(
    pace: float, updates: Mapping[str, float], options: TrainingOptions, planned_steps: float
) -> dict[str, float]:
    """What the first step, repeated, would come to.

    Args:
        pace: of the first step, see `network.pace`.
        updates: its |change| / |kernel|, by layer.
        options: the recipe.
        planned_steps: of the whole run.

    Returns:
        slowness: how many times the planned run it would take to fit the labels at this pace.
        stride: the largest update in front of fc8, kept up by momentum.
        reach: how far the run could move the kernel that moves most, in lengths of the kernel.
    """
    # What is lost in rounding may make a pace of either sign.
    kept_up = 1 / (1 - options.momentum) if options.optimizer == "sgd" else 1.0
    hidden = max(update for layer, update in updates.items() if layer != "fc8")
    return {
        "slowness": 1 / max(abs(pace) * planned_steps * kept_up, 1e-12),
        "stride": hidden * kept_up,
        "reach": max(updates.values()) * planned_steps * kept_up,
    }


def _loss_figures(
    losses: list[float],
    handful_losses: list[float],
    few: Batch,
    entropy: float,
    classes: int,
) -> dict[str, float]:
    """Losses in units of what a network has that knows only how frequent the classes are."""
    unit = max(entropy, 1e-6)
    few_unit = max(class_entropy(few[1]), 1e-6)
    return {
        "not_finite": float(not math.isfinite(losses[-1])),
        "handful_not_finite": float(not math.isfinite(handful_losses[-1])),
        "first_loss": losses[0] / math.log(max(classes, 2)),
        "spike": max(losses) / unit,
        "last_loss": float(np.mean(losses[-4:])) / unit,
        "handful_loss": float(np.mean(handful_losses[-2:])) / few_unit,
        "handful_steps": float(len(handful_losses)),
        "handful_photos": float(len(few[1])),
    }
