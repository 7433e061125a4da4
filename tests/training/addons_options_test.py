import json

import pytest
from absl import flags
from repository import ROOT

from data_prep.command_line import UserError
from keras_alexnet.network import choices
from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.training import addons
from keras_alexnet.training import options as addons_options
from keras_alexnet.training.options import flags_behind
from tests.training.options_test import parse

SGDW = "--optimizer=tfa:SGDW"


def test_the_options_are_those_of_the_flag():
    options = parse(SGDW, '--optimizer_options={"weight_decay": 0.25, "nesterov": true}')[1]
    assert options.optimizer == "tfa:SGDW"
    assert options.optimizer_options == {"weight_decay": 0.25, "nesterov": True}
    assert parse("--optimizer=tfa:Yogi")[1].optimizer_options is None
    assert parse()[1].optimizer_options is None


def test_every_name_may_be_asked_for_and_no_other():
    for name in choices.ADDONS_OPTIMIZERS:
        assert parse(f"--optimizer=tfa:{name}")[1].optimizer == f"tfa:{name}"
    with pytest.raises(flags.IllegalFlagValueError, match="tfa:Yogi"):
        parse("--optimizer=tfa:yogi")


@pytest.mark.parametrize("text", ["", "[1]", "0.1", "{weight_decay: 0.1}", '"SGD"'])
def test_options_that_are_no_object_are_a_user_error(text):
    with pytest.raises(UserError) as error:
        parse(SGDW, f"--optimizer_options={text}")
    assert str(error.value).startswith("--optimizer_options must be a JSON object, such as {")
    assert str(error.value).endswith(f"but got {text}")


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--momentum=0.9"], r"tfa:SGDW takes all from --optimizer_options, but --momentum=0.9"),
        (["--weight_decay=0.1", "--momentum=0.5"], r"--momentum=0.5, --weight_decay=0.1 came; put"),
        (["--clip_norm=1"], r"tfa:SGDW does not go with --clip_norm=1.0; leave it out"),
        (["--bias_decay_multiplier=0"], r"--bias_decay_multiplier=0.0; leave it out"),
        (["--bias_learning_rate_multiplier=2"], r"not go with --bias_learning_rate_multiplier=2.0"),
        (["--optimizer=tfa:COCOB", "--learning_rate=0.1"], r"COCOB does not go with --learning_ra"),
        (["--optimizer=sgd", "--optimizer_options={}"], r"of --optimizer=tfa:NAME, but .* is sgd"),
    ],
)
def test_a_given_flag_that_is_not_theirs_is_a_user_error(given, message):
    with pytest.raises(UserError, match=message) as error:
        parse(SGDW, *given)
    assert "\n" not in str(error.value)


@pytest.mark.parametrize("profile", ["caffe", "krizhevsky2012"])
def test_what_a_profile_has_of_these_flags_is_given_up(profile):
    """Momentum, decay and rates of the biases."""
    assert parse(f"--profile={profile}", SGDW)[1].optimizer == "tfa:SGDW"


def check(**changes):
    asked = {"optimizer": "tfa:SGDW", "options": {"weight_decay": 0.1}, "strategy": "one_device"}
    addons_options.check(**{**asked, "schedule": "plateau", **changes})


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"strategy": "column_parallel"}, r"tfa:SGDW does not go with --column_parallel; take"),
        ({"schedule": "krizhevsky2012"}, r"=krizhevsky2012, in which conv1 has a rate of its own;"),
        ({"options": None}, r"weight_decay is needed"),
        ({"options": {"weight_decay": "much"}}, r"SGDW does not take \{'weight_decay': 'much'\}: "),
        ({"optimizer": "tfa:LazyAdam", "options": {"epsilon": "?"}}, r"LazyAdam does not take"),
    ],
)
def test_what_a_run_cannot_have_is_told_before_anything_is_made(changes, message):
    check()
    with pytest.raises(UserError, match=message) as error:
        check(**changes)
    assert "\n" not in str(error.value)


def test_optimizers_of_this_project_go_with_all():
    check(optimizer="sgd", options=None, strategy="column_parallel", schedule="krizhevsky2012")


def test_moving_averages():
    def averages(*given):
        options = parse(*given)[1]
        return options.ema, options.swa

    assert averages() == (None, None)
    assert averages("--ema=0.9") == (0.9, None)
    assert averages("--ema=0.9", "--moving_average=none") == (0.9, None)
    assert averages("--moving_average=ema") == (0.99, None)
    assert averages("--moving_average=swa") == (None, SWA(start=0, period=10))
    swa = averages("--moving_average=swa", "--start_averaging=7", "--average_period=2")
    assert swa == (None, SWA(start=7, period=2))


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--ema=0.9", "--moving_average=ema"], r"--ema=0.9 and --moving_average=ema were given"),
        (["--ema=0.9", "--moving_average=swa"], r"--moving_average=swa were given; take one"),
        (["--start_averaging=0"], r"are of --moving_average=swa, but that is none"),
        (["--moving_average=ema", "--average_period=9"], r"but that is ema; leave them out"),
    ],
)
def test_averages_that_contradict_each_other(given, message):
    with pytest.raises(UserError, match=message):
        parse(*given)


@pytest.mark.skipif(not IS_KERAS_2, reason="needs TensorFlow Addons: make test-addons")
def test_the_usual_averages_are_those_of_tensorflow_addons():
    inner = addons.tfa.optimizers.SGDW(weight_decay=0.1)
    swa = addons.tfa.optimizers.SWA(inner).get_config()
    usual = parse("--moving_average=swa")[1].swa
    assert usual == (swa["start_averaging"], swa["average_period"])
    ema = addons.tfa.optimizers.MovingAverage(inner).get_config()
    assert parse("--moving_average=ema")[1].ema == ema["average_decay"]


def test_the_example_of_the_configs_is_a_run(tmp_path):
    path = ROOT / "configs" / "addons_sgdw.flags"
    profile, options = parse(f"--flagfile={path}")
    addons_options.check(
        optimizer=options.optimizer,
        options=options.optimizer_options,
        strategy=options.strategy,
        schedule=options.schedule,
    )
    decay = options.optimizer_options["weight_decay"]
    assert decay == pytest.approx(profile.weight_decay * options.learning_rate)
    json.dumps(options.optimizer_options)


@pytest.mark.slow
def test_each_option_names_the_flags_that_decide_it():
    behind = flags_behind
    assert behind("options.optimizer_options.inner.name") == {"optimizer_options"}
    assert behind("options.ema") == {"ema", "moving_average"}
    assert behind("options.swa") == {"moving_average", "start_averaging", "average_period"}
    assert behind("options.strategy") == {"strategy", "column_parallel"}
    assert behind("options.epochs") == {"epochs"}
