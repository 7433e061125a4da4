import dataclasses
import math

import pytest
import train_runs

from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.preflight_checks import report, rules
from keras_alexnet.preflight_checks.measuring import Measured

PAPER = PROFILES["paper"]
RECIPE = train_runs.options()
# Of a setting that learned (benchmarks/preflight_truth.py: caffe, as wide, on CIFAR-10).
GOOD = {
    "labels_out_of_range": 0.0,
    "labels_of_other_synsets": 0.0,
    "labels_file_differs": 0.0,
    "classes_missing": 0.0,
    "labels_read": 2500.0,
    "class_entropy": 2.30,
    "label_information": 26.2,
    "validation_label_information": 23.2,
    "planned_steps": 372.0,
    "input_std": 63.7,
    "input_offset": 0.016,
    "overshoot": 0.069,
    "is_sgd": 1.0,
    "photo_share": 0.048,
    "dead_at_start": 0.036,
    "slowness": 0.41,
    "stride": 0.03,
    "reach": 17.0,
    "dead_after": 0.08,
    "steps": 24.0,
    "not_finite": 0.0,
    "handful_not_finite": 0.0,
    "spike": 1.03,
    "handful_loss": 0.57,
    "handful_steps": 32.0,
    "handful_photos": 16.0,
}


def judge(profile=PAPER, recipe=RECIPE, **changes):
    return rules.judge({**GOOD, **changes}, profile, recipe)


def test_a_setting_that_learned_learns():
    assert judge() == rules.Judgement("learns", [])


@pytest.mark.parametrize(
    ("figure", "value", "verdict", "knob"),
    [
        ("labels_out_of_range", 0.1, "flat", "label_offset=0"),
        ("labels_of_other_synsets", 0.01, "flat", "data_prep.prepare"),
        ("labels_file_differs", 1.0, "at risk", "data_prep.prepare"),
        ("classes_missing", 0.1, "at risk", "audit.html"),
        ("label_information", 0.5, "flat", "audit.html"),
        ("validation_label_information", -1.0, "flat", "data_prep.prepare"),
        ("input_offset", 2.0, "at risk", "mean_image.npy"),
        ("not_finite", 1.0, "flat", "--learning_rate=0.001"),
        ("handful_not_finite", 1.0, "at risk", "--learning_rate=0.001"),
        ("dead_after", 1.0, "flat", "--learning_rate=0.001"),
        ("dead_after", 0.7, "at risk", "--learning_rate=0.001"),
        ("spike", 5.5, "at risk", "--learning_rate=0.01"),
        ("photo_share", 0.0017, "flat", "--bias_init=0.1"),
        ("photo_share", 0.01, "at risk", "--pixel_scale=0.0157"),
        ("overshoot", 5.0, "at risk", "--learning_rate=0.002"),
        ("slowness", 25.0, "at risk", "--learning_rate=0.1"),
        ("stride", 0.4, "flat", "--learning_rate=0.001"),
        ("stride", 0.15, "at risk", "--learning_rate=0.001"),
        ("reach", 0.005, "flat", "--learning_rate=0.1"),
    ],
)
def test_each_rule_by_itself(figure, value, verdict, knob):
    judgement = judge(**{figure: value})
    assert judgement.verdict == verdict
    (finding,) = judgement.findings
    assert (finding.figure, finding.value, finding.verdict) == (figure, value, verdict)
    assert "{" not in finding.reason
    assert knob in finding.knob


def test_every_rule_was_tried_above_and_names_measured_figures():
    """Each has a figure and a verdict of that table; those of two figures are tried below."""
    marks = test_each_rule_by_itself.pytestmark[0].args[1]
    tried = {(figure, verdict) for figure, _, verdict, _ in marks}
    tried |= {("overshoot", "flat"), ("spike", "flat"), ("input_offset", "learns")}
    assert {(row.conditions[0][0], row.verdict) for row in rules.RULES} == tried
    for row in rules.RULES:
        assert row.source
        assert all(figure in GOOD and sign in "<>" for figure, sign, _ in row.conditions)


@pytest.mark.parametrize(
    ("changes", "verdict", "figures"),
    [
        # The milder rule of a figure is left out.
        ({"overshoot": 20.0, "photo_share": 0.011}, "flat", ["overshoot", "photo_share"]),
        ({"overshoot": 32.0, "photo_share": 0.27}, "learns", []),
        ({"spike": 12.0}, "at risk", ["spike"]),
        ({"spike": 12.0, "photo_share": 0.011}, "flat", ["spike", "photo_share"]),
        ({"input_offset": 2.0, "photo_share": 0.3}, "learns", ["input_offset"]),
        # Adam may find a photo that SGD does not.
        ({"photo_share": 0.0017, "is_sgd": 0.0}, "at risk", ["photo_share"]),
        ({"spike": math.nan}, "at risk", ["spike"]),
    ],
)
def test_rules_of_two_figures_the_worst_first_and_once_a_figure(changes, verdict, figures):
    judgement = judge(**changes)
    assert judgement.verdict == verdict
    assert [finding.figure for finding in judgement.findings] == figures


def test_what_was_not_measured_is_not_judged():
    figures = {k: v for k, v in GOOD.items() if not k.startswith(("label_inf", "validation_"))}
    assert rules.judge(figures, PAPER, RECIPE).verdict == "learns"


def test_the_suggested_scale_makes_input_of_unit_size():
    unit = dataclasses.replace(PAPER, pixel_scale=0.5)
    judgement = judge(profile=unit, input_std=32.0, photo_share=0.01)
    assert f"--pixel_scale={1 / 64:.3g}" in judgement.findings[0].knob


def test_the_report_tells_layers_losses_verdict_and_knob():
    layers = {
        "fc7": dict(rms=0.5, photo_share=0.25, dead=0.125, gradient_rms=0.001, update=0.02),
        "fc8": {"rms": 1.0, "photo_share": 0.01, "gradient_rms": 0.1},
    }
    measured = Measured({**GOOD}, layers, [2.5, 2.25], [2.125])
    text = report.text(measured, judge(photo_share=0.01))
    lines = text.splitlines()
    assert lines[0].split("  ")[0] == "layer"
    assert lines[1].split() == ["fc7", "0.5", "0.25", "12%", "0.001", "0.02"]
    assert "    2.50 2.25" in lines
    assert "    2.12" in lines
    assert "verdict: at risk" in lines
    assert "try: --bias_init=0.1" in text
    assert max(map(len, lines)) <= 100
    text = report.text(Measured(GOOD, {}, [], []), judge(labels_out_of_range=0.1))
    assert text.startswith("verdict: flat"), "nothing else was measured"
