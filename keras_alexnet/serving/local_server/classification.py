"""TF Serving's Classify API over a loaded model, whatever the protocol of the request.

What a signature has to be for it, and the words of the errors, are of classifier.cc and
regressor.cc in tensorflow/serving.
"""

from collections.abc import Mapping, Sequence
from typing import NoReturn

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import types_pb2
from tensorflow.core.protobuf import meta_graph_pb2

from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import DEFAULT_SIGNATURE, LoadedModel

_INPUTS, _CLASSES, _SCORES = "inputs", "classes", "scores"
# The method names of signatures by the word that errors have for them.
_METHODS = {
    "classification": "tensorflow/serving/classify",
    "regression": "tensorflow/serving/regress",
}


def classify(
    model: LoadedModel, signature: str, examples: Sequence[bytes], timeout: float | None = None
) -> tuple[np.ndarray, np.ndarray]:
    """The classes of each example.

    Args:
        model: that answers.
        signature: its name; "" for serving_default, which in an export of this project is none
            for this API.
        examples: serialized tf.train.Examples.
        timeout: seconds to wait for other requests.

    Returns:
        (labels, bytes objects [N, K], empty where the signature has none; scores, float32 [N, K],
        0 where it has none).

    Raises:
        RequestError: there is no such signature, or it is not one of classification
            (INVALID_ARGUMENT, FAILED_PRECONDITION); there are no examples or too many
            (INVALID_ARGUMENT); or what `LoadedModel.predict` raises.
    """
    name = signature or DEFAULT_SIGNATURE
    _require_classifier(_signature_def(model, name, "classification"))
    if not examples:
        raise _invalid("Input is empty.")
    inputs = np.empty(len(examples), object)
    inputs[:] = examples
    outputs = model.predict(name, {_INPUTS: inputs}, timeout=timeout)
    labels = _column(outputs, _CLASSES, tf.string, len(examples))
    scores = _column(outputs, _SCORES, tf.float32, len(examples))
    labels = np.full(scores.shape, b"", object) if labels is None else labels
    scores = np.zeros(labels.shape, np.float32) if scores is None else scores
    if labels.shape != scores.shape:
        raise _invalid(
            "Tensors class and score should match in dim_size(1). Got "
            f"{labels.shape[1]} vs. {scores.shape[1]}"
        )
    return labels, scores


def refuse_regression(model: LoadedModel, signature: str) -> NoReturn:
    """The answer to a request of the Regress API, for which an export of this project has nothing.

    Args:
        model: that is asked.
        signature: its name; "" for serving_default.

    Raises:
        RequestError: always. INVALID_ARGUMENT, as TF Serving says it; UNIMPLEMENTED, if the
            model has such a signature after all.
    """
    _signature_def(model, signature or DEFAULT_SIGNATURE, "regression")
    raise RequestError("UNIMPLEMENTED", "regression is not served here; use predict")


def _signature_def(model: LoadedModel, name: str, kind: str) -> meta_graph_pb2.SignatureDef:
    if name not in model.signature_defs:
        raise _invalid(f"No signature was found with the name: {name}")
    signature = model.signature_defs[name]
    if signature.method_name != _METHODS[kind]:
        raise _invalid(
            f"Expected {kind} signature method_name to be {_METHODS[kind]}. "
            f"Was: {signature.method_name}"
        )
    return signature


def _require_classifier(signature: meta_graph_pb2.SignatureDef) -> None:
    if len(signature.inputs) != 1:
        raise _invalid("Expected one input Tensor.")
    if len(signature.outputs) not in (1, 2):
        raise _invalid(f"Expected one or two output Tensors, found {len(signature.outputs)}")
    if _INPUTS not in signature.inputs:
        raise RequestError(
            "FAILED_PRECONDITION",
            f"No classification inputs found in SignatureDef: {_names(signature)}",
        )
    if not {_CLASSES, _SCORES} & set(signature.outputs):
        raise RequestError(
            "FAILED_PRECONDITION",
            "Expected classification signature outputs to contain at least one of "
            f'"{_CLASSES}" or "{_SCORES}". Signature was: {_names(signature)}',
        )


def _names(signature: meta_graph_pb2.SignatureDef) -> str:
    return f"inputs {sorted(signature.inputs)}, outputs {sorted(signature.outputs)}"


def _column(
    outputs: Mapping[str, np.ndarray], name: str, dtype: tf.DType, examples: int
) -> np.ndarray | None:
    """An output [examples, classes], or None if the signature has none of this name."""
    if name not in outputs:
        return None
    array = outputs[name]
    if array.ndim != 2:
        raise _invalid(
            f"Expected Tensor shape: [batch_size num_classes] but got {list(array.shape)}"
        )
    # NumPy's array of bytes objects is of dtype object, which TensorFlow calls string.
    got = tf.as_dtype(array.dtype)
    if got != dtype:
        wanted, got = (types_pb2.DataType.Name(each.as_datatype_enum) for each in (dtype, got))
        raise _invalid(f"Expected {name} Tensor of {wanted}. Got: {got}")
    if len(array) != examples:
        raise _invalid(f"Expected {name} output batch size of {examples}. Got: {len(array)}")
    return array


def _invalid(message: str) -> RequestError:
    return RequestError("INVALID_ARGUMENT", message)
