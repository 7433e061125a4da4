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

from data_prep.command_line import TryAgain, UserError
from keras_alexnet.network import keras_compat
from keras_alexnet.training import checkpoints, update_rules
from keras_alexnet.training.checkpoints import Place
from keras_alexnet.training.steps import Totals, TrainingSteps, means
from keras_alexnet.training.stopping import StopSignal

# Of a validation; not the loss, which there is the cross-entropy.
_VALIDATION = ("cross_entropy", "top1", "top5", "images")
GradientListener = Callable[[int, Sequence[tf.Tensor]], None]


_START = Place(0)


@dataclasses.dataclass
class RunState:
    """Where a run is, and what it has seen.

    Attributes:
        place: what is done.
        totals: sums over the steps of the epoch that is not whole yet.
        learning_rate: that this epoch began with.
        history: metrics an epoch.
        timings: of a clock, an epoch.
    """

    place: Place = _START
    totals: Totals = dataclasses.field(default_factory=Totals)
    learning_rate: float | None = None
    history: list[dict] = dataclasses.field(default_factory=list)
    timings: list[dict] = dataclasses.field(default_factory=list)


@dataclasses.dataclass(frozen=True)
class Extent:
    """How far a run goes.

    Attributes:
        epochs: number of the last epoch, from 1.
        steps: an epoch.
        batch_size: global, photos.
        validation_images: records of the validation split, each to be counted once; None for no
            check, of a run that looks at a part of them.
        notes: what each epoch's metrics have besides.
    """

    epochs: int
    steps: int
    batch_size: int
    validation_images: int | None
    notes: Mapping[str, object] = dataclasses.field(default_factory=dict)


@dataclasses.dataclass(frozen=True)
class Hooks:
    """What else happens in a run.

    Attributes:
        callbacks: of Keras.
        save: writes a checkpoint of the state.
        save_seconds: how often, inside of an epoch.
        tell_gradients: gets the step's number and its gradients.
        tell_steps: each so many steps; 0 for never.
    """

    callbacks: Sequence[keras.callbacks.Callback] = ()
    save: Callable[[RunState], None] = lambda state: None
    save_seconds: float = 600.0
    tell_gradients: GradientListener = lambda step, gradients: None
    tell_steps: int = 0


