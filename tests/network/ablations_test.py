import dataclasses
import json

import numpy as np
import pytest
from random_networks import difference, photos, random_network

from keras_alexnet import PROFILES, AlexNet
from keras_alexnet.columns import read_weights
from keras_alexnet.network import ablations, figures
from keras_alexnet.network.differences import differences
from keras_alexnet.network.profile import Profile

PAPER = PROFILES["paper"]


def test_an_ablated_network_is_described():
    profile = ablations.apply(PROFILES["krizhevsky2012"], ["conv4", "relu", "lrn"])
    text, found = figures.describe(profile=profile)
    assert found["parameters"] == 60_965_224 - 663_936
    assert "| tanh5 " in text
    assert not any(name in text for name in ("conv4", "relu", "lrn", "map_norm"))
    rows = {row[0]: row[1:] for row in differences([PROFILES["krizhevsky2012"], profile])}
    assert rows["layers removed"] == ["-", "conv4"]
    assert rows["after conv2"] == ["ReLU, LRN, map norm, pool", "tanh, pool"]
    assert rows["LRN crosses the columns"] == ["no", "-"]


def starts(names):
    """Return the initial weights of a narrow paper without these parts."""
    return read_weights(AlexNet(ablations.apply(PAPER.scaled(0.1), names), classes=10, seed=5))


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
    small = dataclasses.replace(PAPER.scaled(0.05), input_size=128)
    x = photos(2, 128)
    for profile in (small, ablations.apply(small, ["dropout"])):
        model, _ = random_network(profile)
        change = difference(model(x, training=True).numpy(), model(x).numpy())
        assert change > 0.01 if profile is small else change == 0


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
