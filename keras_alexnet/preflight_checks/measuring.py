"""All that the preflight measures, in the order in which it does.

The labels and photos; the network as it starts; a handful of photos learned by heart; and, from
the start again, the first steps of the run, taken by the run's own `TrainingSteps`.
"""

import dataclasses
import itertools
import math
import os
import time
from collections.abc import Iterable, Mapping

import keras
import numpy as np
import tensorflow as tf

from data_prep import records
from keras_alexnet.inputs import augmentations, pipeline, preprocessing
from keras_alexnet.network import keras_compat, variables
from keras_alexnet.network.profile import Profile
from keras_alexnet.preflight_checks import labels, network
from keras_alexnet.training import build, devices, not_finite, starting_weights
from keras_alexnet.training.options import TrainingOptions
from keras_alexnet.training.steps import TrainingSteps, means

Batch = tuple[Mapping[str, tf.Tensor], tf.Tensor]

FIRST_STEPS = 24  # at most; as many of a run's batches as the time allows
HANDFUL_STEPS = 32
HANDFUL = 16  # photos
TRAIN_PHOTOS, VALIDATION_PHOTOS = 2000, 500
_GAUGE_PHOTOS = 32
_HANDFUL_SHARE = 0.5  # of the time that is left when the steps begin
_NO_STOP = tf.constant(0.0)


@dataclasses.dataclass(frozen=True)
class Measured:
    """Figures of a run that has not begun.

    Attributes:
        figures: what `rules.RULES` judge, by name. A figure that was not measured is missing.
        layers: by layer at the start: rms, photo_share and dead of its output, gradient_rms of its
            kernel, and update, the first step's |change| / |kernel|.
        losses: cross-entropy of the run's first batches, each before its step.
        handful_losses: the same of a handful of photos, over and over from the start.
    """

    figures: dict[str, float]
    layers: network.LayerFigures
    losses: list[float]
    handful_losses: list[float]


