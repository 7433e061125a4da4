"""All that the preflight measures, in the order in which it does."""

import dataclasses
import itertools
import math
import os
import time

import keras
import numpy as np
import tensorflow as tf

from data_prep import records
from data_prep.command_line import UserError
from keras_alexnet import devices, input_pipeline, preprocessing, training_model
from keras_alexnet.preflight_checks import first_steps, labels, network, sample
from keras_alexnet.profile import Profile
from keras_alexnet.training_options import TrainingOptions

TRAIN_PHOTOS, VALIDATION_PHOTOS = 2000, 500
_GAUGE_PHOTOS = 32
_HANDFUL_SHARE = 0.6  # of the time that is left when the steps begin


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
        seconds: no further step is begun when so many have passed.

    Raises:
        UserError: the data set cannot be used.
    """
    until = time.perf_counter() + seconds
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    statistics = records.read_statistics(data_dir, tf.io.gfile.GFile)
    input_pipeline.check_stored_size(manifest, profile)
    steps = input_pipeline.train_steps(manifest, options.batch_size)
    with input_pipeline.broken_data_is_a_user_error(data_dir):
        figures = _label_figures(data_dir, manifest)
        if figures["labels_out_of_range"]:
            return Measured(figures, {}, [], [])  # no loss can be computed
        batches = iter(_batches(data_dir, manifest, profile, options))
        gauge_batch = next(batches)

        tf.config.experimental.enable_op_determinism()
        keras.utils.set_random_seed(options.seed)
        devices.use_precision(options.precision)
        classes = len(manifest.classes)
        trained, model = training_model.build(profile, options, classes, statistics, steps)
        figures["planned_steps"] = float(steps * options.epochs)
        inputs = preprocessing.NetworkInput(profile, statistics)(gauge_batch[0])
        return _of_network(
            trained, model, options, inputs, gauge_batch, batches, figures, classes, until
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
        epochs=1 + first_steps.FIRST_STEPS,  # however few batches an epoch has
        shuffle_block=max(options.batch_size, 512),
    )


def _of_network(
    trained, model, options, inputs, gauge_batch, batches, figures, classes, until
) -> Measured:
    gauged = slice(0, _GAUGE_PHOTOS)
    gauge = network.Gauge(trained, inputs[gauged])
    layers, hidden, logits = gauge.read()
    figures |= network.input_figures(inputs[gauged])
    figures |= network.overshoot(hidden, classes, options)
    figures |= {
        "photo_share": layers["fc8"]["photo_share"],
        "dead_at_start": network.worst(layers, "dead"),
    }
    few = first_steps.handful(gauge_batch)
    few_inputs = inputs[: first_steps.HANDFUL]
    for layer, rms in network.gradient_rms(
        trained, few_inputs, gauge_batch[1][: first_steps.HANDFUL]
    ).items():
        layers[layer]["gradient_rms"] = rms
    start = first_steps.State(model)

    # The handful first: it costs little, and tells more than two or three large batches.
    handful_until = until - (until - time.perf_counter()) * (1 - _HANDFUL_SHARE)
    handful_losses = first_steps.take_steps(
        model, itertools.repeat(few), first_steps.HANDFUL_STEPS, handful_until
    )
    handful_after, _, _ = gauge.read()
    start.restore()

    kernels = network.kernel_norms(trained)
    losses = first_steps.take_steps(model, iter([gauge_batch]), 1, until)
    for layer, before in kernels.items():
        change = np.linalg.norm(network.kernel_norms(trained)[layer] - before)
        layers[layer]["update"] = float(change / np.linalg.norm(before))
    _, _, stepped = gauge.read()
    figures["pace"] = network.pace(logits, stepped, gauge_batch[1][gauged].numpy())
    if math.isfinite(losses[-1]):
        losses += first_steps.take_steps(model, batches, first_steps.FIRST_STEPS - 1, until)
    after, _, _ = gauge.read()
    figures |= {
        "photo_share_after": after["fc8"]["photo_share"],
        "dead_after": network.worst(after, "dead"),
        "handful_photo_share": handful_after["fc8"]["photo_share"],
        "handful_dead": network.worst(handful_after, "dead"),
        "steps": float(len(losses)),
        **_loss_figures(losses, handful_losses, few, figures["class_entropy"], classes),
    }
    return Measured(figures, layers, losses, handful_losses)


def _loss_figures(losses, handful_losses, few, class_entropy, classes) -> dict[str, float]:
    """Losses in units of what a network that knows only the frequencies has."""
    unit = max(class_entropy, 1e-6)
    few_unit = max(first_steps.class_entropy(few[1]), 1e-6)
    finite = all(map(math.isfinite, losses + handful_losses))
    return {
        "not_finite": float(not finite),
        "first_loss": losses[0] / math.log(max(classes, 2)) if finite else math.inf,
        "spike": max(losses) / unit if finite else math.inf,
        "last_loss": float(np.mean(losses[-4:])) / unit if finite else math.inf,
        "handful_loss": float(np.mean(handful_losses[-2:])) / few_unit if finite else math.inf,
        "handful_steps": float(len(handful_losses)),
    }
