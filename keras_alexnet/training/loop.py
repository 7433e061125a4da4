"""The loop of a run: epochs of steps and a validation each, from any place to the end.

Keras' callbacks see what they see in `Model.fit`. See steps.py for why it is not that.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.network import keras_compat
from keras_alexnet.training import update_rules
from keras_alexnet.training.checkpoints import Place, RunState
from keras_alexnet.training.steps import Totals, TrainingSteps, means
from keras_alexnet.training.stopping import Stopped, StopSignal

# Metrics logged for validation. Its loss equals cross_entropy, so it is omitted.
_VALIDATION = ("cross_entropy", "top1", "top5", "images")
GradientListener = Callable[[int, Sequence[tf.Tensor]], None]


@dataclasses.dataclass(frozen=True)
class Extent:
    """Length of a run.

    Attributes:
        epochs: number of the last epoch, from 1.
        steps: steps an epoch.
        batch_size: global, photos.
        validation_images: records of the validation split, each to be counted once; None to
            skip the check, where a run looks at a part of them.
        notes: added to the metrics of each epoch.
    """

    epochs: int
    steps: int
    batch_size: int
    validation_images: int | None
    notes: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Hooks:
    """Callbacks, checkpoints and reports of a run.

    Attributes:
        callbacks: Keras' callbacks.
        save: called to write a checkpoint of the state.
        save_seconds: seconds between checkpoints within an epoch.
        on_gradients: called with a step's number and its gradients.
        gradient_every: report gradients every N steps; 0 disables it.
    """

    callbacks: Sequence[keras.callbacks.Callback] = ()
    save: Callable[[RunState], None] = lambda state: None
    save_seconds: float = 600.0
    on_gradients: GradientListener = lambda step, gradients: None
    gradient_every: int = 0


@dataclasses.dataclass(kw_only=True)
class TrainingLoop:
    """A loop that trains a model from the place in its state to the end.

    Attributes:
        model: compiled; its weights and its optimizer are those of the place.
        steps: of that model.
        train_data: batches of `inputs.pipeline.train_dataset` from the place on.
        validation_data: batches of `inputs.pipeline.central_views`, iterated over anew each epoch.
        extent: length of the run.
        state: updated as the run goes on.
        hooks: what the run does besides training.
        stop: set once the process was asked to end.
        last_features: of the latest batch.
    """

    model: keras.Model
    steps: TrainingSteps
    train_data: tf.data.Dataset | tf.distribute.DistributedDataset
    validation_data: tf.data.Dataset | tf.distribute.DistributedDataset
    extent: Extent
    state: RunState
    hooks: Hooks
    stop: StopSignal
    last_features: object = None

    def __post_init__(self) -> None:
        self._totals = Totals(self.state.totals)
        self._callbacks = keras.callbacks.CallbackList(list(self.hooks.callbacks), model=self.model)
        self._saved = self.state.place
        self._saved_at = time.perf_counter()

    @property
    def next_step(self) -> int:
        """The number of the next step of the run, from 1."""
        epoch, step = self.state.place
        return epoch * self.extent.steps + step + 1

    def run(self) -> None:
        """Train to the last epoch, or until a callback sets `model.stop_training`.

        Raises:
            Stopped: the process was asked to end, and a checkpoint was written.
            ValueError: validation missed photos, or its loss is not finite.
            InvalidArgumentError: as `TrainingSteps.train`, or of the input.
        """
        self.model.stop_training = False
        self._callbacks.on_train_begin()
        batches = iter(self.train_data)
        while self.state.place.epoch < self.extent.epochs and not self.model.stop_training:
            self._run_epoch(batches)
        self._callbacks.on_train_end()

    def _run_epoch(self, batches: Iterator) -> None:
        epoch, first_step = self.state.place
        clock = _Clock()
        if not first_step:
            self.state.learning_rate = keras_compat.learning_rate(self.model.optimizer)
        self._callbacks.on_epoch_begin(epoch)
        for step in range(first_step, self.extent.steps):
            self._train_step(Place(epoch, step), batches, clock)
            self._save_or_end()
        self._totals.settle()
        train_seconds = clock.seconds
        trained = means(self._totals.values)
        validation = self._validate()
        self._check(validation)
        images = (self.extent.steps - first_step) * self.extent.batch_size
        logs = {
            "learning_rate": self.state.learning_rate,
            **{name: trained[name] for name in ("loss", "cross_entropy", "top1", "top5")},
            **{f"val_{name}": validation[name] for name in _VALIDATION},
        }
        timings = {
            "images_per_second": round(images / train_seconds, 1),
            "input_wait_seconds": round(clock.waited, 1),
            "seconds": round(clock.seconds, 1),
        }
        self._finish_epoch(logs, timings)

    def _train_step(self, place: Place, batches: Iterator, clock: "_Clock") -> None:
        with clock.waiting():
            batch = next(batches)
        self.last_features = batch[0]
        number = self.next_step
        stop = tf.constant(float(self.stop.is_set))
        self._callbacks.on_train_batch_begin(place.step)
        if self.hooks.gradient_every and number % self.hooks.gradient_every == 0:
            sums, gradients = self.steps.train_with_gradients(batch, stop)
            self.hooks.on_gradients(number, gradients)
        else:
            sums = self.steps.train(batch, stop)
        self._totals.add(sums)
        self.state.place = Place(place.epoch, place.step + 1)
        self._callbacks.on_train_batch_end(place.step, means(self._totals.values))

    def _validate(self) -> dict[str, float]:
        totals = Totals()
        self._callbacks.on_test_begin()
        with _averaged(self.model):
            for number, batch in enumerate(self.validation_data):
                self._callbacks.on_test_batch_begin(number)
                stop = tf.constant(float(self.stop.is_set))
                totals.add(self.steps.validate(batch, stop))
                self._callbacks.on_test_batch_end(number)
                if totals.stop:
                    break
            totals.settle()
        if totals.stop:
            self._end()
        logs = means(totals.values)
        self._callbacks.on_test_end(logs)
        return logs

    def _check(self, validation: dict[str, float]) -> None:
        expected = self.extent.validation_images
        counted = round(validation["images"])
        if expected is not None and counted != expected:
            raise ValueError(
                f"validation must count each of {expected} photos once; it counted {counted}; "
                f"run data_prep.verify on the data set"
            )
        if not math.isfinite(validation["cross_entropy"]):
            raise ValueError(
                f"the validation loss after epoch {self.state.place.epoch + 1} is "
                f"{validation['cross_entropy']}; the last checkpoint is whole: lower "
                f"the learning rate in a new workdir"
            )
        validation["images"] = counted

    def _finish_epoch(self, logs: dict[str, object], timings: dict[str, object]) -> None:
        state = self.state
        epoch = state.place.epoch
        step = (epoch + 1) * self.extent.steps
        state.history.append({"epoch": epoch + 1, "step": step, **logs, **self.extent.notes})
        state.timings.append({"epoch": epoch + 1, **timings})
        state.place = Place(epoch + 1)
        state.learning_rate = None
        self._totals = Totals()
        # Those that change the rate first: what they did is in the checkpoint.
        self._callbacks.on_epoch_end(epoch, {**logs, **timings})
        self._save()

    def _save_or_end(self) -> None:
        """Write a checkpoint inside an epoch if it is time, or end if a process was asked to."""
        if self._totals.stop:
            self._end()
        if time.perf_counter() - self._saved_at >= self.hooks.save_seconds:
            self._save()

    def _save(self) -> None:
        self._totals.settle()
        self.state.totals = self._totals.values if self.state.place.step else ()
        if self.state.place != self._saved:
            self.hooks.save(self.state)
        self._saved = self.state.place
        self._saved_at = time.perf_counter()

    def _end(self) -> None:
        self._save()
        epoch, step = self.state.place
        raise Stopped(
            f"asked to end: the checkpoint after {epoch} epochs and {step} steps is written; run "
            f"the same command again to go on"
        )


@contextlib.contextmanager
def _averaged(model: keras.Model) -> Iterator[None]:
    """Swap the averages, if the optimizer keeps them, in for the weights."""
    averages = update_rules.averages_of(model.optimizer)
    variables = model.trainable_variables if averages else []
    weights = [variable.numpy() for variable in variables]
    try:
        for variable, average in zip(variables, averages, strict=True):
            variable.assign(average.numpy())
        yield
    finally:
        for variable, value in zip(variables, weights, strict=True):
            variable.assign(value)


class _Clock:
    """Seconds since it was made, and the part of them spent waiting for photos."""

    def __init__(self) -> None:
        self._began = time.perf_counter()
        self.waited = 0.0

    @property
    def seconds(self) -> float:
        return time.perf_counter() - self._began

    @contextlib.contextmanager
    def waiting(self) -> Iterator[None]:
        began = time.perf_counter()
        yield
        self.waited += time.perf_counter() - began


def first_features(features: object, strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Return the features of a batch that this process' first replica got."""
    return tf.nest.map_structure(
        lambda part: strategy.experimental_local_results(part)[0], features
    )
