"""The order of the train split's records, a function of (seed, epoch) alone, and who takes which.

Nothing is parsed or decoded here.
"""

import dataclasses
from collections.abc import Callable

import tensorflow as tf

# Shards read at once. With the shuffle buffer this decides how well an epoch is mixed.
INTERLEAVED_SHARDS = 16


@dataclasses.dataclass(frozen=True)
class Share:
    """The part of each global batch that a process feeds, and how it is cut for its replicas.

    Worker w's part is the w-th of `workers` equal slices, in order; it is cut into one batch for
    each of the worker's replicas, in order. The parts of all replicas are the global batch.

    Attributes:
        replicas: in all, over all workers; a multiple of `workers`.
        worker: number of this process, from 0.
        workers: processes that feed replicas.
    """

    replicas: int = 1
    worker: int = 0
    workers: int = 1

    def __post_init__(self) -> None:
        divides = self.workers > 0 and self.replicas > 0 and self.replicas % self.workers == 0
        if not divides or not 0 <= self.worker < self.workers:
            raise ValueError(
                "A Share must have as many replicas for each worker, and a worker in 0 ... "
                f"workers - 1. Received: {self}."
            )

    @property
    def batches(self) -> int:
        """Number of batches of this worker per global batch: one per replica."""
        return self.replicas // self.workers

    def of_worker(self, batch_size: int) -> int:
        """Return how many photos of a global batch are this worker's.

        Raises:
            ValueError: the batch does not divide among the replicas.
        """
        if batch_size % self.replicas:
            raise ValueError(
                f"batch_size {batch_size} does not divide among {self.replicas} replicas; make it "
                f"a multiple of {self.replicas}"
            )
        return batch_size // self.workers

    def of_replica(self, batch_size: int) -> int:
        """Return how many photos of a global batch are each replica's; raises as `of_worker`."""
        return self.of_worker(batch_size) // self.batches


def epoch_of_records(
    shards: int,
    read: Callable[[tf.Tensor], tf.data.Dataset],
    seed: int,
    epoch: tf.Tensor,
    shuffle_block: int,
) -> tf.data.Dataset:
    """Return all records, in the order of an epoch.

    The shards are permuted, `INTERLEAVED_SHARDS` of them read in turn, a record of each, and what
    comes out goes through a buffer of `shuffle_block` records, of which the next one is drawn.

    Args:
        shards: number of shards.
        read: number of a shard, int64 scalar -> its records, in the order of the file.
        seed: 64 bits; different seeds give independent orders.
        epoch: int64 scalar, from 0.
        shuffle_block: size of the buffer, records.
    """

    def ordered(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of the graph of this function alone. Dataset.shuffle mixes the process' seed into its own,
        # and, where that is 0, compares the two in Python, which a tensor does not bear.
        tf.random.set_seed(1)
        numbers = tf.range(shards, dtype=tf.int64)
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        numbers = tf.random.experimental.stateless_shuffle(numbers, epoch_seed)
        # Dataset.shuffle takes one number for its seed.
        buffer_seed = tf.random.stateless_uniform([], epoch_seed, 1, tf.int64.max, tf.int64)
        return (
            tf.data.Dataset.from_tensor_slices(numbers)
            .interleave(
                read,
                cycle_length=INTERLEAVED_SHARDS,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .shuffle(shuffle_block, buffer_seed, reshuffle_each_iteration=False)
        )

    return tf.data.Dataset.from_tensors(epoch).flat_map(ordered)


def slices_of_worker(records: tf.data.Dataset, batch_size: int, share: Share) -> tf.data.Dataset:
    """Return this worker's slice of each global batch; the last may be partial or absent."""
    # Equal slices in order: those of worker 0, 1, ... of the first batch, then of the second.
    slices = records.batch(share.of_worker(batch_size))
    return slices.shard(share.workers, share.worker)
