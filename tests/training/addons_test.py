import inspect

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_prep.command_line import UserError
from keras_alexnet.network import choices, keras_compat
from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.training import addons, update_rules

WITH_ADDONS = pytest.mark.skipif(not IS_KERAS_2, reason="needs TensorFlow Addons: make test-addons")
WITHOUT_ADDONS = pytest.mark.skipif(
    IS_KERAS_2, reason="needs the default stack, without TensorFlow Addons: make test"
)
STEPS = 6
MOMENTS = {"beta_1": 0.8, "beta_2": 0.9}


def rates():
    return keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.25, 0.125])


def train(name, rate, options):
    """Weights after each of some steps whose gradients are given."""
    optimizer = addons.make_optimizer(name, rate, options)
    weights = tf.Variable([[1.0, -2.0, 3.0]], name="fc6/kernel")
    keras_compat.build_optimizer(optimizer, [weights])
    seen = []
    for gradient in gradients():
        keras_compat.apply_gradients(optimizer, [tf.constant(gradient)], [weights])
        seen.append(weights.numpy())
    return seen


def gradients():
    return np.random.default_rng(0).normal(size=(STEPS, 1, 3)).astype(np.float32)


def rate_at(step):
    return 0.5 if step <= 1 else 0.25 if step <= 3 else 0.125


def sgdw(step, w, gradient, state):
    velocity = state.get("v", 0.0) * 0.9 - rate_at(step) * gradient
    state["v"] = velocity
    return w - 0.01 * w + velocity


def moments(step, gradient, state):
    first, second = MOMENTS.values()
    state["m"] = first * state.get("m", 0.0) + (1 - first) * gradient
    state["v"] = second * state.get("v", 0.0) + (1 - second) * gradient**2
    return state["m"] / (1 - first ** (step + 1)), state["v"] / (1 - second ** (step + 1))


def adamw(step, w, gradient, state):
    mean, square = moments(step, gradient, state)
    return w - 0.01 * w - rate_at(step) * mean / np.sqrt(square)


def lazy_adam(step, w, gradient, state):
    mean, square = moments(step, gradient, state)
    return w - rate_at(step) * mean / np.sqrt(square)


def lamb(step, w, gradient, state):
    mean, square = moments(step, gradient, state)
    update = mean / (np.sqrt(square) + 1e-6)
    return w - rate_at(step) * update * np.linalg.norm(w) / np.linalg.norm(update)


REFERENCES = {
    "SGDW": (sgdw, {"weight_decay": 0.01, "momentum": 0.9}),
    "AdamW": (adamw, {"weight_decay": 0.01, **MOMENTS}),
    "LazyAdam": (lazy_adam, MOMENTS),
    "LAMB": (lamb, MOMENTS),
}


@pytest.mark.parametrize("name", list(REFERENCES))
def test_what_both_stacks_have_is_what_numpy_computes(name):
    """In float64. SGDW's decay does not fall with the rate."""
    reference, options = REFERENCES[name]
    w, state = np.array([[1.0, -2.0, 3.0]]), {}
    for step, (gradient, seen) in enumerate(
        zip(gradients(), train(name, rates(), options), strict=True)
    ):
        w = reference(step, w, gradient.astype(np.float64), state)
        np.testing.assert_allclose(seen, w, rtol=2e-5, atol=1e-5, err_msg=f"step {step}")


OPTIONS = {
    "AdamW": {"weight_decay": 0.01},
    "Lookahead": {"inner": {"name": "SGD", "momentum": 0.9}, "sync_period": 2},
    "SGDW": {"weight_decay": 0.01},
}


@WITH_ADDONS
@pytest.mark.parametrize("name", choices.ADDONS_OPTIMIZERS)
def test_every_optimizer_of_tensorflow_addons_makes_steps(name):
    seen = train(name, 0.1, OPTIONS.get(name, {}))
    assert np.isfinite(seen).all()
    assert len({weights.tobytes() for weights in seen}) == STEPS


@WITH_ADDONS
def test_the_names_are_all_that_update_weights():
    kinds = {
        name
        for name, kind in vars(addons.tfa.optimizers).items()
        if inspect.isclass(kind) and issubclass(kind, keras.optimizers.legacy.Optimizer)
    }
    averages = {"AveragedOptimizerWrapper", "MovingAverage", "SWA"}
    assert kinds - averages - {"KerasLegacyOptimizer", "MultiOptimizer"} == set(
        choices.ADDONS_OPTIMIZERS
    )


RULES = {"ema": 0.75, "swa": SWA(1, 2)}


def averages_of_numpy(rule, weights):
    """Of the weights after each step, in float64."""
    kept, average, seen = [], None, []
    for step, w in enumerate(np.asarray(weights, np.float64)):
        if rule == "ema":
            average = w if average is None else 0.75 * average + 0.25 * w
        elif step < 1:
            average = w
        elif (step - 1) % 2 == 0:
            kept.append(w)
            average = np.mean(kept, axis=0)
        seen.append(average)
    return seen


def steps_and_averages(optimizer, averages):
    """Weights after each step, and an average of them."""
    weights = tf.Variable([[1.0, -2.0, 3.0]], name="fc6/kernel")
    keras_compat.build_optimizer(optimizer, [weights])
    seen = []
    for gradient in gradients():
        keras_compat.apply_gradients(optimizer, [tf.constant(gradient)], [weights])
        seen.append((weights.numpy(), averages(optimizer, weights)))
    return zip(*seen, strict=True)


AVERAGED = [
    *REFERENCES,
    *(
        pytest.param(name, marks=WITH_ADDONS)
        for name in choices.ADDONS_OPTIMIZERS
        if name not in REFERENCES
    ),
]


