"""The requests that TF Serving sends to a model by itself before the first user's.

A graph is optimised when it is first run, which takes seconds; TF Serving answers no one with a
version until it has replayed these.
"""

import os
from collections.abc import Mapping, Sequence

import tensorflow as tf

from data_prep import files, tfrecord

# Where TF Serving looks (saved_model_warmup_util.cc); a bad record there fails the whole load.
PATH = "assets.extra/tf_serving_warmup_requests"
_BATCH_SIZES = (1, 4)


def write(
    folder: str,
    *,
    inputs: Mapping[str, tf.TensorSpec],
    model_name: str,
    photos: Sequence[bytes],
    images: tf.Tensor,
) -> int:
    """Adds a request a signature and batch size to a SavedModel.

    Args:
        folder: of the SavedModel.
        inputs: of each signature, as `ServedModel.inputs`.
        model_name: that the model is to be served under.
        photos: at least one JPEG.
        images: uint8 [N, size, size, 3], the same photos decoded.

    Returns:
        How many were written: 0 without the package tensorflow-serving-api (the extra
        `serving`), whose protocol buffers they are.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return 0
    records = []
    for name, spec in sorted(inputs.items()):
        values = tf.constant(list(photos)) if spec.dtype == tf.string else images
        for size in _BATCH_SIZES:
            # Fewer photos than the batch is large: some of them twice.
            batch = tf.gather(values, tf.range(size) % len(photos))
            log = prediction_log_pb2.PredictionLog()
            request = log.predict_log.request
            request.model_spec.name = model_name
            request.model_spec.signature_name = name
            request.inputs[spec.name].CopyFrom(tf.make_tensor_proto(batch.numpy()))
            records.append(log.SerializeToString(deterministic=True))
    path = os.path.join(folder, PATH)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    files.write_file(path, b"".join(map(tfrecord.frame, records)))
    return len(records)
