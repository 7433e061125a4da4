"""The network: figure 2 of the paper, with the differences of its ports as fields of a profile."""

import os
from collections.abc import Sequence

import keras
import numpy as np

from keras_alexnet import layers
from keras_alexnet.profiles import Profile, get_profile

_CONV_KERNELS = (11, 5, 3, 3, 3)  # section 3.5
_LAYER_NAMES = ("conv1", "conv2", "conv3", "conv4", "conv5", "fc6", "fc7", "fc8")


def AlexNet(  # noqa: N802 (named as in keras.applications)
    profile: str | Profile = "paper",
    classes: int = 1000,
    include_top: bool = True,
    weights: str | os.PathLike | None = None,
    classifier_activation: str | None = "softmax",
    name: str | None = "alexnet",
    *,
    weight_decay: float = 0.0,
    seed: int | None = None,
) -> keras.Model:
    """AlexNet (Krizhevsky, Sutskever, Hinton, NIPS 2012) as a functional Keras model.

    The two columns of figure 2 are groups of convolutions: 60,965,224 parameters with 1000
    classes. Follows the global dtype policy; scores and logits are float32 under each.

    Args:
        profile: which system's AlexNet: a name in `PROFILES`, or a `Profile`.
        classes: number of classes, at least 1.
        include_top: whether fc6, fc7 and fc8 are there. If not, the output is pool5.
        weights: None for a random start as the profile has it, or the path of a .weights.h5 file
            that `Model.save_weights` of the same network wrote.
        classifier_activation: of the output, such as "softmax"; None for the logits.
        name: of the model.
        weight_decay: as in the paper's update, w <- w - learning_rate * (gradient + decay * w),
            on kernels, and on biases times the profile's `bias_decay_multiplier`.
        seed: makes the initial weights and the dropout masks a function of this number, at least
            0. None draws others each time.

    Returns:
        A model from network input, float [B, S, S, 3] as `preprocessing.network_input` makes it
        (S is the profile's `input_size`, 224 or 227), to scores, float32 [B, classes]; or to
        pool5, [B, 6, 6, 256].

    Raises:
        ValueError: an argument is out of its range, or `weights` is no such file.
    """
    profile = get_profile(profile)
    _require_arguments(classes, weights, weight_decay, seed)
    kernel_seeds, dropout_seeds = _layer_seeds(seed)

    def weight_options(index: int) -> dict[str, object]:
        bias_decay = weight_decay * profile.bias_decay_multiplier
        return {
            "kernel_initializer": _kernel_initializer(
                profile.kernel_init[index], kernel_seeds[index]
            ),
            "bias_initializer": keras.initializers.Constant(profile.bias_init[index]),
            "kernel_regularizer": _decay(weight_decay),
            "bias_regularizer": _decay(bias_decay),
            "name": _LAYER_NAMES[index],
        }

    def conv(x, number: int, **options):
        return layers.GroupedConv2D(
            profile.conv_filters[number - 1],
            _CONV_KERNELS[number - 1],
            groups=profile.conv_groups[number - 1],
            **options,
            **weight_options(number - 1),
        )(x)

    def dense(x, number: int, units: int, **options):
        return keras.layers.Dense(units, **options, **weight_options(number - 1))(x)

    def dropout(x, number: int):
        return layers.SeededDropout(
            profile.dropout_rate, dropout_seeds[number - 6], name=f"drop{number}"
        )(x)

    # The shapes are those of the profile "paper"; "caffe" starts from 227 and pads nothing.
    inputs = keras.Input((profile.input_size, profile.input_size, 3), name="input")  # [B,224,224,3]
    x = keras.layers.ZeroPadding2D((profile.conv1_padding,) * 2, name="pad1")(inputs)  # 227

    x = conv(x, 1, strides=4)  # [B, 55, 55, 96]
    x = _after_conv(x, 1, profile.conv1_order, profile)  # [B, 27, 27, 96]

    x = conv(x, 2, padding="same")  # [B, 27, 27, 256]
    x = _after_conv(x, 2, profile.conv2_order, profile)  # [B, 13, 13, 256]

    x = conv(x, 3, padding="same")  # [B, 13, 13, 384]
    x = _relu(x, 3)

    x = conv(x, 4, padding="same")  # [B, 13, 13, 384]
    x = _relu(x, 4)

    x = conv(x, 5, padding="same")  # [B, 13, 13, 256]
    x = _relu(x, 5)
    x = _pool(x, 5)  # [B, 6, 6, 256]

    if include_top:
        x = keras.layers.Flatten(name="flatten")(x)  # [B, 9216]
        x = dense(x, 6, profile.fc_units[0])  # [B, 4096]
        x = _relu(x, 6)
        x = dropout(x, 6)
        x = dense(x, 7, profile.fc_units[1])  # [B, 4096]
        x = _relu(x, 7)
        x = dropout(x, 7)
        # In float32 under mixed precision too: logits of 8 bits would be too coarse for a loss.
        x = dense(x, 8, classes, dtype="float32")  # [B, classes]
        if classifier_activation is not None:
            x = keras.layers.Activation(
                classifier_activation, dtype="float32", name=classifier_activation
            )(x)

    model = keras.Model(inputs, x, name=name)
    if weights is not None:
        model.load_weights(weights)
    return model


