import dataclasses
import json
import sys

import numpy as np
import pytest
import tensorflow as tf
from repository import ROOT

from keras_alexnet import PROFILES, AlexNet, describe
from keras_alexnet.network import differences
from keras_alexnet.network import figures as network_figures
from keras_alexnet.network.profile import Profile

# Worked out by hand from the shapes in the systems' own descriptions.
GROUPED = {
    "conv1": 34_944,
    "conv2": 307_456,
    "conv3": 885_120,
    "conv4": 663_936,
    "conv5": 442_624,
    "fc6": 37_752_832,
    "fc7": 16_781_312,
    "fc8": 4_097_000,
}
UNGROUPED = GROUPED | {"conv2": 614_656, "conv4": 1_327_488, "conv5": 884_992}
OWT = {  # inputs x taps x outputs + outputs
    "conv1": 3 * 121 * 64 + 64,
    "conv2": 64 * 25 * 192 + 192,
    "conv3": 192 * 9 * 384 + 384,
    "conv4": 384 * 9 * 256 + 256,
    "conv5": 256 * 9 * 256 + 256,
    "fc6": 9216 * 4096 + 4096,
    "fc7": 4096 * 4096 + 4096,
    "fc8": 4096 * 1000 + 1000,
}
TWO_COLUMNS = ("paper", "krizhevsky2012", "caffe", "caffenet")
PARAMETERS = dict.fromkeys(TWO_COLUMNS, GROUPED) | {"owt": OWT, "seed": UNGROUPED}
TOTALS = dict.fromkeys(TWO_COLUMNS, (60_965_224, 724_406_816)) | {
    "owt": (61_100_840, 714_188_480),
    "seed": (62_378_344, 1_135_256_096),
}
SIDES = {"conv1": 55, "pool1": 27, "conv2": 27, "pool2": 13, "conv3": 13, "conv5": 13, "pool5": 6}
PAPER_WORK = {  # places x taps x inputs of a unit x outputs
    "conv1": 55 * 55 * 121 * 3 * 96,
    "conv2": 27 * 27 * 25 * 48 * 256,
    "conv3": 13 * 13 * 9 * 256 * 384,
    "conv4": 13 * 13 * 9 * 192 * 384,
    "conv5": 13 * 13 * 9 * 192 * 256,
    "fc6": 9216 * 4096,
    "fc7": 4096 * 4096,
    "fc8": 4096 * 1000,
}
PAPER_UNITS = (
    224 * 224 * 3
    + 227 * 227 * 3
    + 3 * 55 * 55 * 96  # conv1, relu1, lrn1
    + 27 * 27 * 96
    + 3 * 27 * 27 * 256
    + 13 * 13 * 256
    + 4 * 13 * 13 * 384
    + 2 * 13 * 13 * 256
    + 2 * 6 * 6 * 256  # pool5, flatten
    + 6 * 4096
    + 2 * 1000
)


@pytest.fixture(scope="module")
def comparison():
    return network_figures.compare(list(PROFILES.values()))


def command(monkeypatch, capsys, *arguments):
    """Exit status, stdout and stderr of the command."""
    for name in describe.FLAGS:
        describe.FLAGS[name].unparse()
    monkeypatch.setattr(sys, "argv", ["describe", *arguments])
    with pytest.raises(SystemExit) as stop:
        describe.run()
    captured = capsys.readouterr()
    return stop.value.code, captured.out, captured.err


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_parameters_by_layer_and_totals_are_those_of_the_systems(name):
    layers = network_figures.profile_figures(name)
    assert {layer.name: layer.parameters for layer in layers if layer.parameters} == PARAMETERS[
        name
    ]
    sums = network_figures.totals(layers)
    assert (sums["parameters"], sums["multiply_adds"]) == TOTALS[name]
    sides = {layer.name: layer.output_shape[:2] for layer in layers}
    assert {key: sides[key] for key in SIDES} == {key: (side, side) for key, side in SIDES.items()}


