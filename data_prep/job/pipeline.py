"""The Beam job, on any runner: one work item is a group of shards.

It is one linear chain with one leaf, Create -> Reshuffle -> Map: Dask's runner drops a second leaf
without a word. Settings reach the workers as arguments, not as Beam options, which some runners
do not pass on.
"""

import contextlib
import io
import logging
import re
from collections.abc import Iterable, Iterator, Sequence

import apache_beam as beam
from apache_beam.metrics import Metrics
from apache_beam.options.pipeline_options import PipelineOptions, StandardOptions
from apache_beam.runners.runner import PipelineResult, PipelineRunner, create_runner

from data_prep.job import shards

# Beam's remarks on itself are for its developers; a failed job is an exception anyway.
logging.getLogger("apache_beam").setLevel(logging.CRITICAL + 1)

_ERROR_LINE = re.compile(r"[\w.]*(Error|Exception)\b")
# Namespace of the counters that a cluster's own page shows.
COUNTERS = "prepare"


def _write_shards(names: Sequence[str], settings: shards.Settings) -> Iterator[str]:
    for name in names:  # one after the other, on one worker
        counts = shards.write_shard(name, settings).counts()
        for counter, number in {"shards": 1, **counts}.items():
            Metrics.counter(COUNTERS, counter).inc(number)
        yield name


def parse_options(beam_options: Sequence[str]) -> PipelineOptions:
    """Return Beam's options from the command line.

    Args:
        beam_options: such as ["--runner=DataflowRunner", "--region=europe-west1"].

    Raises:
        ValueError: Beam does not know an option or the runner, or does not take a value.
    """
    stderr = io.StringIO()
    try:
        with contextlib.redirect_stderr(stderr):
            runner = PipelineOptions(list(beam_options)).view_as(StandardOptions).runner
            if runner:
                create_runner(runner)  # imports its module, which makes its own options known
            options = PipelineOptions(list(beam_options))
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit as error:  # argparse's way; its last line is what matters
        message = stderr.getvalue().strip().splitlines()[-1]
        raise ValueError(f"Beam options are required. Received: {message}") from error
    except ImportError as error:
        raise ValueError(f"{runner} needs a package that is missing: {error}") from error
    if unknown:  # Beam would pass over a typing error without a word
        raise ValueError(f"Beam options are required. Received: --{min(unknown)}")
    return options


def run(
    groups: Iterable[Sequence[str]],
    settings: shards.Settings,
    options: PipelineOptions,
    runner: PipelineRunner | None = None,
) -> PipelineResult:
    """Write the planned shards, and return when the runner says that it is done.

    Do not believe it: look for the shards.

    Args:
        groups: names of the shards to write; a worker gets a group at a time.
        settings: for `shards.write_shard`.
        options: from `parse_options`.
        runner: instead of the one that `options` name.

    Returns:
        The runner's result. Its `metrics()`, where it has them, count in the namespace `COUNTERS`
        shards, records, and photos by reason of rejection, repair and note; a shard that an
        earlier run has finished counts, too.

    Raises:
        Exception: whatever the runner raises when a shard fails; see `cause`.
    """
    # Beam's own default, DirectRunner, first tries to download a program.
    chosen = runner or options.view_as(StandardOptions).runner or "FnApiRunner"
    with beam.Pipeline(chosen, options) as pipeline:
        _ = (
            pipeline
            | "ShardNames" >> beam.Create(map(tuple, groups))  # tuple[str, ...]
            | "SpreadOverWorkers" >> beam.Reshuffle()
            | "WriteShards" >> beam.FlatMap(_write_shards, settings)  # str
        )
    return pipeline.result


def cause(error: Exception) -> str:
    """Return the last error line of a runner's exception, which holds the worker's traceback."""
    lines = str(error).splitlines()
    return ([line for line in lines if _ERROR_LINE.match(line)] or lines or [repr(error)])[-1]
