"""The guard against a loss that is not finite, and the search for its origin."""

from collections.abc import Iterator

import keras
import numpy as np
import tensorflow as tf

from keras_alexnet.network.variables import path_of

MARK = "the loss is not finite"
_LOWER_THE_RATE = (
    "the last checkpoint is whole: lower the learning rate (or clip gradients at norm 1) in a new "
    "workdir"
)
_CHECK_THE_DATA = "check the pixel scale, and the data set's statistics with data_prep.verify"


def checked(loss: tf.Tensor) -> tf.Tensor:
    """Return a scalar loss, or raise an InvalidArgumentError with `MARK` if it is not finite.

    In a graph the update of the weights does not wait for the check by itself, for no gradient
    needs the value of the loss: let the gradients depend on what is returned here.
    """
    return tf.debugging.check_numerics(loss, MARK)


def explain(
    network: keras.Model, inputs: tf.Tensor, *, step: int, learning_rate: float
) -> ValueError:
    """Return an error that says where a loss that is not finite began.

    Args:
        network: with the weights that the loss came from, in columns or not.
        inputs: float32 [B, S, S, 3], the network's input that it came from.
        step: of the run.
        learning_rate: at that step.

    Returns:
        The error to raise. It names the first that is not finite of: the layers' weights in the
        order of the forward pass, the input, the layers' outputs, the loss.
    """
    origin, advice = next(
        _origins(network, inputs),
        ("the loss, for on these photos all outputs of the network are finite", _LOWER_THE_RATE),
    )
    return ValueError(
        f"the loss became not finite at step {step} with learning rate {learning_rate:g}: it began "
        f"at {origin}; {advice}"
    )


def _origins(network: keras.Model, inputs: tf.Tensor) -> Iterator[tuple[str, str]]:
    """Yield what is not finite, likeliest origin first, and what to do about it."""
    for layer in network.layers:
        for variable in layer.weights:
            if found := _not_finite(variable.numpy()):
                kind = path_of(variable).split("/")[-1]
                yield f"{layer.name}, whose {kind} has {found}", _LOWER_THE_RATE
    if found := _not_finite(inputs):
        yield f"the network's input, which has {found}", _CHECK_THE_DATA
    to_outputs = keras.Model(network.input, [layer.output for layer in network.layers])
    # Without dropout: what it raises it only doubles, and its steps are the run's.
    results = to_outputs(inputs, training=False)
    for layer, result in zip(network.layers, results, strict=True):
        for output in tf.nest.flatten(result):
            if found := _not_finite(output):
                yield f"{layer.name}, whose output has {found}", _LOWER_THE_RATE


def _not_finite(values: tf.Tensor | np.ndarray) -> str | None:
    """Return what is not finite, in words; None if everything is."""
    values = np.asarray(values, np.float32)
    kinds = {"NaN": np.isnan(values), "infinity": np.isinf(values)}
    count = sum(map(np.count_nonzero, kinds.values()))
    names = " and ".join(name for name, places in kinds.items() if places.any())
    return f"{names} in {count} of {values.size} places" if count else None
