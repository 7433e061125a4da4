import dataclasses

import numpy as np
import pytest
import tensorflow as tf

from keras_alexnet import views
from keras_alexnet.profiles import PROFILES
from keras_alexnet.views import View

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


def draw_views(profile, seeds, stored=256):
    data = tf.data.Dataset.from_tensor_slices(seeds).map(
        lambda seed: views.random_view(seed, profile, stored)
    )
    (drawn,) = data.batch(len(seeds)).as_numpy_iterator()
    return drawn


def test_random_views_are_uniform_over_all_places():
    count, places = 20_000, 33
    seeds = np.stack([np.full(count, 7), np.arange(count)], axis=1)
    offsets, flips, noise = draw_views(PAPER, seeds)
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


def test_random_views_are_a_function_of_the_seed():
    seeds = np.array([[1, 2], [1, 2], [2, 1], [1, 3], [-5, 2**62]])
    offsets, flips, noise = draw_views(CAFFE, seeds)
    np.testing.assert_array_equal(noise[0], noise[1])
    assert len({row.tobytes() for row in noise}) == 4
    for row, seed in enumerate(seeds):
        offset, flip, draws = views.random_view(seed, CAFFE)
        np.testing.assert_array_equal(offset, offsets[row])
        assert bool(flip) == flips[row]
        np.testing.assert_array_equal(draws, noise[row])
    one_number = views.random_view(tf.constant(9, tf.int64), CAFFE)
    two_numbers = views.random_view(tf.constant([9, 0], tf.int32), CAFFE)
    for one, two in zip(one_number, two_numbers, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_run_of_an_older_version_is_gone_on_with_by_the_same_draws():
    """What version 0.1 drew for the seeds of three photos: other draws are another run."""
    drawn = draw_views(PAPER, np.array([[0, 0], [2**40, 0], [3, -4]]))
    np.testing.assert_array_equal(drawn[0], [[6, 23], [12, 16], [6, 23]])
    np.testing.assert_array_equal(drawn[1], [False, False, False])
    expected = [[-0.602482, -1.550287, -0.192648], [1.171374, 0.140147, 0.797463]]
    np.testing.assert_allclose(drawn[2], [*expected, [0.801011, 0.222878, 0.245908]], atol=1e-5)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_what_is_random_is_the_profiles(profile):
    margin = 256 - profile.input_size
    offsets, flips, noise = draw_views(profile, np.arange(300))
    if profile.training_crop == "random":
        assert (offsets.min(), offsets.max()) == (0, margin)
    else:
        np.testing.assert_array_equal(offsets, np.full([300, 2], margin // 2))
    assert (0 < flips.sum() < 300) if profile.training_flip else not flips.any()
    paper = draw_views(dataclasses.replace(PAPER, input_size=profile.input_size), np.arange(300))
    np.testing.assert_array_equal(noise, paper[2])
    if profile.training_crop == "random" and profile.training_flip:
        np.testing.assert_array_equal(offsets, paper[0])
        np.testing.assert_array_equal(flips, paper[1])


def test_the_profile_of_the_pytorch_port_sees_what_evaluation_sees():
    offsets, flips, _ = draw_views(SEED, np.arange(100))
    assert offsets.dtype == np.int32
    assert {View(*offset, flip) for offset, flip in zip(offsets.tolist(), flips, strict=True)} == {
        views.central_view(SEED)
    }


def test_one_of_crop_and_flip_may_be_random():
    fixed_crop = dataclasses.replace(SEED, training_flip=True)
    offsets, flips, _ = draw_views(fixed_crop, np.arange(100))
    assert (offsets == 14).all()
    assert 0 < flips.sum() < 100
    unmirrored = dataclasses.replace(CAFFE, training_flip=False)
    offsets, flips, _ = draw_views(unmirrored, np.arange(100))
    np.testing.assert_array_equal(offsets, draw_views(CAFFE, np.arange(100))[0])
    assert not flips.any()


def test_a_photo_of_the_crops_size_has_one_place():
    offsets, flips, _ = draw_views(PAPER, np.arange(50), stored=224)
    assert not offsets.any()
    assert 0 < flips.sum() < 50


def test_photos_smaller_than_a_crop():
    for function in (
        lambda: views.central_view(CAFFE, stored=226),
        lambda: views.ten_views(CAFFE, stored=226),
        lambda: views.random_view(tf.constant([1, 2]), CAFFE, stored=226),
        lambda: views.random_view(tf.constant([1, 2]), SEED, stored=226),
    ):
        with pytest.raises(ValueError, match=r"at least as large .* 227 pixels. Received: 226"):
            function()