class TrainingLoop:
    """Trains a model from the place that its state names to the end.

    Args:
        model: compiled; its weights and its optimizer are those of the place.
        steps: of that model.
        train_data: batches of `inputs.pipeline.train_dataset` from the place on.
        validation_data: batches of `inputs.pipeline.central_views`, iterated over anew each epoch.
        extent: how far it goes.
        state: where it is; changed as it goes on.
        hooks: what else happens.
        stop: whether the process was asked to end.
    """

    def __init__(
        self,
        *,
        model: keras.Model,
        steps: TrainingSteps,
        train_data: tf.data.Dataset | tf.distribute.DistributedDataset,
        validation_data: tf.data.Dataset | tf.distribute.DistributedDataset,
        extent: Extent,
        state: RunState,
        hooks: Hooks,
        stop: StopSignal,
    ) -> None:
        self._model = model
        self._steps = steps
        self._train_data = train_data
        self._validation_data = validation_data
        self._extent = extent
        self._state = state
        self._hooks = hooks
        self._stop = stop
        self._callbacks = keras.callbacks.CallbackList(list(hooks.callbacks), model=model)
        self._saved = state.place
        self._saved_at = time.perf_counter()
        self.last_features: object = None

    def run(self) -> None:
        """Trains to the last epoch, or until a callback sets `model.stop_training`.

        Raises:
            TryAgain: the process was asked to end, and a checkpoint was written.
            UserError: validation is not what it has to be.
            InvalidArgumentError: as `TrainingSteps.train`, or of the input.
        """
        self._model.stop_training = False
        self._callbacks.on_train_begin()
        batches = iter(self._train_data)
        while self._state.place.epoch < self._extent.epochs and not self._model.stop_training:
            self._run_epoch(batches)
        self._callbacks.on_train_end()

    def _run_epoch(self, batches: Iterator) -> None:
        epoch, first_step = self._state.place
        clock = _Clock()
        if not first_step:
            self._state.learning_rate = keras_compat.learning_rate(self._model.optimizer)
        self._callbacks.on_epoch_begin(epoch)
        for step in range(first_step, self._extent.steps):
            self._train_step(Place(epoch, step), batches, clock)
            self._save_or_end()
        self._state.totals.settle()
        train_seconds = clock.seconds
        trained = means(self._state.totals.values)
        validation = self._validate()
        self._check(validation)
        images = (self._extent.steps - first_step) * self._extent.batch_size
        logs = {
            "learning_rate": self._state.learning_rate,
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
        number = place.epoch * self._extent.steps + place.step + 1
        stop = tf.constant(float(self._stop.is_set))
        self._callbacks.on_train_batch_begin(place.step)
        if self._hooks.tell_steps and number % self._hooks.tell_steps == 0:
            sums, gradients = self._steps.train_and_tell(batch, stop)
            self._hooks.tell_gradients(number, gradients)
        else:
            sums = self._steps.train(batch, stop)
        totals = self._state.totals
        totals.add(sums)
        self._state.place = Place(place.epoch, place.step + 1)
        self._callbacks.on_train_batch_end(place.step, means(totals.values))

    def _validate(self) -> dict[str, float]:
        totals = Totals()
        self._callbacks.on_test_begin()
        with _averaged(self._model):
            for number, batch in enumerate(self._validation_data):
                self._callbacks.on_test_batch_begin(number)
                stop = tf.constant(float(self._stop.is_set))
                totals.add(self._steps.validate(batch, stop))
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
        expected = self._extent.validation_images
        counted = round(validation["images"])
        if expected is not None and counted != expected:
            raise UserError(
                f"validation must count each of {expected} photos once; it counted {counted}; "
                f"run data_prep.verify on the data set"
            )
        if not math.isfinite(validation["cross_entropy"]):
            raise UserError(
                f"the validation loss after epoch {self._state.place.epoch + 1} is "
                f"{validation['cross_entropy']}; the last checkpoint is whole: lower "
                f"--learning_rate in a new --workdir"
            )
        validation["images"] = counted

    def _finish_epoch(self, logs: dict[str, object], timings: dict[str, object]) -> None:
        state = self._state
        epoch = state.place.epoch
        step = (epoch + 1) * self._extent.steps
        state.history.append({"epoch": epoch + 1, "step": step, **logs, **self._extent.notes})
        state.timings.append({"epoch": epoch + 1, **timings})
        state.place = Place(epoch + 1)
        state.totals = Totals()
        # Those that change the rate first: what they did is in the checkpoint.
        self._callbacks.on_epoch_end(epoch, {**logs, **timings})
        self._save()

    def _save_or_end(self) -> None:
        """Inside of an epoch: a checkpoint if it is time, or the end if it was asked for."""
        if self._state.totals.stop:
            self._end()
        if time.perf_counter() - self._saved_at >= self._hooks.save_seconds:
            self._save()

    def _save(self) -> None:
        self._state.totals.settle()
        if self._state.place != self._saved:
            self._hooks.save(self._state)
        self._saved = self._state.place
        self._saved_at = time.perf_counter()

    def _end(self) -> None:
        self._save()
        epoch, step = self._state.place
        raise TryAgain(
            f"asked to end: the checkpoint after {epoch} epochs and {step} steps is written; run "
            f"the same command again to go on"
        )


@contextlib.contextmanager
def _averaged(model: keras.Model) -> Iterator[None]:
    """Puts the moving averages, if the optimizer keeps them, in the place of the weights."""
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
    """Seconds since it was made, and those of them that were spent waiting for photos."""

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


def read_state(checkpoint: checkpoints.Checkpoint | None) -> RunState:
    """The state that a checkpoint has, or that of a new run."""
    if checkpoint is None:
        return RunState()
    return RunState(
        place=checkpoint.place,
        totals=Totals(checkpoint.totals),
        learning_rate=checkpoint.learning_rate,
        history=[dict(metrics) for metrics in checkpoint.history],
        timings=[dict(timings) for timings in checkpoint.timings],
    )


def first_features(features: object, strategy: tf.distribute.Strategy) -> dict[str, np.ndarray]:
    """Features of a batch, of this process' first replica."""
    return tf.nest.map_structure(
        lambda part: strategy.experimental_local_results(part)[0], features
    )
