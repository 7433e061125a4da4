import dataclasses
import json
import math
import re
import shutil

import commands
import pytest
import train_runs

from benchmarks import preflight_truth
from data_prep import records
from keras_alexnet import AlexNet
from keras_alexnet.network import ablations
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.preflight_checks import measuring, report

pytestmark = pytest.mark.slow

# configs/quickstart.flags, narrower
LEARNS = train_runs.PROFILE
RECIPE = train_runs.options(
    optimizer="adam",
    learning_rate=0.0005,
    weight_decay=0.0,
    schedule="constant",
    epochs=90,
    batch_size=16,
    seed=0,
    strategy="one_device",
)


def check(data_dir, profile=LEARNS, seconds=1.0, **changes):
    """With one second, no more steps than must be."""
    recipe = dataclasses.replace(RECIPE, **changes)
    result = report.preflight(
        data_dir=str(data_dir), profile=profile, recipe=recipe, seconds=seconds
    )
    json.dumps(result, allow_nan=False)
    return result


def figures_of_findings(result):
    return [finding["figure"] for finding in result["findings"]]


@pytest.fixture(scope="module")
def learning(data_dir):
    return check(data_dir, seconds=600.0)


def test_the_quick_start_learns(learning):
    result = learning
    assert result["verdict"] == "learns", result["findings"]
    assert len(result["losses"]) == measuring.FIRST_STEPS
    assert len(result["handful_losses"]) == measuring.HANDFUL_STEPS
    assert result["figures"]["handful_loss"] < 0.5
    assert list(result["layers"]) == [*(f"conv{n}" for n in range(1, 6)), "fc6", "fc7", "fc8"]
    assert result["figures"]["input_std"] == pytest.approx(1, abs=0.3)
    # Adam's first step moves each weight that has a gradient by the rate.
    for layer, row in result["layers"].items():
        assert 1e-4 < row["update"] < 0.2, layer
        assert row["gradient_rms"] > 0, layer


def test_the_paper_with_input_of_unit_size_does_not(data_dir):
    profile = dataclasses.replace(PROFILES["paper"].scaled(0.0625), pixel_scale=1 / 60)
    result = check(data_dir, profile, optimizer="sgd", learning_rate=0.01)
    assert result["verdict"] == "flat"
    assert "photo_share" in figures_of_findings(result)


def test_small_batches_are_looked_at_together(learning, data_dir):
    """The figures of the start do not depend on the size of the batches."""
    result = check(data_dir, batch_size=1)
    for name in ("photo_share", "input_std", "overshoot"):
        expected = learning["figures"][name]
        assert result["figures"][name] == pytest.approx(expected, rel=0.1), name
    assert result["figures"]["handful_photos"] == 16


def test_a_rate_far_too_low_is_found(data_dir):
    result = check(data_dir, learning_rate=5e-8)
    assert result["verdict"] == "flat"
    assert figures_of_findings(result)[0] == "reach"
    # Adam moves each weight by the rate, whatever the gradient.
    layers = result["layers"].values()
    steps = 90 * 2  # epochs of 38 photos in batches of 16
    expected = steps * max(row["update"] for row in layers)
    assert result["figures"]["reach"] == pytest.approx(expected, rel=1e-3)
    hidden = [row["update"] for name, row in result["layers"].items() if name != "fc8"]
    assert result["figures"]["stride"] == pytest.approx(max(hidden), rel=1e-3)


def test_a_layer_that_is_dead_from_the_start_is_found(data_dir):
    profile = dataclasses.replace(LEARNS, bias_init=(0.0, 0.0, 0.0, 0.0, -1e3, 0.0, 0.0, 0.0))
    result = check(data_dir, profile)
    assert result["verdict"] == "flat"
    assert result["figures"]["dead_at_start"] == 1
    assert result["layers"]["conv5"]["dead"] == 1
    assert result["layers"]["conv4"]["gradient_rms"] == 0


