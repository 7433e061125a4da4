import dataclasses

import numpy as np
import pytest
import train_runs
from stand_in import statistics

from keras_alexnet import PROFILES
from keras_alexnet.network.variables import path_of
from keras_alexnet.training import build as training_model


def build(name, **changes):
    profile = dataclasses.replace(PROFILES[name].scaled(0.03), dropout_rate=0.0)
    recipe = train_runs.options(**{"schedule": "steps", "epochs": 9, **changes})
    return training_model.build(profile, recipe, 7, statistics(), steps=10)


@pytest.mark.parametrize(
    ("name", "multiplier", "rate"),
    [("paper", 1.0, None), ("krizhevsky2012", 2.0, 0.02), ("caffe", 2.0, None), ("owt", 1.0, None)],
)
def test_the_biases_have_the_profiles_rate(name, multiplier, rate):
    optimizer = build(name, momentum=0.8)[1].optimizer
    assert optimizer.momentum == 0.8
    assert (optimizer.bias_multiplier, optimizer.bias_learning_rate) == (multiplier, rate)


def test_steps_fall_at_the_profiles_part_of_the_run():
    rate = build("seed")[1].optimizer.get_config()["learning_rate"]["config"]
    # After 30 and 60 of 90 steps, as of its 90 epochs. Keras' boundary is the last step before.
    assert rate["boundaries"] == [29, 59]
    np.testing.assert_allclose(rate["values"], [0.01, 0.001, 0.0001])


def test_the_logged_schedule_has_conv1s_own_rate():
    optimizer = build("krizhevsky2012", schedule="krizhevsky2012", epochs=135)[1].optimizer
    assert optimizer.layer_rates == {"conv1": [(670, 0.1), (720, 0.0), (910, 1.0)]}
    assert build("krizhevsky2012")[1].optimizer.layer_rates == {}


def test_options_arrive_where_they_work():
    network, model = build("caffe", ema=0.9, clip_norm=2.0, freeze=("conv1", "fc6"))
    assert (model.optimizer.average, model.optimizer.clip_norm) == (0.9, 2.0)
    trained = {path_of(variable).split("/")[-2] for variable in model.trainable_variables}
    assert trained == {"conv2", "conv3", "conv4", "conv5", "fc7", "fc8"}
    assert len(network.trainable_variables) == 12
    warmed = build("caffe", schedule="cosine", warmup_epochs=2.0)[1].optimizer
    assert warmed.get_config()["learning_rate"]["config"]["warmup_steps"] == 20
