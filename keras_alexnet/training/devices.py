"""Where a run computes, and in which number format."""

import functools

import keras
import tensorflow as tf

from data_prep.command_line import UserError
from keras_alexnet import workers

PRECISIONS = {
    "float32": "float32",
    "bfloat16": "mixed_bfloat16",
    "float16": "mixed_float16",
}
MULTI_WORKER = "multi_worker"
STRATEGIES = ("mirrored", "one_device", MULTI_WORKER)
COLUMN_PARALLEL = "column_parallel"  # what --column_parallel makes of the strategy


@functools.cache
def make_strategy(name: str) -> tf.distribute.Strategy:
    """The distribution strategy over the visible devices: every GPU, or without one every CPU.

    One object a process and name: a second MirroredStrategy over the same devices aborts the
    collective operations of the first.

    Args:
        name: "mirrored" (one replica a device), "one_device", "multi_worker" (the processes that
            TF_CONFIG names; to be called before TensorFlow looks for devices), or
            "column_parallel": none, since each layer has a device of its own (see
            column_parallel.place_columns).

    Raises:
        UserError: there is no TF_CONFIG for "multi_worker", or it is not usable.
    """
    if name == COLUMN_PARALLEL:
        return tf.distribute.get_strategy()
    if name == MULTI_WORKER:
        return workers.make_strategy()
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