def test_work_and_memory_of_the_paper_by_layer():
    layers = network_figures.profile_figures("paper")
    assert {layer.name: layer.multiply_adds for layer in layers if layer.multiply_adds} == (
        PAPER_WORK
    )
    assert {layer.name for layer in layers if layer.kernel_shape} == set(PAPER_WORK)
    assert network_figures.totals(layers)["activation_bytes"] == 4 * PAPER_UNITS
    (lrn1,) = (layer for layer in layers if layer.name == "lrn1")
    assert lrn1 == network_figures.LayerFigures(
        name="lrn1",
        kind="LocalResponseNormalization",
        output_shape=(55, 55, 96),
        kernel_shape=None,
        parameters=0,
        multiply_adds=0,
        activation_bytes=55 * 55 * 96 * 4,
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", PROFILES)
def test_figures_without_weights_are_those_of_the_network_that_has_them(name):
    profile = PROFILES[name].scaled(0.1)
    figures = {layer.name: layer for layer in network_figures.profile_figures(profile, classes=7)}
    model = AlexNet(profile, classes=7)
    assert list(figures) == [layer.name for layer in model.layers]
    x = np.zeros((1, profile.input_size, profile.input_size, 3), np.float32)
    for layer in model.layers[1:]:  # behind the input
        weights = [weight.numpy() for weight in layer.trainable_weights]
        found = figures[layer.name]
        assert found.parameters == sum(weight.size for weight in weights)
        assert found.kernel_shape == (weights[0].shape if weights else None)
        x = layer(x)
        assert found.output_shape == x.shape[1:]
        assert found.activation_bytes == x.numpy().nbytes


def test_no_weight_takes_memory_and_tensorflow_stays_eager():
    huge = dataclasses.replace(PROFILES["paper"], fc_units=(2_000_000, 2_000_000))  # 16 TB
    figures = {layer.name: layer for layer in network_figures.profile_figures(huge)}
    assert figures["fc7"].parameters == 4_000_002_000_000
    assert tf.executing_eagerly()


def test_the_layer_table_reads_well_and_adds_up():
    text, figures = network_figures.describe(profile=PROFILES["paper"])
    lines = text.splitlines()
    table = [line for line in lines if line.startswith("|")]
    assert len({len(line) for line in table}) == 1
    cells = {
        line.split("|")[1].strip(): [c.strip() for c in line.split("|")[2:-1]] for line in table
    }
    assert cells["conv2"][1:] == ["27x27x256", "5x5x48x256", "307,456", "223,948,800", "746,496"]
    assert cells["fc6"][1:3] == ["4096", "9216x4096"]
    assert cells["relu7"][2:5] == ["-", "0", "0"]
    assert cells["total"] == ["", "", "", "60,965,224", "724,406,816", f"{4 * PAPER_UNITS:,}"]
    assert lines[-1].startswith("A training step of 128 images has 1,094.0 MiB")
    assert figures == {
        "profile": "paper",
        "parameters": 60_965_224,
        "multiply_adds": 724_406_816,
        "activation_bytes": 4 * PAPER_UNITS,
        "batch_size": 128,
        "activation_mib": round(4 * PAPER_UNITS * 128 / 1024 / 1024, 1),
    }


def test_the_command_lists_a_network(monkeypatch, capsys):
    status, out, _ = command(
        monkeypatch,
        capsys,
        "--profile=owt",
        "--width=0.125",
        "--classes=10",
        "--batch_size=3",
    )
    assert status == 0
    *_, note, figures = out.splitlines()
    figures = json.loads(figures)
    assert "| 8x10" not in out
    assert "| 512x10 " in out, "4096 / 8 units before ten classes"
    assert "A training step of 3 images has" in note
    assert figures["batch_size"] == 3
    assert figures["activation_mib"] == round(figures["activation_bytes"] * 3 / 2**20, 1)


@pytest.mark.slow
def test_the_command_lists_the_differences(monkeypatch, capsys, comparison):
    status, out, _ = command(monkeypatch, capsys, "--all")
    text, figures = comparison
    assert status == 0
    assert out == f"{text}\n{json.dumps(figures)}\n"
    assert {name: tuple(sums.values())[:2] for name, sums in figures.items()} == TOTALS


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "--profile"),
        (["--profile=paper", "--all"], "--all"),
        *((["--all", flag], "--all") for flag in ("--width=0.5", "--classes=10", "--batch_size=1")),
        (["--profile=alexnet"], "alexnet"),
        *((["--profile=paper", flag], flag) for flag in ("--classes=0", "--width=0")),
        (["--profile=paper", "--batch_size=0"], "--batch_size=0"),
    ],
)
def test_a_wrong_command_line_is_told_in_one_line(monkeypatch, capsys, arguments, text):
    status, out, err = command(monkeypatch, capsys, *arguments)
    assert (status, out) == (2, "")
    assert text in err
    assert err.count("\n") == 1


def other_order(order):
    if {"lrn", "map_norm"} & set(order):
        return order[::-1]
    return ("relu", "lrn", "map_norm", "pool")


def swap(*values):
    return lambda value: values[value == values[0]]


