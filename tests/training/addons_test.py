import keras
import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.network import choices, keras_compat
from keras_alexnet.network.choices import SWA
from keras_alexnet.network.keras_compat import IS_KERAS_2
from keras_alexnet.training import addons, optimizers, update_rules

WITH_ADDONS = pytest.mark.skipif(not IS_KERAS_2, reason="needs TensorFlow Addons: make test-addons")
WITHOUT_ADDONS = pytest.mark.skipif(
    IS_KERAS_2, reason="needs the default stack, without TensorFlow Addons: make test"
)
STEPS = 6
MOMENTS = {"beta_1": 0.8, "beta_2": 0.9}


def rates():
    return keras.optimizers.schedules.PiecewiseConstantDecay([1, 3], [0.5, 0.25, 0.125])


def train(optimizer):
    """Return weights, and their averages if any, after each step with the given gradients."""
    weights = tf.Variable([[1.0, -2.0, 3.0]], name="fc6/kernel")
    keras_compat.build_optimizer(optimizer, [weights])
    seen, averages = [], []
    for gradient in gradients():
        keras_compat.apply_gradients(optimizer, [tf.constant(gradient)], [weights])
        seen.append(weights.numpy())
        averages += [average.numpy() for average in update_rules.averages_of(optimizer)]
    state = keras_compat.optimizer_state(optimizer)
    kept = update_rules.averages_of(optimizer)
    assert all(any(one is variable for variable in state) for one in kept), "in no checkpoint"
    return seen, averages


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
    return lazy_adam(step, w, gradient, state) - 0.01 * w


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
OWN = pytest.mark.parametrize("name", list(REFERENCES))


@OWN
def test_what_both_stacks_have_is_what_numpy_computes(name):
    """Step in float64. SGDW's decay does not fall with the rate."""
    reference, options = REFERENCES[name]
    w, state = np.array([[1.0, -2.0, 3.0]]), {}
    seen, _ = train(addons.make_optimizer(name, rates(), options))
    for step, (gradient, found) in enumerate(zip(gradients(), seen, strict=True)):
        w = reference(step, w, gradient.astype(np.float64), state)
        np.testing.assert_allclose(found, w, rtol=2e-5, atol=1e-5, err_msg=f"step {step}")


def test_without_momentum_there_are_no_velocities():
    optimizer = addons.make_optimizer("SGDW", rates(), {"weight_decay": 0.01})
    seen, _ = train(optimizer)
    before = np.array([[[1.0, -2.0, 3.0]], *seen[:-1]])
    steps = np.array([rate_at(step) for step in range(STEPS)])[:, None, None] * gradients()
    np.testing.assert_allclose(seen, 0.99 * before - steps, rtol=1e-5)
    assert len(keras_compat.optimizer_state(optimizer)) == 1, "the number of steps"


@WITH_ADDONS
@OWN
def test_what_both_stacks_have_is_what_tensorflow_addons_computes(name):
    options = REFERENCES[name][1]
    ours, _ = train(addons.make_optimizer(name, 0.1, options))
    theirs, _ = train(getattr(addons.tfa.optimizers, name)(learning_rate=0.1, **options))
    np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)


@WITH_ADDONS
@pytest.mark.parametrize("name", sorted({*choices.ADDONS_OPTIMIZERS} - {*REFERENCES}))
def test_every_other_optimizer_of_tensorflow_addons_makes_steps(name):
    seen, _ = train(addons.make_optimizer(name, 0.1, {}))
    assert np.isfinite(seen).all()
    assert len({weights.tobytes() for weights in seen}) == STEPS
    with pytest.raises(ValueError, match=f"average of the weights .* is tfa:{name}; leave"):
        addons.make_optimizer(name, 0.1, {}, 0.9)


def averages_of_numpy(rule, weights):
    """Return the averages of the weights after each step, in float64."""
    kept, average, seen = [], None, []
    for step, w in enumerate(np.asarray(weights, np.float64)):
        if not isinstance(rule, SWA):
            average = w if average is None else rule * average + (1 - rule) * w
        elif step < rule.start:
            average = w
        elif (step - rule.start) % rule.period == 0:
            kept.append(w)
            average = np.mean(kept, axis=0)
        seen.append(average)
    return seen


@pytest.mark.parametrize("rule", [0.75, SWA(1, 2)])
@pytest.mark.parametrize("name", [*REFERENCES, *optimizers.OPTIMIZERS])
def test_averages_of_the_weights_are_kept_beside_them(name, rule):
    def make(average):
        if name in REFERENCES:
            return addons.make_optimizer(name, 0.1, REFERENCES[name][1], average)
        return optimizers.OPTIMIZERS[name](0.1, average=average)

    weights, averages = train(make(rule))
    np.testing.assert_allclose(averages, averages_of_numpy(rule, weights), rtol=1e-5, atol=1e-6)
    alone, _ = train(make(None))
    np.testing.assert_array_equal(weights, alone, "the average changes nothing")


@WITHOUT_ADDONS
def test_what_this_stack_has_not_is_said_to_be_on_the_other():
    with pytest.raises(ValueError, match=r"NovoGrad needs TensorFlow Addons.*\.\[addons\].*SGDW"):
        addons.make_optimizer("NovoGrad", 0.1, {})


@pytest.mark.parametrize(
    ("name", "options", "message"),
    [
        ("Lookahead", {}, r"tfa:AdaBelief, .*, but is tfa:Lookahead"),
        ("SGDW", {}, r"options of SGDW are weight_decay, .*; weight_decay is needed"),
        ("SGDW", {"weight_decay": 0.1, "beta": 1}, r"there is no beta$"),
        ("SGDW", {"weight_decay": 0.1, "momentum": "much"}, r"SGDW does not take \{.*much"),
        ("SGDW", {"weight_decay": "much"}, r"SGDW does not take \{'weight_decay': 'much'\}: "),
        ("LazyAdam", {"epsilon": "?"}, r"LazyAdam does not take"),
    ],
)
def test_a_mistake_is_one_line(name, options, message):
    with pytest.raises(ValueError, match=message) as error:
        addons.check(name, options)
    assert "\n" not in str(error.value)