@pytest.mark.parametrize("rule", list(RULES))
@pytest.mark.parametrize("name", AVERAGED)
def test_every_optimizer_keeps_averages(name, rule):
    optimizer = addons.make_optimizer(name, 0.1, OPTIONS.get(name, {}), RULES[rule])
    weights, averages = steps_and_averages(
        optimizer, lambda optimizer, _: update_rules.averages_of(optimizer)[0].numpy()
    )
    np.testing.assert_allclose(averages, averages_of_numpy(rule, weights), rtol=1e-5, atol=1e-6)
    alone = train(name, 0.1, OPTIONS.get(name, {}))
    np.testing.assert_array_equal(weights, alone, "it is kept beside, and changes nothing")


@WITH_ADDONS
@pytest.mark.parametrize("rule", list(RULES))
def test_the_averages_are_those_of_tensorflow_addons(rule):
    """SWA's from its first taking on: before that theirs are zeros."""
    inner = addons.tfa.optimizers.SGDW(weight_decay=0.01, learning_rate=0.1)
    around = {
        "ema": lambda: addons.tfa.optimizers.MovingAverage(inner, average_decay=0.75, start_step=1),
        "swa": lambda: addons.tfa.optimizers.SWA(inner, start_averaging=1, average_period=2),
    }
    weights, averages = steps_and_averages(
        around[rule](), lambda optimizer, weight: optimizer.get_slot(weight, "average").numpy()
    )
    expected = averages_of_numpy(rule, weights)
    first = 1 if rule == "swa" else 0
    np.testing.assert_allclose(averages[first:], expected[first:], rtol=1e-5, atol=1e-6)
    assert (rule == "swa") == (not np.any(averages[0]))


@WITH_ADDONS
def test_a_schedule_goes_on_inside_of_two_others():
    """Of an average and of Lookahead: the rate of the innermost falls with the steps of all."""
    options = {"inner": {"name": "SGD"}, "sync_period": 100}
    optimizer = addons.make_optimizer("Lookahead", rates(), options, 0.5)
    seen = []
    weights, _ = steps_and_averages(
        optimizer, lambda optimizer, _: seen.append(keras_compat.learning_rate(optimizer))
    )
    moved = np.diff([[[1.0, -2.0, 3.0]], *weights], axis=0)
    taken = np.array([rate_at(step) for step in range(STEPS)])
    np.testing.assert_allclose(moved, -taken[:, None, None] * gradients(), rtol=1e-4)
    assert seen == [rate_at(step) for step in range(1, STEPS + 1)]


@WITH_ADDONS
def test_why_their_bar_is_not_offered(capsys):
    """Driven as the loop drives callbacks: the first step's loss comes with the second."""
    bar = addons.tfa.callbacks.TQDMProgressBar(update_per_second=10**6)
    callbacks = keras.callbacks.CallbackList([bar], epochs=1, steps=3)
    callbacks.on_train_begin()
    callbacks.on_epoch_begin(0)
    for step, loss in enumerate((float("nan"), 4.0, 3.0)):
        callbacks.on_train_batch_begin(step)
        callbacks.on_train_batch_end(step, {"cross_entropy": loss})
        bar.epoch_progress_tqdm.refresh()
    told = capsys.readouterr()
    last = told.err.removesuffix("\x1b[A").split("\r")[-1]
    assert "cross_entropy: nan" in last, "all through the epoch"
    assert told.out == "Epoch 1/1\n"


@WITH_ADDONS
def test_lookahead_goes_half_of_the_way():
    fast = np.array([[1.0, -2.0, 3.0]], np.float64)
    slow = fast
    seen = train("Lookahead", 0.1, {"inner": {"name": "SGD"}, "sync_period": 3})
    for step, (gradient, weights) in enumerate(zip(gradients(), seen, strict=True), start=1):
        fast = fast - 0.1 * gradient
        if step % 3 == 0:
            fast = slow = slow + 0.5 * (fast - slow)
        np.testing.assert_allclose(weights, fast, rtol=1e-5)


@WITHOUT_ADDONS
def test_what_this_stack_has_not_is_said_to_be_on_the_other():
    with pytest.raises(UserError, match=r"NovoGrad needs TensorFlow Addons.*\.\[addons\].*SGDW"):
        addons.make_optimizer("NovoGrad", 0.1, {})


@pytest.mark.slow
@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Sgdw", {}, r"one of AdaBelief, .*, but Sgdw was asked for"),
        (
            "SGDW",
            {},
            r"options of SGDW are weight_decay, momentum, nesterov; weight_decay is needed",
        ),
        ("SGDW", {"weight_decay": 0.1, "beta": 1}, r"there is no beta$"),
        ("SGDW", {"weight_decay": 0.1, "momentum": "much"}, r"SGDW does not take \{.*much"),
        pytest.param("Lookahead", {"inner": "SGD"}, r"inner of Lookahead is", marks=WITH_ADDONS),
        pytest.param(
            "Lookahead", {"inner": {"name": "Lookahead"}}, r"not around another", marks=WITH_ADDONS
        ),
        pytest.param(
            "Lookahead",
            {"inner": {"name": "SGD", "decay": 0.1}},
            r"options of SGD are momentum, nesterov; there is no decay",
            marks=WITH_ADDONS,
        ),
    ],
)
def test_a_mistake_is_one_line(name, options, message):
    with pytest.raises(UserError, match=message) as error:
        addons.make_optimizer(name, 0.1, options)
    assert "\n" not in str(error.value)
