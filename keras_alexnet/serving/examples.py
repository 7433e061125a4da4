"""Photos in tf.train.Examples, which is how TF Serving's Classify API takes them.

The photo is in the feature that has it in a data set's records too, so that a record of one with
--storage=jpeg can be sent as it is.
"""

import tensorflow as tf

from data_prep import tfrecord

FEATURE = "image/encoded"  # of data_prep.records.FEATURES


def encode(photo: bytes) -> bytes:
    """A serialized tf.train.Example with a photo's file in it."""
    return tfrecord.encode_example({FEATURE: photo})


def photos(examples: tf.Tensor) -> tf.Tensor:
    """The photo of each Example.

    Args:
        examples: string [N], serialized.

    Returns:
        string [N]; "" for what is no Example, or has no photo, or more than one.
    """
    return tf.map_fn(_photo, examples, fn_output_signature=tf.TensorSpec([], tf.string))


def _photo(example: tf.Tensor) -> tf.Tensor:
    """The photo of one Example, by the same try as in `photos.stored_image`."""

    def parse(example: tf.Tensor) -> tf.Tensor:
        feature = tf.io.FixedLenFeature([], tf.string)
        return tf.io.parse_single_example(example, {FEATURE: feature})[FEATURE]

    return (
        tf.data.Dataset.from_tensors(example)
        .map(parse)
        .ignore_errors()
        .concatenate(tf.data.Dataset.from_tensors(tf.constant("")))
        .take(1)
        .get_single_element()
    )
