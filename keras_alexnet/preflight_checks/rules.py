"""Rules that make a verdict of the preflight's figures, each with the knob to turn.

"Calibration" in a rule's source is the runs of benchmarks/preflight_truth.py, above all those of
the first seed: networks a quarter as wide as their profiles, batches of 32, 300 steps, on 3,000
enlarged CIFAR-10 photos and on 3,000 drawn shapes, 10 classes each. "Full width" is a few runs of
whole networks on the same photos, with batches of 32, too. The physics behind a rule says in which
direction it holds for other data and batches; its number is less sure there.
"""

import dataclasses
import math
from collections.abc import Mapping, Sequence

from keras_alexnet.network.profile import Profile
from keras_alexnet.training.options import TrainingOptions

VERDICTS = ("learns", "at risk", "flat")  # from good to bad


# A figure, ">" or "<", and a threshold.
Condition = tuple[str, str, float]


@dataclasses.dataclass(frozen=True)
class Rule:
    """A verdict for networks whose figures meet all conditions.

    Attributes:
        conditions: the first is the finding's figure.
        verdict: of `VERDICTS`; "learns" for a remark that is no verdict.
        reason: a sentence; {names} are figures.
        knob: what to try; {names} are those of `judge`.
        source: where the rule and its number come from.
    """

    conditions: Sequence[Condition]
    verdict: str
    reason: str
    knob: str
    source: str


@dataclasses.dataclass(frozen=True)
class Finding:
    """A rule whose conditions hold, in words."""

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
_MEAN = "prepare the data again: statistics/mean_image.npy is not that of these photos"
_START = "--kernel_init=he_normal --bias_init=0 --pixel_scale={unit_scale:.3g}"
RULES = (
    Rule(
        [("labels_out_of_range", ">", 0.0)],
        "flat",
        "{labels_out_of_range:.1%} of the labels are no class' place: are they from 1?",
        f"{_PREPARE}, with --label_offset=0",
        "the contract of data_prep/records.py; the loss cannot be computed",
    ),
    Rule(
        [("labels_of_other_synsets", ">", 0.0)],
        "flat",
        "{labels_of_other_synsets:.1%} of the records have the label of another class than their "
        "image/class/synset says",
        _PREPARE,
        "the contract of data_prep/records.py",
    ),
    Rule(
        [("labels_file_differs", ">", 0.0)],
        "at risk",
        "labels.txt is not the manifest's list of classes: answers will get the wrong names",
        _PREPARE,
        "the contract of data_prep/records.py",
    ),
    Rule(
        [("classes_missing", ">", 0.0)],
        "at risk",
        "{classes_missing:.1%} of the classes have no photo among {labels_read:.0f} records",
        "look at audit.html in the data set; leave those classes out, or add photos",
        "at least 10 records a class were read",
    ),
    Rule(
        [("label_information", "<", 3.0)],
        "flat",
        "the labels say nothing about the photos: a simple classifier's answers are "
        "{label_information:.1f} deviations above chance; are they shuffled?",
        "look at some photos of each class in audit.html, and prepare the data again",
        "z-score: 3 is 1 in 700 by chance; here 17 and more with right labels, at most 1 shuffled",
    ),
    Rule(
        [("validation_label_information", "<", 3.0), ("label_information", ">", 3.0)],
        "flat",
        "what the labels of the train photos say does not hold for the validation photos "
        "({validation_label_information:.1f} deviations above chance): are one split's labels "
        "moved by one class?",
        _PREPARE,
        "z-score, as above",
    ),
    Rule(
        [("input_offset", ">", 0.7), ("photo_share", "<", 0.15)],
        "at risk",
        "the network's input is off zero by {input_offset:.1f} of its deviations: the mean is not "
        "subtracted, and what all photos have in common drowns them",
        _MEAN,
        "in a batch less its mean image at most 0.4; caffe without it began late or never",
    ),
    Rule(
        [("input_offset", ">", 0.7)],
        "learns",
        "the network's input is off zero by {input_offset:.1f} of its deviations: the mean is not "
        "subtracted",
        _MEAN,
        "as above; quickstart, whose start keeps the photo strong, learned without it too",
    ),
    Rule(
        [("not_finite", ">", 0.0)],
        "flat",
        "the loss is not finite any more after {steps:.0f} steps",
        "--learning_rate={tenth_rate:.2g}",
        "arithmetic",
    ),
    Rule(
        [("handful_not_finite", ">", 0.0)],
        "at risk",
        "trained on {handful_photos:.0f} photos alone, the loss is not finite any more after "
        "{handful_steps:.0f} steps",
        "--learning_rate={tenth_rate:.2g}",
        "arithmetic; a handful is harsher than a batch",
    ),
    Rule(
        [("dead_after", ">", 0.99)],
        "flat",
        "after {steps:.0f} steps a layer is dead: {dead_after:.0%} of its units are zero for every "
        "photo, and no gradient gets past them",
        "--learning_rate={tenth_rate:.2g}",
        "the derivative of ReLU; calibration: quickstart at ten times its rate",
    ),
    Rule(
        [("dead_after", ">", 0.65)],
        "at risk",
        "after {steps:.0f} steps {dead_after:.0%} of the units of a layer are zero for every photo",
        "--learning_rate={tenth_rate:.2g}",
        "calibration: at most 0.53 where it learned, 0.7 to 0.97 where a seed decided or none did",
    ),
    Rule(
        [("spike", ">", 8.0), ("photo_share", "<", 0.03)],
        "flat",
        "the loss jumped to {spike:.3g} times that of guessing within {steps:.0f} steps, and the "
        "photo is weak in the logits: what the jump kills stays dead",
        "--learning_rate={calm_rate:.2g}, or --bias_init=0.1",
        "full width, paper at 0.01: 11 stayed flat; where the photo is strong, 12 was survived",
    ),
    Rule(
        [("spike", ">", 4.0)],
        "at risk",
        "the loss jumped to {spike:.3g} times that of guessing within {steps:.0f} steps",
        "--learning_rate={calm_rate:.2g}",
        "calibration: at most 2.9 where it learned at once, 4.8 where a seed decided",
    ),
    Rule(
        [("photo_share", "<", 0.004), ("is_sgd", ">", 0.0)],
        "flat",
        "of the logits at the start only {photo_share:.2%} depend on the photo: constants drown it",
        f"--bias_init=0.1 (if it is larger), or {_START}",
        "calibration: at most 0.002 where it stayed flat, 0.009 where it began to learn",
    ),
    Rule(
        [("photo_share", "<", 0.03)],
        "at risk",
        "of the logits at the start only {photo_share:.2%} depend on the photo: learning starts "
        "late, if it does",
        f"--bias_init=0.1 (if it is larger), or {_START}",
        "calibration: 0.048 and more where it learned at once",
    ),
    Rule(
        [("overshoot", ">", 12.0), ("photo_share", "<", 0.03)],
        "flat",
        "the chance of who is in a batch moves each logit by {overshoot:.3g} at once, and the "
        "photo is weak in them: the first steps kill units before they have learned",
        "--learning_rate={calm_rate:.2g}, or --bias_init=0.1",
        "see network.overshoot; calibration: 4 learned late, 10 with some seeds, 40 never",
    ),
    Rule(
        [("overshoot", ">", 3.0), ("photo_share", "<", 0.15)],
        "at risk",
        "the chance of who is in a batch moves each logit by {overshoot:.3g} at once",
        "--learning_rate={calm_rate:.2g}, or --bias_init=0.1",
        "see network.overshoot; calibration: 4 learned late, 6 and more with luck or never; where "
        "the photo is strong, 32 was survived",
    ),
    Rule(
        [("stride", ">", 0.25)],
        "flat",
        "the rate is too high: a step, kept up by momentum, changes a layer's weights by "
        "{stride:.0%} of their size",
        "--learning_rate={tenth_rate:.2g}",
        "calibration: 0.3 and more collapsed, as caffe at ten times its rate",
    ),
    Rule(
        [("stride", ">", 0.12)],
        "at risk",
        "the rate is high: a step, kept up by momentum, changes a layer's weights by {stride:.0%} "
        "of their size",
        "--learning_rate={tenth_rate:.2g}",
        "calibration: 0.09 at most where it learned",
    ),
    Rule(
        [("reach", "<", 0.02)],
        "flat",
        "the rate is too low: {planned_steps:,.0f} steps like the first one could move no layer's "
        "weights by more than {reach:.2%} of their size",
        "--learning_rate={tenfold_rate:.2g}, and tenfold again, or more --epochs",
        "calibration: 0.5 and more where it learned, 0.005 where it stayed flat",
    ),
    Rule(
        [("slowness", ">", 1.0)],
        "at risk",
        "at its first pace the run would need {slowness:,.1f} times its {planned_steps:,.0f} steps",
        "--learning_rate={tenfold_rate:.2g}, or more --epochs",
        "learning gets faster as it goes; calibration: 0.7 at most where it began at once, 2 to 25 "
        "where it began late",
    ),
)


