"""Where a run computes, and in which number format.

Several processes that train one model together: who is who, and what only one may do.

Each process gets the same command and a TF_CONFIG of its own, as TensorFlow has it:

    TF_CONFIG='{"cluster": {"worker": ["HOST1:2222", "HOST2:2222"]},
                "task": {"type": "worker", "index": 0}}'

The first of the workers is the chief, which alone writes into the workdir. All of them read it,
and the data set, under the same paths.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator, Mapping

import keras
import tensorflow as tf

from data_prep.command_line import TryAgain, UserError
from keras_alexnet.inputs.record_order import Share
from keras_alexnet.network.choices import COLUMN_PARALLEL, MULTI_WORKER

PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}


@functools.cache
def make_strategy(name: str) -> tf.distribute.Strategy:
    """The distribution strategy over the visible devices: every GPU, or without one every CPU.

    One object a process and name: a second MirroredStrategy over the same devices aborts the
    collective operations of the first.

    Args:
        name: "mirrored" (one replica a device), "one_device", "multi_worker" (the processes that
            TF_CONFIG names; to be called before TensorFlow looks for devices), or
            "column_parallel": none, since each layer has a device of its own (see
            columns.place_columns).

    Raises:
        UserError: there is no TF_CONFIG for "multi_worker", or it is not usable.
    """
    if name == COLUMN_PARALLEL:
        return tf.distribute.get_strategy()
    if name == MULTI_WORKER:
        return make_multi_worker_strategy()
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = [device.name for device in devices]
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(names[0])
    return tf.distribute.MirroredStrategy(names)


def resolve_strategy(name: str | None, column_parallel: bool) -> str:
    """What --strategy and --column_parallel, of which one at most may be given, mean together.

    Raises:
        UserError: both are given.
    """
    if not column_parallel:
        return name or "mirrored"
    if name:
        raise UserError(
            "one way to use two devices is needed, but --strategy and --column_parallel were "
            "given; take one of them away"
        )
    return COLUMN_PARALLEL


def resolve_precision(name: str) -> str:
    """What "auto" means on this machine; any other name is itself.

    bfloat16 where the device multiplies in it (CPUs with avx512_bf16 or AMX, GPUs from compute
    capability 8), float16 with loss scaling on older GPUs with tensor cores, else float32.
    """
    if name != "auto":
        return name
    gpus = tf.config.list_physical_devices("GPU")
    if gpus:
        capability = tf.config.experimental.get_device_details(gpus[0]).get("compute_capability")
        if capability is None or capability < (7, 0):
            return "float32"
        return "bfloat16" if capability >= (8, 0) else "float16"
    return "bfloat16" if _cpu_has_bfloat16() else "float32"


def use_precision(name: str) -> None:
    """Sets Keras' policy for the layers made from now on.

    Args:
        name: a key of `PRECISIONS`.
    """
    keras.mixed_precision.set_global_policy(PRECISIONS[name])


def check_batch(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuses a global batch that does not divide among the replicas.

    Raises:
        UserError: it does not; a partial share would bias the gradient's mean.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise UserError(
            f"a --batch_size that divides among the {replicas} devices is needed, "
            f"but it is {batch_size}; take {batch_size // replicas * replicas or replicas}"
        )


def _cpu_has_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


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


def make_multi_worker_strategy() -> tf.distribute.Strategy:
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
