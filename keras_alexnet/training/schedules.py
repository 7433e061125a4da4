"""Learning-rate policies, and what a policy does to single layers and to the colour noise.

A policy is a row of `SCHEDULES`: what Keras' optimizers take as their rate, and, in the program of
2012, a layer's own rate and the parts of a run without noise. `plateau` lowers the rate from a
callback as it goes.
"""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import keras

Rate = float | keras.optimizers.schedules.LearningRateSchedule


@dataclasses.dataclass(frozen=True)
class Course:
    """What a policy is laid over.

    Attributes:
        learning_rate: the first one, or after a warm-up.
        steps: of the whole run.
        warmup_steps: in which the rate rises from 0; only `cosine` looks at it.
        factor: what a drop multiplies the rate by.
        drops_at: parts of the run, each above 0 and below 1, in order; only `steps` looks at it.
    """

    learning_rate: float
    steps: int
    warmup_steps: int = 0
    factor: float = 0.1
    drops_at: tuple[float, ...] = ()


class Change(NamedTuple):
    """From a part of the run on (0 to 1), the rate is multiplied by this."""

    part: float
    multiplier: float


class Policy(NamedTuple):
    """A learning-rate policy.

    Attributes:
        rate: what the optimizer is given as its learning rate.
        of_layers: by layer, when its rate is another multiple of that; 0 freezes it.
        quiet: parts of the run (from, to) in which there is no colour noise.
    """

    rate: Callable[[Course], Rate]
    of_layers: Mapping[str, Sequence[Change]] = {}
    quiet: Sequence[tuple[float, float]] = ()


def piecewise(
    changes: Sequence[Change], steps: int, start: float = 1.0
) -> keras.optimizers.schedules.LearningRateSchedule:
    """A value that changes at some parts of a run.

    Args:
        changes: in order.
        steps: of the run.
        start: the value before the first change, and what the multipliers multiply.
    """
    # Keras' changes come after their boundary, ours with the step that the part begins with.
    boundaries = [max(1, round(steps * change.part)) - 1 for change in changes]
    values = [start, *(start * change.multiplier for change in changes)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


def _constant(course: Course) -> Rate:
    """The rate as it is: for `plateau`, and for experiments."""
    return course.learning_rate


def _steps(course: Course) -> Rate:
    """A drop at each of some places of the run: Caffe's policy "step", PyTorch's StepLR."""
    drops = enumerate(course.drops_at, start=1)
    changes = [Change(part, course.factor**number) for number, part in drops]
    return piecewise(changes, course.steps, course.learning_rate) if changes else _constant(course)


def _cosine(course: Course) -> Rate:
    """Half a cosine down to 0 (Loshchilov and Hutter, 2017), after a linear warm-up, if any."""
    falling = max(1, course.steps - course.warmup_steps)
    if not course.warmup_steps:
        return keras.optimizers.schedules.CosineDecay(course.learning_rate, falling)
    return keras.optimizers.schedules.CosineDecay(
        0.0, falling, warmup_target=course.learning_rate, warmup_steps=course.warmup_steps
    )


# The log of network 145 (layer-params-145.cfg of the 2012 program), in epochs. Its 91 epochs are
# the paper's "1 CNN"; pushed back to a higher rate and run on to 135, it beat the paper.
LOGGED_EPOCHS = 135


def _logged(epoch: int, multiplier: float) -> Change:
    return Change(epoch / LOGGED_EPOCHS, multiplier)


_LOGGED_RATES = (
    _logged(25, 0.1),
    _logged(51, 0.01),
    _logged(79, 0.001),
    _logged(91, 0.1),
    _logged(107, 0.01),
    _logged(124, 0.001),
)
_LOGGED_CONV1 = (_logged(67, 0.1), _logged(72, 0.0), _logged(91, 1.0))
_LOGGED_QUIET = ((67 / LOGGED_EPOCHS, 91 / LOGGED_EPOCHS), (124 / LOGGED_EPOCHS, 1.0))


def _krizhevsky2012(course: Course) -> Rate:
    """The logged rates, compressed in proportion where the run is not 135 epochs long."""
    return piecewise(_LOGGED_RATES, course.steps, course.learning_rate)


# By the value of --schedule.
SCHEDULES: Mapping[str, Policy] = {
    "plateau": Policy(_constant),
    "steps": Policy(_steps),
    "cosine": Policy(_cosine),
    "krizhevsky2012": Policy(_krizhevsky2012, {"conv1": _LOGGED_CONV1}, _LOGGED_QUIET),
    "constant": Policy(_constant),
}


def quiet_steps(schedule: str, steps: int) -> list[tuple[int, int]]:
    """The steps (from, to; to exclusive) of a run that a policy wants without colour noise.

    Args:
        schedule: a key of `SCHEDULES`.
        steps: of the whole run.
    """
    quiet = SCHEDULES[schedule].quiet
    return [(round(steps * first), round(steps * last)) for first, last in quiet]


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau on the validation top-1 accuracy, that ends a run and survives a resume.

    The paper's hand made automatic (section 5): a tenth of the rate when validation stopped
    improving, three times; the plateau after the third ends the run. Keras' own callback forgets
    what it has seen when a run starts (keras#9462); this one goes on from a state that was set.

    Args:
        patience: epochs without improvement before a drop.
        factor: what a drop multiplies the rate by.
        drops: how often the rate is lowered.
    """

    def __init__(self, patience: int, factor: float = 0.1, drops: int = 3) -> None:
        super().__init__(
            monitor="val_top1", mode="max", factor=factor, patience=patience, min_delta=1e-4
        )
        self.drops_left = drops
        self._restored = False

    @property
    def state(self) -> dict[str, float | int | None]:
        """What must be kept to go on: JSON-able."""
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
        """Whether the plateau after the last drop was reached."""
        return not self.drops_left and self.wait >= self.patience

    def on_train_begin(self, logs: Mapping | None = None) -> None:
        """Forgets nothing that was restored."""
        if not self._restored:
            super().on_train_begin(logs)

    def on_epoch_end(self, epoch: int, logs: dict | None = None) -> None:
        """Lowers the rate, or ends the run."""
        # Keras lowers the rate only above min_lr: that is how the last drop is made the last.
        self.min_lr = 0.0 if self.drops_left else float("inf")
        before = self.model.optimizer.learning_rate.numpy()
        super().on_epoch_end(epoch, logs)
        if self.model.optimizer.learning_rate.numpy() < before:
            self.drops_left -= 1
        elif self.is_over:
            self.model.stop_training = True
