"""A rule of the preflight: figures beyond thresholds, and what that means."""

import dataclasses
import math
from collections.abc import Mapping

VERDICTS = ("learns", "at risk", "flat")  # from good to bad


@dataclasses.dataclass(frozen=True)
class Condition:
    """A figure above or below a threshold. A figure that was not measured is neither."""

    figure: str
    is_above: bool
    threshold: float

    def holds(self, figures: Mapping[str, float]) -> bool:
        """Whether it is so; of a figure that is not a number, it is."""
        value = figures.get(self.figure)
        if value is None:
            return False
        if math.isnan(value):
            return True
        return value > self.threshold if self.is_above else value < self.threshold


def above(figure: str, threshold: float) -> Condition:
    """The figure is larger."""
    return Condition(figure, True, threshold)


def below(figure: str, threshold: float) -> Condition:
    """The figure is smaller."""
    return Condition(figure, False, threshold)


@dataclasses.dataclass(frozen=True)
class Rule:
    """What to say if all its conditions hold.

    Attributes:
        conditions: the first is the finding's figure.
        verdict: of `VERDICTS`; "learns" for a remark that is no verdict.
        reason: a sentence; {names} are figures.
        knob: what to try; {names} are those of `suggestions`.
        source: where the rule and its number come from.
    """

    conditions: tuple[Condition, ...]
    verdict: str
    reason: str
    knob: str
    source: str
