import dataclasses
import json
import os
import re
import subprocess
import sys

import pytest

from keras_alexnet.network.profile import Profile
from keras_alexnet.network.profiles import PROFILES, get_profile

PAPER, CAFFE, OWT = (PROFILES[name] for name in ("paper", "caffe", "owt"))
CONVOLUTIONS = ("conv1", "conv2", "conv3", "conv4", "conv5")

# The table of what the systems do, once more and by hand: a slip in a profile shows here.
PAPERS = {
    "input_size": 224,
    "conv1_padding": [0, 3],
    "conv_filters": [96, 256, 384, 384, 256],
    "conv_groups": [1, 2, 1, 2, 2],
    "fc_units": [4096, 4096],
    "conv1_order": ["relu", "lrn", "pool"],
    "conv2_order": ["relu", "lrn", "pool"],
    "conv5_order": ["relu", "pool"],
    "removed_layers": [],
    "activation": "relu",
    "pool_size": 3,
    "lrn_size": 5,
    "lrn_k": 2.0,
    "lrn_alpha": 1e-4,
    "lrn_beta": 0.75,
    "lrn_alpha_divided_by_size": False,
    "lrn_crosses_columns": True,
    "kernel_init": [0.01] * 8,
    "bias_init": [0, 1, 0, 1, 1, 1, 1, 0],
    "dropout_rate": 0.5,
    "dropout_at": "outputs",
    "mean": "image",
    "mean_position": "crop",
    "channel_mean": None,
    "channel_std": None,
    "pixel_scale": 1.0,
    "training_crop": "random",
    "training_flip": True,
    "crop_chunk": 1,
    "colour_noise": "eigenvalue",
    "colour_noise_std": 0.1,
    "colour_noise_divisor": 1.0,
    "bias_learning_rate_multiplier": 1.0,
    "bias_learning_rate_falls": True,
    "bias_decay_multiplier": 1.0,
    "optimizer": "sgd",
    "learning_rate": 0.01,
    "momentum": 0.9,
    "weight_decay": 0.0005,
    "batch_size": 128,
    "schedule": "plateau",
    "learning_rate_factor": 0.1,
    "plateau_drops": 3,
    "epochs": 90,
    "colour_order": "RGB",
}
CAFFES = PAPERS | {
    "input_size": 227,
    "conv1_padding": [0, 0],
    "lrn_k": 1.0,
    "lrn_alpha_divided_by_size": True,
    "kernel_init": [0.01, 0.01, 0.01, 0.01, 0.01, 0.005, 0.005, 0.01],
    "colour_noise": None,
    "bias_learning_rate_multiplier": 2.0,
    "bias_decay_multiplier": 0.0,
    "batch_size": 256,
    "schedule": "steps",
    "drop_epochs": [20, 40, 60, 80],
    "colour_order": "BGR",
}
TORCHS = PAPERS | {
    "conv_groups": [1] * 5,
    "dropout_at": "inputs",
    "mean": "channels",
    "mean_position": None,
    "channel_mean": [123.675, 116.28, 103.53],
    "channel_std": [58.395, 57.12, 57.375],
    "colour_noise": None,
    "schedule": "steps",
    "drop_epochs": [30, 60],
}
EXPECTED = {
    "paper": PAPERS,
    "krizhevsky2012": PAPERS
    | {
        "conv1_order": ["lrn", "pool", "relu"],
        "conv2_order": ["relu", "lrn", "map_norm", "pool"],
        "conv5_order": ["pool", "relu"],
        "lrn_alpha_divided_by_size": True,
        "lrn_crosses_columns": False,
        "map_norm_size": 5,
        "map_norm_k": 1.0,
        "map_norm_alpha": 1e-3,
        "map_norm_beta": 0.75,
        "kernel_init": [0.01, 0.01, 0.03, 0.03, 0.03, 0.01, 0.01, 0.01],
        "mean_position": "centre",
        "crop_chunk": 32,
        "colour_noise": "deviation",
        "colour_noise_divisor": 1.1,
        "bias_learning_rate_multiplier": 2.0,
        "bias_learning_rate_falls": False,
        "bias_decay_multiplier": 0.0,
        "schedule": "krizhevsky2012",
        "drop_epochs": [25, 51, 79],
        "epochs": 135,
        "published": "59.75 / 82.01 %, ten views",
    },
    "caffe": CAFFES | {"bias_init": [0, 0.1, 0, 0.1, 0.1, 0.1, 0.1, 0]},
    "caffenet": CAFFES
    | {"conv1_order": ["relu", "pool", "lrn"], "conv2_order": ["relu", "pool", "lrn"]},
    "owt": TORCHS
    | {
        "conv1_padding": [2, 2],
        "conv_filters": [64, 192, 384, 256, 256],
        "conv1_order": ["relu", "pool"],
        "conv2_order": ["relu", "pool"],
        "kernel_init": ["fan_in_uniform"] * 8,
        "bias_init": ["fan_in_uniform"] * 8,
        "weight_decay": 0.0001,
        "batch_size": 256,
    },
    "seed": TORCHS
    | {
        "input_size": 227,
        "conv1_padding": [0, 0],
        "lrn_alpha_divided_by_size": True,
        "kernel_init": [0.01] * 5 + ["fan_in_uniform"] * 3,
        "bias_init": [0, 1, 0, 1, 1] + ["fan_in_uniform"] * 3,
        "training_crop": "centre",
        "training_flip": False,
        "optimizer": "adam",
        "learning_rate": 1e-4,
        "weight_decay": 0.0,
    },
}


