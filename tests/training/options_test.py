import subprocess
import sys

import pytest
from absl import flags
from repository import ROOT

from data_prep.command_line import UserError
from keras_alexnet import PROFILES
from keras_alexnet.inputs import augmentations
from keras_alexnet.network import choices
from keras_alexnet.training import devices, optimizers, schedules
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training.options import options_from_flags, profile_from_flags


def parse(*arguments):
    values = flags.FlagValues()
    training_flags.define_training(values)
    values(["train", *arguments])
    profile = profile_from_flags(values)
    return profile, options_from_flags(values, profile)


@pytest.mark.parametrize("name", PROFILES)
def test_what_no_flag_names_is_the_profiles(name):
    profile, options = parse(f"--profile={name}")
    assert profile == PROFILES[name]
    recipe = ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "epochs")
    for field in (*recipe, "batch_size"):
        assert getattr(options, field) == getattr(profile, field), field
    assert options.precision in ("float32", "bfloat16", "float16"), "auto is resolved"


def test_what_a_flag_names_is_the_flags():
    profile, options = parse(
        *("--profile=caffe", "--width=0.25", "--kernel_init=fan_in_uniform", "--bias_init=0.2"),
        *("--pixel_scale=0.5", "--dropout=0.1", "--optimizer=adam", "--learning_rate=0.3"),
        *("--epochs=7", "--precision=float32"),
    )
    assert profile.conv_filters == PROFILES["caffe"].scaled(0.25).conv_filters
    assert profile.kernel_init == ("fan_in_uniform",) * 8
    assert profile.bias_init == (0.2,) * 8
    assert (profile.pixel_scale, profile.dropout_rate) == (0.5, 0.1)
    assert (options.optimizer, options.learning_rate) == ("adam", 0.3)
    assert (options.epochs, options.precision) == (7, "float32")


def test_flags_that_make_no_profile_are_a_user_error():
    with pytest.raises(UserError, match="dropout_rate must be a number from 0 to below 1"):
        parse("--dropout=1")


@pytest.mark.slow
def test_two_columns_are_a_way_to_use_two_devices():
    assert parse("--column_parallel")[1].strategy == "column_parallel"
    assert parse()[1].strategy == "mirrored"
    assert parse("--strategy=one_device", "--nocolumn_parallel")[1].strategy == "one_device"
    with pytest.raises(UserError, match="--strategy and --column_parallel were given; take one"):
        parse("--strategy=mirrored", "--column_parallel")


def test_flags_offer_what_there_is():
    with_code = {*optimizers.OPTIMIZERS, *(f"tfa:{name}" for name in choices.ADDONS_OPTIMIZERS)}
    assert set(choices.OPTIMIZERS) == with_code
    assert set(choices.SCHEDULES) == set(schedules.SCHEDULES)
    assert set(choices.PRECISIONS) == set(devices.PRECISIONS)
    assert set(choices.AUGMENTATIONS) == set(augmentations.KINDS)


def test_flags_are_defined_without_tensorflow():
    code = "import keras_alexnet.training.flags, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