def _after_conv(x, number: int, order: Sequence[str], profile: Profile):
    for kind in order:
        if kind == "relu":
            x = _relu(x, number)
        elif kind == "lrn":
            x = layers.LocalResponseNormalization(
                size=profile.lrn_size,
                k=profile.lrn_k,
                alpha=profile.lrn_alpha,
                beta=profile.lrn_beta,
                alpha_divided_by_size=profile.lrn_alpha_divided_by_size,
                name=f"lrn{number}",
            )(x)
        else:
            x = _pool(x, number)
    return x


def _relu(x, number: int):
    return keras.layers.ReLU(name=f"relu{number}")(x)


def _pool(x, number: int):
    """Overlapping pooling: windows of 3x3, two pixels apart (section 3.4)."""
    return keras.layers.MaxPooling2D(3, 2, name=f"pool{number}")(x)


def _kernel_initializer(start: float | str, seed: int | None) -> keras.initializers.Initializer:
    if isinstance(start, str):
        config = keras.initializers.get(start).get_config()
        return keras.initializers.get({"class_name": start, "config": {**config, "seed": seed}})
    return keras.initializers.RandomNormal(stddev=start, seed=seed)


def _decay(weight_decay: float) -> keras.regularizers.Regularizer | None:
    # Keras' L2(f) adds f * w^2 to the loss, whose gradient is 2 f w; the paper adds decay * w.
    return keras.regularizers.L2(weight_decay / 2) if weight_decay else None


def _layer_seeds(seed: int | None) -> tuple[list[int | None], list[int | None]]:
    """A seed for each of the 8 layers with weights, and for each of the 2 dropouts.

    They differ because Keras fills kernels of one shape with the same numbers from one seed.
    """
    if seed is None:
        return [None] * 8, [None] * 2
    seeds = [int(state) >> 1 for state in np.random.SeedSequence(seed).generate_state(10)]
    return seeds[:8], seeds[8:]


def _require_arguments(
    classes: int, weights: str | os.PathLike | None, weight_decay: float, seed: int | None
) -> None:
    if classes < 1:
        raise ValueError(
            f"classes must be at least 1. Received: {classes!r}. Give the number of classes."
        )
    if weight_decay < 0:
        raise ValueError(
            f"weight_decay must be at least 0. Received: {weight_decay!r}. The paper's is 0.0005."
        )
    if seed is not None and seed < 0:
        raise ValueError(
            f"seed must be None or at least 0. Received: {seed!r}. Choose such a number."
        )
    if weights is not None and not (
        str(weights).endswith(".weights.h5") and os.path.isfile(weights)
    ):
        raise ValueError(
            "weights must be None or the path of a file that Model.save_weights wrote, with a name "
            f"that ends in .weights.h5. Received: {str(weights)!r}. Check the path."
        )