@pytest.mark.parametrize("name", PROFILES)
def test_a_profile_is_what_its_source_says(name):
    fields = PROFILES[name].to_dict()
    assert Profile.from_dict(json.loads(json.dumps(fields))) == PROFILES[name]
    assert fields["name"] == name
    for field, value in EXPECTED[name].items():
        # 255 * 0.485 is not to the last bit what 123.675 is
        assert fields[field] == (pytest.approx(value) if field[:8] == "channel_" else value), field


def test_profiles_are_known_by_their_own_names_and_fixed():
    assert {name: profile.name for name, profile in PROFILES.items()} == {n: n for n in PROFILES}
    with pytest.raises(TypeError):
        PROFILES["mine"] = PAPER
    with pytest.raises(dataclasses.FrozenInstanceError):
        PAPER.lrn_k = 3.0


def test_caffe_epochs_are_its_steps():
    steps_an_epoch = 1_281_167 / CAFFE.batch_size
    assert CAFFE.epochs == round(450_000 / steps_an_epoch)
    drops = [round(step / steps_an_epoch) for step in (100_000, 200_000, 300_000, 400_000)]
    assert list(CAFFE.drop_epochs) == drops


def test_from_dict_wants_exactly_the_fields():
    fields = PAPER.to_dict()
    with pytest.raises(ValueError, match=r"unknown \['colour'\], missing \[\]"):
        Profile.from_dict(fields | {"colour": "red"})
    del fields["lrn_k"]
    with pytest.raises(ValueError, match=r"unknown \[\], missing \['lrn_k'\]"):
        Profile.from_dict(fields)
    with pytest.raises(ValueError, match=r"Profile.lrn_k must be a number above 0"):
        Profile.from_dict(fields | {"lrn_k": "two"})


def test_a_narrow_copy_has_fewer_units_and_the_same_rest():
    narrow = PAPER.scaled(0.125)
    assert narrow.conv_filters == (16, 32, 48, 48, 32)  # 96 / 8 = 12 is no multiple of 8
    assert narrow.fc_units == (512, 512)
    restored = dataclasses.replace(narrow, conv_filters=PAPER.conv_filters, fc_units=PAPER.fc_units)
    assert restored == PAPER
    assert PAPER.scaled(1.0) == PAPER
    assert PAPER.scaled(2.0).conv_filters == (192, 512, 768, 768, 512)
    assert PAPER.scaled(1e-9).conv_filters == (8,) * 5
    in_thirds = dataclasses.replace(
        PAPER, conv_filters=(96, 252, 384, 384, 252), conv_groups=(1, 3, 1, 3, 3)
    )
    assert in_thirds.scaled(0.1).conv_filters == (24, 24, 48, 48, 24)


