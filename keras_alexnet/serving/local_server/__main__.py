"""Serves an exported model on this machine, with the interfaces of TF Serving.

    python -m keras_alexnet.serving.local_server --model_dir=MODELS/alexnet

For a laptop, without Docker: one model, its highest version; a new version takes over while
requests go on. Open http://localhost:8501 in a browser, or ask it with
keras_alexnet.serving.client, or with any client of TF Serving. Metrics for Prometheus are at
/monitoring/prometheus/metrics. Ends on Ctrl-C or SIGTERM when what it is at is answered.
"""

import dataclasses
import os
import signal
import sys
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TypeVar

from absl import flags

from data_prep import command_line
from data_prep.command_line import UserError
from keras_alexnet.serving import versions as published_versions

Bound = TypeVar("Bound")

FLAGS = flags.FlagValues()
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "the --export_dir of keras_alexnet.export", required=True, flag_values=FLAGS
)
_MODEL_NAME = flags.DEFINE_string(
    "model_name", None, "default: the folder's name", flag_values=FLAGS
)
_HOST = flags.DEFINE_string(
    "host", "127.0.0.1", "address to listen at; 0.0.0.0: everyone may ask", flag_values=FLAGS
)
_REST_PORT = flags.DEFINE_integer(
    "rest_port", 8501, "of the REST API; 0: any free one", 0, 65535, flag_values=FLAGS
)
_GRPC_PORT = flags.DEFINE_integer(
    "grpc_port", 8500, "of gRPC; 0: any free one; -1: none", -1, 65535, flag_values=FLAGS
)
_MAX_BODY_MB = flags.DEFINE_integer(
    "max_body_mb", 64, "largest request, megabytes", 1, 512, flag_values=FLAGS
)
_TIMEOUT = flags.DEFINE_float(
    "timeout",
    60,
    "seconds in which a request has to arrive, and that it waits for others",
    0.1,
    flag_values=FLAGS,
)
_BATCH = flags.DEFINE_integer(
    "batch",
    32,
    "photos of several requests that are computed together; 1: each request alone",
    1,
    256,
    flag_values=FLAGS,
)
_POLL_SECONDS = flags.DEFINE_float(
    "poll_seconds", 1, "between looks for a new version", 0.01, flag_values=FLAGS
)


@dataclasses.dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: address to listen at.
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
    """Serves the highest version in a folder until `stop` is set.

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
        UserError: no version, a broken one, a port that is taken, or gRPC is not installed.
    """
    started = time.perf_counter()
    _require_version(model_dir)
    name = model_name or os.path.basename(os.path.abspath(model_dir))
    # Not earlier: they import TensorFlow, and a mistyped folder should not take seconds to tell.
    from keras_alexnet.serving import rest_server as rest
    from keras_alexnet.serving.activity import Activity
    from keras_alexnet.serving.server_metrics import ServerMetrics

    metrics = ServerMetrics()
    activity = Activity(metrics)
    host = settings.host
    limits = rest.Limits(body_bytes=settings.max_body_bytes, seconds=settings.timeout)
    rest_server = _bind(
        "rest_port",
        host,
        settings.rest_port,
        lambda: rest.Server(
            host, settings.rest_port, activity=activity, metrics=metrics, limits=limits
        ),
    )
    with rest_server:
        grpc_server = None
        grpc_address = None
        if settings.grpc_port >= 0:
            grpc_api = _import_grpc_api()
            services = grpc_api.Services(activity=activity, timeout=settings.timeout)
            grpc_server, bound = _bind(
                "grpc_port",
                host,
                settings.grpc_port,
                lambda: grpc_api.start(host, settings.grpc_port, services, limits.body_bytes),
            )
            grpc_address = f"grpc://{host}:{bound}"
        versions = _load(model_dir, name, settings.batch, metrics)
        rest_server.versions = versions
        threading.Thread(target=rest_server.serve_forever, daemon=True).start()
        if grpc_server:
            services.versions = versions
            grpc_server.start()
        ready(f"http://{host}:{rest_server.server_port}", grpc_address)
        versions.watch(stop, settings.poll_seconds)
        rest_server.shutdown()
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
        raise UserError(
            f"a folder with a version of a model in it is needed, such as {model_dir}/1, but "
            f"{model_dir} has none; run keras_alexnet.export, or check --model_dir"
        )


def _bind(flag: str, host: str, port: int, make: Callable[[], Bound]) -> Bound:
    try:
        return make()
    except (OSError, RuntimeError) as error:
        reason = getattr(error, "strerror", None) or "it is in use"
        raise UserError(
            f"{host}:{port} cannot be listened at ({reason}); end what uses it, or choose "
            f"another --{flag} (0: any free one)"
        ) from error


def _import_grpc_api() -> object:
    try:
        from keras_alexnet.serving import grpc_api
    except ImportError as error:
        raise UserError(
            f"grpcio and tensorflow-serving-api are needed for gRPC ({error}); "
            f"pip install 'keras-alexnet[serving]', or --grpc_port=-1"
        ) from error
    return grpc_api


def _load(model_dir: str, name: str, batch: int, metrics: object) -> object:
    from keras_alexnet.serving import batching, warmup_replay
    from keras_alexnet.serving.loaded_model import LoadedModel
    from keras_alexnet.serving.served_versions import ServedVersions

    limits = batching.Limits(batch_rows=batch)

    def load(path: str, number: int) -> LoadedModel:
        model = LoadedModel(
            path=path, name=name, version=number, limits=limits, tell_batch=metrics.batch
        )
        warmup_replay.replay(model, path)
        return model

    versions = ServedVersions(model_dir=model_dir, name=name, load=load, tell=_tell)
    try:
        versions.load_highest()
    except Exception as error:  # TensorFlow has many ways to say that a file is broken
        raise UserError(
            f"the highest version in {model_dir} cannot be loaded as a SavedModel "
            f"({type(error).__name__}); export it again"
        ) from error
    metrics.version(name, lambda: versions.version)
    return versions


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


def _notice(model_dir: str, name: str) -> str:
    return (
        f"This is a server for a laptop. For production, use TF Serving on the same folder:\n"
        f"  docker run -p 8501:8501 -p 8500:8500 -v {os.path.abspath(model_dir)}:/models/{name} "
        f"-e MODEL_NAME={name} tensorflow/serving"
    )


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and serves until a signal comes."""
    del arguments
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        del frame
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    name = _MODEL_NAME.value or os.path.basename(os.path.abspath(_MODEL_DIR.value))

    def ready(rest: str, grpc: str | None) -> None:
        addresses = " and ".join(filter(None, (rest, grpc)))
        print(f"ready: model {name} at {addresses}", file=sys.stderr, flush=True)

    print(_notice(_MODEL_DIR.value, name), file=sys.stderr, flush=True)
    return serve(
        model_dir=_MODEL_DIR.value,
        stop=stop,
        ready=ready,
        model_name=name,
        settings=Settings(
            host=_HOST.value,
            rest_port=_REST_PORT.value,
            grpc_port=_GRPC_PORT.value,
            max_body_bytes=_MAX_BODY_MB.value << 20,
            timeout=_TIMEOUT.value,
            batch=_BATCH.value,
            poll_seconds=_POLL_SECONDS.value,
        ),
    )


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
