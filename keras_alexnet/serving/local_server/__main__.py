"""Serve an exported model on this machine, with the Predict API of TF Serving.

    python -m keras_alexnet.serving.local_server --model_dir=MODELS/alexnet

For a laptop, without Docker: one model, its highest version; a new version takes over while
requests go on. Open http://localhost:8501 in a browser, or ask it with
keras_alexnet.serving.client, or with any client of TF Serving. Metrics for Prometheus are at
/monitoring/prometheus/metrics. Ends on Ctrl-C or SIGTERM when what it is at is answered.
"""

import os
import signal
import sys
import threading
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.serving.local_server.server import serve
from keras_alexnet.serving.local_server.settings import Settings

FLAGS = flags.FlagValues()
_MODEL_DIR = flags.DEFINE_string(
    "model_dir", None, "the --export_dir of keras_alexnet.export", required=True, flag_values=FLAGS
)
_MODEL_NAME = flags.DEFINE_string(
    "model_name",
    None,
    "name that requests call the model by (default: the folder's name)",
    flag_values=FLAGS,
)
_HOST = flags.DEFINE_string(
    "host",
    "127.0.0.1",
    "address to listen at; 0.0.0.0 or [::]: everyone may ask",
    flag_values=FLAGS,
)
_REST_PORT = flags.DEFINE_integer(
    "rest_port", 8501, "port of the REST API; 0: any free one", 0, 65535, flag_values=FLAGS
)
_GRPC_PORT = flags.DEFINE_integer(
    "grpc_port", 8500, "port of gRPC; 0: any free one; -1: none", -1, 65535, flag_values=FLAGS
)
_MAX_BODY_MB = flags.DEFINE_integer(
    "max_body_mb", 64, "largest request, unpacked, in megabytes", 1, 512, flag_values=FLAGS
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
    "largest number of photos of several requests that are computed together; 1: each alone",
    1,
    256,
    flag_values=FLAGS,
)
_POLL_SECONDS = flags.DEFINE_float(
    "poll_seconds", 1, "seconds between looks for a new version", 0.01, flag_values=FLAGS
)


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Serve until a signal comes."""
    del arguments
    stop = threading.Event()

    def end(number: int, frame: object) -> None:
        del frame
        stop.set()
        signal.signal(number, signal.SIG_DFL)  # a second one ends at once

    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, end)
    folder = os.path.abspath(_MODEL_DIR.value)
    name = _MODEL_NAME.value or os.path.basename(folder)

    def ready(rest: str, grpc: str | None) -> None:
        addresses = " and ".join(filter(None, (rest, grpc)))
        print(f"ready: model {name} at {addresses}", file=sys.stderr, flush=True)

    print(
        f"This is a server for a laptop. For production, use TF Serving on the same folder:\n"
        f"  docker run -p 8501:8501 -p 8500:8500 -v {folder}:/models/{name} "
        f"-e MODEL_NAME={name} tensorflow/serving",
        file=sys.stderr,
        flush=True,
    )
    return serve(
        model_dir=_MODEL_DIR.value,
        model_name=name,
        stop=stop,
        ready=ready,
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
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