@pytest.mark.parametrize("width", [0, -1.0, float("nan"), float("inf"), "half", True])
def test_a_width_is_a_number_above_0(width):
    with pytest.raises(ValueError, match=r"width must be a number above 0.*Received: "):
        PAPER.scaled(width)


def test_get_profile_takes_a_name_or_a_profile():
    assert get_profile("caffe") is CAFFE
    assert get_profile(CAFFE) is CAFFE
    with pytest.raises(ValueError, match=r"one of paper, krizhevsky2012, .* Received: 'papper'"):
        get_profile("papper")


NOT_ABOVE_0 = (0, -1, True, None, "1", float("nan"), float("inf"))
NOT_FROM_0 = (-1, True, None, "1", float("nan"))
NOT_A_COUNT = (0, -1, 1.0, True, None, "1")
ABOVE_0 = (
    *("lrn_k", "lrn_beta", "map_norm_k", "map_norm_beta", "pixel_scale", "colour_noise_divisor"),
    *("learning_rate", "learning_rate_factor"),
)
OF_TYPE = {bool: (1, None), int: NOT_A_COUNT, float: NOT_FROM_0}
WRONG = {
    **dict.fromkeys(ABOVE_0, NOT_ABOVE_0),
    "name": ("", " ", 1, None),
    "summary": ("", None),
    "published": ("", 57.1),
    "input_size": (*NOT_A_COUNT, 63),  # with 3 of padding: 66 leaves pool5 empty
    "conv1_padding": (3, (3,), (0, 1, 2), (-1, 0), (0.0, 3.0), [0, 3]),
    "conv_filters": (96, (96,) * 4, (96,) * 6, (96, 256, 384, 384, 0), [96] * 5),
    "conv_groups": (2, (1,) * 4, (1, 2, 1, 2, 0), (2, 2, 1, 2, 2), (1, 2, 1, 2, 3), [1] * 5),
    "fc_units": ((4096,), (4096, 0), (4096, 4096, 1000), [4096, 4096]),
    "conv1_order": ("relu", ("relu",), ("relu", "lrn"), ("relu", "relu", "pool"), ("relu", "bn")),
    "conv2_order": (None, ("pool",), ("lrn", "pool"), ["relu", "pool"]),
    "conv5_order": (("relu",), ("pool",), ("relu", "map_norm", "map_norm", "pool")),
    "removed_layers": ("conv3", ("conv2",), ("conv3",) * 2, ("conv5", "conv4"), ["conv3"], None),
    "activation": ("sigmoid", "ReLU", None),
    "pool_size": (*NOT_A_COUNT, 4, 3.0),
    "lrn_size": (*NOT_A_COUNT, 4),
    "lrn_alpha_divided_by_size": (1, 0, None, "no"),
    "map_norm_size": (*NOT_A_COUNT, 4),
    "kernel_init": (0.01, (0.01,) * 7, (0.0,) * 8, ("zeros",) * 8, (None,) * 8, [0.01] * 8),
    "bias_init": (1.0, (1.0,) * 7, ("he_normal",) * 8, (float("nan"),) * 8),
    "dropout_rate": (1, -0.1, None, "0.5"),
    "dropout_at": ("input", None),
    "mean": ("channel", None, 117),
    "mean_position": ("central", None),  # None is for "channels", and paper has "image"
    "channel_mean": (117, (104.0, 117.0), (1.0, 2.0, 3.0)),  # the last too
    "channel_std": (58, (58.0,) * 2, (58.0, 57.0, 0.0), [58.0] * 3),
    "training_crop": ("center", None),
    "colour_noise": ("root", "none", False),
    "optimizer": ("SGD", None),
    "momentum": (1.0, -0.1, None),
    "schedule": ("linear", None),
    "plateau_drops": (-1, 0.5, None),
    "drop_epochs": (30, (0, 30), (30, 20), (30, 30), (30, 90), (1.5,), [30, 60]),
    "colour_order": ("rgb", None),
}


