"""In which order the records of the train split come, epoch after epoch, and who takes which.

Nothing is parsed or decoded here. The order is a function of (seed, epoch) alone, whether records
are read from their files or kept in memory.
"""

import dataclasses
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tqdm

from data_prep import records
from data_prep.command_line import UserError

# Shards read at once. With the shuffle buffer this decides how well an epoch is mixed.
INTERLEAVED_SHARDS = 16


@dataclasses.dataclass(frozen=True)
class Share:
    """Which part of each global batch a process feeds, and how it is cut for its replicas.

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
        """How many batches this worker makes of its part of a global batch: one a replica."""
        return self.replicas // self.workers

    def of_worker(self, batch_size: int) -> int:
        """How many photos of a global batch are this worker's.

        Raises:
            UserError: the batch does not divide among the replicas.
        """
        if batch_size % self.replicas:
            raise UserError(
                f"a batch that divides among {self.replicas} replicas is needed, but "
                f"--batch_size={batch_size} does not; make it a multiple of {self.replicas}"
            )
        return batch_size // self.workers

    def of_replica(self, batch_size: int) -> int:
        """How many photos of a global batch are each replica's.

        Raises:
            UserError: as `of_worker` does.
        """
        return self.of_worker(batch_size) // self.batches


@dataclasses.dataclass(frozen=True)
class Source:
    """Where records come from. What is put in order are tickets, which may be less to move.

    Attributes:
        shards: how many there are.
        tickets: number of a shard, int64 scalar -> one ticket a record, in the order of the file.
        fetch: a ticket -> its serialized Example, string scalar.
    """

    shards: int
    tickets: Callable[[tf.Tensor], tf.data.Dataset]
    fetch: Callable[[tf.Tensor], tf.Tensor]


def from_files(paths: Sequence[str], split: records.Split) -> Source:
    """Records that are read anew each epoch: a ticket is the record itself.

    Args:
        paths: of the split's shards, in the manifest's order.
        split: as the manifest describes it.
    """
    del split  # what a file holds is seen when it is read
    names = tf.constant(paths)
    return Source(
        shards=len(paths),
        tickets=lambda shard: tf.data.TFRecordDataset(tf.gather(names, shard)),
        fetch=tf.identity,
    )


def from_memory(paths: Sequence[str], split: records.Split) -> Source:
    """Records that are read once, here, and kept: a ticket is a record's number.

    Args:
        paths: of the split's shards, in the manifest's order.
        split: as the manifest describes it; all its bytes are held in memory.

    Raises:
        UserError: a shard has another number of records than the manifest says.
        tf.errors.OpError: a shard cannot be read.
    """
    serialized, shard_of = _read_all(paths, split.records)
    counts = np.bincount(shard_of, minlength=len(paths))
    for shard, count in zip(split.shards, counts, strict=True):
        if shard.records != count:
            raise UserError(
                f"{shard.name} must have {shard.records} records by the manifest, but {count} "
                "were read; run data_prep.verify, which names what is broken, and prepare again"
            )
    bounds = tf.constant(np.concatenate([[0], np.cumsum(counts)]), tf.int64)
    return Source(
        shards=len(paths),
        tickets=lambda shard: tf.data.Dataset.range(bounds[shard], bounds[shard + 1]),
        fetch=lambda ticket: tf.gather(serialized, ticket),
    )


def _read_all(paths: Sequence[str], expected: int) -> tuple[tf.Tensor, np.ndarray]:
    """All records, string [N], and the number of each one's shard, int64 [N].

    One record more than expected may come; it shows that there are too many.
    """

    def numbered_paths() -> Iterator[tuple[int, str]]:
        yield from enumerate(tqdm.tqdm(paths, unit="shard", desc="cache"))

    def numbered_records(shard: tf.Tensor, path: tf.Tensor) -> tf.data.Dataset:
        return tf.data.TFRecordDataset(path).map(lambda serialized: (serialized, shard))

    signature = (tf.TensorSpec([], tf.int64), tf.TensorSpec([], tf.string))
    # One batch of all: it takes the records over without a copy.
    everything = (
        tf.data.Dataset.from_generator(numbered_paths, output_signature=signature)
        .flat_map(numbered_records)
        .batch(expected + 1)
    )
    for serialized, shard_of in everything:
        return serialized, shard_of.numpy()
    return tf.zeros([0], tf.string), np.zeros([0], np.int64)


# By train_dataset's `cache`.
SOURCES: Mapping[str, Callable[[Sequence[str], records.Split], Source]] = {
    "none": from_files,
    "memory": from_memory,
}


def epoch_of_tickets(
    source: Source, seed: int, epoch: tf.Tensor, shuffle_block: int
) -> tf.data.Dataset:
    """The tickets of all records, in the order of an epoch.

    The shards are permuted, `INTERLEAVED_SHARDS` of them read in turn, a record of each, and what
    comes out goes through a buffer of `shuffle_block` records, of which the next one is drawn.

    Args:
        source: of the records.
        seed: of 64 bits; others give independent orders.
        epoch: int64 scalar, from 0.
        shuffle_block: size of the buffer.
    """

    def ordered(epoch: tf.Tensor) -> tf.data.Dataset:
        # Of the graph of this function alone. Dataset.shuffle mixes the process' seed into its own,
        # and, where that is 0, compares the two in Python, which a tensor does not bear.
        tf.random.set_seed(1)
        numbers = tf.range(source.shards, dtype=tf.int64)
        epoch_seed = tf.stack([tf.constant(seed, tf.int64), epoch])
        numbers = tf.random.experimental.stateless_shuffle(numbers, epoch_seed)
        # Dataset.shuffle takes one number for its seed.
        buffer_seed = tf.random.stateless_uniform([], epoch_seed, 1, tf.int64.max, tf.int64)
        return (
            tf.data.Dataset.from_tensor_slices(numbers)
            .interleave(
                source.tickets,
                cycle_length=INTERLEAVED_SHARDS,
                num_parallel_calls=tf.data.AUTOTUNE,
                deterministic=True,
            )
            .shuffle(shuffle_block, buffer_seed, reshuffle_each_iteration=False)
        )

    return tf.data.Dataset.from_tensors(epoch).flat_map(ordered)


def slices_of_worker(tickets: tf.data.Dataset, batch_size: int, share: Share) -> tf.data.Dataset:
    """This worker's slice of each global batch, in order: the last one may be a part, or absent.

    Args:
        tickets: in the global order.
        batch_size: global.
        share: says which slices.
    """
    # Equal slices in order: those of worker 0, 1, ... of the first batch, then of the second.
    slices = tickets.batch(share.of_worker(batch_size))
    return slices.shard(share.workers, share.worker)
