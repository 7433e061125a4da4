import random

import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.network.layers import SeededDropout

RANDOM = np.random.default_rng(0)


def two_replicas():
    # A second strategy with TensorFlow's default, collective operations on these devices would
    # run into the first one's, of another test: their keys count from 100 in each strategy.
    alone = tf.distribute.ReductionToOneDevice()
    return tf.distribute.MirroredStrategy(["CPU:0", "CPU:1"], alone)


def masks(layer, steps=1, shape=(4, 50)):
    return [np.asarray(layer(tf.ones(shape), training=True)) for _ in range(steps)]


def test_dropout_keeps_the_share_and_the_sum():
    for rate in (0.5, 0.2):
        (y,) = masks(SeededDropout(rate, seed=1), shape=(400, 500))
        assert set(np.unique(y)) == {np.float32(0), np.float32(1 / (1 - rate))}
        # 200,000 draws: five standard deviations are about half a percent
        assert np.mean(y == 0) == pytest.approx(rate, abs=0.006)


def test_dropout_masks_are_a_function_of_seed_and_step():
    layer = SeededDropout(0.5, seed=1)
    first, second, third = masks(layer, 3)
    assert layer.step == 3
    assert not (first == second).all()
    assert not (second == third).all()
    layer.step = 1
    np.testing.assert_array_equal(masks(layer, 2), [second, third])
    np.testing.assert_array_equal(masks(SeededDropout(0.5, seed=1)), [first])
    assert not (masks(SeededDropout(0.5, seed=2))[0] == first).all()
    in_graph = tf.function(SeededDropout(0.5, seed=1))
    np.testing.assert_array_equal(in_graph(tf.ones([4, 50]), training=True), first)
    np.testing.assert_array_equal(in_graph(tf.ones([4, 50]), training=True), second)


def test_dropout_without_a_seed_follows_pythons_random():
    random.seed(3)
    one, other = SeededDropout(0.5), SeededDropout(0.5)
    assert one.seed != other.seed
    random.seed(3)
    assert SeededDropout(0.5).seed == one.seed


def test_dropout_does_nothing_at_inference_or_with_rate_0():
    x = tf.constant(RANDOM.normal(size=(3, 5)).astype(np.float32))
    layer = SeededDropout(0.5, seed=1)
    np.testing.assert_array_equal(layer(x), x)
    np.testing.assert_array_equal(layer(x, training=False), x)
    np.testing.assert_array_equal(SeededDropout(0.0)(x, training=True), x)
    assert layer.step == 0


def test_dropout_gradient_is_its_mask():
    x = tf.Variable(RANDOM.normal(size=(3, 50)).astype(np.float32))
    with tf.GradientTape() as tape:
        y = SeededDropout(0.5, seed=1)(x, training=True)
    np.testing.assert_allclose(tape.gradient(y, x), y / x, rtol=1e-6)


@pytest.mark.parametrize("mixed_policy", ["mixed_bfloat16", "mixed_float16"], indirect=True)
def test_dropout_masks_are_those_of_float32(mixed_policy):
    y = SeededDropout(0.5, seed=1)(tf.ones([4, 50]), training=True)
    assert y.dtype == mixed_policy.removeprefix("mixed_")
    expected = masks(SeededDropout(0.5, seed=1, dtype="float32"))[0]
    np.testing.assert_array_equal(tf.cast(y, tf.float32), expected)


def test_dropouts_step_is_state_but_no_weight():
    inputs = keras.Input([8])
    model = keras.Model(inputs, SeededDropout(0.5, seed=1, name="drop")(inputs))
    assert model.count_params() == 0
    assert model.weights == []
    (step,) = model.get_layer("drop").state
    masks(model, 2, shape=(1, 8))
    assert int(step.numpy()) == model.get_layer("drop").step == 2
    step.assign(7)
    assert model.get_layer("drop").step == 7


def test_dropout_differs_by_replica_and_repeats_after_a_resume():
    strategy = two_replicas()
    assert strategy.num_replicas_in_sync == 2
    with strategy.scope():
        layer = SeededDropout(0.5, seed=1)
        inputs = keras.Input([50])
        model = keras.Model(inputs, layer(inputs))

    @tf.function
    def run_step():
        return strategy.run(lambda: model(tf.ones([4, 50]), training=True))

    def step():
        return np.stack(strategy.experimental_local_results(run_step()))

    first, second = step(), step()
    assert not (first[0] == first[1]).all()
    assert not (second[0] == second[1]).all()
    assert not (first == second).all()
    assert layer.step == 2
    layer.step = 1
    np.testing.assert_array_equal(step(), second)
    np.testing.assert_array_equal(masks(SeededDropout(0.5, seed=1))[0], first[0])


def test_dropout_survives_its_config():
    layer = SeededDropout(0.3, name="drop")
    again = keras.saving.deserialize_keras_object(keras.saving.serialize_keras_object(layer))
    assert again.get_config() == layer.get_config()
    np.testing.assert_array_equal(masks(again), masks(layer))


@pytest.mark.parametrize(
    "wrong", [{"rate": 1.0}, {"rate": -0.1}, {"rate": float("nan")}, {"seed": -1}]
)
def test_dropout_refuses_a_rate_that_is_no_share_and_a_negative_seed(wrong):
    ((name, value),) = wrong.items()
    with pytest.raises(ValueError, match=f"{name} must be .*Received: {value}"):
        SeededDropout(**{"rate": 0.5} | wrong)
