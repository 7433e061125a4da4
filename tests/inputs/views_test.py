import dataclasses
import functools

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet.inputs import views
from keras_alexnet.inputs.views import View
from keras_alexnet.network.profiles import PROFILES

PAPER, CAFFE, SEED = PROFILES["paper"], PROFILES["caffe"], PROFILES["seed"]


def test_views_of_evaluation():
    assert views.central_view(PAPER) == View(16, 16, False)
    assert views.central_view(CAFFE) == View(14, 14, False)
    assert views.central_view(PAPER, stored=300) == View(38, 38, False)
    five = [(0, 0), (0, 29), (29, 0), (29, 29), (14, 14)]
    expected = [View(y, x, flip) for flip in (False, True) for y, x in five]
    assert views.ten_views(CAFFE) == expected
    assert views.ten_views(PAPER, stored=224) == [
        View(0, 0, flip) for flip in (False, True) for _ in range(5)
    ]


def test_crop_is_the_pixels_of_a_view_not_mirrored():
    images = np.random.default_rng(0).integers(0, 256, (2, 256, 256, 3)).astype(np.uint8)
    for view in views.ten_views(CAFFE):
        crops = views.crop(tf.constant(images), view, 227)
        assert crops.dtype == tf.uint8
        expected = images[:, view.y :, view.x :][:, :227, :227]
        np.testing.assert_array_equal(crops, expected)


def draw_views(profile, count, first=0, seed=(7, 0), stored=256):
    seed = tf.constant(seed, tf.int64)
    drawn = tf.function(views.random_views)(seed, tf.constant(first), count, profile, stored)
    return [tensor.numpy() for tensor in drawn]


def test_random_views_are_uniform_over_all_places():
    count, places = 20_000, 33
    offsets, flips, noise = draw_views(PAPER, count)
    assert offsets.dtype == np.int32
    assert noise.dtype == np.float32
    for axis in range(2):
        seen = np.bincount(offsets[:, axis], minlength=places)
        assert len(seen) == places, "0 ... 32, both ends included"
        chi_square = np.sum((seen - count / places) ** 2) / (count / places)
        assert chi_square < 62.5  # 32 degrees of freedom: one in a thousand is above
    # Five standard deviations of each estimate.
    assert flips.mean() == pytest.approx(0.5, abs=2.5 / count**0.5)
    np.testing.assert_allclose(noise.mean(0), 0, atol=5 / count**0.5)
    together = np.column_stack([offsets / 9.52, flips * 2, noise])  # of deviation 1 each
    np.testing.assert_allclose(np.cov(together.T), np.eye(6), atol=8 / count**0.5)
    # Nor does a photo's draw tell that of the next, or of the same place in the next epoch.
    offsets, flips, noise = draw_views(PAPER, count, seed=(7, 1))
    next_epoch = np.column_stack([offsets / 9.52, flips * 2, noise])
    for other in (np.roll(together, -1, axis=0), next_epoch):
        covariance = np.cov(together.T, other.T)[:6, 6:]
        np.testing.assert_allclose(covariance, 0, atol=8 / count**0.5)


def test_random_views_are_a_function_of_seed_and_place():
    whole = draw_views(PAPER, 1000, seed=(-5, 2**62))
    for first, count in ((0, 1), (7, 5), (130, 128), (999, 1)):
        part = draw_views(PAPER, count, first, seed=(-5, 2**62))
        for drawn, expected in zip(part, whole, strict=True):
            np.testing.assert_array_equal(drawn, expected[first : first + count])
    noises = [draw_views(PAPER, 50, seed=seed)[2] for seed in ((1, 2), (2, 1), (1, 3))]
    assert len({row.tobytes() for noise in noises for row in noise}) == 150


def test_a_run_of_an_older_version_is_gone_on_with_by_the_same_draws():
    """Compare with the draws of version 0.2 for three photos: other draws are another run."""
    offsets, flips, noise = draw_views(PAPER, 3, first=2**33, seed=(3, -4))
    np.testing.assert_array_equal(offsets, [[14, 24], [0, 32], [12, 28]])
    np.testing.assert_array_equal(flips, [True, False, False])
    expected = [[1.424078, -1.301083, 1.538652], [0.464712, 0.080366, -1.258012]]
    np.testing.assert_allclose(noise, [*expected, [-1.853894, -0.270433, -1.207268]], atol=1e-5)


@pytest.mark.parametrize("chunk", [2, 3, 128])
def test_photos_of_a_chunk_share_crop_and_flip_but_not_noise(chunk):
    profile = dataclasses.replace(PAPER, crop_chunk=chunk)
    alone = draw_views(PAPER, 300)
    for first, count in ((0, 300), (1, 130), (255, 4), (5, 1)):
        offsets, flips, noise = draw_views(profile, count, first)
        chunks = np.arange(first, first + count) // chunk
        np.testing.assert_array_equal(offsets, alone[0][chunks])
        np.testing.assert_array_equal(flips, alone[1][chunks])
        np.testing.assert_array_equal(noise, alone[2][first : first + count])


@pytest.mark.parametrize(
    "profile",
    [
        *PROFILES.values(),
        dataclasses.replace(SEED, training_flip=True),
        dataclasses.replace(CAFFE, training_flip=False),
    ],
)
def test_what_is_random_is_the_profiles(profile):
    margin, profile = 256 - profile.input_size, dataclasses.replace(profile, crop_chunk=1)
    offsets, flips, noise = draw_views(profile, 300)
    paper = draw_views(dataclasses.replace(PAPER, input_size=profile.input_size), 300)
    np.testing.assert_array_equal(noise, paper[2])
    assert offsets.dtype == np.int32
    if profile.training_crop == "random":
        assert (offsets.min(), offsets.max()) == (0, margin)
        np.testing.assert_array_equal(offsets, paper[0])
    else:  # as in evaluation
        np.testing.assert_array_equal(offsets, [views.central_view(profile)[:2]] * 300)
    assert 0 < paper[1].sum() < 300
    np.testing.assert_array_equal(flips, paper[1] & profile.training_flip)


def test_a_photo_of_the_crops_size_has_one_place():
    offsets, flips, _ = draw_views(PAPER, 50, stored=224)
    assert not offsets.any()
    assert 0 < flips.sum() < 50


@pytest.mark.slow
def test_photos_smaller_than_a_crop():
    draw = functools.partial(draw_views, count=2)
    for function in (views.central_view, views.ten_views, draw):
        with pytest.raises(ValueError, match=r"at least as large .* 227 pixels. Received: 226"):
            function(CAFFE, stored=226)
