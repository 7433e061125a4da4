"""The requests that TF Serving sends to a model by itself before the first user's.

A graph is optimised when it is first run, which takes seconds; TF Serving answers no one with a
version until it has replayed these.
"""

import os
from collections.abc import Mapping

import numpy as np
import tensorflow as tf
from google.protobuf.message import DecodeError

from data_prep import files, tfrecord

# Of a request. A body of some megabytes can hold millions of empty photos, each of which becomes
# 200 kB of pixels.
MAX_BATCH = 256

# Where TF Serving looks (saved_model_warmup_util.cc); a bad record there, or more than 1000, fails
# the whole load.
PATH = "assets.extra/tf_serving_warmup_requests"
_BATCH_SIZES = (1, 4)
_CLASSIFY_INPUT = "inputs"  # kClassifyInputs of signature_constants.h


def write(
    folder: str,
    *,
    inputs: Mapping[str, Mapping[str, np.ndarray]],
    model_name: str,
) -> int:
    """Add a request for each signature and batch size to a SavedModel.

    Args:
        folder: of the SavedModel.
        inputs: signature -> input -> values, at least one; a request takes the first of them, some
            twice where they are too few. A signature with the input "inputs", serialized
            tf.train.Examples, gets requests of the Classify API too.
        model_name: name that the model is to be served under.

    Returns:
        How many were written: 0 without the package tensorflow-serving-api (the extra
        `serving`), whose protocol buffers they are.
    """
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return 0
    records = []
    for signature, values in sorted(inputs.items()):
        for size in _BATCH_SIZES:
            batch = {name: _first(value, size) for name, value in values.items()}
            log = prediction_log_pb2.PredictionLog()
            _name(log.predict_log.request, model_name, signature)
            for name, value in batch.items():
                log.predict_log.request.inputs[name].CopyFrom(tf.make_tensor_proto(value))
            records.append(log)
            if _CLASSIFY_INPUT in batch:
                log = prediction_log_pb2.PredictionLog()
                _name(log.classify_log.request, model_name, signature)
                sent = log.classify_log.request.input.example_list.examples
                for example in batch[_CLASSIFY_INPUT]:
                    sent.add().MergeFromString(example)
                records.append(log)
    path = os.path.join(folder, PATH)
    os.makedirs(os.path.dirname(path), exist_ok=True)
    payloads = [log.SerializeToString(deterministic=True) for log in records]
    files.write_file(path, b"".join(map(tfrecord.frame, payloads)))
    return len(records)


def _first(values: np.ndarray, count: int) -> np.ndarray:
    """Return the first values; from the start again where there are fewer."""
    return np.take(values, range(count), axis=0, mode="wrap")


def _name(request: object, model_name: str, signature: str) -> None:
    request.model_spec.name = model_name
    request.model_spec.signature_name = signature


def read(folder: str, *, with_classify: bool = True) -> list[tuple[str, dict[str, np.ndarray]]]:
    """Return the warm-up requests of a version.

    Args:
        folder: of the SavedModel.
        with_classify: whether to include requests of the Classify API.

    Returns:
        Signature and, by input, values of each; those of the Classify API as the signature gets
        them, serialized Examples. None where there is no such file, or without the package
        tensorflow-serving-api.

    Raises:
        ValueError: the file is broken.
    """
    path = os.path.join(folder, PATH)
    try:
        from tensorflow_serving.apis import prediction_log_pb2
    except ImportError:
        return []
    if not os.path.exists(path):
        return []
    try:
        with open(path, "rb") as file:
            logs = map(prediction_log_pb2.PredictionLog.FromString, tfrecord.read_records(file))
            return [
                _request(log) for log in logs if with_classify or not log.HasField("classify_log")
            ]
    except DecodeError as error:
        raise ValueError(f"{path} is broken ({error}); export again") from error


def _request(log: object) -> tuple[str, dict[str, np.ndarray]]:
    if log.HasField("classify_log"):
        request = log.classify_log.request
        sent = request.input.example_list.examples
        examples = [example.SerializeToString(deterministic=True) for example in sent]
        inputs = {_CLASSIFY_INPUT: np.array(examples, object)}
    else:
        request = log.predict_log.request
        inputs = {name: tf.make_ndarray(proto) for name, proto in request.inputs.items()}
    return request.model_spec.signature_name, inputs
