"""Grad-CAM (Selvaraju et al., ICCV 2017) as operations of a graph.

The map of a class c is the ReLU of a weighted sum of the feature maps A^k of a layer, each weighted
by how much the score y^c before the softmax grows with it (equations 1 and 2):

    weight_k = mean over the places (i, j) of  d y^c / d A^k_ij
    map      = ReLU(sum over k of  weight_k A^k)

The layer is the last convolution, behind its activation: the paper found it to be the best.
"""

from collections.abc import Callable

import keras
import tensorflow as tf

from keras_alexnet.network.profile import Profile


def with_heat_maps(
    model: keras.Model, profile: Profile
) -> Callable[[tf.Tensor], tuple[tf.Tensor, tf.Tensor]]:
    """Return a function that adds a heat map of the best class to a network's scores.

    Args:
        model: network input float32 [N, S, S, 3] -> softmax [N, classes], of any precision.
        profile: the model's.

    Returns:
        A function: network input [N, S, S, 3] -> scores float32 [N, classes] and maps float32
        [N, h, w] from 0 to 1 (h and w: of the last convolution's maps behind their activation, 13
        for the paper's network). The largest value of a map is 1, unless nothing speaks for the
        class: then all of it is 0.
    """
    convolution = [name for name in profile.layer_names if name.startswith("conv")][-1]
    layers = (profile.activation_name(convolution), "fc8")
    network = keras.Model(
        model.inputs, [*(model.get_layer(name).output for name in layers), *model.outputs]
    )

    def scores_and_maps(network_input: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        with tf.GradientTape(watch_accessed_variables=False) as tape:
            tape.watch(network_input)
            maps, logits, scores = network(network_input, training=False)
            best = tf.reduce_max(logits, axis=1)
        gradient = tf.cast(tape.gradient(best, maps), tf.float32)
        return tf.cast(scores, tf.float32), _heat(tf.cast(maps, tf.float32), gradient)

    return scores_and_maps


def _heat(maps: tf.Tensor, gradient: tf.Tensor) -> tf.Tensor:
    """Apply equations 1 and 2 to maps and gradients [N, h, w, C]; scale the largest value to 1."""
    weights = tf.reduce_mean(gradient, axis=[1, 2])
    heat = tf.nn.relu(tf.einsum("nhwc,nc->nhw", maps, weights))
    return tf.math.divide_no_nan(heat, tf.reduce_max(heat, axis=[1, 2], keepdims=True))
