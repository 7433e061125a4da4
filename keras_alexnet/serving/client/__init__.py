"""A client for TF Serving's API: classes of photos by REST or gRPC."""

import contextlib
import os
from collections.abc import Sequence

from keras_alexnet.serving.client.connection import Answer, Connection, ModelSpec, Retries, parse


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
    with contextlib.closing(connect(server, spec, ca_file)) as connection:
        if not photos:
            return []
        answers, _ = connection.ask(photos, Retries(limit=retries, deadline=deadline))
    return answers


def connect(server: str, spec: ModelSpec, ca_file: str | None) -> Connection:
    """Return a connection to a server; nothing is sent. The arguments are those of `classify`."""
    address = parse(server)
    if ca_file is not None and not address.scheme.endswith("s"):
        raise ValueError(
            f"certificates are for https:// and grpcs://, received {server}; check server, "
            f"or leave ca_file away"
        )
    try:
        spec.name.encode()
    except UnicodeEncodeError as error:
        raise ValueError(
            f"the name of a model is text, received {spec.name!r}; check model"
        ) from error
    if address.scheme.startswith("http"):
        # Here: `--help` and gRPC do not need urllib3.
        from keras_alexnet.serving.client import rest_connection

        return rest_connection.Connection(address, spec, ca_file)
    # Read when gRPC is imported: it would write beside what the command says of a failure.
    os.environ.setdefault("GRPC_VERBOSITY", "NONE")
    try:
        from keras_alexnet.serving.client import grpc_connection
    except ImportError as error:
        raise ValueError(
            f"grpcio is needed for {server} ({error}); "
            f"pip install 'keras-alexnet[serving]', or ask by http://"
        ) from error
    return grpc_connection.Connection(address, spec, ca_file)
