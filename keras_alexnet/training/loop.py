"""The loop of a run: epochs of steps and a validation each, from any place to the end.

Keras' callbacks see what they see in `Model.fit`. See steps.py for why it is not that.
"""

import contextlib
import dataclasses
import math
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import keras
import tensorflow as tf

from keras_alexnet.network import keras_compat
from keras_alexnet.training import update_rules
from keras_alexnet.training.checkpoints import Place, RunState
from keras_alexnet.training.steps import Totals, TrainingSteps, means
from keras_alexnet.training.stopping import Stopped, StopSignal

# Metrics logged for validation. Its loss equals cross_entropy, so it is omitted.
_VALIDATION = ("cross_entropy", "top1", "top5", "images")


@dataclasses.dataclass(frozen=True)
class Extent:
    """Length of a run.

    Attributes:
        epochs: number of the last epoch, from 1.
        steps: steps an epoch.
        batch_size: global, photos.
        validation_images: records of the validation split, each to be counted once; None to
            skip the check, where a run looks at a part of them.
        seconds: time limit; the epoch in which it is over is the last one. None for no limit.
        notes: added to the metrics of each epoch.
    """

    epochs: int
    steps: int
    batch_size: int
    validation_images: int | None
    seconds: float | None = None
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
    save_seconds: float = math.inf
    on_gradients: Callable[[int, Sequence[tf.Tensor]], None] = lambda step, gradients: None
    gradient_every: int = 0


@dataclasses.dataclass(kw_only=True)
class TrainingLoop:
    """A loop that trains a model from the place in its state to the end.

    Attributes:
        steps: of a model whose weights and optimizer are those of the place.
        train_data: batches of `inputs.pipeline.train_dataset` from the place on.
        validation_data: batches of `inputs.pipeline.central_views`, iterated over anew each epoch.
        extent: length of the run.
        state: updated as the run goes on.
        hooks: what the run does besides training.
        stop: set once the process was asked to end.
        last_features: of the latest batch.
    """

    steps: TrainingSteps
    train_data: tf.data.Dataset | tf.distribute.DistributedDataset
    validation_data: tf.data.Dataset | tf.distribute.DistributedDataset
    extent: Extent
    state: RunState
    hooks: Hooks
    stop: StopSignal
    last_features: object = None

    def __post_init__(self) -> None:
        self.model = self.steps.model
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
        """Train to the last epoch, the end of the time, or a callback's `model.stop_training`.

        Raises:
            Stopped: the process was asked to end, and a checkpoint was written.
            ValueError: validation missed photos, or its loss is not finite.
            InvalidArgumentError: as `TrainingSteps.train`, or of the input.
        """
        self.model.stop_training = False
        self._callbacks.on_train_begin()
        began, limit = time.monotonic(), self.extent.seconds
        batches = iter(self.train_data)
        while self.state.place.epoch < self.extent.epochs and not self.model.stop_training:
            self._run_epoch(batches)
            if limit is not None and time.monotonic() - began >= limit:
                break
        self._callbacks.on_train_end()

    def _run_epoch(self, batches: Iterator) -> None:
        epoch, first_step = self.state.place
        began, waited = time.perf_counter(), 0.0
        if not first_step:
            self.state.learning_rate = keras_compat.learning_rate(self.model.optimizer)
        self._callbacks.on_epoch_begin(epoch)
        for step in range(first_step, self.extent.steps):
            asked = time.perf_counter()
            batch = next(batches)
            waited += time.perf_counter() - asked
            self._train_step(Place(epoch, step), batch)
            if self._totals.stop:
                self._end()
            if time.perf_counter() - self._saved_at >= self.hooks.save_seconds:
                self._save()
        self._totals.settle()
        train_seconds = time.perf_counter() - began
        trained = means(self._totals.values)
        validation = self._validate()
        images = (self.extent.steps - first_step) * self.extent.batch_size
        logs = {
            "learning_rate": self.state.learning_rate,
            **{name: trained[name] for name in ("loss", "cross_entropy", "top1", "top5")},
            **{f"val_{name}": validation[name] for name in _VALIDATION},
        }
        timings = {
            "images_per_second": round(images / train_seconds, 1),
            "input_wait_seconds": round(waited, 1),
            "seconds": round(time.perf_counter() - began, 1),
        }
        state = self.state
        number, done = epoch + 1, (epoch + 1) * self.extent.steps
        state.history.append({"epoch": number, "step": done, **logs, **self.extent.notes})
        state.timings.append({"epoch": number, **timings})
        state.place = Place(number)
        state.learning_rate = None
        self._totals = Totals()
        # Those that change the rate first: what they did is in the checkpoint.
        self._callbacks.on_epoch_end(epoch, {**logs, **timings})
        self._save()

    def _train_step(self, place: Place, batch: tuple) -> None:
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
        expected = self.extent.validation_images
        counted = round(logs["images"])
        if expected is not None and counted != expected:
            raise ValueError(
                f"validation must count each of {expected} photos once; it counted {counted}; "
                f"run data_prep.verify on the data set"
            )
        if not math.isfinite(logs["cross_entropy"]):
            raise ValueError(
                f"the validation loss after epoch {self.state.place.epoch + 1} is "
                f"{logs['cross_entropy']}; the last checkpoint is whole: lower the learning rate "
                "in a new workdir"
            )
        return {**logs, "images": counted}

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