def judge(figures: Mapping[str, float], profile: Profile, recipe: TrainingOptions) -> Judgement:
    """Apply all rules.

    Args:
        figures: `measuring.Measured.figures`.
        profile: the network, for the knobs.
        recipe: its learning rate, for the knobs.
    """
    rate = recipe.learning_rate
    knobs = {
        "tenth_rate": rate / 10,
        "tenfold_rate": rate * 10,
        "calm_rate": rate / max(figures.get("overshoot", 1.0), 1.0),  # an overshoot of 1
        "unit_scale": profile.pixel_scale / max(figures.get("input_std", 60.0), 1e-6),
    }
    findings = {}
    # The worst verdict first, and of each figure nothing but that.
    for rule in sorted(RULES, key=lambda rule: -VERDICTS.index(rule.verdict)):
        figure = rule.conditions[0][0]
        if figure not in findings and all(_holds(figures, *one) for one in rule.conditions):
            findings[figure] = Finding(
                verdict=rule.verdict,
                figure=figure,
                value=figures[figure],
                reason=rule.reason.format(**figures),
                knob=rule.knob.format(**knobs),
            )
    found = list(findings.values())
    return Judgement(found[0].verdict if found else VERDICTS[0], found)


def _holds(figures: Mapping[str, float], figure: str, sign: str, threshold: float) -> bool:
    """Evaluate a condition. It holds of NaN, and does not of a figure that was not measured."""
    value = figures.get(figure, threshold)
    return math.isnan(value) or (value > threshold if sign == ">" else value < threshold)
