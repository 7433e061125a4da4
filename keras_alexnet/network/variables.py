"""Variables of a network by the names that checkpoints have."""

from collections.abc import Mapping

import keras
import numpy as np


def named_variables(model: keras.Model) -> dict[str, object]:
    """Return the variables of a network by "layer/variable", their names in checkpoints.

    State that is no weight, a dropout's step for example, is among them.
    """
    return {
        f"{layer.name}/{path_of(variable).split('/')[-1]}": variable
        for layer in model.layers
        for variable in [*layer.variables, *getattr(layer, "state", [])]
    }


def assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Set a network's variables from a checkpoint's.

    Raises:
        ValueError: a name or a shape differs; the first one is named.
    """
    variables = named_variables(model)
    for name in sorted({*variables, *weights}):
        wanted = tuple(variables[name].shape) if name in variables else "nothing"
        found = weights[name].shape if name in weights else "nothing"
        if wanted != found:
            raise ValueError(
                f"{name}: the network has {wanted}, the checkpoint {found}; take the checkpoint of "
                "such a network"
            )
        variables[name].assign(weights[name])


def path_of(variable) -> str:
    """Return the path of a variable in its network: "conv1/kernel", after wrappers, if any.

    Args:
        variable: of a network, as `layer.variables` has it; Keras 2's is TensorFlow's, whose name
            is such a path and ":0".
    """
    return getattr(variable, "path", variable.name).split(":")[0]
