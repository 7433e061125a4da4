"""Starts the REST and the gRPC server of one model, and ends them."""

import contextlib
import dataclasses
import os
import sys
import threading
import time
from collections.abc import Callable, Iterator

from keras_alexnet.saved_model import versions as published_versions


@dataclasses.dataclass(frozen=True)
class Settings:
    """Settings of a server.

    Attributes:
        host: address to listen at; IPv6 with or without [ ], [::] for all of IPv6 and IPv4.
        rest_port: 0 for any that is free.
        grpc_port: 0 for any that is free, -1 for none.
        max_body_bytes: a larger request is refused.
        timeout: seconds in which a request has to arrive, and that it waits for others.
        batch: photos of several requests that are computed together.
        poll_seconds: between looks for a new version.
    """

    host: str = "127.0.0.1"
    rest_port: int = 0
    grpc_port: int = 0
    max_body_bytes: int = 64 << 20
    timeout: float = 60.0
    batch: int = 32
    poll_seconds: float = 1.0


def serve(
    *,
    model_dir: str,
    stop: threading.Event,
    ready: Callable[[str, str | None], None],
    model_name: str | None = None,
    settings: Settings = Settings(),
) -> dict[str, object]:
    """Serve the highest version in a folder until `stop` is set.

    Args:
        model_dir: folder of the model, with its versions in it.
        stop: set from a signal or another thread.
        ready: called with the addresses, such as "http://127.0.0.1:8501" and
            "grpc://127.0.0.1:8500" (None without gRPC), once requests are answered.
        model_name: that requests call it by; None for the name of the folder.
        settings: see there.

    Returns:
        model, version (the last one), requests and errors (of them), seconds.

    Raises:
        ValueError: no version, a broken one, a port that is taken, or gRPC is not installed.
    """
    started = time.perf_counter()
    _require_version(model_dir)
    name = model_name or os.path.basename(os.path.abspath(model_dir))
    # Imported here because they import TensorFlow: a mistyped folder answers at once.
    from keras_alexnet.serving.local_server import http_server
    from keras_alexnet.serving.local_server.metrics import ServerMetrics
    from keras_alexnet.serving.local_server.served_versions import Activity

    metrics = ServerMetrics()
    activity = Activity(metrics)
    host = settings.host.strip("[]")
    url_host = f"[{host}]" if ":" in host else host
    limits = http_server.Limits(body_bytes=settings.max_body_bytes, seconds=settings.timeout)
    with contextlib.ExitStack() as stack:
        with _port("rest_port", settings.rest_port):
            rest_server = http_server.Server(
                host, settings.rest_port, activity=activity, metrics=metrics, limits=limits
            )
        stack.enter_context(contextlib.closing(rest_server))
        grpc_server = grpc_address = None
        if settings.grpc_port >= 0:
            grpc_services = _import_grpc_services()
            services = grpc_services.Services(activity=activity, timeout=settings.timeout)
            with _port("grpc_port", settings.grpc_port):
                grpc_server, port = grpc_services.start(
                    url_host, settings.grpc_port, services, limits.body_bytes
                )
            grpc_address = f"grpc://{url_host}:{port}"
        versions = _load(model_dir, name, settings.batch, metrics)
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
        "model": name,
        "version": versions.version,
        "requests": activity.served,
        "errors": activity.failed,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _require_version(model_dir: str) -> None:
    if not published_versions.published(model_dir):
        raise ValueError(
            f"a folder with a version of a model in it is needed, such as {model_dir}/1, but "
            f"model_dir {model_dir} has none; run keras_alexnet.export, or name another"
        )


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


def _load(model_dir: str, name: str, batch: int, metrics: object) -> object:
    from keras_alexnet.serving.local_server import batching, loaded_model
    from keras_alexnet.serving.local_server.served_versions import ServedVersions

    limits = batching.Limits(batch_rows=batch)

    def load(path: str, number: int) -> loaded_model.LoadedModel:
        model = loaded_model.LoadedModel(
            path=path, name=name, version=number, limits=limits, tell_batch=metrics.batch
        )
        loaded_model.replay(model, path)
        return model

    def tell(line: str) -> None:
        print(line, file=sys.stderr, flush=True)

    versions = ServedVersions(model_dir=model_dir, name=name, load=load, tell=tell)
    try:
        versions.load_highest()
    except Exception as error:  # TensorFlow has many ways to say that a file is broken
        raise ValueError(
            f"the highest version in {model_dir} cannot be loaded as a SavedModel "
            f"({type(error).__name__}); export it again"
        ) from error
    metrics.version(name, lambda: versions.version)
    return versions
