"""Choose the devices and the precision of a run.

Several processes can train one model together. Each gets the same command, the same paths and
another TF_CONFIG, such as `_EXAMPLE`. The first worker is the chief, which alone writes into the
workdir.
"""

import contextlib
import functools
import json
import os
from collections.abc import Iterator

import keras
import tensorflow as tf

from keras_alexnet.inputs.record_order import Share
from keras_alexnet.network.choices import COLUMN_PARALLEL, MULTI_WORKER
from keras_alexnet.training.stopping import Stopped

_EXAMPLE = (
    '{"cluster": {"worker": ["HOST1:2222", "HOST2:2222"]}, "task": {"type": "worker", "index": 0}}'
)
# What TensorFlow raises in a process when another one of the cluster is gone.
_LOST = (
    tf.errors.UnavailableError,
    tf.errors.AbortedError,
    tf.errors.CancelledError,
    tf.errors.DeadlineExceededError,
    tf.errors.InternalError,
    tf.errors.UnknownError,
    tf.errors.FailedPreconditionError,
)


@functools.cache
def make_strategy(name: str) -> tf.distribute.Strategy:
    """Return the distribution strategy over the visible devices: every GPU, or else every CPU.

    There is one object per process and name: a second MirroredStrategy over the same devices aborts
    the collective operations of the first.

    Args:
        name: "mirrored" (one replica a device), "one_device", "multi_worker" (the processes that
            TF_CONFIG names; call it before TensorFlow looks for devices), or "column_parallel":
            none, since each layer is placed on a device by itself (see columns.place_columns).

    Raises:
        ValueError: there is no usable TF_CONFIG for "multi_worker", or TensorFlow was used before.
    """
    if name == COLUMN_PARALLEL:
        return tf.distribute.get_strategy()
    if name == MULTI_WORKER:
        check_config(os.environ.get("TF_CONFIG", ""))
        try:
            return tf.distribute.MultiWorkerMirroredStrategy()
        except RuntimeError as error:
            raise ValueError(
                f"the strategy multi_worker must be made before TensorFlow is used ({error})"
            ) from error
    devices = tf.config.list_logical_devices("GPU") or tf.config.list_logical_devices("CPU")
    names = [device.name for device in devices]
    if name == "one_device":
        return tf.distribute.OneDeviceStrategy(names[0])
    return tf.distribute.MirroredStrategy(names)


def resolve_precision(name: str) -> str:
    """Return the number format that "auto" selects on this machine, or the one that is named.

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
    """Set Keras' policy for the layers made from now on; `name` is in `choices.PRECISIONS`."""
    keras.mixed_precision.set_global_policy(name if name == "float32" else f"mixed_{name}")


def check_batch(batch_size: int, strategy: tf.distribute.Strategy) -> None:
    """Refuse a global batch that does not divide among the replicas.

    Raises:
        ValueError: it does not; a partial share would bias the gradient's mean.
    """
    replicas = strategy.num_replicas_in_sync
    if batch_size % replicas:
        raise ValueError(
            f"batch_size must divide among the {replicas} devices, but it is {batch_size}; take "
            f"{batch_size // replicas * replicas or replicas}"
        )


def _cpu_has_bfloat16() -> bool:
    try:
        with open("/proc/cpuinfo", encoding="ascii", errors="replace") as file:
            flags = next((line for line in file if line.startswith("flags")), "").split()
    except OSError:  # not Linux
        return False
    return "avx512_bf16" in flags or "amx_bf16" in flags


def check_config(text: str) -> None:
    """Refuse a TF_CONFIG that does not name this process' place among workers.

    Raises:
        ValueError: with an example of a TF_CONFIG.
    """
    try:
        config = json.loads(text or "null")
        workers = config["cluster"]["worker"]
        index, kind = config["task"]["index"], config["task"]["type"]
        usable = kind == "worker" and isinstance(workers[index], str) and index >= 0
    except (ValueError, TypeError, KeyError, IndexError):
        usable = False
    if not usable:
        raise ValueError(
            "the strategy multi_worker needs the environment variable TF_CONFIG with the workers "
            f"and this one's place among them, such as {_EXAMPLE}; it is {text or 'not set'!r}"
        )


def is_chief(strategy: tf.distribute.Strategy) -> bool:
    """Return whether this process is the one that writes; a single process is."""
    return _place(strategy)[0] == 0


@contextlib.contextmanager
def chief_first(strategy: tf.distribute.Strategy) -> Iterator[bool]:
    """Let the chief run the body before the others begin it; yield whether this is the chief."""
    is_first = is_chief(strategy)
    if is_first:
        yield True
    if _place(strategy)[1] > 1:  # wait until all processes are here
        here = strategy.run(lambda: tf.constant(1.0))
        strategy.reduce(tf.distribute.ReduceOp.SUM, here, axis=None)
    if not is_first:
        yield False


@contextlib.contextmanager
def explain_lost_worker(strategy: tf.distribute.Strategy) -> Iterator[None]:
    """Raise Stopped in place of TensorFlow's error, if another process is gone."""
    try:
        yield
    except _LOST as error:
        if _place(strategy)[1] == 1:
            raise
        reason = (str(error.message).strip().splitlines() or ["no reason given"])[0]
        raise Stopped(
            f"another worker has ended or cannot be reached ({reason[:200]}); start all workers "
            f"again with the same command: they go on from the last checkpoint"
        ) from error


def share_of(strategy: tf.distribute.Strategy) -> Share:
    """Return the share of each global batch that this process feeds."""
    worker, workers = _place(strategy)
    return Share(strategy.num_replicas_in_sync, worker, workers)


def _place(strategy: tf.distribute.Strategy) -> tuple[int, int]:
    """Return this process' number, and the number of processes."""
    resolver = strategy.cluster_resolver
    workers = resolver.cluster_spec().as_dict().get("worker", []) if resolver else []
    return (resolver.task_id, len(workers)) if len(workers) > 1 else (0, 1)
