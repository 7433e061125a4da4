"""An exported model in memory, with the checks that stand between it and a request.

Loaded by TensorFlow alone: nothing of this project's network or preprocessing is imported. As in
TF Serving, a version answers the warm-up requests that came with it before those of users: its
graph is optimised when it is first run, which takes seconds.
"""

import os
from collections.abc import Callable, Mapping, Sequence

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2
from tensorflow.core.protobuf import meta_graph_pb2, saved_model_pb2

from keras_alexnet.saved_model import warmup
from keras_alexnet.saved_model.warmup import MAX_BATCH
from keras_alexnet.serving.local_server import batching
from keras_alexnet.serving.local_server.errors import RequestError, invalid

DEFAULT_SIGNATURE = "serving_default"
# Of TensorFlow's errors that a request may cause.
_CODES = {
    tf.errors.InvalidArgumentError: "INVALID_ARGUMENT",
    tf.errors.ResourceExhaustedError: "RESOURCE_EXHAUSTED",
}


class LoadedModel:
    """A version of a model, from the folder of its SavedModel.

    Args:
        path: the folder.
        name: that requests call the model by.
        version: its number.
        batch: photos of several requests that are computed together, at most.
        on_batch: called with the number of photos of each batch.

    Attributes:
        signature_defs: all that the SavedModel declares, by name.

    Raises:
        OSError, ValueError: the folder holds no SavedModel, or a broken one.
    """

    def __init__(
        self,
        path: str,
        name: str,
        version: int,
        *,
        batch: int = 32,
        on_batch: Callable[[int], None] = lambda photos: None,
    ) -> None:
        self.name = name
        self.version = version
        self._loaded = tf.saved_model.load(path)
        with open(os.path.join(path, "saved_model.pb"), "rb") as file:
            saved = saved_model_pb2.SavedModel.FromString(file.read())
        self.signature_defs = saved.meta_graphs[0].signature_def
        self._batcher = batching.Batcher(self._compute, on_batch, batch_rows=batch)

    def input_types(self, signature: str) -> dict[str, tf.DType]:
        """Return the types of a signature's inputs, by name.

        Raises:
            RequestError: FAILED_PRECONDITION, there is no such signature.
        """
        if signature not in self._loaded.signatures:
            raise RequestError(
                "FAILED_PRECONDITION", f'Serving signature key "{signature}" not found.'
            )
        declared = self.signature_defs[signature].inputs
        return {name: tf.as_dtype(info.dtype) for name, info in declared.items()}

    def require_inputs(
        self, signature: str, given: Mapping[str, tuple[tf.DType, Sequence[int]]]
    ) -> None:
        """Refuse inputs that do not fit a signature.

        Args:
            signature: its name.
            given: type and shape of each input.

        Raises:
            RequestError: another name, type or shape, or a batch that is too large
                (INVALID_ARGUMENT), or there is no such signature (FAILED_PRECONDITION).
        """
        types = self.input_types(signature)
        extra, missing = set(given) - set(types), set(types) - set(given)
        if extra or missing:
            raise invalid(
                f"inputs do not match the signature: sent extra: {{{','.join(sorted(extra))}}}, "
                f"missing but required: {{{','.join(sorted(missing))}}}"
            )
        for name, (dtype, shape) in given.items():
            if dtype != types[name]:
                raise invalid(f"input {name} must be {types[name].name}, received {dtype.name}")
            wanted = tf.TensorShape(self.signature_defs[signature].inputs[name].tensor_shape)
            if min(shape, default=0) < 0 or not wanted.is_compatible_with(shape):
                raise invalid(f"input {name} must be of shape {wanted}, received {tuple(shape)}")
            if len(shape):
                require_batch(shape[0])

    def predict(
        self,
        signature: str,
        inputs: Mapping[str, np.ndarray],
        output_filter: Sequence[str] = (),
        timeout: float = 60.0,
    ) -> dict[str, np.ndarray]:
        """Run a signature.

        Args:
            signature: its name.
            inputs: an array an input; strings as arrays of bytes objects.
            output_filter: names of the outputs that are wanted; all if empty.
            timeout: seconds to wait for other requests; what computes is not interrupted.

        Raises:
            RequestError: as `require_inputs`; an output that the signature has not, or one twice
                (INVALID_ARGUMENT), no turn came (DEADLINE_EXCEEDED), too many wait (UNAVAILABLE).
        """
        # NumPy's array of bytes objects is of dtype object, which TensorFlow calls string.
        given = {name: (tf.as_dtype(value.dtype), value.shape) for name, value in inputs.items()}
        self.require_inputs(signature, given)
        declared = self.signature_defs[signature]
        for name in output_filter:
            if name not in declared.outputs:
                raise invalid(
                    f"output tensor alias not found in signature: {name} Outputs expected to be "
                    f"in the set {{{','.join(sorted(declared.outputs))}}}."
                )
            if output_filter.count(name) > 1:
                raise invalid(f"duplicate output tensor alias: {name}")
        shapes = tuple(sorted((name, value.shape[1:]) for name, value in inputs.items()))
        if _is_batchable(declared):
            outputs = self._batcher.run((signature, shapes), inputs, timeout)
        else:
            outputs = self._compute((signature, shapes), inputs)
        return {name: outputs[name] for name in output_filter or outputs}

    def _compute(
        self, key: tuple[str, object], inputs: Mapping[str, np.ndarray]
    ) -> dict[str, np.ndarray]:
        signature, _ = key
        types = self.input_types(signature)
        tensors = {name: tf.constant(value, types[name]) for name, value in inputs.items()}
        try:
            outputs = self._loaded.signatures[signature](**tensors)
        except tf.errors.OpError as error:
            raise RequestError(_CODES.get(type(error), "INTERNAL"), error.message) from error
        return {name: value.numpy() for name, value in outputs.items()}


def _is_batchable(signature: meta_graph_pb2.SignatureDef) -> bool:
    """Return whether all inputs and outputs have a free first dimension."""
    tensors = [*signature.inputs.values(), *signature.outputs.values()]
    return all(shape_of(tensor)[:1] == [-1] for tensor in tensors)


def require_batch(count: int) -> None:
    """Refuse a batch of no photo, or of too many (INVALID_ARGUMENT)."""
    if not 1 <= count <= MAX_BATCH:
        raise invalid(
            f"a request must have 1 to {MAX_BATCH} photos, received {count}; send several"
        )


def shape_of(tensor: tensor_pb2.TensorProto | meta_graph_pb2.TensorInfo) -> list[int]:
    """Return the sizes of a tensor's dimensions, -1 for any."""
    return [dimension.size for dimension in tensor.tensor_shape.dim]


def replay(model: LoadedModel, path: str) -> None:
    """Run each warm-up request of a version but those of the Classify API.

    Raises:
        ValueError: the file is broken, or holds a request that the model refuses. TF Serving
            would not load such a version.
    """
    for signature, inputs in warmup.read(path, with_classify=False):
        try:
            model.predict(signature or DEFAULT_SIGNATURE, inputs)
        except RequestError as error:
            raise ValueError(f"the warm-up request for {signature!r} fails: {error}") from error
