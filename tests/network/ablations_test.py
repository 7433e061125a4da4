import dataclasses
import json

import numpy as np
import pytest
from random_networks import difference, photos, random_network

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import column_devices, place_columns
from keras_alexnet.network import ablations, figures
from keras_alexnet.network.ablations import ABLATIONS
from keras_alexnet.network.differences import differences
from keras_alexnet.network.profile import Profile

PAPER = PROFILES["paper"]
LAYERS = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")

# inputs of a unit x outputs + outputs, by hand from figure 2 and what each ablation takes from it
WHOLE = {
    "conv1": 3 * 121 * 96 + 96,
    "conv2": 48 * 25 * 256 + 256,
    "conv3": 256 * 9 * 384 + 384,
    "conv4": 192 * 9 * 384 + 384,
    "conv5": 192 * 9 * 256 + 256,
    "fc6": 6 * 6 * 256 * 4096 + 4096,
    "fc7": 4096 * 4096 + 4096,
    "fc8": 4096 * 1000 + 1000,
}
PARAMETERS = {
    "lrn": WHOLE,
    "overlap": WHOLE,
    "relu": WHOLE,
    "dropout": WHOLE,
    "conv3": WHOLE | {"conv3": 0, "conv4": 128 * 9 * 384 + 384},
    "conv4": WHOLE | {"conv4": 0},
    "conv5": WHOLE | {"conv5": 0, "fc6": 6 * 6 * 384 * 4096 + 4096},
    "columns": WHOLE
    | {
        "conv1": 3 * 121 * 48 + 48,
        "conv2": 48 * 25 * 128 + 128,
        "conv3": 128 * 9 * 192 + 192,
        "conv4": 192 * 9 * 192 + 192,
        "conv5": 192 * 9 * 256 + 256,
    },
}


def small(profile):
    """Narrow, and of 3x3 pixels at pool5."""
    size = 67 + 64 - sum(profile.conv1_padding)
    return dataclasses.replace(
        profile.scaled(0.05), input_size=size, kernel_init=("he_normal",) * 8
    )


@pytest.mark.slow
@pytest.mark.parametrize("name", ABLATIONS)
def test_layers_shapes_parameters_and_work_of_the_full_network(name):
    found = figures.profile_figures(ablations.apply(PAPER, [name]))
    layers = {layer.name: layer for layer in found}
    counts = {key: layers[key].parameters if key in layers else 0 for key in LAYERS}
    assert counts == PARAMETERS[name]
    sums = figures.totals(found)
    assert sums["parameters"] == sum(PARAMETERS[name].values())
    sides = {key: layers[key].output_shape[0] for key in ("conv1", "pool1", "pool2", "pool5")}
    assert sides == {"conv1": 55, "pool1": 27, "pool2": 13, "pool5": 6}
    assert layers["pool5"].output_shape[-1] == (384 if name == "conv5" else 256)


def test_an_ablated_network_is_described():
    profile = ablations.apply(PROFILES["krizhevsky2012"], ["conv4", "relu", "lrn"])
    text, found = figures.describe(profile=profile)
    assert found["parameters"] == sum(WHOLE.values()) - WHOLE["conv4"]
    assert "| tanh5 " in text
    assert not any(name in text for name in ("conv4", "relu", "lrn", "map_norm"))
    rows = dict(
        (title, cells) for title, *cells in differences([PROFILES["krizhevsky2012"], profile])
    )
    assert rows["layers removed"] == ["-", "conv4"]
    assert rows["after conv2"] == ["ReLU, LRN, map norm, pool", "tanh, pool"]
    assert rows["LRN crosses the columns"] == ["no", "-"]


