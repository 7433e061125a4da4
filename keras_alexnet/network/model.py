"""The network: figure 2 of the paper, with the differences of its ports as fields of a profile."""

import functools
import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_alexnet.network import layers
from keras_alexnet.network.profile import (
    CONV_KERNELS,
    FAN_IN_UNIFORM,
    LAYER_NAMES,
    SMALLEST_PADDED_INPUT,
    Profile,
)
from keras_alexnet.network.profiles import get_profile

_POOLINGS = {
    "avg": keras.layers.GlobalAveragePooling2D,
    "max": keras.layers.GlobalMaxPooling2D,
}
_ACTIVATIONS = {
    "relu": keras.layers.ReLU,
    "tanh": functools.partial(keras.layers.Activation, "tanh"),
}


def AlexNet(  # noqa: N802 (named as in keras.applications)
    profile: str | Profile = "paper",
    classes: int = 1000,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    input_tensor=None,
    input_shape: Sequence[int] | None = None,
    pooling: str | None = None,
    classifier_activation: str | None = "softmax",
    name: str | None = "alexnet",
    *,
    weight_decay: None = None,
    seed: int | None = None,
) -> keras.Model:
    """Return AlexNet (Krizhevsky, Sutskever, Hinton, NIPS 2012) as a functional Keras model.

    The arguments are those of the functions of `keras.applications`, after `profile`. The two
    columns of figure 2 are groups of convolutions: 60,965,224 parameters with 1000 classes. Follows
    the global dtype policy; scores and logits are float32 under each but float64.

    Args:
        profile: which system's AlexNet: a name in `PROFILES`, or a `Profile`.
        classes: number of classes, at least 1.
        include_top: whether fc6, fc7 and fc8 are there. If not, the output is pool5.
        weights: None for a random start as the profile has it, or the path of a .weights.h5 file
            of the same network, which `Model.save_weights` or `keras_alexnet.convert` wrote.
        input_tensor: a Keras tensor to use as the network's input, float [B, S, S, 3] as
            `preprocessing.network_input` makes it; None for an input of its own.
        input_shape: (height, width, 3) of the input, where it is not the profile's (S, S, 3), S
            its `input_size`: 224 or 227. fc6 has as many inputs as pool5 then has values.
        pooling: without the top, what makes one vector of pool5: "avg" or "max" over its pixels,
            or None to leave it.
        classifier_activation: of the output, such as "softmax"; None for the logits.
        name: of the model.
        weight_decay: removed; a value is an error that names the optimizer's.
        seed: makes the initial weights and the dropout masks a function of this number, at least
            0. None draws others each time.

    Returns:
        A model from network input, float [B, S, S, 3], to scores, float32 [B, classes]; without
        the top to pool5, [B, 6, 6, 256], or its pooled vectors, [B, 256].

    Raises:
        ValueError: an argument is out of its range, or `weights` is no such file.
        TypeError: weight_decay was given.
    """
    if weight_decay is not None:
        raise TypeError(
            f"AlexNet has no weight_decay any more, but received {weight_decay!r}; the optimizer "
            "decays: weight_decay of training, optimizers.MomentumSGD in Python"
        )
    profile = get_profile(profile)
    _require_arguments(classes, include_top, weights, pooling, seed)
    inputs = _input(profile, input_tensor, input_shape)
    kernel_seeds, dropout_seeds, bias_seeds = _seeds(seed)

    def weight_options(number: int, fan_in: int) -> dict[str, object]:
        index = number - 1
        return {
            "kernel_initializer": _kernel_start(profile.kernel_init[index], kernel_seeds[index]),
            "bias_initializer": _bias_start(profile.bias_init[index], fan_in, bias_seeds[index]),
            "name": LAYER_NAMES[index],
        }

    def conv(x, number: int, **options):
        kernel, groups = CONV_KERNELS[number - 1], profile.conv_groups[number - 1]
        options |= weight_options(number, kernel * kernel * x.shape[-1] // groups)
        filters = profile.conv_filters[number - 1]
        return layers.GroupedConv2D(filters, kernel, groups=groups, **options)(x)

    def block(x, number: int, order: Sequence[str], **options):
        """Add a convolution and the layers after it; a removed one goes with its activation."""
        if LAYER_NAMES[number - 1] in profile.removed_layers:
            order = [kind for kind in order if kind != "relu"]
        else:
            x = conv(x, number, **options)
        for kind in order:
            x = _AFTER_CONV[kind](x, number, profile)
        return x

    def dense(x, number: int, units: int, **options):
        options |= weight_options(number, x.shape[-1])
        return keras.layers.Dense(units, **options)(x)

    def hidden(x, number: int):
        """Add fc6 or fc7, its activation, and the dropout before or behind the two."""
        dropout = layers.SeededDropout(
            profile.dropout_rate, dropout_seeds[number - 6], name=f"drop{number}"
        )
        if profile.dropout_at == "inputs":
            x = dropout(x)
        x = _activation(dense(x, number, profile.fc_units[number - 6]), number, profile)
        return dropout(x) if profile.dropout_at == "outputs" else x

    # The shapes are those of the profile "paper".
    x = inputs  # [B, 224, 224, 3]
    if any(profile.conv1_padding):
        x = keras.layers.ZeroPadding2D((profile.conv1_padding,) * 2, name="pad1")(x)  # 227

    x = block(x, 1, profile.conv1_order, strides=4)  # [B, 55, 55, 96], then [B, 27, 27, 96]
    x = block(x, 2, profile.conv2_order, padding="same")  # [B, 27, 27, 256], [B, 13, 13, 256]
    x = block(x, 3, ["relu"], padding="same")  # [B, 13, 13, 384]
    x = block(x, 4, ["relu"], padding="same")  # [B, 13, 13, 384]
    x = block(x, 5, profile.conv5_order, padding="same")  # [B, 13, 13, 256], [B, 6, 6, 256]

    if include_top:
        x = keras.layers.Flatten(name="flatten")(x)  # [B, 9216]
        x = hidden(x, 6)  # [B, 4096]
        x = hidden(x, 7)  # [B, 4096]
        # In float32 under mixed precision too: logits of 8 bits would be too coarse for a loss.
        dtype = "float64" if keras.mixed_precision.global_policy().name == "float64" else "float32"
        x = dense(x, 8, classes, dtype=dtype)  # [B, classes]
        if classifier_activation is not None:
            x = keras.layers.Activation(
                classifier_activation, dtype=dtype, name=classifier_activation
            )(x)
    elif pooling is not None:
        x = _POOLINGS[pooling](name=f"{pooling}_pool")(x)  # [B, 256]

    if input_tensor is not None:
        sources = keras.utils.get_source_inputs(input_tensor)
        inputs = sources[0] if len(sources) == 1 else sources
    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


def _input(profile: Profile, input_tensor, input_shape: Sequence[int] | None):
    """Return the Keras tensor that the network starts from."""
    shape = (profile.input_size, profile.input_size, 3)
    if input_tensor is not None:
        given = tuple(input_tensor.shape[1:])
        if input_shape is not None and tuple(input_shape) != given:
            raise ValueError(
                "input_shape and the shape of input_tensor must agree. Received: "
                f"{tuple(input_shape)} and {given}. Give one of the two."
            )
        shape = given
    elif input_shape is not None:
        shape = tuple(input_shape)
    smallest = SMALLEST_PADDED_INPUT - sum(profile.conv1_padding)
    sides = [side or 0 for side in shape[:2]]
    if len(shape) != 3 or shape[2] != 3 or min(sides) < smallest:
        raise ValueError(
            f"The input must be (height, width, 3), with sides of at least {smallest} pixels. "
            f"Received: {shape}. The profile {profile.name!r} was made for {profile.input_size}."
        )
    return keras.Input(shape, name="input") if input_tensor is None else input_tensor


def _activation(x, number: int, profile: Profile):
    """Add ReLU, or tanh, which section 3.1 compares it with."""
    name = profile.activation_name(LAYER_NAMES[number - 1])
    return _ACTIVATIONS[profile.activation](name=name)(x)


def _lrn(x, number: int, profile: Profile):
    """Add normalization across maps (section 3.3)."""
    return layers.LocalResponseNormalization(
        size=profile.lrn_size,
        k=profile.lrn_k,
        alpha=profile.lrn_alpha,
        beta=profile.lrn_beta,
        alpha_divided_by_size=profile.lrn_alpha_divided_by_size,
        columns=1 if profile.lrn_crosses_columns else profile.columns,
        name=f"lrn{number}",
    )(x)


def _map_norm(x, number: int, profile: Profile):
    """Add normalization within each map: in the 2012 program, not in its paper."""
    return layers.SameMapNormalization(
        size=profile.map_norm_size,
        k=profile.map_norm_k,
        alpha=profile.map_norm_alpha,
        beta=profile.map_norm_beta,
        name=f"map_norm{number}",
    )(x)


def _pool(x, number: int, profile: Profile):
    """Add pooling windows two pixels apart; those of 3x3 overlap (section 3.4)."""
    return keras.layers.MaxPooling2D(profile.pool_size, 2, name=f"pool{number}")(x)


_AFTER_CONV = {"relu": _activation, "lrn": _lrn, "map_norm": _map_norm, "pool": _pool}


def _require_arguments(
    classes: int,
    include_top: bool,
    weights: str | os.PathLike | None,
    pooling: str | None,
    seed: int | None,
) -> None:
    if classes < 1:
        raise ValueError(
            f"classes must be at least 1. Received: {classes!r}. Give the number of classes."
        )
    if pooling is not None and (include_top or pooling not in _POOLINGS):
        raise ValueError(
            f"pooling must be None, or without the top one of {', '.join(_POOLINGS)}. Received: "
            f"pooling={pooling!r}, include_top={include_top!r}. Give include_top=False with it."
        )
    if seed is not None and seed < 0:
        raise ValueError(
            f"seed must be None or at least 0. Received: {seed!r}. Choose such a number."
        )
    if weights is not None and not (
        str(weights).endswith(".weights.h5") and os.path.isfile(weights)
    ):
        raise ValueError(
            "weights must be None or the path of a file whose name ends in .weights.h5, which "
            "Model.save_weights wrote, or keras_alexnet.convert from weights of Caffe or PyTorch "
            f"(none are downloaded). Received: {str(weights)!r}. Check the path."
        )


def _seeds(seed: int | None) -> tuple[Sequence[int | None], ...]:
    """Return the seeds of the kernels, of the two dropouts and of the biases.

    Each is one of its own, because Keras fills kernels of one shape with the same numbers from one
    seed. None, for other numbers each time, gives None.
    """
    layers, dropouts = len(LAYER_NAMES), 2
    seeds: list[int | None] = [None] * (2 * layers + dropouts)
    if seed is not None:
        states = np.random.SeedSequence(seed).generate_state(len(seeds))
        seeds = [int(state) >> 1 for state in states]
    return seeds[:layers], seeds[layers : layers + dropouts], seeds[layers + dropouts :]


def _kernel_start(start: float | str, seed: int | None) -> keras.initializers.Initializer:
    if start == FAN_IN_UNIFORM:
        # The limit is sqrt(3 * scale / inputs) = 1 / sqrt(inputs).
        return keras.initializers.VarianceScaling(1 / 3, "fan_in", "uniform", seed)
    if isinstance(start, str):
        config = keras.initializers.get(start).get_config()
        return keras.initializers.get({"class_name": start, "config": {**config, "seed": seed}})
    return keras.initializers.RandomNormal(stddev=start, seed=seed)


def _bias_start(
    start: float | str, fan_in: int, seed: int | None
) -> keras.initializers.Initializer:
    if start == FAN_IN_UNIFORM:
        limit = fan_in**-0.5
        return keras.initializers.RandomUniform(-limit, limit, seed)
    return keras.initializers.Constant(start)
