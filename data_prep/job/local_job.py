"""The Beam job on all cores of this machine, in a process of its own that can be stopped.

Beam's runner starts a worker process a core, but waits for ever when one of them is killed (for
want of memory, say), and may not end on Ctrl-C. So it gets a process of its own: that one ends as
soon as a worker does, or as soon as its parent is gone, however that was ended.

    prepare -- settings on stdin --> this module -- Beam --> worker, worker, ...
"""

import contextlib
import os
import pickle
import shlex
import signal
import subprocess
import sys
import threading
import traceback
from collections.abc import Mapping

from data_prep.job import shards

_DONE = "done"


class JobError(Exception):
    """The job failed; its text is one line that says why."""


def run(work: Mapping[str, int], settings: shards.Settings, *, workers: int, log_path: str) -> None:
    """Write the planned shards in `workers` processes.

    Args:
        work: number of photos still to be converted for each shard, by its name.
        settings: for `shards.write_shard`.
        workers: processes, each of them about 200 MB.
        log_path: the file that Beam's output is appended to.

    Raises:
        JobError: a shard failed, or a process was killed.
    """
    with open(log_path, "ab") as log:
        process = subprocess.Popen(
            [sys.executable, "-m", "data_prep.job.local_job"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=log,
            # A process group, which can be killed as a whole, and which Ctrl-C does not reach.
            start_new_session=True,
        )
    try:
        pickle.dump((_balanced(work, workers), settings, workers, log_path), process.stdin)
        process.stdin.flush()  # and stays open, as long as this process lives
        answer = process.stdout.read().decode().strip()
    except BrokenPipeError:
        answer = ""
    finally:
        # Not yet waited for, so that the number of the group is still that of this one.
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()
        process.stdout.close()
        with contextlib.suppress(BrokenPipeError):
            process.stdin.close()
    if answer != _DONE:
        raise JobError(answer or "the process that runs Beam was killed, or failed at the start")


def _balanced(work: Mapping[str, int], workers: int) -> list[list[str]]:
    """Return the shards for each worker, all with about as many photos.

    Beam's runner deals elements out by chance, before it begins: of eight shards, one of two
    workers may get six. Of as many elements as there are workers each gets one.
    """
    groups = [[] for _ in range(workers)]
    # The largest first, each to the group with the fewest photos, evens out best.
    for name in sorted(work, key=lambda name: (-work[name], name)):
        min(groups, key=lambda group: sum(map(work.get, group))).append(name)
    return groups


def _main() -> None:
    """Run the job in the child; one line on stdout is "done", or the reason of a failure."""
    groups, settings, workers, log_path = pickle.load(sys.stdin.buffer)
    threading.Thread(target=_end_with_parent, daemon=True).start()
    threading.excepthook = _end_with_worker

    from data_prep.job import pipeline  # only in this process: Beam takes 100 MB

    try:
        options = pipeline.parse_options([f"--direct_num_workers={workers}"])
        pipeline.run(groups, settings, options, _processes(log_path))
    except Exception as error:
        with contextlib.suppress(OSError):  # the log's disk may be what is full
            traceback.print_exc()
        _end(pipeline.cause(error))
    _end(_DONE)


def _processes(log_path: str):
    """Return the runner of --direct_running_mode=multi_processing, for paths with a space, too.

    Beam starts a worker by a shell command, and does not quote the path of Python in it. `exec`
    lets Beam kill the worker itself and not the shell around it.
    """
    from apache_beam.runners.portability.fn_api_runner import FnApiRunner
    from apache_beam.transforms.environments import SubprocessSDKEnvironment

    command = f"exec {shlex.quote(sys.executable)} -m apache_beam.runners.worker.sdk_worker_main"
    command += f" >> {shlex.quote(log_path)} 2>&1"
    return FnApiRunner(SubprocessSDKEnvironment.from_command_string(command))


def _end_with_parent() -> None:
    while os.read(sys.stdin.fileno(), 1):
        pass
    _end("")


def _end_with_worker(arguments: threading.ExceptHookArgs) -> None:
    with contextlib.suppress(OSError):
        traceback.print_exception(arguments.exc_value)
    if arguments.thread is not None and arguments.thread.name == "run_worker":
        _end(f"{arguments.exc_value}; was it killed, perhaps for want of memory?")


def _end(answer: str) -> None:
    with contextlib.suppress(BrokenPipeError):
        print(answer, flush=True)
    # All workers with it: one that has not reached Beam yet would wait for ever.
    os.killpg(0, signal.SIGKILL)


if __name__ == "__main__":
    _main()
