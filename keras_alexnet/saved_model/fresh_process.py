"""Run an exported model where this project does not exist, by both of TensorFlow's loaders.

    python -P fresh_process.py VERSION REQUESTS.npz ANSWERS.npz

TF Serving has the loader of TensorFlow 1 and none of our layers. A model that needs a registered
layer, or an object that only Keras restores, works in the process that wrote it and fails there.
So this module, run as a script, forbids the import of the project, and imports none of it.
"""

import importlib.abc
import os
import subprocess
import sys
import tempfile
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

import numpy as np
import tensorflow as tf
from tensorflow.core.framework import tensor_pb2

_LONGEST_MESSAGE = 500  # characters; TensorFlow's can be pages
_PROJECT = ("keras_alexnet", "data_prep")

Values = dict[str, np.ndarray]


class Request(NamedTuple):
    """A call of a signature: its name, and an array an input, strings as bytes objects."""

    signature: str
    inputs: Mapping[str, np.ndarray]


def by_saved_model(path: str, requests: Sequence[Request]) -> list[Values]:
    """Return the outputs of a SavedModel, loaded by tf.saved_model.load."""
    signatures = tf.saved_model.load(path).signatures
    answers = []
    for signature, inputs in requests:
        outputs = signatures[signature](**{name: tf.constant(v) for name, v in inputs.items()})
        answers.append({name: output.numpy() for name, output in outputs.items()})
    return answers


def by_session(path: str, requests: Sequence[Request]) -> list[Values]:
    """Return the outputs of a SavedModel, loaded into a session as TF Serving does."""
    with tf.compat.v1.Session(graph=tf.Graph()) as session:
        tags = [tf.saved_model.SERVING]
        graph = tf.compat.v1.saved_model.loader.load(session, tags, path)
        answers = []
        for name, inputs in requests:
            signature = graph.signature_def[name]
            fetched = {output: info.name for output, info in signature.outputs.items()}
            fed = {signature.inputs[key].name: value for key, value in inputs.items()}
            answers.append(session.run(fetched, fed))
        return answers


LOADERS: Mapping[str, Callable[[str, Sequence[Request]], list[Values]]] = {
    "tf.saved_model.load": by_saved_model,
    "tf.compat.v1.saved_model.loader": by_session,
}


def answers_of(path: str, requests: Sequence[Request]) -> dict[str, list[Values]]:
    """Run requests of a SavedModel in a process of its own, on the CPU.

    Returns:
        By the loader's name: the outputs of each request.

    Raises:
        ValueError: a loader refuses the model, or a request fails.
    """
    with tempfile.TemporaryDirectory() as aside:
        files = [os.path.join(aside, name) for name in ("requests.npz", "answers.npz")]
        _write(files[0], [(request.signature, request.inputs) for request in requests])
        process = subprocess.run(
            # -P: nothing is imported from the folder of this file, which is the project's.
            [sys.executable, "-P", os.path.abspath(__file__), os.path.abspath(path), *files],
            # The accelerator may be this process', all of its memory.
            env={**os.environ, "CUDA_VISIBLE_DEVICES": "-1", "TF_CPP_MIN_LOG_LEVEL": "3"},
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.PIPE,
            text=True,
            errors="replace",
            check=False,
        )
        if process.returncode:
            last = (process.stderr.strip().splitlines() or ["no message"])[-1]
            raise ValueError(
                f"{path} must load and run by TensorFlow alone, but {last} (exit status "
                f"{process.returncode}); export again"
            )
        answers: dict[str, list[Values]] = {}
        for loader, outputs in _read(files[1]):
            answers.setdefault(loader, []).append(outputs)
        return answers


def _write(path: str, groups: Sequence[tuple[str, Mapping[str, np.ndarray]]]) -> None:
    """Save named groups of arrays, in their order, as TensorProtos: NumPy pickles strings."""
    protos = {
        f"{number}/{group}/{name}": tf.make_tensor_proto(value).SerializeToString()
        for number, (group, values) in enumerate(groups)
        for name, value in values.items()
    }
    np.savez(path, **{key: np.frombuffer(proto, np.uint8) for key, proto in protos.items()})


def _read(path: str) -> list[tuple[str, Values]]:
    """Return what `_write` saved."""
    groups: dict[tuple[str, str], Values] = {}
    with np.load(path, allow_pickle=False) as arrays:
        for key, array in arrays.items():
            number, group, name = key.split("/")
            value = tf.make_ndarray(tensor_pb2.TensorProto.FromString(array.tobytes()))
            groups.setdefault((number, group), {})[name] = value
    return [(group, values) for (_, group), values in groups.items()]


class _ForbiddenFinder(importlib.abc.MetaPathFinder):
    """Stands before all others and finds this project nowhere, however it is installed."""

    def find_spec(self, name: str, path: object, target: object = None) -> None:
        """Refuse the project's packages and leave others to the next finder."""
        if name.partition(".")[0] in _PROJECT:
            raise ModuleNotFoundError(f"{name} must not be needed to load an exported model")


def forbid_project() -> None:
    """Make this project impossible to import, from here on, in this process."""
    sys.meta_path.insert(0, _ForbiddenFinder())


def _main(version: str, requests_file: str, answers_file: str) -> None:
    forbid_project()
    requests = [Request(*named) for named in _read(requests_file)]
    answers = []
    for loader, run in LOADERS.items():
        try:
            answers += [(loader, outputs) for outputs in run(version, requests)]
        except Exception as error:  # TensorFlow has many ways to say that a file is broken
            text = " ".join(f"{loader}: {type(error).__name__}: {error}".split())
            sys.exit(text[:_LONGEST_MESSAGE])
    _write(answers_file, answers)


if __name__ == "__main__":
    _main(*sys.argv[1:])