@pytest.mark.parametrize("field", [field.name for field in dataclasses.fields(Profile)])
def test_a_wrong_value_is_refused(field):
    for value in WRONG.get(field) or OF_TYPE[type(getattr(PAPER, field))]:
        message = rf"Profile.{field} must be .*Received: {re.escape(repr(value))}\. The docstring"
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(PAPER, **{field: value})


def test_what_fields_must_be_to_each_other():
    smallest = dataclasses.replace(PAPER, input_size=64)
    assert smallest.input_size + sum(smallest.conv1_padding) == 67
    for profile, fields, message in (
        (CAFFE, {"input_size": 66}, r"input_size must be at least 67. Received: 66"),
        (OWT, {"channel_mean": None}, "channel_mean must be three constants with the mean"),
        (OWT, {"mean_position": "crop"}, "mean_position must be None with the mean 'channels'"),
        (OWT, {"epochs": 30}, r"drop_epochs must be in order, of 1 ... 29 "),
    ):
        with pytest.raises(ValueError, match=message):
            dataclasses.replace(profile, **fields)


def test_removed_layers_count_for_nothing():
    assert PAPER.layer_names == (*CONVOLUTIONS, "fc6", "fc7", "fc8")
    in_thirds = {"conv_filters": (96, 252, 384, 256, 252), "conv_groups": (1, 3, 1, 2, 3)}
    with pytest.raises(ValueError, match="around: 3 -> 96 -> 252 -> 384 -> 256 -> 252"):
        dataclasses.replace(PAPER, **in_thirds)
    without = dataclasses.replace(PAPER, removed_layers=("conv4",), **in_thirds)
    assert without.layer_names == ("conv1", "conv2", "conv3", "conv5", "fc6", "fc7", "fc8")
    with pytest.raises(ValueError, match="around: 3 -> 97 -> 256 -> 384 -> 256"):
        dataclasses.replace(
            PAPER, removed_layers=("conv4",), conv_filters=(97, *CAFFE.conv_filters[1:])
        )
    assert [profile.columns for profile in PROFILES.values()] == [2, 2, 2, 2, 1, 1]
    late_columns = dataclasses.replace(PAPER, conv_groups=(1, 1, 1, 2, 2))
    assert late_columns.columns == 2
    assert dataclasses.replace(late_columns, removed_layers=("conv4", "conv5")).columns == 1


def test_initializers_are_keras_own():
    import keras

    from keras_alexnet.network.profile import INITIALIZERS

    for name in INITIALIZERS:
        assert "seed" in keras.initializers.get(name).get_config()


def run_python(code: str, **environment: str) -> subprocess.CompletedProcess:
    names = ("KERAS_BACKEND", "TF_CPP_MIN_LOG_LEVEL")
    own = {name: value for name, value in os.environ.items() if name not in names}
    return subprocess.run(
        [sys.executable, "-c", code],
        env=own | environment,
        capture_output=True,
        text=True,
        check=False,
    )


def test_the_package_starts_without_tensorflow():
    result = run_python(
        "import sys, os, keras_alexnet\n"
        "from keras_alexnet import PROFILES, Profile, decode_predictions\n"
        "assert isinstance(PROFILES['paper'], Profile)\n"
        "assert not {'tensorflow', 'keras'} & set(sys.modules), 'imported'\n"
        "assert {'AlexNet', 'PROFILES', 'decode_predictions'} <= set(dir(keras_alexnet))\n"
        "print(os.environ['KERAS_BACKEND'], os.environ['TF_CPP_MIN_LOG_LEVEL'])"
    )
    assert (result.returncode, result.stdout) == (0, "tensorflow 1\n"), result.stderr
    result = run_python(
        "import os, keras_alexnet; print(os.environ['TF_CPP_MIN_LOG_LEVEL'])",
        TF_CPP_MIN_LOG_LEVEL="3",
    )
    assert result.stdout == "3\n", "the user's own setting stays"


def test_the_package_has_what_it_promises_and_no_more():
    import keras_alexnet
    from keras_alexnet.network.model import AlexNet

    assert keras_alexnet.AlexNet is AlexNet
    with pytest.raises(AttributeError, match="module 'keras_alexnet' has no attribute 'ResNet'"):
        keras_alexnet.ResNet  # noqa: B018