def starts(names):
    """The initial weights of a narrow paper without these parts, by "layer/variable"."""
    model = AlexNet(ablations.apply(PAPER.scaled(0.1), names), classes=10, seed=5)
    return {
        f"{layer.name}/{kind}": value
        for layer in model.layers
        for kind, value in zip(("kernel", "bias"), layer.get_weights(), strict=False)
    }


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "others"),
    [
        ("lrn", set()),
        ("overlap", set()),
        ("relu", set()),
        ("dropout", set()),
        ("conv3", {"conv4/kernel"}),  # sees conv2's maps, which are fewer
        ("conv4", set()),
        ("conv5", {"fc6/kernel"}),  # sees conv4's, which are more
        ("columns", {f"conv{n}/{kind}" for n in (1, 2, 3, 4) for kind in ("kernel", "bias")}),
    ],
)
def test_layers_that_stay_start_from_the_same_weights(name, others):
    whole, ablated = starts([]), starts([name])
    assert set(whole) - set(ablated) == ({f"{name}/kernel", f"{name}/bias"} & set(whole))
    changed = {key for key in ablated if not np.array_equal(ablated[key], whole[key])}
    assert changed == others
    assert all(ablated[key].shape != whole[key].shape for key in others)


def test_without_dropout_training_is_as_inference():
    profile = small(ablations.apply(PAPER, ["dropout"]))
    model, _ = random_network(profile)
    x = photos(2, profile.input_size)
    np.testing.assert_array_equal(model(x, training=True), model(x))
    whole, _ = random_network(small(PAPER))
    assert difference(whole(x, training=True).numpy(), whole(x).numpy()) > 0.01


def test_the_order_of_the_names_does_not_matter():
    names = ["conv5", "relu", "conv3", "columns", "lrn", "overlap", "dropout"]
    ablated = ablations.apply(PAPER, names)
    assert ablated == ablations.apply(PAPER, reversed(names))
    assert ablated == dataclasses.replace(
        PAPER,
        published="none",
        conv_filters=(48, 128, 192, 192, 256),
        conv_groups=(1,) * 5,
        conv1_order=("relu", "pool"),
        conv2_order=("relu", "pool"),
        removed_layers=("conv3", "conv5"),
        activation="tanh",
        pool_size=2,
        dropout_rate=0.0,
    )
    assert Profile.from_dict(json.loads(json.dumps(ablated.to_dict()))) == ablated
    assert ablations.apply(PAPER, []) is PAPER


@pytest.mark.parametrize(
    ("profile", "names", "value"),
    [
        ("owt", ["lrn"], "lrn"),
        ("seed", ["columns"], "columns"),
        ("paper", ["conv4", "conv4"], "conv4"),
    ],
)
def test_a_part_that_is_not_there_cannot_be_left_out(profile, names, value):
    with pytest.raises(ValueError, match=f"{value}.* but {profile} is without it"):
        ablations.apply(PROFILES[profile], names)


def test_a_layer_that_the_others_need_cannot_be_left_out():
    thirds = dataclasses.replace(
        PAPER, conv_filters=(96, 256, 384, 384, 384), conv_groups=(1, 2, 1, 1, 3)
    )
    with pytest.raises(ValueError, match=r"conv3: .*divisors of the channels around"):
        ablations.apply(thirds, ["conv4", "conv3"])


def test_an_unknown_name_is_refused():
    with pytest.raises(ValueError, match=r"one of lrn, overlap, .*, columns. Received: 'lnr'"):
        ablations.apply(PAPER, ["lnr"])


@pytest.mark.slow
@pytest.mark.parametrize("names", [("relu",), ("overlap",), ("conv3",), ("conv4",), ("conv5",)])
@pytest.mark.parametrize("profile", ["paper", "krizhevsky2012"])
def test_two_devices_compute_the_same(profile, names):
    profile = small(ablations.apply(PROFILES[profile], names))
    assert profile.columns == 2
    network, _ = random_network(profile)
    columns = place_columns(network, ("CPU:0", "CPU:1"))
    x = photos(2, profile.input_size)
    assert difference(columns(x).numpy(), network(x).numpy()) < 1e-5


@pytest.mark.slow
def test_one_column_does_not_go_on_two_devices():
    with pytest.raises(ValueError, match="paper has 1"):
        column_devices(ablations.apply(PAPER, ["columns"]))
