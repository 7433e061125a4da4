import dataclasses
import re
import subprocess
import sys

import pytest
from absl import flags
from repository import ROOT
from train_runs import options as recipe

from keras_alexnet import PROFILES
from keras_alexnet.inputs import augmentations
from keras_alexnet.network import choices
from keras_alexnet.network.choices import SWA
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training import optimizers, schedules
from keras_alexnet.training.options import (
    check,
    flags_behind,
    profile_from_flags,
    recipe_from_flags,
)


def parse(*arguments):
    values = flags.FlagValues()
    training_flags.define_training(values)
    values(["train", *arguments])
    profile = profile_from_flags(values)
    return profile, recipe_from_flags(values, profile)


@pytest.mark.parametrize("name", PROFILES)
def test_what_no_flag_names_is_the_profiles(name):
    profile, parsed = parse(f"--profile={name}")
    assert profile == PROFILES[name]
    fields = ("optimizer", "learning_rate", "momentum", "weight_decay", "schedule", "epochs")
    for field in (*fields, "batch_size"):
        assert getattr(parsed, field) == getattr(profile, field), field
    assert parsed.precision in ("float32", "bfloat16", "float16"), "auto is resolved"


def test_what_a_flag_names_is_the_flags():
    profile, parsed = parse(
        *("--profile=caffe", "--width=0.25", "--kernel_init=fan_in_uniform", "--bias_init=0.2"),
        *("--pixel_scale=0.5", "--dropout=0.1", "--optimizer=adam", "--learning_rate=0.3"),
        *("--epochs=7", "--precision=float32"),
    )
    assert profile.conv_filters == PROFILES["caffe"].scaled(0.25).conv_filters
    assert profile.kernel_init == ("fan_in_uniform",) * 8
    assert profile.bias_init == (0.2,) * 8
    assert (profile.pixel_scale, profile.dropout_rate) == (0.5, 0.1)
    assert (parsed.optimizer, parsed.learning_rate) == ("adam", 0.3)
    assert (parsed.epochs, parsed.precision) == (7, "float32")


def test_flags_offer_what_there_is():
    with_code = {*optimizers.OPTIMIZERS, *(f"tfa:{name}" for name in choices.ADDONS_OPTIMIZERS)}
    assert set(choices.OPTIMIZERS) == with_code
    assert set(choices.SCHEDULES) == set(schedules.SCHEDULES)
    assert {*choices.ON_BOTH_STACKS} < {*choices.ADDONS_OPTIMIZERS}
    assert set(choices.AUGMENTATIONS) == set(augmentations.KINDS)


@pytest.mark.parametrize("path", sorted((ROOT / "configs").glob("*.flags")), ids=lambda p: p.name)
def test_every_config_is_a_run_that_can_be_started(path):
    values = flags.FlagValues()
    training_flags.define_training(values)
    training_flags.define_run(values)
    values(["train", f"--flagfile={path}"])
    profile = profile_from_flags(values)
    parsed = recipe_from_flags(values, profile)
    check(dataclasses.replace(parsed, strategy="one_device"))
    if parsed.optimizer == "tfa:SGDW":
        decay = parsed.optimizer_options["weight_decay"]
        assert decay == pytest.approx(profile.weight_decay * parsed.learning_rate)
    assert path.read_text().startswith("# ")


SGDW = "--optimizer=tfa:SGDW"


