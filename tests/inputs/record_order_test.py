import math

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.inputs import record_order
from keras_alexnet.inputs.record_order import Share

SHARDS, EACH, BUFFER = 64, 160, 512
COUNT = SHARDS * EACH


def numbered_records(shard, each=EACH):
    """Return the places of a shard's records in the files."""
    return tf.data.Dataset.range(shard * each, (shard + 1) * each)


def order_of(epoch, buffer=BUFFER, seed=3):
    order = record_order.epoch_of_records(
        SHARDS, numbered_records, seed, tf.constant(epoch, tf.int64), buffer
    )
    return np.concatenate(list(order.batch(4096).as_numpy_iterator()))


@pytest.mark.slow
def test_an_epoch_is_a_permutation_that_seed_and_epoch_decide():
    order = order_of(0)
    np.testing.assert_array_equal(np.sort(order), np.arange(COUNT))
    np.testing.assert_array_equal(order, order_of(0))
    others = [order_of(1), order_of(0, seed=4), order_of(1, seed=4)]
    for other in others:  # a random permutation has one fixed point in the mean
        assert np.sum(order == other) < 30


@pytest.mark.slow
@pytest.mark.parametrize("process_seed", [0, 1, 7])
def test_the_process_own_seed_decides_nothing(process_seed):
    tf.random.set_seed(2)
    order = order_of(0)
    tf.random.set_seed(process_seed)
    np.testing.assert_array_equal(order_of(0), order)


def test_a_record_travels_as_far_as_the_buffer_lets_it():
    before, after = np.argsort(order_of(0, buffer=1)), np.argsort(order_of(0))
    # Without a buffer, a group of 16 shards is read record by record.
    places = before.reshape(SHARDS, EACH)
    assert set(places[:, -1] - places[:, 0]) == {16 * (EACH - 1)}
    late = after - before
    assert -late.min() == BUFFER - 1
    # A record waits for as long as it is not the one of 512 that is drawn: geometric.
    for share in (0.5, 0.9, 0.99):
        expected = BUFFER * (-math.log(1 - share) - 1)
        assert np.quantile(late, share) == pytest.approx(expected, abs=0.25 * BUFFER)


def test_from_one_epoch_to_the_next_a_record_goes_anywhere():
    first, second = (np.argsort(order_of(epoch)) for epoch in (0, 1))
    assert np.abs(first - second).mean() / COUNT == pytest.approx(1 / 3, abs=0.05)
    # Pairs of one batch of 128 that are together again: three times as many as by chance, no more.
    batches = (second // 128)[np.argsort(first)].reshape(-1, 128)
    again = sum(np.sum(n * (n - 1) // 2) for n in map(np.bincount, batches)) / len(batches)
    by_chance = 128 * 127 / 2 * 127 / COUNT
    assert by_chance * 0.8 < again < by_chance * 3


@pytest.mark.slow
def test_a_data_set_that_fits_in_the_buffer_is_shuffled_perfectly():
    """Each of 20 records is about as often in each place, over many epochs."""
    epochs = 2000
    data = tf.data.Dataset.range(epochs).flat_map(
        lambda epoch: record_order.epoch_of_records(
            2, lambda shard: numbered_records(shard, 10), 1, epoch, 20
        )
    )
    orders = np.array(list(data.batch(20).as_numpy_iterator()))
    counts = np.stack([np.bincount(column, minlength=20) for column in orders.T])
    expected = epochs / 20
    chi_square = np.sum((counts - expected) ** 2) / expected
    assert 250 < chi_square < 490  # 361 degrees of freedom: five deviations to each side


def test_slices_of_all_workers_are_the_batch():
    parts = [
        list(
            record_order.slices_of_worker(
                tf.data.Dataset.range(24), 12, Share(replicas=6, worker=worker, workers=3)
            ).as_numpy_iterator()
        )
        for worker in range(3)
    ]
    for step in range(2):
        together = np.concatenate([part[step] for part in parts])
        np.testing.assert_array_equal(together, np.arange(12) + 12 * step)


def test_how_a_share_is_cut():
    share = Share(replicas=6, worker=1, workers=3)
    assert (share.of_worker(24), share.of_replica(24), share.batches) == (8, 4, 2)
    assert (Share().of_worker(7), Share().of_replica(7), Share().batches) == (7, 7, 1)
    with pytest.raises(ValueError, match=r"batch_size 8 .* 6 replicas"):
        share.of_worker(8)


@pytest.mark.parametrize(
    "fields",
    [{"replicas": 3, "workers": 2}, {"worker": 1}, {"worker": -1}, {"replicas": 0}, {"workers": 0}],
)
def test_impossible_shares(fields):
    with pytest.raises(ValueError, match="A Share must have"):
        Share(**fields)
