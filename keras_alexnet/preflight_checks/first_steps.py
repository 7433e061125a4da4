"""The first steps of a run, as `Model.fit` would take them, and a handful of photos by heart."""

import math
import time
from collections.abc import Iterator, Mapping

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet import checkpoints, keras_generations

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
            *checkpoints.named_variables(self._network).values(),
            *keras_generations.optimizer_state(self._model.optimizer),
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
    for features, labels in batches:
        model.reset_metrics()  # they are means over all that was trained on
        logs = model.train_on_batch(features, labels, return_dict=True)
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
