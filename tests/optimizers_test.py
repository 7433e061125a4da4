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


def test_every_optimizer_of_the_flag_makes_a_step():
    for make in optimizers.OPTIMIZERS.values():
        variable = tf.Variable([1.0])
        make(0.1, 0.9, 2.0).apply([tf.constant([1.0])], [variable])
        assert variable.numpy()[0] < 1.0


def test_config_round_trip():
    optimizer = optimizers.MomentumSGD(0.5, 0.8, 2.0)
    copy = optimizers.MomentumSGD.from_config(optimizer.get_config())
    assert copy.bias_multiplier == 2.0
    assert copy.momentum == 0.8
