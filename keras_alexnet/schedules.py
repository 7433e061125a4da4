"""Learning-rate policies.

A policy is a constant, a function of the step that Keras' optimizers take, or a callback; which
is a row of `SCHEDULES`.
"""

from collections.abc import Callable, Mapping, Sequence

import keras


def steps(
    learning_rate: float, total_steps: int, factor: float, drops_at: Sequence[float]
) -> keras.optimizers.schedules.LearningRateSchedule | float:
    """A drop at each of some places of the run: Caffe's policy "step", PyTorch's StepLR.

    Args:
        learning_rate: the first one.
        total_steps: of the whole run.
        factor: what a drop multiplies the rate by.
        drops_at: parts of the run, each above 0 and below 1, in order.
    """
    if not drops_at:
        return learning_rate
    boundaries = [max(1, round(total_steps * part)) for part in drops_at]
    values = [learning_rate * factor**drop for drop in range(len(drops_at) + 1)]
    return keras.optimizers.schedules.PiecewiseConstantDecay(boundaries, values)


def constant(
    learning_rate: float, total_steps: int, factor: float, drops_at: Sequence[float]
) -> float:
    """The rate as it is, for `plateau` (which lowers it as it goes) and for experiments."""
    del total_steps, factor, drops_at
    return learning_rate


# What the optimizer is given as its learning rate, by the name of the policy.
SCHEDULES: Mapping[str, Callable] = {"plateau": constant, "steps": steps, "constant": constant}


class Plateau(keras.callbacks.ReduceLROnPlateau):
    """ReduceLROnPlateau on the validation top-1 accuracy, that ends a run and survives a resume.

    The paper's hand made automatic (section 5): a tenth of the rate when validation stopped
    improving, three times; the plateau after the third ends the run. Keras' own callback forgets
    what it has seen when `fit` starts (keras#9462); this one goes on from a state that was set.

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
