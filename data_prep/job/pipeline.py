"""The Beam job: one work item a shard, on whatever runner.

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


# Of the counters that a cluster's own page shows.
COUNTERS = "prepare"


class WriteShards(beam.PTransform):
    """Groups of names of planned shards (tuple[str, ...]) -> names of finished shards (str).

    The shards of a group are made one after the other, on one worker.

    Counts, in the namespace `COUNTERS`: shards, records, and photos by reason of rejection, repair
    and note. A shard that an earlier run has finished counts, too.
    """

    def __init__(self, settings: shards.Settings):
        super().__init__()
        self._settings = settings

    def expand(self, groups: beam.PCollection) -> beam.PCollection:
        """Called by Beam."""
        return (
            groups
            | "SpreadOverWorkers" >> beam.Reshuffle()  # tuple[str, ...]
            | "WriteShards" >> beam.FlatMap(_write_shards, self._settings)  # str
        )


def _write_shards(names: Sequence[str], settings: shards.Settings) -> Iterator[str]:
    for name in names:
        counts = shards.write_shard(name, settings).counts()
        for counter, number in {"shards": 1, **counts}.items():
            Metrics.counter(COUNTERS, counter).inc(number)
        yield name


def parse_options(beam_options: Sequence[str]) -> PipelineOptions:
    """Beam's options from the command line.

    Args:
        beam_options: such as ["--runner=DataflowRunner", "--region=europe-west1"].

    Raises:
        ValueError: Beam does not know an option or the runner, or does not take a value.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            runner = PipelineOptions(list(beam_options)).view_as(StandardOptions).runner
            if runner:
                create_runner(runner)  # imports its module, which makes its own options known
            options = PipelineOptions(list(beam_options))
            known = options.get_all_options()
            unknown = options.get_all_options(retain_unknown_options=True).keys() - known.keys()
    except SystemExit as error:  # argparse's way; its last line is what matters
        message = said.getvalue().strip().splitlines()[-1]
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
    """Writes the planned shards, and returns when the runner says that it is done.

    Do not believe it: look for the shards.

    Args:
        groups: names of the shards to write; a worker gets a group at a time.
        settings: for `shards.write_shard`.
        options: from `parse_options`.
        runner: instead of the one that `options` name.

    Returns:
        What the runner says of the job; where it has counters, they are in its `metrics()`.

    Raises:
        Exception: whatever the runner raises when a shard fails; see `cause`.
    """
    # Beam's own default, DirectRunner, first tries to download a program.
    chosen = runner or options.view_as(StandardOptions).runner or "FnApiRunner"
    with beam.Pipeline(chosen, options) as pipeline:
        _ = pipeline | "ShardNames" >> beam.Create(map(tuple, groups)) | WriteShards(settings)
    return pipeline.result


def cause(error: Exception) -> str:
    """The line of a runner's exception that says what happened; the worker's traceback is in it."""
    lines = str(error).splitlines()
    return ([line for line in lines if _ERROR_LINE.match(line)] or lines or [repr(error)])[-1]
