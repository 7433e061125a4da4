import keras
import numpy as np

from keras_alexnet import PROFILES, schedules


def fit_with(plateau, accuracies, rate=1.0):
    """Runs the callback over epochs with these validation accuracies; the rate after each."""
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


def test_plateau_drops_three_times_and_then_stops():
    rates = fit_with(schedules.Plateau(patience=2), [0.5] * 20)
    expected = [1, 1, 0.1, 0.1, 0.01, 0.01, 0.001, 0.001, 0.001]
    np.testing.assert_allclose(rates, expected, rtol=1e-5)


def test_plateau_waits_while_the_accuracy_grows():
    rates = fit_with(schedules.Plateau(patience=2), np.arange(1, 12) / 20)
    np.testing.assert_allclose(rates, np.ones(11))


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


def test_steps_are_caffes_solver():
    caffe = PROFILES["caffe"]
    parts = [epoch / caffe.epochs for epoch in caffe.drop_epochs]
    schedule = schedules.steps(0.01, 450_000, factor=0.1, drops_at=parts)
    for step, rate in [
        (1, 0.01),
        (99_999, 0.01),
        (100_001, 1e-3),
        (350_000, 1e-5),
        (449_999, 1e-6),
    ]:
        np.testing.assert_allclose(float(schedule(step)), rate, rtol=1e-5)


def test_steps_without_a_drop_are_constant():
    assert schedules.steps(0.01, 100, factor=0.1, drops_at=[]) == 0.01


def test_steps_of_a_run_that_is_shorter_than_its_drops():
    schedule = schedules.steps(1.0, 2, factor=0.1, drops_at=[0.1, 0.9])
    np.testing.assert_allclose([float(schedule(step)) for step in (1, 2, 3)], [1, 0.1, 0.01])
