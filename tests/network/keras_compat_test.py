import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.network import keras_compat
from keras_alexnet.training import devices, optimizers

SCHEDULE = keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.25, 0.125])


def layer_under_its_name():
    layer = keras.layers.Dense(1, kernel_initializer="zeros", name="fc6")
    layer(tf.ones([1, 3]))
    return layer


def step(optimizer, layer):
    gradients = [tf.ones([3, 1]), tf.ones([1])]
    keras_compat.apply_gradients(optimizer, gradients, layer.trainable_variables)


KERNEL, BIAS = (3, 1), (1,)
STEPS = RATE = ()


@pytest.mark.parametrize(
    ("name", "rate", "changes", "expected"),
    [
        ("sgd", 0.1, {}, [STEPS, RATE, KERNEL, BIAS]),
        ("sgd", SCHEDULE, {}, [STEPS, KERNEL, BIAS]),
        ("sgd", 0.1, {"momentum": 0.0}, [STEPS, RATE]),
        ("sgd", 0.1, {"average": 0.9}, [STEPS, RATE, *[KERNEL, BIAS] * 2]),
        ("adam", 0.1, {}, [STEPS, RATE, KERNEL, KERNEL, BIAS, BIAS]),
    ],
)
def test_the_state_has_one_order(name, rate, changes, expected):
    optimizer, layer = optimizers.OPTIMIZERS[name](rate, **changes), layer_under_its_name()
    optimizer.build(layer.trainable_variables)
    step(optimizer, layer)
    state = keras_compat.optimizer_state(optimizer)
    assert [tuple(variable.shape) for variable in state] == expected
    assert int(state[0].numpy()) == 1
    if RATE in expected[1:]:
        assert state[1].numpy() == np.float32(0.1)


def test_the_loss_scale_comes_before_the_optimizers_own_state():
    inner = optimizers.OPTIMIZERS["sgd"](0.1)
    optimizer = keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=8.0)
    layer = layer_under_its_name()
    optimizer.build(layer.trainable_variables)
    for _ in range(3):
        step(optimizer, layer)
    state = keras_compat.optimizer_state(optimizer)
    assert [int(state[0].numpy()), float(state[1].numpy()), int(state[2].numpy())] == [3, 8.0, 3]
    assert [tuple(variable.shape) for variable in state[2:]] == [STEPS, RATE, KERNEL, BIAS]
    assert float(keras_compat.scaled_loss(optimizer, tf.constant(2.0))) == 16.0
    assert float(keras_compat.scaled_loss(inner, tf.constant(2.0))) == 2.0


@pytest.mark.parametrize("name", list(optimizers.OPTIMIZERS))
def test_the_learning_rate_is_that_of_the_next_step(name):
    scheduled, layer = optimizers.OPTIMIZERS[name](SCHEDULE), layer_under_its_name()
    rates = []
    for _ in range(5):
        step(scheduled, layer)
        rates.append(float(scheduled.learning_rate))
    assert rates == [0.5, 0.25, 0.25, 0.125, 0.125]

    fixed = optimizers.OPTIMIZERS[name](0.5, **{"sgd": {"momentum": 0.0}}.get(name, {}))
    layer = layer_under_its_name()
    for rate in (0.5, 0.25):
        fixed.learning_rate = rate
        step(fixed, layer)
        assert float(fixed.learning_rate) == rate
    np.testing.assert_allclose(layer.get_weights()[1], [-0.75], rtol=1e-4)


def test_an_optimizers_own_step_takes_the_rate_that_it_is_given():
    halved, layer = optimizers.Adam(0.1, layer_rates={"fc6": [(0, 0.5)]}), layer_under_its_name()
    step(halved, layer)
    np.testing.assert_allclose(layer.get_weights()[1], [-0.05], rtol=1e-4)  # Adam's first step


@pytest.mark.slow
def test_a_replicas_copy_is_known_by_its_networks_path():
    strategy = devices.make_strategy("mirrored")
    rule = {"bias_multiplier": 3.0, "layer_rates": {"fc6": [(0, 0.5)]}, "momentum": 0.0}
    with strategy.scope():
        layer = layer_under_its_name()
        optimizer = optimizers.MomentumSGD(0.5, **rule)
        optimizer.build(layer.trainable_variables)
    strategy.run(tf.function(lambda: step(optimizer, layer)))
    # gradients of 1 on each of two replicas
    for variable, expected in zip(layer.trainable_variables, (-0.5, -1.5), strict=True):
        variable = keras_compat.tf_variable(variable)
        for copy in strategy.experimental_local_results(variable):
            np.testing.assert_allclose(copy.numpy(), np.full(copy.shape, expected), rtol=1e-6)
