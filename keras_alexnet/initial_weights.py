"""What weights start with: the profile's initializers, each with a seed of its own."""

import keras
import numpy as np

from keras_alexnet.profile import LAYER_NAMES, Profile
from keras_alexnet.profile_rules import FAN_IN_UNIFORM

_LAYERS = len(LAYER_NAMES)
_DROPOUTS = 2


class Starts:
    """Initializers and dropout seeds of one network.

    Each has a seed of its own, because Keras fills kernels of one shape with the same numbers from
    one seed.

    Args:
        profile: says how each layer starts.
        seed: all others come from it; None for others each time.
    """

    def __init__(self, profile: Profile, seed: int | None):
        self._profile = profile
        count = 2 * _LAYERS + _DROPOUTS
        if seed is None:
            seeds = [None] * count
        else:
            seeds = [
                int(state) >> 1 for state in np.random.SeedSequence(seed).generate_state(count)
            ]
        self._kernel_seeds = seeds[:_LAYERS]
        self._dropout_seeds = seeds[_LAYERS : _LAYERS + _DROPOUTS]
        self._bias_seeds = seeds[_LAYERS + _DROPOUTS :]

    def kernel(self, index: int) -> keras.initializers.Initializer:
        """Of a layer's kernel, by its place in conv1 ... fc8, from 0."""
        start, seed = self._profile.kernel_init[index], self._kernel_seeds[index]
        if start == FAN_IN_UNIFORM:
            # The limit is sqrt(3 * scale / inputs) = 1 / sqrt(inputs).
            return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed)
        if isinstance(start, str):
            config = keras.initializers.get(start).get_config()
            return keras.initializers.get({"class_name": start, "config": {**config, "seed": seed}})
        return keras.initializers.RandomNormal(stddev=start, seed=seed)

    def bias(self, index: int, fan_in: int) -> keras.initializers.Initializer:
        """Of a layer's biases.

        Args:
            index: as of `kernel`.
            fan_in: inputs of a unit of the layer.
        """
        start, seed = self._profile.bias_init[index], self._bias_seeds[index]
        if start == FAN_IN_UNIFORM:
            limit = fan_in**-0.5
            return keras.initializers.RandomUniform(-limit, limit, seed)
        return keras.initializers.Constant(start)

    def dropout_seed(self, number: int) -> int | None:
        """Of the dropout at fc6 or fc7, by that number."""
        return self._dropout_seeds[number - 6]
