"""A client for TF Serving's API: classes of photos by REST or gRPC."""

import contextlib
import os
from collections.abc import Callable, Generator, Sequence

from keras_alexnet.serving.client import batches
from keras_alexnet.serving.client.batches import BatchResult, Limits
from keras_alexnet.serving.client.connection import (
    Address,
    Answer,
    Connection,
    ModelSpec,
    Retries,
    parse,
)


def classify(
    *,
    server: str,
    model: str = "alexnet",
    photos: Sequence[bytes],
    signature: str = "serving_default",
    model_version: int | None = None,
    deadline: float = 60.0,
    retries: int = 4,
    ca_file: str | None = None,
) -> list[Answer]:
    """Ask for the classes of some photos, in one request.

    Proxies that the environment names are not used.

    Args:
        server: "http://HOST:PORT", or the same with https, grpc or grpcs.
        model: its name on the server.
        photos: contents of JPEG or PNG files.
        signature: "serving_default", "ten_crop" or "classify".
        model_version: a number; None for the server's choice.
        deadline: seconds, all tries together.
        retries: how often the request is sent again if the server cannot be reached, breaks off
            the connection or is overloaded.
        ca_file: PEM file of the authorities that are trusted; None for the system's.

    Returns:
        An answer a photo.

    Raises:
        ValueError: the server cannot be reached in time, refuses, or does not answer as a model
            exported by keras_alexnet.export does.
    """
    spec = ModelSpec(model, model_version, signature)
    rule = Retries(limit=retries, deadline=deadline)
    with contextlib.closing(_connect(parse(server), spec, ca_file)) as connection:
        if not photos:
            return []
        request = connection.encode(photos)
        answers, _ = rule.run(lambda seconds: connection.ask(request, seconds))
    return answers


def classify_files(
    *,
    server: str,
    spec: ModelSpec,
    paths: Sequence[str],
    skip: Callable[[str], None],
    limits: Limits,
    retries: Retries,
    ca_file: str | None = None,
) -> Generator[BatchResult, None, None]:
    """Ask for the classes of the photos in files and folders.

    Args:
        server: "http://HOST:PORT", or the same with https, grpc or grpcs.
        spec: the model to ask.
        paths: of files and folders.
        skip: called with the path of each file in a folder that is not sent.
        limits: how much at once.
        retries: the rule for a request that failed.
        ca_file: PEM file of the authorities that are trusted; None for the system's.

    Returns:
        An iterator over what became of each batch, in the order of the photos; to be closed.

    Raises:
        ValueError: one of `paths` is not there, or the address is none; and from the iterator,
            that it is of no use to go on (batches.ask_all).
    """
    address = parse(server)
    files = batches.find(paths, skip)
    return batches.ask_all(files, lambda: _connect(address, spec, ca_file), retries, limits)


def _connect(address: Address, spec: ModelSpec, ca_file: str | None) -> Connection:
    if ca_file is not None and not address.is_tls:
        raise ValueError(
            f"certificates are for https:// and grpcs://, received {address.text}; check server, "
            f"or leave ca_file away"
        )
    try:
        spec.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of a model is text, received {spec.name!r}; check model"
        ) from error
    if not address.is_grpc:
        # Here: `--help` and gRPC do not need urllib3.
        from keras_alexnet.serving.client import rest_connection

        return rest_connection.Connection(address, spec, ca_file)
    # Read when gRPC is imported: it would write beside what the command says of a failure.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from keras_alexnet.serving.client import grpc_connection
    except ImportError as error:
        raise ValueError(
            f"grpcio is needed for {address.text} ({error}); "
            f"pip install 'keras-alexnet[serving]', or ask by http://"
        ) from error
    return grpc_connection.Connection(address, spec, ca_file)
