import itertools

import keras
import numpy as np
import pytest

from keras_alexnet import PROFILES
from keras_alexnet.training import schedules


def fit_with(plateau, accuracies, rate=1.0):
    """Run the callback over epochs with these validation accuracies; return the rate after each."""
    model = keras.Sequential([keras.Input([1]), keras.layers.Dense(1)])
    model.compile(keras.optimizers.SGD(rate), "mse")
    plateau.set_model(model)
    model.stop_training = False
    plateau.on_train_begin()
    rates = []
    for epoch, accuracy in enumerate(accuracies):
        plateau.on_epoch_end(epoch, {"val_top1": accuracy})
        rates.append(float(model.optimizer.learning_rate.numpy()))
        if model.stop_training:
            break
    return rates


@pytest.mark.parametrize(
    ("accuracies", "expected"),
    [
        ([0.5] * 20, [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]),
        (np.arange(1, 12) / 20, [1] * 11),
    ],
)
def test_plateau_drops_three_times_and_stops_unless_the_accuracy_grows(accuracies, expected):
    found = fit_with(schedules.Plateau(patience=2), accuracies)
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_plateau_with_a_restored_state_goes_on_as_if_never_stopped():
    accuracies = [0.1, 0.3, 0.3, 0.2, 0.31, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3, 0.3]
    whole = fit_with(schedules.Plateau(patience=2), accuracies)
    for stop in range(1, len(whole)):
        first = schedules.Plateau(patience=2)
        before = fit_with(first, accuracies[:stop])
        second = schedules.Plateau(patience=2)
        second.state = first.state
        after = fit_with(second, accuracies[stop:], rate=before[-1])
        np.testing.assert_allclose(before + after, whole, rtol=1e-5)
        assert second.is_over


def rates(schedule, course, steps):
    rate = schedules.SCHEDULES[schedule].rate(course)
    return [float(rate(step)) if callable(rate) else rate for step in steps]


def test_steps_are_caffes_solver():
    """Compare with Caffe's rate at iteration i from 0: base * gamma ^ floor(i / stepsize)."""
    caffe = PROFILES["caffe"]
    parts = tuple(epoch / caffe.epochs for epoch in caffe.drop_epochs)
    course = schedules.Course(0.01, 450_000, drops_at=parts)
    steps = [0, 99_999, 100_000, 199_999, 200_000, 350_000, 449_999]
    expected = [0.01 * 0.1 ** (step // 100_000) for step in steps]
    np.testing.assert_allclose(rates("steps", course, steps), expected, rtol=1e-5)


def test_steps_without_a_drop_and_in_a_run_that_is_shorter_than_its_drops():
    assert rates("steps", schedules.Course(0.01, 100), [0, 99]) == [0.01, 0.01]
    course = schedules.Course(1.0, 2, drops_at=(0.1, 0.9))
    np.testing.assert_allclose(rates("steps", course, [0, 1, 2]), [1, 0.1, 0.01])


@pytest.mark.parametrize("warmup", [0, 20])
def test_cosine_falls_to_nothing_after_its_warm_up(warmup):
    course = schedules.Course(0.4, 100, warmup_steps=warmup)
    steps = np.arange(100)
    falling = 0.2 * (1 + np.cos(np.pi * (steps - warmup) / (100 - warmup)))
    expected = np.where(steps < warmup, 0.4 * steps / max(warmup, 1), falling)
    np.testing.assert_allclose(rates("cosine", course, steps), expected, rtol=1e-5, atol=1e-7)


# Of the log of network 145: from this epoch on, the rate, conv1's, and whether there is noise.
LOG = [
    (0, 1e-2, 1e-2, True),
    (25, 1e-3, 1e-3, True),
    (51, 1e-4, 1e-4, True),
    (67, 1e-4, 1e-5, False),
    (72, 1e-4, 0.0, False),
    (79, 1e-5, 0.0, False),
    (91, 1e-3, 1e-3, True),
    (107, 1e-4, 1e-4, True),
    (124, 1e-5, 1e-5, False),
]


@pytest.mark.parametrize("epochs", [135, 27, 10])
def test_the_logged_schedule_whole_and_compressed(epochs):
    steps_an_epoch = 100
    total = epochs * steps_an_epoch
    changes = schedules.SCHEDULES["krizhevsky2012"].of_layers["conv1"]
    of_conv1 = schedules.piecewise(changes, total)
    quiet = schedules.quiet_steps("krizhevsky2012", total)
    assert not schedules.quiet_steps("cosine", total)
    for (first, rate, conv1, noise), (last, *_) in itertools.pairwise([*LOG, (135, 0, 0, 0)]):
        begin, end = round(total * first / 135), round(total * last / 135)
        for step in (begin, (begin + end) // 2, end - 1):
            (found,) = rates("krizhevsky2012", schedules.Course(0.01, total), [step])
            assert found == pytest.approx(rate, rel=1e-5)
            assert found * float(of_conv1(step)) == pytest.approx(conv1, rel=1e-5)
            assert noise == (not any(start <= step < stop for start, stop in quiet))
