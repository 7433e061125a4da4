"""Asks a server for the classes of photos: TF Serving, or keras_alexnet.serving.local_server.

    python -m keras_alexnet.serving.client --server=http://localhost:8501 a.jpg b.png

--server=grpc://localhost:8500 asks by gRPC (needs the extra `serving`). Prints a table of the
best classes of each photo. If one of them is no photo that the server can read, the others are
answered all the same, and the exit status is 1.
"""

import dataclasses
import json
import os
import time
import urllib.parse
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from data_prep.command_line import UserError
from keras_alexnet.serving import client_grpc, client_rest

FLAGS = flags.FlagValues()
_SERVER = flags.DEFINE_string(
    "server",
    "http://localhost:8501",
    "http://HOST:PORT, https://HOST:PORT or grpc://HOST:PORT",
    flag_values=FLAGS,
)
_MODEL = flags.DEFINE_string("model", "alexnet", "name of the model", flag_values=FLAGS)
_SIGNATURE = flags.DEFINE_enum(
    "signature",
    "serving_default",
    ["serving_default", "ten_crop"],
    "ten_crop looks at ten views of a photo: slower, better",
    flag_values=FLAGS,
)
_TIMEOUT = flags.DEFINE_float("timeout", 60, "seconds a request", 0.01, flag_values=FLAGS)

# By the scheme of --server: (server, model, signature, photos, timeout) -> columns by name.
_ASK = {"http": client_rest.predict, "https": client_rest.predict, "grpc": client_grpc.predict}


@dataclasses.dataclass(frozen=True)
class Answer:
    """What the server says of a photo.

    Attributes:
        valid: whether it could read it; if not, the rest is empty.
        classes: names, the best first.
        class_ids: their indices.
        scores: theirs, 0 to 1.
    """

    valid: bool
    classes: tuple[str, ...]
    class_ids: tuple[int, ...]
    scores: tuple[float, ...]


def classify(
    *,
    server: str,
    model: str = "alexnet",
    photos: Sequence[bytes],
    signature: str = "serving_default",
    timeout: float = 60.0,
) -> list[Answer]:
    """Asks for the classes of some photos, in one request.

    Proxies that the environment names are not used.

    Args:
        server: "http://HOST:PORT", "https://HOST:PORT" or "grpc://HOST:PORT".
        model: its name on the server.
        photos: contents of JPEG or PNG files.
        signature: "serving_default" or "ten_crop".
        timeout: seconds.

    Returns:
        An answer a photo.

    Raises:
        UserError: the server cannot be reached in time, refuses, or does not answer as a model
            exported by keras_alexnet.export does.
    """
    address = urllib.parse.urlsplit(server)
    try:
        is_address = address.scheme in _ASK and bool(address.hostname) and not address.query
        is_address = is_address and address.path in ("", "/") and (address.port or 1) > 0
    except ValueError:  # a port that is no number
        is_address = False
    if not is_address:
        raise UserError(
            f"a server is http://HOST:PORT, https://HOST:PORT or grpc://HOST:PORT, received "
            f"{server!r}; check --server"
        )
    if not photos:
        return []
    ask = _ASK[address.scheme]
    columns = ask(server, model, signature, photos, timeout)
    try:
        answers = [
            Answer(
                valid=bool(valid),
                classes=tuple(str(name) for name in names) if valid else (),
                class_ids=tuple(int(index) for index in ids) if valid else (),
                scores=tuple(float(score) for score in scores) if valid else (),
            )
            for names, ids, scores, valid in zip(
                *(columns[name] for name in ("classes", "class_ids", "scores", "valid")),
                strict=True,
            )
        ]
        if len(answers) != len(photos):
            raise ValueError(f"{len(answers)} answers to {len(photos)} photos")
    except (KeyError, TypeError, ValueError) as error:
        raise UserError(
            f"{server} serves {model!r}, but does not answer as a model that keras_alexnet.export "
            f"wrote ({error!r}); check --model"
        ) from error
    return answers


def read_photos(paths: Sequence[str]) -> list[bytes]:
    """The contents of files.

    Raises:
        UserError: one cannot be read.
    """
    photos = []
    for path in paths:
        try:
            with open(path, "rb") as file:
                photos.append(file.read())
        except (OSError, ValueError) as error:  # ValueError: a zero byte in the path
            reason = getattr(error, "strerror", None) or str(error)
            raise UserError(
                f"{path!r} cannot be read ({reason}); nothing was sent; check the path"
            ) from error
    return photos


def _print_answer(path: str, answer: Answer, seconds: float, width: int) -> None:
    """A line a class; the photo and the time stand in the first one."""
    rows = list(zip(answer.classes, answer.scores, strict=True))
    if not answer.valid:
        rows = [("no photo that the server can read", None)]
    for number, (name, score) in enumerate(rows):
        first = path if number == 0 else ""
        points = "" if score is None else f"{score:7.2%}"
        spent = f"{seconds * 1000:6.0f} ms" if number == 0 else ""
        print(f"{first:{width}}  {points:7}  {spent:9}  {name}".rstrip())


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and the photos, asks, prints."""
    if not arguments:
        raise UserError("at least one photo is needed, none was named; name its file")
    photos = read_photos(arguments)
    width = max(len("photo"), *map(len, arguments))
    started = time.perf_counter()
    entries = []
    for path, photo in zip(arguments, photos, strict=True):
        sent = time.perf_counter()
        # One at a time: each has its own time, and the first is seen before the last is done.
        (answer,) = classify(
            server=_SERVER.value,
            model=_MODEL.value,
            photos=[photo],
            signature=_SIGNATURE.value,
            timeout=_TIMEOUT.value,
        )
        seconds = time.perf_counter() - sent
        if not entries:
            print(f"{'photo':{width}}  {'score':>7}  {'time':>9}  class")
        _print_answer(path, answer, seconds, width)
        entries.append({"photo": path, **dataclasses.asdict(answer), "seconds": round(seconds, 4)})
    invalid = [entry["photo"] for entry in entries if not entry["valid"]]
    result = {
        "images": len(entries),
        "invalid": len(invalid),
        "seconds": round(time.perf_counter() - started, 3),
        "photos": entries,
    }
    if invalid:
        print(json.dumps(result), flush=True)
        raise UserError(
            f"{len(invalid)} of {len(entries)} is no JPEG or PNG that the server can read: "
            f"{', '.join(map(os.fspath, invalid))}"
        )
    return result


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__, takes_arguments=True)


if __name__ == "__main__":
    run()
