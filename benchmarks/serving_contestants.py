"""The contestants of `serving_speed`: each classifies photos, in a process of its own.

Started as `python -m benchmarks.serving_contestants NAME FOLDER --seconds=10 --clients=16`, it
prints one line of JSON: the milliseconds of photos sent one after another (p50_ms, p99_ms), and
photos_per_second when all clients ask at once.

FOLDER holds `photos` and `alexnet`, an exported model. The server is a process beside this one;
both run on the same two cores. The clients stand for other machines: what they send is encoded
beforehand, and of an answer they look at the status alone.
"""

import base64
import concurrent.futures
import contextlib
import dataclasses
import http.client
import itertools
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
from absl import flags

from data_prep import command_line
from data_prep.command_line import UserError

FLAGS = flags.FlagValues()
SECONDS = flags.DEFINE_float("seconds", 10.0, "how long each part is timed", flag_values=FLAGS)
CLIENTS = flags.DEFINE_integer("clients", 16, "that ask at once", 1, flag_values=FLAGS)

PHOTOS, MODEL = "photos", "alexnet"
_SIGNATURE = "serving_default"
_WARM_UP = 8
_ROOT = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))

# Asks for the classes of the photos of a request; made once a client.
Ask = Callable[[object], None]


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to have photos classified.

    Attributes:
        asking: (contestant, folder) -> a context with a function that makes an `Ask`.
        request: photos -> what an `Ask` takes.
        protocol: of the server, "" without one.
        server_flags: of keras_alexnet.serving.local_server.
        photos: of each call when all ask at once.
        one_caller: one thread calls then, instead of one a client.
    """

    asking: Callable[["Contestant", str], contextlib.AbstractContextManager[Callable[[], Ask]]]
    request: Callable[[Sequence[bytes]], object]
    protocol: str = ""
    server_flags: Sequence[str] = ()
    photos: int = 1
    one_caller: bool = False


@contextlib.contextmanager
def _in_process(contestant: Contestant, folder: str) -> Iterator[Callable[[], Ask]]:
    """Call the loaded model."""
    del contestant
    import tensorflow as tf

    loaded = tf.saved_model.load(os.path.join(folder, MODEL, "1"))
    signature = loaded.signatures[_SIGNATURE]

    def ask(photos: Sequence[bytes]) -> None:
        for output in signature(image_bytes=tf.constant(photos)).values():
            output.numpy()

    yield lambda: ask


@contextlib.contextmanager
def _over_the_net(contestant: Contestant, folder: str) -> Iterator[Callable[[], Ask]]:
    """Ask the local server, on a connection a client."""
    command = [sys.executable, "-m", "keras_alexnet.serving.local_server"]
    ports = ["--rest_port=0", "--grpc_port=0", f"--model_dir={os.path.join(folder, MODEL)}"]
    process = subprocess.Popen(
        [*command, *ports, *contestant.server_flags],
        cwd=_ROOT,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.PIPE,
        text=True,
    )
    try:
        for line in process.stderr:
            if line.startswith("ready: "):
                break
        else:
            raise UserError("the server ended before it was ready")
        addresses = [word for word in line.split() if "://" in word]
        address = next(word for word in addresses if word.startswith(contestant.protocol))
        yield lambda: _ASK[contestant.protocol](address.split("://")[1])
    finally:
        process.send_signal(signal.SIGTERM)
        process.wait()


def _rest_request(photos: Sequence[bytes]) -> bytes:
    rows = [{"b64": base64.b64encode(photo).decode()} for photo in photos]
    return json.dumps({"signature_name": _SIGNATURE, "inputs": {"image_bytes": rows}}).encode()


def _ask_rest(address: str) -> Ask:
    connection = http.client.HTTPConnection(address)

    def ask(request: bytes) -> None:
        connection.request("POST", f"/v1/models/{MODEL}:predict", request)
        response = connection.getresponse()
        answer = response.read()
        if response.status != http.client.OK:
            raise UserError(f"the server answers {response.status}: {answer}")

    return ask


def _grpc_request(photos: Sequence[bytes]) -> bytes:
    import tensorflow as tf
    from tensorflow_serving.apis import predict_pb2

    request = predict_pb2.PredictRequest()
    request.model_spec.name = MODEL
    request.inputs["image_bytes"].CopyFrom(tf.make_tensor_proto(list(photos)))
    return request.SerializeToString()


def _ask_grpc(address: str) -> Ask:
    import grpc

    # A connection a client, as over REST: otherwise all would share one.
    options = [("grpc.use_local_subchannel_pool", 1)]
    channel = grpc.insecure_channel(address, options=options)
    predict = channel.unary_unary("/tensorflow.serving.PredictionService/Predict")

    def ask(request: bytes) -> None:
        predict(request)

    return ask


_ASK = {"http": _ask_rest, "grpc": _ask_grpc}

CONTESTANTS: Mapping[str, Contestant] = {
    "in_process": Contestant(_in_process, list),
    "in_process_16": Contestant(_in_process, list, photos=16, one_caller=True),
    "rest": Contestant(_over_the_net, _rest_request, "http"),
    "grpc": Contestant(_over_the_net, _grpc_request, "grpc"),
    "rest_alone": Contestant(_over_the_net, _rest_request, "http", ("--batch=1",)),
}


def _one_after_another(ask: Ask, requests: Sequence[object], seconds: float) -> list[float]:
    """Return the milliseconds of each call that begins within some seconds."""
    milliseconds = []
    end = time.perf_counter() + seconds
    for request in itertools.cycle(requests):
        started = time.perf_counter()
        if started >= end:
            return milliseconds
        ask(request)
        milliseconds.append(1000 * (time.perf_counter() - started))
    raise AssertionError("unreachable: the requests have no end")


def _at_once(asks: Sequence[Ask], requests: Sequence[object], seconds: float) -> float:
    """Return the requests a second of callers that each go on as long as the time lasts."""
    end = time.perf_counter() + seconds

    def caller(ask: Ask, first: int) -> int:
        done = 0
        while time.perf_counter() < end:
            ask(requests[(first + done) % len(requests)])
            done += 1
        return done

    started = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(len(asks)) as pool:
        # Each from another place, so that not all send the largest photo at once.
        firsts = [number * len(requests) // len(asks) for number in range(len(asks))]
        done = sum(pool.map(caller, asks, firsts))
    return done / (time.perf_counter() - started)


def _read(folder: str) -> list[bytes]:
    photos = []
    for parent, _, names in sorted(os.walk(folder)):
        for name in sorted(names):
            with open(os.path.join(parent, name), "rb") as file:
                photos.append(file.read())
    return photos


def main(arguments: list[str]) -> dict[str, object]:
    """Run the contestant that the command line names."""
    name, folder = arguments
    contestant = CONTESTANTS[name]
    photos = _read(os.path.join(folder, PHOTOS))
    count = contestant.photos
    single = [contestant.request([photo]) for photo in photos]
    several = [
        contestant.request((photos[i:] + photos)[:count]) for i in range(0, len(photos), count)
    ]
    with contestant.asking(contestant, folder) as make_ask:
        asks = [make_ask() for _ in range(1 if contestant.one_caller else CLIENTS.value)]
        _one_after_another(asks[0], single[:_WARM_UP], 1.0)
        milliseconds = _one_after_another(asks[0], single, SECONDS.value)
        _at_once(asks, several, 1.0)
        rate = count * _at_once(asks, several, SECONDS.value)
    return {
        "p50_ms": float(np.percentile(milliseconds, 50)),
        "p99_ms": float(np.percentile(milliseconds, 99)),
        "calls": len(milliseconds),
        "photos_per_second": rate,
    }


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__, takes_arguments=True)