def test_the_options_of_an_optimizer_are_json():
    parsed = parse(SGDW, '--optimizer_options={"weight_decay": 0.25, "nesterov": true}')[1]
    assert parsed.optimizer == "tfa:SGDW"
    assert parsed.optimizer_options == {"weight_decay": 0.25, "nesterov": True}
    # Momentum, decay and rates of the biases, which a profile has, are given up.
    for given in ((), ("--profile=caffe", SGDW), ("--profile=krizhevsky2012", SGDW)):
        assert parse(*given)[1].optimizer_options is None
    with pytest.raises(flags.IllegalFlagValueError, match="tfa:Yogi"):
        parse("--optimizer=tfa:yogi")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--momentum=0.9"], r"tfa:SGDW takes all from --optimizer_options, but --momentum=0.9"),
        (["--weight_decay=0.1", "--momentum=0.5"], r"--momentum=0.5, --weight_decay=0.1 came; put"),
        (["--clip_norm=1"], r"tfa:SGDW does not go with --clip_norm=1.0; leave it out"),
        (["--bias_decay_multiplier=0"], r"--bias_decay_multiplier=0.0; leave it out"),
        (["--bias_learning_rate_multiplier=2"], r"not go with --bias_learning_rate_multiplier=2.0"),
        (["--optimizer=sgd", "--optimizer_options={}"], r"of --optimizer=tfa:NAME, but .* is sgd"),
        *(
            (
                [f"--optimizer_options={text}"],
                f"must be a JSON object, .* but got {re.escape(text)}$",
            )
            for text in ("", "[1]", "0.1", "{weight_decay: 0.1}", '"SGD"')
        ),
        (["--strategy=mirrored", "--column_parallel"], r"--strategy and --column_parallel were"),
        (["--ema=0.9", "--moving_average=ema"], r"--ema=0.9 and --moving_average=ema were given"),
        (["--ema=0.9", "--moving_average=swa"], r"--moving_average=swa were given; take one"),
        (["--start_averaging=0"], r"are of --moving_average=swa, but that is none"),
        (["--moving_average=ema", "--average_period=9"], r"but that is ema; leave them out"),
    ],
)
def test_flags_that_contradict_each_other_are_an_error(given, message):
    with pytest.raises(ValueError, match=message) as error:
        parse(SGDW, *given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        ([], {"strategy": "mirrored", "ema": None, "swa": None}),
        (["--column_parallel"], {"strategy": "column_parallel"}),
        (["--strategy=one_device", "--nocolumn_parallel"], {"strategy": "one_device"}),
        (["--ema=0.9", "--moving_average=none"], {"ema": 0.9, "swa": None}),
        (["--moving_average=ema"], {"ema": 0.99, "swa": None}),
        (["--moving_average=swa"], {"ema": None, "swa": SWA(start=0, period=10)}),
        (
            ["--moving_average=swa", "--start_averaging=7", "--average_period=2"],
            {"swa": SWA(start=7, period=2)},
        ),
    ],
)
def test_flags_that_are_an_option_together(given, expected):
    parsed = parse(*given)[1]
    assert {name: getattr(parsed, name) for name in expected} == expected


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "column_parallel"}, r"tfa:SGDW does not go with two columns .*; take"),
        ({"schedule": "krizhevsky2012"}, r"krizhevsky2012, in which conv1 has a rate of its own;"),
        ({"optimizer_options": None}, r"weight_decay is needed"),
    ],
)
def test_an_optimizer_that_a_run_cannot_have_is_refused(changes, message):
    usual = recipe(optimizer="tfa:SGDW", optimizer_options={"weight_decay": 0.1})
    check(usual)
    with pytest.raises(ValueError, match=message) as error:
        check(dataclasses.replace(usual, **changes))
    assert "\n" not in str(error.value)
    check(dataclasses.replace(usual, **changes, optimizer="sgd"))


def test_each_option_names_the_flags_that_decide_it():
    assert flags_behind("options.optimizer_options.weight_decay") == {"optimizer_options"}
    assert flags_behind("options.ema") == {"ema", "moving_average"}
    assert flags_behind("options.swa") == {"moving_average", "start_averaging", "average_period"}
    assert flags_behind("options.strategy") == {"strategy", "column_parallel"}
    assert flags_behind("options.epochs") == {"epochs"}


def test_the_command_reads_its_flags_without_tensorflow():
    code = "import keras_alexnet.train, sys; sys.exit('tensorflow' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=ROOT, check=False).returncode == 0
