import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import optimizers


@pytest.mark.parametrize("bias_multiplier", [1.0, 2.0])
def test_momentum_sgd_follows_the_papers_rule_for_20_steps(bias_multiplier):
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    decay, rate, momentum = 0.05, 0.01, 0.9
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    try:
        layer = keras.layers.Dense(2, kernel_regularizer=keras.regularizers.L2(decay / 2))
        model = keras.Sequential([keras.Input([3]), layer])
        model.compile(optimizers.MomentumSGD(rate, momentum, bias_multiplier), "mse")
        w, b = (value.astype(np.float64) for value in layer.get_weights())
        for _ in range(20):
            model.train_on_batch(x, y)
    finally:
        keras.backend.set_floatx("float32")

    v_w, v_b = np.zeros_like(w), np.zeros_like(b)
    for _ in range(20):
        error = 2 * (x @ w + b - y) / y.size
        v_w = momentum * v_w - decay * rate * w - rate * (x.T @ error)
        v_b = momentum * v_b - rate * bias_multiplier * error.sum(0)
        w, b = w + v_w, b + v_b

    np.testing.assert_allclose(layer.get_weights()[0], w, atol=1e-6)
    np.testing.assert_allclose(layer.get_weights()[1], b, atol=1e-6)


def test_a_rate_of_the_biases_own_does_not_fall():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.01, 0.0])
    optimizer = optimizers.MomentumSGD(schedule, 0.9, bias_multiplier=9.0, bias_learning_rate=0.2)
    layer = keras.layers.Dense(1, kernel_initializer="ones")
    layer.build([None, 1])
    w = b = v_w = v_b = 0.0
    for rate in (0.1, 0.1, 0.1, 0.01, 0.01, 0.0):
        optimizer.apply_gradients(
            zip([tf.constant([[1.0]]), tf.constant([1.0])], layer.trainable_variables, strict=True)
        )
        v_w, v_b = 0.9 * v_w - rate, 0.9 * v_b - (0.2 if rate else 0.0)
        w, b = w + v_w, b + v_b
        kernel, bias = layer.get_weights()
        np.testing.assert_allclose([kernel[0, 0], bias[0]], [1 + w, b], rtol=1e-5)


def test_every_optimizer_of_the_flag_makes_a_step():
    for make in optimizers.OPTIMIZERS.values():
        variable = tf.Variable([1.0])
        make(0.1, 0.9, 2.0, None).apply([tf.constant([1.0])], [variable])
        assert variable.numpy()[0] < 1.0


def test_config_round_trip():
    optimizer = optimizers.MomentumSGD(0.5, 0.8, 2.0, 0.7)
    copy = optimizers.MomentumSGD.from_config(optimizer.get_config())
    assert copy.bias_multiplier == 2.0
    assert copy.bias_learning_rate == 0.7
    assert copy.momentum == 0.8
