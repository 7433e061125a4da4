"""Sends a version the warm-up requests that came with it, as TF Serving does when it loads one.

A graph is optimised when it is first run, which takes seconds: better before users come.
"""

import os

import tensorflow as tf

from data_prep import tfrecord
from keras_alexnet.serving import warmup
from keras_alexnet.serving.loaded_model import DEFAULT_SIGNATURE, LoadedModel


def replay(model: LoadedModel, path: str) -> int:
    """Runs each warm-up request of a version.

    Args:
        model: the version.
        path: its folder.

    Returns:
        How many were run: 0 if there are none, or without the package tensorflow-serving-api.

    Raises:
        ValueError: the file is broken, or holds a request that the model refuses. TF Serving
            would not load such a version.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return 0
    file_name = os.path.join(path, warmup.PATH)
    if not os.path.exists(file_name):
        return 0
    count = 0
    with open(file_name, "rb") as file:
        for record in tfrecord.read_records(file):
            log = prediction_log_pb2.PredictionLog.FromString(record)
            # Those of the Classify API run the same graph as these.
            if log.HasField("predict_log"):
                _run(model, log.predict_log.request)
                count += 1
    return count


def _run(model: LoadedModel, request: object) -> None:
    inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    try:
        model.predict(request.model_spec.signature_name or DEFAULT_SIGNATURE, inputs)
    except Exception as error:
        raise ValueError(f"the warm-up request for {request.model_spec} fails: {error}") from error