def test_a_loss_that_explodes_is_found(data_dir):
    result = check(data_dir, optimizer="sgd", learning_rate=3e38)
    assert result["verdict"] == "flat"
    assert "not_finite" in figures_of_findings(result)
    assert result["losses"][-1] is None  # NaN is no JSON
    assert math.isfinite(result["losses"][0])


@pytest.mark.parametrize(
    ("mistake", "figure"),
    [
        ("from 1", "labels_out_of_range"),
        ("train + 1", "labels_of_other_synsets"),
        ("no mean", "input_offset"),
    ],
)
def test_a_mistake_of_the_data_is_found(data_dir, tmp_path, mistake, figure):
    copy = tmp_path / "data"
    preflight_truth.copy_data(str(data_dir), str(copy), mistake)
    result = check(copy)
    assert figure in figures_of_findings(result)
    if figure != "input_offset":
        assert result["verdict"] == "flat"
        return
    # The test's ground is about as bright as its noise is strong.
    statistics = records.read_statistics(str(copy))
    expected = statistics.channel_mean.max() / statistics.channel_std.mean()
    assert result["figures"]["input_offset"] == pytest.approx(expected, rel=0.25)


def test_the_same_seed_gives_the_same_figures_on_one_device_whatever_the_strategy(
    learning, data_dir
):
    """And the run's steps begin at the start, however long the handful was trained on."""
    again = check(data_dir, strategy="column_parallel")
    assert again["layers"] == learning["layers"]
    for name in ("losses", "handful_losses"):
        assert 2 <= len(again[name]) < len(learning[name])
        assert again[name] == learning[name][: len(again[name])]
    for name in ("overshoot", "photo_share", "dead_at_start", "slowness", "stride", "reach"):
        assert again["figures"][name] == learning["figures"][name], name


def test_data_that_cannot_be_used_is_named(data_dir, tmp_path):
    with pytest.raises(ValueError, match="batch_size 1000 is more than the 38 photos"):
        check(data_dir, batch_size=1000)
    copy = tmp_path / "data"
    shutil.copytree(data_dir, copy)
    shard = next(copy.glob("train-*"))
    content = bytearray(shard.read_bytes())
    content[len(content) // 2] ^= 1
    shard.write_bytes(content)
    with pytest.raises(ValueError, match=r"train-.*, record \d+ at byte"):
        check(copy)
    (copy / records.LABELS).unlink()
    with pytest.raises(ValueError, match=records.LABELS):
        check(copy)


def test_the_command_prints_a_table_and_a_line_of_json(data_dir):
    done = commands.in_process(
        "keras_alexnet.preflight",
        *("--flagfile=configs/quickstart.flags", f"--data_dir={data_dir}", "--seconds=1"),
        *("--width=0.0625", "--batch_size=16"),
    )
    assert done.returncode == 0, done.stderr
    result = json.loads(done.stdout)
    assert result["verdict"] in ("learns", "at risk", "flat")
    assert f"verdict: {result['verdict']}" in done.stderr
    assert re.search(r"^fc8 .*\d", done.stderr, re.MULTILINE)
    assert 2 <= len(result["losses"]) <= measuring.FIRST_STEPS


def test_an_ablated_network_that_starts_from_weights_and_is_partly_frozen_is_judged(
    data_dir, tmp_path
):
    profile = ablations.apply(LEARNS, ["relu", "conv4"])
    weights = tmp_path / "other.weights.h5"
    AlexNet(profile, classes=2, seed=1).save_weights(weights)
    result = check(data_dir, profile, init_weights=str(weights), freeze=("conv1",))
    assert list(result["layers"]) == ["conv1", "conv2", "conv3", "conv5", "fc6", "fc7", "fc8"]
    assert result["layers"]["conv1"]["update"] == 0
    assert result["layers"]["conv2"]["update"] > 0
    other = check(data_dir, profile, freeze=("conv1",))
    assert other["layers"]["fc7"]["rms"] != result["layers"]["fc7"]["rms"]


def test_an_optimizer_that_it_does_not_know():
    with pytest.raises(ValueError, match="adam and sgd do, not tfa:SGDW"):
        check("/nowhere", optimizer="tfa:SGDW")
