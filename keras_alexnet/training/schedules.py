"""Learning-rate schedules; the 2012 program's also changes one layer's rate and the colour noise.

`plateau` lowers the rate from a callback.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras

Rate = float | keras.optimizers.schedules.LearningRateSchedule


@dataclasses.dataclass(frozen=True)
class Course:
    """The run that a learning-rate schedule is made for.

    Attributes:
        learning_rate: at the start, or after a warm-up.
        steps: of the whole run.
        warmup_steps: in which the rate rises from 0; only for `cosine`.
        factor: what a drop multiplies the rate by.
        drops_at: parts of the run, each above 0 and below 1, in order; only for `steps`.
    """

    learning_rate: float
    steps: int
    warmup_steps: int = 0
    factor: float = 0.1
    drops_at: tuple[float, ...] = ()


class Change(NamedTuple):
    """A multiplier of the rate from a part of the run on (0 to 1)."""

    part: float
    multiplier: float


class Policy(NamedTuple):
    """A learning-rate schedule.

    Attributes:
        rate: makes the optimizer's learning rate.
        of_layers: by layer, changes of its own multiple of that rate; 0 freezes it.
        quiet: parts of the run (from, to) without colour noise.
    """

    rate: Callable[[Course], Rate]
    of_layers: Mapping[str, Sequence[Change]] = {}
    quiet: Sequence[tuple[float, float]] = ()


def piecewise(
    changes: Sequence[Change], steps: int, start: float = 1.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """Return a schedule of `start` times the latest multiplier, in a run of `steps`."""
    # Keras changes after a boundary, a `Change` with the step that its part begins with.
    boundaries = [max(1, round(steps * change.part)) - 1 for change in changes]
    values = [start, *(start * change.multiplier for change in changes)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


def _constant(course: Course) -> Rate:
    """Return the rate itself: for `plateau`, and for experiments."""
    return course.learning_rate


def _steps(course: Course) -> Rate:
    """Return a drop at each of some places of the run: Caffe's "step", PyTorch's StepLR."""
    drops = enumerate(course.drops_at, start=1)
    changes = [Change(part, course.factor**number) for number, part in drops]
    return piecewise(changes, course.steps, course.learning_rate) if changes else _constant(course)


def _cosine(course: Course) -> Rate:
    """Return half a cosine down to 0 (Loshchilov and Hutter, 2017), after a linear warm-up."""
    falling = max(1, course.steps - course.warmup_steps)
    if not course.warmup_steps:
        return keras.optimizers.schedules.CosineDecay(course.learning_rate, falling)
    return keras.optimizers.schedules.CosineDecay(
        0.0, falling, warmup_target=course.learning_rate, warmup_steps=course.warmup_steps
    )


# The log of network 145 (layer-params-145.cfg of the 2012 program), in epochs. Its 91 epochs are
# the paper's "1 CNN"; pushed back to a higher rate and run on to 135, it beat the paper.
_LOGGED_EPOCHS = 135


def _logged(*changes: tuple[int, float]) -> tuple[Change, ...]:
    return tuple(Change(epoch / _LOGGED_EPOCHS, multiplier) for epoch, multiplier in changes)


_LOGGED_RATES = _logged((25, 0.1), (51, 0.01), (79, 0.001), (91, 0.1), (107, 0.01), (124, 0.001))
_LOGGED_CONV1 = _logged((67, 0.1), (72, 0.0), (91, 1.0))
_LOGGED_QUIET = ((67 / _LOGGED_EPOCHS, 91 / _LOGGED_EPOCHS), (124 / _LOGGED_EPOCHS, 1.0))


# By the value of --schedule.
SCHEDULES: Mapping[str, Policy] = {
    "plateau": Policy(_constant),
    "steps": Policy(_steps),
    "cosine": Policy(_cosine),
    "krizhevsky2012": Policy(
        lambda course: piecewise(_LOGGED_RATES, course.steps, course.learning_rate),
        {"conv1": _LOGGED_CONV1},
        _LOGGED_QUIET,
    ),
    "constant": Policy(_constant),
}


def quiet_steps(schedule: str, steps: int) -> list[tuple[int, int]]:
    """Return the steps (from, to; to exclusive) without colour noise, of a run of `steps`."""
    quiet = SCHEDULES[schedule].quiet
    return [(round(steps * first), round(steps * last)) for first, last in quiet]


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau on the validation top-1 accuracy, which ends a run and survives a resume.

    The paper did it by hand (section 5): a tenth of the rate when validation stopped improving,
    three times; the plateau after the third ends the run. Keras' own callback starts anew with
    each call (keras#9462); this one goes on from a state that was set.

    Args:
        patience: epochs without improvement before a drop.
        factor: what a drop multiplies the rate by.
        drops: number of drops.
    """

    def __init__(self, patience: int, factor: float = 0.1, drops: int = 3) -> None:
        super().__init__(
            monitor="val_top1", mode="max", factor=factor, patience=patience, min_delta=1e-4
        )
        self.drops_left = drops
        self._restored = False

    @property
    def state(self) -> dict[str, float | int | None]:
        """The state to resume from: JSON-able."""
        best = None if self.best is None else float(self.best)
        return {"best": best, "wait": self.wait, "drops_left": self.drops_left}

    @state.setter
    def state(self, state: Mapping[str, float | int | None]) -> None:
        self.best = state["best"]
        self.wait = state["wait"]
        self.drops_left = state["drops_left"]
        self._restored = True

    @property
    def is_over(self) -> bool:
        """True once the plateau after the last drop was reached."""
        return not self.drops_left and self.wait >= self.patience

    def on_train_begin(self, logs: Mapping | None = None) -> None:
        """Start anew, unless a state was restored."""
        if not self._restored:
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Lower the rate, or end the run."""
        # Keras lowers the rate only above min_lr: that is how the last drop is made the last.
        self.min_lr = 0.0 if self.drops_left else float("inf")
        before = self.model.optimizer.learning_rate.numpy()
        super().on_epoch_end(epoch, logs)
        if self.model.optimizer.learning_rate.numpy() < before:
            self.drops_left -= 1
        elif self.is_over:
            self.model.stop_training = True