def measure(
    *, data_dir: str, profile: Profile, recipe: TrainingOptions, seconds: float
) -> Measured:
    """Measure a run that has not begun.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        profile: the network, overrides applied.
        recipe: everything else that decides what the run computes.
        seconds: time in which the steps should end; a few are always taken.

    Raises:
        ValueError: the data set cannot be used.
    """
    until = time.perf_counter() + seconds
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    classes = len(manifest.classes)
    pipeline.check_stored_size(manifest, profile)
    steps = pipeline.train_steps(manifest, recipe.batch_size)
    with pipeline.broken_data_is_one_line(data_dir, manifest):
        figures = _label_figures(data_dir, manifest)
        if figures["labels_out_of_range"]:
            return Measured(figures, {}, [], [])  # no loss can be computed
        batches = iter(_batches(data_dir, manifest, profile, recipe))
        first = [next(batches) for _ in range(-(-_GAUGE_PHOTOS // recipe.batch_size))]
        photos = tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *first)
        inputs = preprocessing.NetworkInput(profile, statistics)(photos[0])[:_GAUGE_PHOTOS]

        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(recipe.seed)
        devices.use_precision(recipe.precision)
        strategy = devices.make_strategy(recipe.strategy)
        with strategy.scope():
            trained, model = build.build(profile, recipe, classes, statistics, steps)
            if recipe.init_weights:
                starting_weights.load(trained, recipe.init_weights)
        layers, hidden, logits = network.gauge(trained, inputs, profile)
        gradients = network.gradient_rms(trained, inputs[:HANDFUL], photos[1][:HANDFUL])
        state = [
            *variables.named_variables(trained).values(),
            *keras_compat.optimizer_state(model.optimizer),
        ]
        start = [variable.numpy() for variable in state]

        # The handful first: it costs little, and says more than two or three large batches.
        few = handful(photos)
        guessing = labels.entropy(np.bincount(few[1].numpy()))
        handful_until = until - (until - time.perf_counter()) * (1 - _HANDFUL_SHARE)
        learn = TrainingSteps(model, strategy, len(few[1]), recipe.label_smoothing)
        handful_losses = take_steps(
            learn, itertools.repeat(few), HANDFUL_STEPS, handful_until, at_least=2
        )
        for variable, value in zip(state, start, strict=True):
            variable.assign(value)

        learn = TrainingSteps(model, strategy, recipe.batch_size, recipe.label_smoothing)
        kernels = network.kernels(trained)
        losses = take_steps(learn, first[:1], 1, until)
        updates = network.relative_changes(kernels, network.kernels(trained))
        _, _, stepped = network.gauge(trained, inputs, profile)
        if math.isfinite(losses[0]):
            losses += take_steps(learn, itertools.chain(first[1:], batches), FIRST_STEPS - 1, until)
        after, _, _ = network.gauge(trained, inputs, profile)

    for layer, row in layers.items():
        row |= {"gradient_rms": gradients[layer], "update": updates[layer]}
    planned = float(steps * recipe.epochs)
    figures |= {
        **network.input_figures(inputs),
        "overshoot": network.overshoot(hidden, classes, recipe),
        "planned_steps": planned,
        "is_sgd": float(recipe.optimizer == "sgd"),
        "photo_share": layers["fc8"]["photo_share"],
        "dead_at_start": network.worst(layers, "dead"),
        "dead_after": network.worst(after, "dead"),
        "steps": float(len(losses)),
        "not_finite": float(not math.isfinite(losses[-1])),
        "spike": max(losses) / max(figures["class_entropy"], 1e-6),
        "handful_not_finite": float(not math.isfinite(handful_losses[-1])),
        "handful_loss": float(np.mean(handful_losses[-2:])) / max(guessing, 1e-6),
        "handful_steps": float(len(handful_losses)),
        "handful_photos": float(len(few[1])),
    }
    if math.isfinite(losses[0]):  # else nothing was updated
        seen = slice(0, min(_GAUGE_PHOTOS, recipe.batch_size))  # photos that the step was taken on
        pace = network.pace(logits[seen], stepped[seen], photos[1][seen].numpy())
        figures |= _speed_figures(pace, updates, recipe, planned)
    return Measured(figures, layers, losses, handful_losses)


def _label_figures(data_dir: str, manifest: records.Manifest) -> dict[str, float]:
    try:
        with tf.io.gfile.GFile(os.path.join(data_dir, records.LABELS)) as file:
            text = file.read()
    except tf.errors.NotFoundError as error:
        raise ValueError(
            f"labels.txt is needed in {data_dir}, but is not there; run data_prep.prepare again"
        ) from error
    train = labels.read(data_dir, manifest, "train", TRAIN_PHOTOS)
    validation = labels.read(data_dir, manifest, "validation", VALIDATION_PHOTOS)
    return labels.check(train, validation, manifest, text)


def _batches(
    data_dir: str, manifest: records.Manifest, profile: Profile, recipe: TrainingOptions
) -> tf.data.Dataset:
    """Return the run's first batches, in an order that does not wait for 8,192 photos."""
    feed = pipeline.Feed(
        batch_size=recipe.batch_size,
        seed=recipe.seed,
        epochs=_GAUGE_PHOTOS + FIRST_STEPS,  # however few batches an epoch has
        shuffle_block=max(recipe.batch_size, 512),
        augment=augmentations.parse(recipe.augment),
    )
    return pipeline.train_dataset(data_dir, manifest, profile, feed)


def take_steps(
    steps: TrainingSteps, batches: Iterable[Batch], limit: int, until: float, at_least: int = 1
) -> list[float]:
    """Train on one batch after the other.

    Args:
        steps: of the model, for batches of this size.
        batches: features and labels.
        limit: largest number of steps.
        until: a time of `time.perf_counter`. A step that would end later, if it takes as long as
            the one before, is not begun.
        at_least: steps to take whatever the time.

    Returns:
        The cross-entropy of each batch before its step. It ends with NaN where the loss was not
        finite; that step updates nothing.
    """
    losses: list[float] = []
    began = time.perf_counter()
    for batch in batches:
        try:
            losses.append(means(steps.train(batch, _NO_STOP).numpy())["cross_entropy"])
        except tf.errors.InvalidArgumentError as error:
            if not_finite.MARK not in str(error):
                raise
            losses.append(math.nan)
        now = time.perf_counter()
        would_end, began = now + (now - began), now
        is_over = len(losses) >= at_least and would_end > until
        if is_over or len(losses) >= limit or not math.isfinite(losses[-1]):
            break
    return losses


def handful(batch: Batch) -> Batch:
    """Take `HANDFUL` photos, of as many classes as there are and of each as often, if possible.

    Args:
        batch: features and int64 labels [B].
    """
    classes = batch[1].numpy().tolist()
    # By how often its class was met before: first one photo of every class, then the seconds.
    ranks = [classes[:place].count(label) for place, label in enumerate(classes)]
    chosen = np.argsort(ranks, kind="stable")[:HANDFUL]
    return tf.nest.map_structure(lambda values: tf.gather(values, chosen), batch)


def _speed_figures(
    pace: float, updates: Mapping[str, float], recipe: TrainingOptions, planned_steps: float
) -> dict[str, float]:
    """Return what the first step, repeated over the planned run, would come to.

    Returns:
        slowness: how many times the planned run it would take to fit the labels at this pace.
        stride: the largest update in front of fc8, kept up by momentum.
        reach: how far the run could move the kernel that moves most, in lengths of the kernel.
    """
    kept_up = 1 / (1 - recipe.momentum) if recipe.optimizer == "sgd" else 1.0
    hidden = max(update for layer, update in updates.items() if layer != "fc8")
    return {
        # Where little moves, rounding decides the sign of the pace.
        "slowness": 1 / max(abs(pace) * planned_steps * kept_up, 1e-12),
        "stride": hidden * kept_up,
        "reach": max(updates.values()) * planned_steps * kept_up,
    }
