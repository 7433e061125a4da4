import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.network import keras_compat
from keras_alexnet.training import devices, optimizers


def fit_20_steps(optimizer):
    """Return a linear layer in float64: data, its weights before, and after 20 steps."""
    rng = np.random.default_rng(0)
    x, y = rng.normal(size=(8, 3)), rng.normal(size=(8, 2))
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    try:
        layer = keras.layers.Dense(2, bias_initializer="ones")
        model = keras.Sequential([keras.Input([3]), layer])
        model.compile(optimizer, "mse")
        before = [value.astype(np.float64) for value in layer.get_weights()]
        for _ in range(20):
            model.train_on_batch(x, y)
    finally:
        keras.backend.set_floatx("float32")
        keras.mixed_precision.set_global_policy("float32")
    return x, y, before, layer.get_weights()


def update(optimizer, layer, *gradients):
    gradients = [tf.convert_to_tensor(gradient) for gradient in gradients]
    keras_compat.apply_gradients(optimizer, gradients, layer.trainable_variables)


def one_unit(kernel):
    layer = keras.layers.Dense(1, kernel_initializer=kernel)
    layer.build([None, 1])
    return layer


def gradients(x, y, w, b):
    error = 2 * (x @ w + b - y) / y.size
    return x.T @ error, error.sum(0)


@pytest.mark.parametrize("bias_multiplier", [1.0, 2.0])
@pytest.mark.parametrize("bias_decay", [0.0, 0.03])
def test_momentum_sgd_follows_the_papers_rule_for_20_steps(bias_multiplier, bias_decay):
    decay, rate, momentum = 0.05, 0.01, 0.9
    optimizer = optimizers.MomentumSGD(
        rate, momentum, bias_multiplier, weight_decay=decay, bias_decay=bias_decay
    )
    x, y, (w, b), after = fit_20_steps(optimizer)
    v_w, v_b = np.zeros_like(w), np.zeros_like(b)
    for _ in range(20):
        g_w, g_b = gradients(x, y, w, b)
        v_w = momentum * v_w - decay * rate * w - rate * g_w
        v_b = momentum * v_b - bias_multiplier * rate * (bias_decay * b + g_b)
        w, b = w + v_w, b + v_b
    np.testing.assert_allclose(after[0], w, atol=1e-6)
    np.testing.assert_allclose(after[1], b, atol=1e-6)


def test_adam_has_its_decay_in_the_gradient():
    decay, bias_decay, rate = 0.5, 0.3, 0.01
    x, y, weights, after = fit_20_steps(
        optimizers.Adam(rate, weight_decay=decay, bias_decay=bias_decay, epsilon=1e-7)
    )
    moments = [[np.zeros_like(weight), np.zeros_like(weight)] for weight in weights]
    for step in range(1, 21):
        for index, gradient in enumerate(gradients(x, y, *weights)):
            g = gradient + (decay, bias_decay)[index] * weights[index]
            m, v = moments[index] = [
                0.9 * moments[index][0] + 0.1 * g,
                0.999 * moments[index][1] + 0.001 * g**2,
            ]
            step_size = rate * np.sqrt(1 - 0.999**step) / (1 - 0.9**step)
            weights[index] = weights[index] - step_size * m / (np.sqrt(v) + 1e-7)
    np.testing.assert_allclose(after[0], weights[0], atol=1e-5)  # Keras' powers are float32
    np.testing.assert_allclose(after[1], weights[1], atol=1e-5)


def test_a_rate_of_the_biases_own_does_not_fall():
    schedule = keras.optimizers.schedules.PiecewiseConstantDecay([2, 4], [0.1, 0.01, 0.0])
    optimizer = optimizers.MomentumSGD(schedule, 0.9, bias_multiplier=9.0, bias_learning_rate=0.2)
    layer = one_unit("ones")
    w = b = v_w = v_b = 0.0
    for rate in (0.1, 0.1, 0.1, 0.01, 0.01, 0.0):
        update(optimizer, layer, [[1.0]], [1.0])
        v_w, v_b = 0.9 * v_w - rate, 0.9 * v_b - (0.2 if rate else 0.0)
        w, b = w + v_w, b + v_b
        kernel, bias = layer.get_weights()
        np.testing.assert_allclose([kernel[0, 0], bias[0]], [1 + w, b], rtol=1e-5)


