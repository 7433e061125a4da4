"""An exported model in memory, with the checks that stand between it and a request.

Loaded by TensorFlow alone: nothing of this project's network or preprocessing is imported. As in
TF Serving, a version answers the warm-up requests that came with it before those of users: its
graph is optimised when it is first run, which takes seconds.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_shape_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from keras_alexnet.saved_model import warmup
from keras_alexnet.saved_model.warmup import MAX_BATCH
from keras_alexnet.serving.local_server import batching
from keras_alexnet.serving.local_server.errors import RequestError

DEFAULT_SIGNATURE = "serving_default"


class LoadedModel:
    """A version of a model.

    Attributes:
        name: that requests call it by.
        version: its number.
        signature_defs: all that the SavedModel declares, by name.
    """

    def __init__(
        self,
        *,
        path: str,
        name: str,
        version: int,
        limits: batching.Limits,
        tell_batch: Callable[[int], None] = lambda rows: None,
    ) -> None:
        """Load a SavedModel.

        Args:
            path: folder of the SavedModel.
            name: that requests call it by.
            version: its number.
            limits: how much may compute and wait.
            tell_batch: called with the number of photos of each batch.

        Raises:
            OSError, ValueError: the folder holds no SavedModel, or a broken one.
        """
        self.name = name
        self.version = version
        self._loaded = tf.saved_model.load(path)
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            saved = saved_model_pb2.SavedModel.FromString(file.read())
        self.signature_defs: Mapping[str, meta_graph_pb2.SignatureDef] = saved.meta_graphs[
            0
        ].signature_def
        self._batchable = {
            name for name, signature in self.signature_defs.items() if _is_batchable(signature)
        }
        self._batcher = batching.Batcher(self._compute, limits, tell_batch)

    def signature_inputs(self, signature: str) -> Mapping[str, meta_graph_pb2.TensorInfo] | None:
        """Return the declared inputs of a signature that can be called, None if there is none."""
        if signature not in self._loaded.signatures:
            return None
        return self.signature_defs[signature].inputs

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        timeout: float | None = None,
    ) -> dict[str, np.ndarray]:
        """Run a signature.

        Args:
            signature: its name.
            inputs: an array an input; strings as arrays of bytes objects.
            output_filter: names of the outputs that are wanted; all if empty.
            timeout: seconds to wait for other requests; what computes is not interrupted.

        Raises:
            RequestError: the request does not fit the signature (INVALID_ARGUMENT), there is no
                such signature (FAILED_PRECONDITION), no turn came (DEADLINE_EXCEEDED), too many
                wait (UNAVAILABLE).
        """
        declared = self.signature_inputs(signature)
        if declared is None:
            raise RequestError(
                "FAILED_PRECONDITION", f'Serving signature key "{signature}" not found.'
            )
        require_inputs(declared, inputs)
        self._require_outputs(signature, output_filter)
        for name, value in inputs.items():
            require_tensor(name, declared[name], tf.as_dtype(value.dtype), value.shape)
        if signature in self._batchable:
            shapes = tuple(sorted((name, value.shape[1:]) for name, value in inputs.items()))
            outputs = self._batcher.run((signature, shapes), inputs, timeout)
        else:
            outputs = self._compute((signature,), inputs)
        return {name: outputs[name] for name in output_filter or outputs}

    def _compute(
        self, key: tuple[str, ...], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        signature = key[0]
        declared = self.signature_defs[signature].inputs
        tensors = {
            name: tf.constant(value, tf.as_dtype(declared[name].dtype))
            for name, value in inputs.items()
        }
        try:
            outputs = self._loaded.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            raise RequestError(_code_of(error), error.message) from error
        return {name: value.numpy() for name, value in outputs.items()}

    def _require_outputs(self, signature: str, output_filter: Sequence[str]) -> None:
        outputs = self.signature_defs[signature].outputs
        for name in output_filter:
            if name not in outputs:
                raise RequestError(
                    "INVALID_ARGUMENT",
                    f"output tensor alias not found in signature: {name} Outputs expected to be "
                    f"in the set {{{','.join(sorted(outputs))}}}.",
                )


def _is_batchable(signature: meta_graph_pb2.SignatureDef) -> bool:
    """Return whether all inputs and outputs have a free first dimension."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    return all(shape_of(tensor.tensor_shape)[:1] == [-1] for tensor in tensors)


def require_inputs(
    declared: Mapping[str, meta_graph_pb2.TensorInfo], given: Mapping[str, object]
) -> None:
    """Refuse inputs that are not those of the signature (INVALID_ARGUMENT)."""
    extra, missing = set(given) - set(declared), set(declared) - set(given)
    if extra or missing:
        raise RequestError(
            "INVALID_ARGUMENT",
            f"inputs do not match the signature: sent extra: {{{','.join(sorted(extra))}}}, "
            f"missing but required: {{{','.join(sorted(missing))}}}",
        )


def require_tensor(
    name: str, declared: meta_graph_pb2.TensorInfo, dtype: tf.DType, shape: Sequence[int]
) -> None:
    """Refuse a tensor of another type or shape, or a batch that is too large."""
    # NumPy's array of bytes objects is of dtype object, which TensorFlow calls string.
    wanted = tf.as_dtype(declared.dtype)
    if dtype != wanted:
        raise RequestError(
            "INVALID_ARGUMENT", f"input {name} must be {wanted.name}, received {dtype.name}"
        )
    dimensions = [dimension.size for dimension in declared.tensor_shape.dim]
    fits = len(dimensions) == len(shape) and all(
        size >= 0 and wanted in (-1, size) for wanted, size in zip(dimensions, shape, strict=True)
    )
    if not fits and not declared.tensor_shape.unknown_rank:
        raise RequestError(
            "INVALID_ARGUMENT",
            f"input {name} must be of shape {_text(dimensions)}, received {_text(shape)}",
        )
    if len(shape):
        require_batch(shape[0])


def require_batch(count: int) -> None:
    """Refuse a batch of no photo, or of too many (INVALID_ARGUMENT)."""
    if not 1 <= count <= MAX_BATCH:
        raise RequestError(
            "INVALID_ARGUMENT",
            f"a request must have 1 to {MAX_BATCH} photos, received {count}; send several",
        )


def shape_of(proto: tensor_shape_pb2.TensorShapeProto) -> list[int]:
    """Return the sizes of a shape's dimensions."""
    return [dimension.size for dimension in proto.dim]


def _text(shape: Sequence[int]) -> str:
    return f"[{','.join('?' if size == -1 else str(size) for size in shape)}]"


def _code_of(error: tf.errors.OpError) -> str:
    if isinstance(error, tf.errors.InvalidArgumentError):
        return "INVALID_ARGUMENT"
    is_full = isinstance(error, tf.errors.ResourceExhaustedError)
    return "RESOURCE_EXHAUSTED" if is_full else "INTERNAL"


def replay(model: LoadedModel, path: str) -> None:
    """Run each warm-up request of a version but those of the Classify API.

    Args:
        model: the version.
        path: its folder.

    Raises:
        ValueError: the file is broken, or holds a request that the model refuses. TF Serving
            would not load such a version.
    """
    for signature, inputs in warmup.read(path, with_classify=False):
        try:
            model.predict(signature or DEFAULT_SIGNATURE, inputs)
        except RequestError as error:
            raise ValueError(
                f"the warm-up request for {signature!r} fails: {error.message}"
            ) from error
