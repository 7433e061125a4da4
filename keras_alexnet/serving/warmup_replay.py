"""Sends a version the warm-up requests that came with it, as TF Serving does when it loads one.

A graph is optimised when it is first run, which takes seconds: better before users come.
"""

from keras_alexnet.serving import warmup
from keras_alexnet.serving.errors import RequestError
from keras_alexnet.serving.loaded_model import DEFAULT_SIGNATURE, LoadedModel


def replay(model: LoadedModel, path: str) -> None:
    """Runs each warm-up request of a version.

    Args:
        model: the version.
        path: its folder.

    Raises:
        ValueError: the file is broken, or holds a request that the model refuses. TF Serving
            would not load such a version.
    """
    for signature, inputs in warmup.read(path):
        try:
            model.predict(signature or DEFAULT_SIGNATURE, inputs)
        except RequestError as error:
            raise ValueError(
                f"the warm-up request for {signature!r} fails: {error.message}"
            ) from error
