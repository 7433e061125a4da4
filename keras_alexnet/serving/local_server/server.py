"""Starts the REST and the gRPC server of one model, and ends them."""

import contextlib
import functools
import sys
import threading
import time
from collections.abc import Callable, Iterator

from keras_alexnet.saved_model import versions as published_versions
from keras_alexnet.serving.local_server.settings import Settings


def serve(
    *,
    model_dir: str,
    model_name: str,
    stop: threading.Event,
    ready: Callable[[str, str | None], None],
    settings: Settings,
) -> dict[str, object]:
    """Serve the highest version in a folder until `stop` is set.

    Args:
        model_dir: folder of the model, with its versions in it.
        model_name: that requests call it by.
        stop: set from a signal or another thread.
        ready: called with the addresses, such as "http://127.0.0.1:8501" and
            "grpc://127.0.0.1:8500" (None without gRPC), once requests are answered.
        settings: see there.

    Returns:
        model, version (the last one), requests and errors (of them), seconds.

    Raises:
        ValueError: no version, a broken one, a port that is taken, or gRPC is not installed.
    """
    started = time.perf_counter()
    if not published_versions.published(model_dir):
        raise ValueError(
            f"a folder with a version of a model in it is needed, such as {model_dir}/1, but "
            f"model_dir {model_dir} has none; run keras_alexnet.export, or name another"
        )
    # Imported here because they import TensorFlow: a mistyped folder answers at once.
    from keras_alexnet.serving.local_server import http_server
    from keras_alexnet.serving.local_server.metrics import Activity

    activity = Activity()
    host = settings.host.strip("[]")
    url_host = f"[{host}]" if ":" in host else host
    with contextlib.ExitStack() as stack:
        with _port("rest_port", settings.rest_port):
            rest_server = http_server.Server(host, settings, activity)
        stack.enter_context(contextlib.closing(rest_server))
        grpc_server = grpc_address = None
        if settings.grpc_port >= 0:
            grpc_services = _import_grpc_services()
            services = grpc_services.Services(activity, settings.timeout)
            with _port("grpc_port", settings.grpc_port):
                grpc_server, port = grpc_services.start(
                    f"{url_host}:{settings.grpc_port}", services, settings.max_body_bytes
                )
            grpc_address = f"grpc://{url_host}:{port}"
        versions = _load(model_dir, model_name, settings.batch, activity)
        rest_server.versions = versions
        rest_server.start()
        if grpc_server:
            services.versions = versions
            grpc_server.start()
        ready(f"http://{url_host}:{rest_server.server_port}", grpc_address)
        versions.watch(stop, settings.poll_seconds)
        activity.drain(settings.timeout)
        if grpc_server:
            grpc_server.stop(grace=1).wait()
    return {
        "model": model_name,
        "version": versions.version,
        "requests": activity.served,
        "errors": activity.failed,
        "seconds": round(time.perf_counter() - started, 1),
    }


@contextlib.contextmanager
def _port(name: str, port: int) -> Iterator[None]:
    try:
        yield
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is in use"
        raise ValueError(
            f"{name} {port} cannot be listened at ({reason}); end what uses it, or choose "
            f"another {name} (0: any free one)"
        ) from error


def _import_grpc_services() -> object:
    try:
        from keras_alexnet.serving.local_server import grpc_services
    except ImportError as error:
        raise ValueError(
            f"grpcio and tensorflow-serving-api are needed for gRPC ({error}); "
            f"pip install 'keras-alexnet[serving]', or set grpc_port to -1"
        ) from error
    return grpc_services


def _load(model_dir: str, name: str, batch: int, activity: object) -> object:
    from keras_alexnet.serving.local_server import loaded_model
    from keras_alexnet.serving.local_server.served_versions import ServedVersions

    def load(path: str, number: int) -> loaded_model.LoadedModel:
        model = loaded_model.LoadedModel(path, name, number, batch=batch, on_batch=activity.batch)
        loaded_model.replay(model, path)
        return model

    log = functools.partial(print, file=sys.stderr, flush=True)
    versions = ServedVersions(model_dir=model_dir, name=name, load=load, log=log)
    try:
        versions.load_highest()
    except Exception as error:  # TensorFlow has many ways to say that a file is broken
        raise ValueError(
            f"the highest version in {model_dir} cannot be loaded as a SavedModel "
            f"({type(error).__name__}); export it again"
        ) from error
    activity.version(name, lambda: versions.version)
    return versions
