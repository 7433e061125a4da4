"""What the preflight's figures mean: a table of rules, each with the knob to turn.

The thresholds of the rules about steps and photos' shares were set by the runs of
benchmarks/preflight_truth.py: networks a quarter as wide as their profiles, batches of 32, 300
steps, on 3,000 enlarged CIFAR-10 photos and on 3,000 drawn shapes, 10 classes each. The physics
behind a rule says in which direction it holds for other widths and batches; its number is less
sure there.
"""

import dataclasses
import math
from collections.abc import Mapping

from keras_alexnet.profile import Profile
from keras_alexnet.training_options import TrainingOptions

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


@dataclasses.dataclass(frozen=True)
class Finding:
    """A rule that holds, in words."""

    verdict: str
    figure: str
    value: float
    reason: str
    knob: str


@dataclasses.dataclass(frozen=True)
class Judgement:
    """The worst verdict of all findings, and these, the worst first."""

    verdict: str
    findings: list[Finding]


_PREPARE = "prepare the data again with data_prep.prepare, which numbers the classes itself"
_START = "--kernel_init=he_normal --bias_init=0 --pixel_scale={unit_scale:.3g}"
RULES = (
    Rule(
        (above("labels_out_of_range", 0.0),),
        "flat",
        "{labels_out_of_range:.1%} of the labels are no class' place: are they from 1?",
        f"{_PREPARE}, with --label_offset=0",
        "the contract of data_prep/records.py; the loss cannot be computed",
    ),
    Rule(
        (above("labels_of_other_synsets", 0.0),),
        "flat",
        "{labels_of_other_synsets:.1%} of the records have the label of another class than their "
        "image/class/synset says",
        _PREPARE,
        "the contract of data_prep/records.py",
    ),
    Rule(
        (above("labels_file_differs", 0.0),),
        "at risk",
        "labels.txt is not the manifest's list of classes: answers will get the wrong names",
        _PREPARE,
        "the contract of data_prep/records.py",
    ),
    Rule(
        (above("classes_missing", 0.0),),
        "at risk",
        "{classes_missing:.1%} of the classes have no photo among {labels_read:.0f} records",
        "look at audit.html in the data set; leave those classes out, or add photos",
        "at least 10 records a class were read",
    ),
    Rule(
        (below("label_information", 3.0),),
        "flat",
        "the labels say nothing about the photos: a simple classifier's answers are "
        "{label_information:.1f} deviations above chance; are they shuffled?",
        "look at some photos of each class in audit.html, and prepare the data again",
        "z-score: 3 is 1 in 700 by chance; here 17 and more with right labels, at most 1 shuffled",
    ),
    Rule(
        (below("validation_label_information", 3.0), above("label_information", 3.0)),
        "flat",
        "what the labels of the train photos say does not hold for the validation photos "
        "({validation_label_information:.1f} deviations above chance): are one split's labels "
        "moved by one class?",
        _PREPARE,
        "z-score, as above",
    ),
    Rule(
        (above("input_offset", 0.7),),
        "learns",
        "the network's input is off zero by {input_offset:.1f} of its deviations: the mean is not "
        "subtracted",
        "prepare the data again: statistics/mean_image.npy is not that of these photos",
        "with photos less their mean, at most 0.3 in a batch",
    ),
    Rule(
        (above("not_finite", 0.0),),
        "flat",
        "the loss is not finite any more after {steps:.0f} steps",
        "--learning_rate={tenth_rate:.1g}",
        "arithmetic",
    ),
)


def suggestions(
    profile: Profile, options: TrainingOptions, figures: Mapping[str, float]
) -> dict[str, float]:
    """The values that knobs name.

    Args:
        profile: as it is.
        options: as they are.
        figures: what was measured.

    Returns:
        tenth_rate, tenfold_rate: of the learning rate. calm_rate: the one whose overshoot is 1.
        unit_scale: the pixel scale that makes input of unit size.
    """
    rate = options.learning_rate
    size = max(figures.get("input_std", 60.0) / profile.pixel_scale, 1e-6)
    return {
        "tenth_rate": rate / 10,
        "tenfold_rate": rate * 10,
        "calm_rate": rate / max(figures.get("overshoot", 1.0), 1.0),
        "unit_scale": 1 / size,
    }


def judge(
    figures: Mapping[str, float], profile: Profile, options: TrainingOptions
) -> Judgement:
    """Applies all rules.

    Args:
        figures: `measuring.Measured.figures`.
        profile: the network, for the knobs.
        options: the recipe, for the knobs.
    """
    values = suggestions(profile, options, figures)
    findings = [
        Finding(
            verdict=rule.verdict,
            figure=rule.conditions[0].figure,
            value=figures[rule.conditions[0].figure],
            reason=rule.reason.format(**figures),
            knob=rule.knob.format(**values),
        )
        for rule in RULES
        if all(condition.holds(figures) for condition in rule.conditions)
    ]
    findings.sort(key=lambda finding: -VERDICTS.index(finding.verdict))
    return Judgement(findings[0].verdict if findings else VERDICTS[0], findings)
