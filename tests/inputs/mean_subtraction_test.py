import dataclasses
import types

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.inputs import preprocessing
from keras_alexnet.network.profiles import PROFILES

# Of both photo and mean image, a pixel tells its column: expected values can be told by hand.
COLUMNS = np.arange(80.0, dtype=np.float32)
MEAN_IMAGE = np.broadcast_to(COLUMNS[None, :, None], (80, 80, 3))
STATISTICS = types.SimpleNamespace(mean_image=MEAN_IMAGE)


def first_row(flip, **fields):
    """Of a crop of 72 columns, from column 2 of the photo; the photo is 1000 + 2 * column."""
    profile = dataclasses.replace(PROFILES["paper"], input_size=72, **fields)
    crop = np.broadcast_to(1000 + 2 * COLUMNS[None, None, 2:74, None], (1, 72, 72, 3))
    result = preprocessing.subtract_mean(
        tf.constant(crop),
        offsets=tf.constant([[5, 2]]),
        flips=tf.constant([flip]),
        profile=profile,
        statistics=STATISTICS,
    )
    return result[0, 0].numpy()


def test_the_mean_under_the_crop_is_mirrored_with_it():
    straight = 1000 + COLUMNS[2:74]  # 2 * column - column
    np.testing.assert_array_equal(first_row(False, mean_position="crop")[:, 0], straight)
    np.testing.assert_array_equal(first_row(True, mean_position="crop")[:, 2], straight[::-1])


def test_the_central_mean_is_subtracted_after_mirroring():
    photo, centre = 1000 + 2 * COLUMNS[2:74], COLUMNS[4:76]
    np.testing.assert_array_equal(first_row(False, mean_position="centre")[:, 0], photo - centre)
    mirrored = first_row(True, mean_position="centre")[:, 1]
    np.testing.assert_array_equal(mirrored, photo[::-1] - centre)


def test_constants_are_each_channels_own():
    constants = {"mean": "channels", "mean_position": None, "channel_mean": (1.0, 2.0, 3.5)}
    photo = 1000 + 2 * COLUMNS[2:74, None]
    np.testing.assert_array_equal(first_row(False, **constants), photo - [1, 2, 3.5])
    np.testing.assert_array_equal(first_row(True, **constants), photo[::-1] - [1, 2, 3.5])


def test_a_row_of_three_constants():
    row = preprocessing.row_of((1, 2, 3), 4)
    assert row.dtype == tf.float32
    np.testing.assert_array_equal(row, [[1, 2, 3]] * 4)


@pytest.mark.slow
@pytest.mark.parametrize("shape", [(71, 71, 3), (80, 90, 3), (80, 80), (80, 80, 1)])
@pytest.mark.parametrize("mean_position", ["crop", "centre"])
def test_a_mean_image_that_does_not_fit(mean_position, shape, monkeypatch):
    monkeypatch.setattr(STATISTICS, "mean_image", np.zeros(shape, np.float32))
    with pytest.raises(ValueError, match=r"\[stored, stored, 3\] with stored at least 72. Rec"):
        first_row(False, mean_position=mean_position)