def test_the_biases_have_their_rate_under_loss_scaling_too():
    inner = optimizers.MomentumSGD(0.1, 0.9, bias_multiplier=3.0)
    optimizer = keras.mixed_precision.LossScaleOptimizer(inner, initial_scale=4.0)
    layer = one_unit("zeros")
    gradients = [tf.constant([[4.0]]), tf.constant([4.0])]  # of the loss times the scale
    keras_compat.apply_gradients(optimizer, gradients, layer.trainable_variables)
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose([kernel[0, 0], bias[0]], [-0.1, -0.3], rtol=1e-6)


def test_config_round_trip():
    optimizer = optimizers.MomentumSGD(
        *(0.5, 0.8, 2.0, 0.7), weight_decay=0.1, bias_decay=0.2, clip_norm=3.0, average=0.9
    )
    config = optimizer.get_config()
    older = {name: value for name, value in config.items() if name != "weight_decay"}
    for copied in (config, {**older, "weight_decay": None, "decay": 0.1}):
        assert optimizers.MomentumSGD.from_config(copied).get_config() == config
    assert optimizer.weight_decay is None, "Keras would subtract it as well"


def test_gradients_that_are_too_long_together_are_shortened():
    optimizer = optimizers.MomentumSGD(1.0, 0.9, clip_norm=2.5)
    layer = one_unit("zeros")
    update(optimizer, layer, [[3.0]], [4.0])
    kernel, bias = layer.get_weights()
    np.testing.assert_allclose([kernel[0, 0], bias[0]], [-1.5, -2.0], rtol=1e-6)  # of length 2.5


def test_two_replicas_clip_what_one_device_would():
    """Keras' own global_clipnorm would clip each replica's share before the sum."""
    strategy = devices.make_strategy("mirrored")
    with strategy.scope():
        optimizer = optimizers.MomentumSGD(1.0, 0.9, clip_norm=1.0)
        layer = keras.layers.Dense(2, kernel_initializer="zeros", use_bias=False)
        layer.build([None, 1])
        optimizer.build(layer.trainable_variables)

    @tf.function
    def step():
        def of_replica():
            replica = tf.distribute.get_replica_context().replica_id_in_sync_group
            gradient = tf.where(replica == 0, [[3.0, 0.0]], [[0.0, 4.0]])
            update(optimizer, layer, gradient)

        strategy.run(of_replica)

    step()
    np.testing.assert_allclose(layer.get_weights()[0], [[-0.6, -0.8]], rtol=1e-6)


@pytest.mark.slow
def test_a_layers_own_rate_falls_freezes_and_comes_back():
    changes = [(2, 0.1), (4, 0.0), (6, 1.0)]
    optimizer = optimizers.MomentumSGD(
        0.5, 0.0, bias_multiplier=9.0, bias_learning_rate=0.2, layer_rates={"conv1": changes}
    )
    for name in ("conv1", "conv1_b", "conv2"):
        layer = keras.layers.Dense(1, kernel_initializer="zeros", name=name)
        layer(tf.ones([1, 1]))  # under its name
        optimizer = optimizers.MomentumSGD.from_config(optimizer.get_config())
        optimizer.build(layer.trainable_variables)
        weights = []
        for _ in range(8):
            update(optimizer, layer, [[1.0]], [1.0])
            kernel, bias = layer.get_weights()
            weights.append([kernel[0, 0], bias[0]])
        steps = np.diff([[0, 0], *weights], axis=0)
        of_kernel = [0.5, 0.5, 0.05, 0.05, 0, 0, 0.5, 0.5] if "conv1" in name else [0.5] * 8
        of_bias = [0.2, 0.2, 0.2, 0.2, 0, 0, 0.2, 0.2] if "conv1" in name else [0.2] * 8
        np.testing.assert_allclose(steps, -np.transpose([of_kernel, of_bias]), atol=1e-6)
