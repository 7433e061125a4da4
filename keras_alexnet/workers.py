"""Several processes that train one model together: who is who, and what only one may do.

Each process gets the same command and a TF_CONFIG of its own, as TensorFlow has it:

    TF_CONFIG='{"cluster": {"worker": ["HOST1:2222", "HOST2:2222"]},
                "task": {"type": "worker", "index": 0}}'

The first of the workers is the chief, which alone writes into the workdir. All of them read it,
and the data set, under the same paths.
"""

import contextlib
import json
import os
from collections.abc import Iterator, Mapping

import tensorflow as tf

from data_prep.command_line import TryAgain, UserError
from keras_alexnet.input_pipeline import Share

_VARIABLE = "TF_CONFIG"
_EXAMPLE = (
    '{"cluster": {"worker": ["HOST1:2222", "HOST2:2222"]}, "task": {"type": "worker", "index": 0}}'
)
# What TensorFlow raises in a process when another of the cluster is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.FailedPreconditionError,
)


def make_strategy() -> tf.distribute.Strategy:
    """The strategy over the processes that TF_CONFIG names.

    To be called before anything else of TensorFlow that looks for devices.

    Raises:
        UserError: there is no usable TF_CONFIG.
    """
    check_config(os.environ)
    try:
        return tf.distribute.MultiWorkerMirroredStrategy()
    except RuntimeError as error:
        raise UserError(
            f"--strategy=multi_worker must be the first that a process asks of TensorFlow ({error})"
        ) from error


def check_config(environment: Mapping[str, str]) -> None:
    """Refuses an environment without a TF_CONFIG that names this process' place among workers.

    Args:
        environment: such as `os.environ`.

    Raises:
        UserError: with what TF_CONFIG should be.
    """
    text = environment.get(_VARIABLE, "")
    try:
        config = json.loads(text or "null")
        workers = config["cluster"]["worker"]
        index, kind = config["task"]["index"], config["task"]["type"]
        usable = kind == "worker" and isinstance(workers[index], str) and index >= 0
    except (ValueError, TypeError, KeyError, IndexError):
        usable = False
    if not usable:
        raise UserError(
            f"--strategy=multi_worker needs the environment variable {_VARIABLE} with the workers "
            f"and this one's place among them, such as {_EXAMPLE}; it is {text or 'not set'!r}"
        )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Whether this process is the one that writes; without other processes it is."""
    return _place(strategy)[0] == 0


@contextlib.contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[bool]:
    """What is done inside, the chief does before all others begin it.

    Args:
        strategy: of the run.

    Yields:
        Whether this process is the chief.
    """
    if not is_chief(strategy):
        _meet(strategy)
        yield False
        return
    yield True
    _meet(strategy)


def _meet(strategy: tf.distribute.Strategy) -> None:
    """Waits until all processes are here."""
    if _place(strategy)[1] == 1:
        return
    here = strategy.run(lambda: tf.constant(1.0))
    strategy.reduce(tf.distribute.ReduceOp.SUM, here, axis=None)


@contextlib.contextmanager
def loss_of_a_worker_is_told(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Turns what TensorFlow raises when another process is gone into one line.

    Args:
        strategy: of the run; without other processes nothing is turned.

    Raises:
        TryAgain: in place of TensorFlow's error.
    """
    try:
        yield
    except _LOST as error:
        if _place(strategy)[1] == 1:
            raise
        reason = (str(error.message).strip().splitlines() or ["no reason given"])[0]
        raise TryAgain(
            f"another worker has ended or cannot be reached ({reason[:200]}); start all workers "
            f"again with the same command: they go on from the last checkpoint"
        ) from error


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """What this process feeds of each global batch."""
    worker, workers = _place(strategy)
    return Share(strategy.num_replicas_in_sync, worker, workers)


def _place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """This process' number, and how many there are."""
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict().get("worker", []) if resolver else []
    return (resolver.task_id, len(workers)) if len(workers) > 1 else (0, 1)
