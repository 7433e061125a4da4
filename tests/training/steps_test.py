import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf
from stand_in import statistics
from train_runs import options

from keras_alexnet import PROFILES
from keras_alexnet.network.variables import path_of
from keras_alexnet.training import build, devices, not_finite
from keras_alexnet.training import steps as training_steps

PROFILE = dataclasses.replace(
    PROFILES["caffe"].scaled(0.03),
    dropout_rate=0.0,
    kernel_init=("he_normal",) * 8,
    pixel_scale=0.02,
)
CLASSES = 7


def make(strategy="one_device", profile=PROFILE, **changes):
    chosen = options(strategy=strategy, batch_size=4, schedule="constant", **changes)
    scope = devices.make_strategy(strategy)
    devices.use_precision(chosen.precision)
    with scope.scope():
        _, model = build.build(profile, chosen, CLASSES, statistics(), steps=10)
    return model, training_steps.TrainingSteps(model, scope, 4, chosen.label_smoothing)


def batch(seed=0, size=4):
    random = np.random.default_rng(seed)
    features = {
        "image": random.integers(0, 256, (size, 227, 227, 3)).astype(np.uint8),
        "offset": random.integers(0, 29, (size, 2)).astype(np.int32),
        "flip": np.uint8([0, 1] * (size // 2)),
        "noise": np.zeros((size, 3), np.float32),
    }
    labels = random.integers(0, CLASSES, size)
    return tf.nest.map_structure(tf.constant, (features, labels))


def log_softmax(model, features):
    logits = model(features, training=False).numpy().astype(np.float64)
    return logits - np.log(np.exp(logits).sum(axis=-1, keepdims=True))


NOBODY = tf.constant(0.0)


@pytest.mark.slow
@pytest.mark.parametrize("smoothing", [0.0, 0.1])
def test_sums_are_those_of_the_photos(smoothing):
    model, steps = make(label_smoothing=smoothing)
    features, labels = batch()
    logs = log_softmax(model, features)
    own = logs[np.arange(4), labels]
    sums = steps.train((features, labels), NOBODY).numpy()
    target = np.full((4, CLASSES), smoothing / CLASSES)
    target[np.arange(4), labels] += 1 - smoothing
    ranks = (logs > own[:, None]).sum(axis=-1)
    expected = [
        *(-(target * logs).sum(), -own.sum()),
        *((ranks < 1).sum(), (ranks < 5).sum(), 4, 0),
    ]
    np.testing.assert_allclose(sums, expected, rtol=1e-4)
    means = training_steps.means(sums)
    assert means["loss"] == pytest.approx(expected[0] / 4, rel=1e-4)
    assert means["images"] == 4


def test_validation_learns_nothing_and_counts_by_weight():
    model, steps = make()
    features, labels = batch()
    before = [weight.copy() for weight in model.get_weights()]
    weights = tf.constant([1.0, 1.0, 1.0, 0.0])
    sums = steps.validate((features, labels, weights), tf.constant(1.0)).numpy()
    own = log_softmax(model, features)[np.arange(4), labels]
    np.testing.assert_allclose(sums[:2], -own[:3].sum(), rtol=1e-4)
    assert sums[4] == 3
    assert sums[5] == 1, "a process was asked to end"
    np.testing.assert_equal(model.get_weights(), before)


@pytest.mark.slow
def test_the_step_is_that_of_keras():
    """With the same weights and batches, as Model.train_on_batch does."""
    (ours, steps), (theirs, _) = make(), make()
    theirs.compile(theirs.optimizer, keras.losses.SparseCategoricalCrossentropy(from_logits=True))
    for seed in range(3):
        features, labels = batch(seed)
        steps.train((features, labels), NOBODY)
        theirs.train_on_batch(features, labels)
    for one, other in zip(ours.get_weights(), theirs.get_weights(), strict=True):
        np.testing.assert_allclose(one, other, rtol=1e-4, atol=1e-6)


def test_gradients_that_are_told_are_those_that_are_taken():
    model, steps = make(momentum=0.0, weight_decay=0.0)
    before = [weight.copy() for weight in model.get_weights()]
    _, gradients = steps.train_with_gradients(batch(), NOBODY)
    after = model.get_weights()
    for old, new, gradient, variable in zip(
        before, after, gradients, model.trainable_variables, strict=True
    ):
        # Caffe's biases learn twice as fast.
        rate = 0.02 if path_of(variable).endswith("/bias") else 0.01
        np.testing.assert_allclose(new - old, -rate * gradient.numpy(), rtol=1e-3, atol=1e-6)


@pytest.mark.slow
@pytest.mark.parametrize(("strategy", "value"), [("one_device", np.nan), ("mirrored", np.inf)])
def test_a_loss_that_is_not_finite_changes_no_weight(strategy, value):
    model, steps = make(strategy)
    kernel = next(v for v in model.trainable_variables if path_of(v).endswith("fc8/kernel"))
    kernel.assign(np.full(kernel.shape, value, np.float32))
    before = [weight.copy() for weight in model.get_weights()]
    momentum = [variable.numpy().copy() for variable in model.optimizer.momentums]
    scope = devices.make_strategy(strategy)
    data = batch()
    if strategy == "mirrored":
        parts = iter([batch(0, 2), batch(1, 2)])
        data = scope.experimental_distribute_values_from_function(lambda context: next(parts))
    with pytest.raises(tf.errors.InvalidArgumentError, match=not_finite.MARK):
        steps.train(data, NOBODY)
    np.testing.assert_equal(model.get_weights(), before)
    after = [variable.numpy() for variable in model.optimizer.momentums]
    np.testing.assert_equal(after, momentum)


@pytest.mark.slow
def test_float16_has_a_loss_scale_and_learns_as_float32():
    (half, half_steps), (full, full_steps) = make(precision="float16"), make(precision="float32")
    devices.use_precision("float16")
    losses = []
    for steps in (half_steps, full_steps):
        sums = [steps.train(batch(), NOBODY).numpy() for _ in range(8)]
        losses.append([training_steps.means(each)["loss"] for each in sums])
    assert hasattr(half.optimizer, "inner_optimizer")
    # Steps whose scaled gradients overflow are left out, and the scale is halved each time.
    left_out = losses[0].count(losses[0][0]) - 1
    assert left_out < 6
    np.testing.assert_allclose(losses[0][left_out:], losses[1][: 8 - left_out], rtol=0.05)
    assert half.count_params() == full.count_params()


def test_totals_are_one_step_behind_until_they_are_settled():
    totals = training_steps.Totals()
    totals.add(tf.constant([1.0, 0, 0, 0, 2.0, 0]))
    assert totals.values == [0.0] * 6
    totals.add(tf.constant([3.0, 0, 0, 0, 4.0, 1.0]))
    assert (totals.values[0], totals.values[4]) == (1.0, 2.0)
    assert not totals.stop
    totals.settle()
    assert (totals.values[0], totals.values[4]) == (4.0, 6.0)
    assert totals.stop
    restored = training_steps.Totals(totals.values)
    assert restored.values[:5] == totals.values[:5]
    assert not restored.stop, "what was asked of one process is not asked of the next"