# For each field another value that it may have: of its kind, or where that is not enough its own.
BY_TYPE = {
    str: lambda text: f"{text} or so",
    bool: lambda value: not value,
    int: lambda value: value + 2,
    float: lambda value: 0.6 * value + 0.1,
}
BY_FIELD = {
    "conv1_padding": lambda padding: (padding[0] + 1, padding[1]),
    "conv_filters": lambda filters: tuple(2 * count for count in filters),
    "conv_groups": swap((1,) * 5, (1, 2, 1, 2, 2)),
    "fc_units": lambda units: (units[0], units[1] + 8),
    "conv1_order": other_order,
    "conv2_order": other_order,
    "conv5_order": other_order,
    "removed_layers": swap(("conv4",), ()),
    "activation": swap("tanh", "relu"),
    "pool_size": swap(2, 3),
    "kernel_init": lambda start: ("he_normal", *start[1:7], "he_normal"),
    "bias_init": lambda start: (0.5, *start[1:7], 0.5),
    "dropout_at": swap("inputs", "outputs"),
    "mean_position": swap("crop", "centre"),
    "channel_mean": lambda mean: (*mean[:2], 104.0),
    "channel_std": lambda std: (1.0, 2.0, 3.0),
    "training_crop": swap("random", "centre"),
    "colour_noise": swap("eigenvalue", "deviation"),
    "optimizer": swap("adam", "sgd"),
    "schedule": swap("steps", "plateau"),
    "drop_epochs": lambda epochs: (*epochs, 88),
    "colour_order": swap("RGB", "BGR"),
}
FIELDS = [field.name for field in dataclasses.fields(Profile)]


def changed(profile, field):
    """A copy with another value of the field; None where the profile's others leave no choice."""
    value = getattr(profile, field)
    if field == "mean":
        of_image = {"mean": "image", "mean_position": "crop", "channel_mean": None}
        of_channels = {"mean": "channels", "mean_position": None, "channel_mean": (1.0, 2.0, 3.0)}
        return dataclasses.replace(profile, **(of_channels if value == "image" else of_image))
    if value is None and field in ("mean_position", "channel_mean"):
        return None
    new = BY_FIELD[field](value) if field in BY_FIELD else BY_TYPE[type(value)](value)
    copy = dataclasses.replace(profile, **{field: new})
    assert copy != profile
    return copy


def shown(profiles):
    return differences.summaries(profiles), differences.differences(profiles)


MAP_NORM = {"map_norm_size", "map_norm_k", "map_norm_alpha", "map_norm_beta"}
NOISE = {"colour_noise_std", "colour_noise_divisor"}
LRN = {"lrn_size", "lrn_k", "lrn_alpha", "lrn_beta", "lrn_alpha_divided_by_size"}
# Of what a profile does not have, it need not show the numbers.
WITHOUT_MEANING = {
    "paper": {"drop_epochs", *MAP_NORM},
    "krizhevsky2012": {"plateau_drops", "drop_epochs", "learning_rate_factor"},
    "caffe": {"plateau_drops", *MAP_NORM, *NOISE},
    "caffenet": {"plateau_drops", *MAP_NORM, *NOISE},
    "owt": {"plateau_drops", "lrn_crosses_columns", *MAP_NORM, *NOISE, *LRN},
    "seed": {"plateau_drops", "lrn_crosses_columns", "momentum", *MAP_NORM, *NOISE},
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_change_of_any_field_shows(name):
    before = shown(PROFILES.values())
    silent = set()
    for field in FIELDS:
        copy = changed(PROFILES[name], field)
        if copy is None:
            continue
        profiles = [copy if key == name else profile for key, profile in PROFILES.items()]
        if shown(profiles) == before:
            silent.add(field)
    assert silent == WITHOUT_MEANING[name]


def test_what_all_profiles_agree_in_is_left_out():
    paper = PROFILES["paper"]
    assert differences.differences([paper, paper]) == []
    twice = dataclasses.replace(paper, pixel_scale=0.5)
    assert differences.differences([paper, twice]) == [["then times", "1", ".5"]]


@pytest.mark.parametrize(
    ("value", "text"), [(0.01, ".01"), (2.5e-4, "2.5e-4"), (10.5, "10.5"), (3, "3")]
)
def test_numbers_are_short(value, text):
    profiles = [dataclasses.replace(PROFILES["paper"], learning_rate=rate) for rate in (value, 7)]
    assert differences.differences(profiles) == [["learning rate", text, "7"]]


@pytest.mark.slow
def test_readme_holds_the_table(comparison):
    readme = ROOT / "README.md"
    _, found, rest = readme.read_text(encoding="utf-8").partition("<!-- describe --all -->\n")
    assert found, "README.md must have a line <!-- describe --all -->"
    inside, found, _ = rest.partition("<!-- end -->")
    assert found, "README.md must have a line <!-- end --> after the table"
    assert inside.strip() == comparison[0], (
        "put the output of `python -m keras_alexnet.describe --all` between the two lines"
    )
