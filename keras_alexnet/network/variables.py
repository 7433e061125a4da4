"""Variables of a network by the names that checkpoints have."""

from collections.abc import Mapping

import keras
import numpy as np

from data_prep.command_line import UserError


def named_variables(model: keras.Model) -> dict[str, object]:
    """The variables of a network by "layer/variable": the names a checkpoint has.

    State that is no weight, a dropout's step for example, is among them.
    """
    return {
        f"{layer.name}/{path_of(variable).split('/')[-1]}": variable
        for layer in model.layers
        for variable in [*layer.variables, *getattr(layer, "state", [])]
    }


def assign(model: keras.Model, weights: Mapping[str, np.ndarray]) -> None:
    """Sets a network's variables from a checkpoint's.

    Raises:
        UserError: a name or a shape differs; the first one is named.
    """
    variables = named_variables(model)
    for name in sorted({*variables, *weights}):
        wanted = tuple(variables[name].shape) if name in variables else "nothing"
        found = weights[name].shape if name in weights else "nothing"
        if wanted != found:
            raise UserError(f"{name}: the network has {wanted}, the checkpoint {found}")
        variables[name].assign(weights[name])


def path_of(variable) -> str:
    """Where in a network a variable is: "conv1/kernel", with wrappers before it, if any.

    Args:
        variable: of a network, as `layer.variables` has it; Keras 2's is TensorFlow's, whose name
            is such a path and ":0".
    """
    return getattr(variable, "path", variable.name).split(":")[0]
