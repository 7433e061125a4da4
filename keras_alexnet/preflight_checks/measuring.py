"""All that the preflight measures, in the order in which it does."""

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
from keras_alexnet import (
    augmentations,
    devices,
    input_pipeline,
    preprocessing,
    starting_weights,
    training_model,
)
from keras_alexnet.preflight_checks import first_steps, labels, network, sample
from keras_alexnet.profile import Profile
from keras_alexnet.training_options import TrainingOptions

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
    input_pipeline.check_stored_size(manifest, profile)
    steps = input_pipeline.train_steps(manifest, options.batch_size)
    with input_pipeline.broken_data_is_a_user_error(data_dir, manifest):
        figures = _label_figures(data_dir, manifest)
        if figures["labels_out_of_range"]:
            return Measured(figures, {}, [], [])  # no loss can be computed
        batches = iter(_batches(data_dir, manifest, profile, options))
        first = [next(batches) for _ in range(-(-_GAUGE_PHOTOS // options.batch_size))]

        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(options.seed)
        devices.use_precision(options.precision)
        classes = len(manifest.classes)
        trained, model = training_model.build(profile, options, classes, statistics, steps)
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
        sample.read(data_dir, manifest, "train", TRAIN_PHOTOS),
        sample.read(data_dir, manifest, "validation", VALIDATION_PHOTOS),
        manifest,
        text,
    )


def _batches(
    data_dir: str, manifest: records.Manifest, profile: Profile, options: TrainingOptions
) -> tf.data.Dataset:
    """The run's own first batches, in an order that does not wait for 8,192 photos to shuffle."""
    return input_pipeline.train_dataset(
        data_dir,
        manifest,
        profile=profile,
        batch_size=options.batch_size,
        seed=options.seed,
        epochs=_GAUGE_PHOTOS + first_steps.FIRST_STEPS,  # however few batches an epoch has
        shuffle_block=max(options.batch_size, 512),
        augment=augmentations.parse(options.augment),
    )


def _joined(batches: Sequence[first_steps.Batch]) -> first_steps.Batch:
    """One batch of several."""
    return tf.nest.map_structure(lambda *parts: tf.concat(parts, axis=0), *batches)


def _of_network(
    trained: keras.Model,
    model: keras.Model,
    profile: Profile,
    options: TrainingOptions,
    inputs: tf.Tensor,
    first: Sequence[first_steps.Batch],
    batches: Iterator[first_steps.Batch],
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
    few = first_steps.handful(photos)
    some = slice(0, first_steps.HANDFUL)
    gradients = network.gradient_rms(trained, inputs[some], photos[1][some])
    start = first_steps.State(trained, model)

    # The handful first: it costs little, and tells more than two or three large batches.
    handful_until = until - (until - time.perf_counter()) * (1 - _HANDFUL_SHARE)
    handful_losses = first_steps.take_steps(
        model, itertools.repeat(few), first_steps.HANDFUL_STEPS, handful_until, at_least=2
    )
    handful_after, _, _ = gauge.read()
    start.restore()

    kernels = network.kernels(trained)
    losses = first_steps.take_steps(model, iter(first[:1]), 1, until)
    updates = network.relative_changes(kernels, network.kernels(trained))
    _, _, stepped = gauge.read()
    seen = slice(0, min(_GAUGE_PHOTOS, options.batch_size))  # photos that the step was taken on
    pace = network.pace(logits[seen], stepped[seen], photos[1][seen].numpy())
    figures |= _speed_figures(pace, updates, options, figures["planned_steps"])
    if math.isfinite(losses[-1]):
        rest = itertools.chain(first[1:], batches)
        losses += first_steps.take_steps(model, rest, first_steps.FIRST_STEPS - 1, until)
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
    few: first_steps.Batch,
    class_entropy: float,
    classes: int,
) -> dict[str, float]:
    """Losses in units of what a network has that knows only how frequent the classes are."""
    unit = max(class_entropy, 1e-6)
    few_unit = max(first_steps.class_entropy(few[1]), 1e-6)
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
