"""Ask a server for the classes of photos: TF Serving, or keras_alexnet.serving.local_server.

    python -m keras_alexnet.serving.client --server=http://localhost:8501 a.jpg FOLDER
    python -m keras_alexnet.serving.client --server=grpc://localhost:8500 --json FOLDER > OUT.jsonl

http and https ask by REST, grpc and grpcs by gRPC (needs the extra `serving`); https and grpcs
check the server's certificate. A folder is walked by name with all that is in it, except hidden
files and files whose names do not end as those of JPEG and PNG files do. Photos are sent
--batch_size in a request, --parallel requests at a time, and read when their turn comes.

Prints a table of the best classes of each photo and the time of its request, or with --json a
line of JSON a photo: photo, valid, classes, class_ids, scores, error, seconds. The last line on
stdout sums up: images (answered), invalid (of them: no photo that the server can read), failed
(not answered), skipped (passed over in folders), retries, seconds, images_per_second; and, if
there are at most 100 and --json does not list them, photos.

What is wrong with one photo, be it unreadable, broken or too large, holds up no other: it is named,
and the exit status is 1. A path that is not there ends the command before anything is sent. What
a server may do better a moment later (it restarts, is overloaded, hangs up) is tried again,
--retries times within --deadline. If the first request fails for good, or three in a row do, the
command ends. The exit status is 0 if every photo was answered.
"""

import contextlib
import json
import os
import sys
from collections.abc import Generator, Mapping, Sequence

from absl import flags

from data_prep import command_line
from data_prep.command_line import UserError
from keras_alexnet.serving import client
from keras_alexnet.serving.client import batches, output
from keras_alexnet.serving.client.batches import SUFFIXES, BatchResult
from keras_alexnet.serving.client.connection import CallFailed, ModelSpec, Retries
from keras_alexnet.serving.client.output import Summary

FLAGS = flags.FlagValues()
_SERVER = flags.DEFINE_string(
    "server",
    "http://localhost:8501",
    "http://, https://, grpc:// or grpcs://HOST:PORT",
    flag_values=FLAGS,
)
_MODEL = flags.DEFINE_string("model", "alexnet", "name of the model", flag_values=FLAGS)
_MODEL_VERSION = flags.DEFINE_integer(
    "model_version", None, "of the model; default: the server's choice", 0, flag_values=FLAGS
)
_SIGNATURE = flags.DEFINE_enum(
    "signature",
    "serving_default",
    ["serving_default", "ten_crop", "classify"],
    "ten_crop looks at ten views of a photo: slower, better; classify asks through TF Serving's "
    "Classify API, which gives no class_ids",
    flag_values=FLAGS,
)
_BATCH_SIZE = flags.DEFINE_integer(
    "batch_size", 16, "photos in a request", 1, 1024, flag_values=FLAGS
)
_PARALLEL = flags.DEFINE_integer(
    "parallel", 2, "requests under way at a time", 1, 256, flag_values=FLAGS
)
_REQUEST_MB = flags.DEFINE_float(
    "request_mb",
    64,
    "megabytes (2^20 bytes) that a request may have: what the server reads",
    0.001,
    1024,
    flag_values=FLAGS,
)
_DEADLINE = flags.DEFINE_float(
    "deadline", 60, "seconds for a request, all tries together", 0.01, flag_values=FLAGS
)
_RETRIES = flags.DEFINE_integer(
    "retries",
    4,
    "how often a request is sent again, after 0.5, 1, 2 ... seconds",
    0,
    100,
    flag_values=FLAGS,
)
_CA_FILE = flags.DEFINE_string(
    "ca_file",
    None,
    "PEM file of the authorities that are trusted with https and grpcs; default: the system's",
    flag_values=FLAGS,
)
_JSON = flags.DEFINE_boolean(
    "json", False, "print a line of JSON a photo instead of the table", flag_values=FLAGS
)


def _show(results: Generator[BatchResult, None, None], summary: Summary) -> None:
    """Print and count the results as they come."""
    width = 0
    with contextlib.ExitStack() as stack:
        stack.enter_context(contextlib.closing(results))
        bar = None
        # What is printed on a terminal is progress in itself.
        if sys.stderr.isatty() and not sys.stdout.isatty():
            import tqdm  # here: the others do not need it, and a command should start at once

            bar = stack.enter_context(tqdm.tqdm(unit="photo", desc="classify"))
        for result in results:
            summary.add(result)
            if _JSON.value:
                for outcome in result.outcomes:
                    print(json.dumps(output.entry(outcome)), flush=True)
            else:
                width = output.print_table(result.outcomes, width)
            if bar is not None:
                bar.update(len(result.outcomes))


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Ask for the photos' classes and print them."""
    if not arguments:
        raise UserError("at least one photo is needed, none was named; name its file or a folder")
    summary = Summary()
    spec = ModelSpec(_MODEL.value, _MODEL_VERSION.value, _SIGNATURE.value)
    results = batches.ask_all(
        batches.find(arguments, summary.skip),
        lambda: client.connect(_SERVER.value, spec, _CA_FILE.value),
        Retries(limit=_RETRIES.value, deadline=_DEADLINE.value),
        batch_size=_BATCH_SIZE.value,
        request_bytes=int(_REQUEST_MB.value * (1 << 20)),
        parallel=_PARALLEL.value,
    )
    reason = []
    try:
        _show(results, summary)
    except BrokenPipeError as error:
        # Or Python, which writes the rest when it ends, complains in a traceback.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        raise UserError(
            f"stdout was closed after {summary.photos} photos; the others were not asked for"
        ) from error
    except CallFailed as error:
        if not summary.photos:
            raise
        reason.append(str(error))
    if not summary.photos:
        raise UserError(
            f"a photo is needed, {', '.join(arguments)} has none "
            f"({' '.join(SUFFIXES)}; {summary.skipped} other files); name a file "
            f"itself to send it whatever its name is"
        )
    figures = summary.figures(with_photos=not _JSON.value)
    if faults := reason + summary.faults():
        print(json.dumps(figures), flush=True)
        raise UserError("; ".join(faults))
    return figures


def run() -> None:
    """Run the console script."""
    # A path may hold any bytes, and a terminal's encoding may lack any letter.
    sys.stdout.reconfigure(errors="backslashreplace")
    command_line.run(main, FLAGS, __doc__, takes_arguments=True)


if __name__ == "__main__":
    run()
