import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_prep.records import Statistics
from keras_alexnet import preprocessing
from keras_alexnet.preprocessing import View
from keras_alexnet.profiles import PROFILES

RANDOM = np.random.default_rng(0)
PAPER, CAFFE = PROFILES["paper"], PROFILES["caffe"]

# ImageNet's components, from the 2012 program's batches.meta (deviations in grey levels).
DEVIATIONS = np.array([19.7208, 37.0939, 121.7801])
VECTORS = np.array(
    [[0.41796, -0.71258, 0.56351], [-0.81698, -0.02354, 0.57618], [0.39731, 0.70120, 0.59200]]
)


def make_statistics(size=256):
    mean_image = RANDOM.uniform(90, 150, (size, size, 3)).astype(np.float32)
    return Statistics(
        count=10,
        mean_image=mean_image,
        channel_mean=mean_image.mean((0, 1)),
        channel_std=np.full(3, 60.0),
        covariance=VECTORS @ np.diag(DEVIATIONS**2) @ VECTORS.T,
        pca_eigenvalues=DEVIATIONS**2,
        pca_eigenvectors=VECTORS,
    )


STATISTICS = make_statistics()
STORED = RANDOM.integers(0, 256, (5, 256, 256, 3)).astype(np.uint8)


def reference(stored, views, profile, noise=None):
    """Network input of one view a photo, in float64, a photo and a row of pixels at a time."""
    size = profile.input_size
    result = np.zeros((len(stored), size, size, 3))
    for number, (photo, view) in enumerate(zip(stored, views, strict=True)):
        for row in range(size):
            pixels = photo[view.y + row, view.x : view.x + size].astype(np.float64)
            pixels -= STATISTICS.mean_image[view.y + row, view.x : view.x + size]
            result[number, row] = pixels[::-1] if view.flip else pixels
        if noise is not None:
            for component in range(3):  # in 0-1, and back to grey levels
                eigenvalue = (DEVIATIONS[component] / 255) ** 2
                draw = profile.colour_noise_std * noise[number, component]
                result[number] += draw * eigenvalue * 255 * VECTORS[:, component]
    return result * profile.pixel_scale


def arguments_of(views, profile):
    size = profile.input_size
    return {
        "crops": np.stack(
            [
                photo[view.y : view.y + size, view.x : view.x + size]
                for photo, view in zip(STORED, views, strict=True)
            ]
        ),
        "offsets": np.array([view[:2] for view in views], np.int32),
        "flips": np.array([view.flip for view in views]),
    }


def random_views(profile):
    margin = 256 - profile.input_size
    corner, opposite = View(0, margin, True), View(margin, 0, False)
    drawn = RANDOM.integers(0, margin + 1, (len(STORED) - 2, 2))
    return [corner, opposite, *(View(int(y), int(x), i % 2 == 0) for i, (y, x) in enumerate(drawn))]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_the_mean_image_under_each_crop_is_subtracted(profile):
    views = random_views(profile)
    result = preprocessing.network_input(
        **arguments_of(views, profile), profile=profile, statistics=STATISTICS
    )
    assert result.dtype == tf.float32
    np.testing.assert_allclose(result, reference(STORED, views, profile), atol=1e-4)


def test_colour_noise_and_scale_are_the_profiles():
    profile = dataclasses.replace(PAPER, pixel_scale=0.25, colour_noise_std=0.3)
    views, noise = random_views(profile), RANDOM.normal(size=(5, 3)).astype(np.float32)
    arguments = arguments_of(views, profile)
    in_graph = tf.function(
        lambda crops, offsets, flips, colour_noise: preprocessing.network_input(
            crops,
            offsets=offsets,
            flips=flips,
            colour_noise=colour_noise,
            profile=profile,
            statistics=STATISTICS,
        )
    )
    result = in_graph(**arguments, colour_noise=noise)
    np.testing.assert_allclose(result, reference(STORED, views, profile, noise), atol=1e-4)


def test_colour_noise_of_the_paper_is_some_grey_levels():
    views = [View(16, 16, False)] * 5
    arguments = arguments_of(views, PAPER) | {"profile": PAPER, "statistics": STATISTICS}
    brightness = np.tile(np.float32([0, 0, 1]), (5, 1))  # one deviation of the largest component
    noisy = preprocessing.network_input(**arguments, colour_noise=brightness)
    added = (noisy - preprocessing.network_input(**arguments)).numpy()
    # 0.1 * (121.7801 / 255)^2 * 255 = 5.816, along the vector
    np.testing.assert_allclose(
        added, np.broadcast_to(5.816 * VECTORS[:, 2], added.shape), atol=2e-3
    )


def test_a_profile_without_colour_noise_looks_at_no_draws():
    arguments = arguments_of(random_views(CAFFE), CAFFE)
    arguments |= {"profile": CAFFE, "statistics": STATISTICS}
    noise = np.full((5, 3), np.nan, np.float32)
    np.testing.assert_array_equal(
        preprocessing.network_input(**arguments, colour_noise=noise),
        preprocessing.network_input(**arguments),
    )


def test_views_of_evaluation():
    assert preprocessing.central_view(PAPER) == View(16, 16, False)
    assert preprocessing.central_view(CAFFE) == View(14, 14, False)
    assert preprocessing.central_view(PAPER, stored=300) == View(38, 38, False)
    five = [(0, 0), (0, 29), (29, 0), (29, 29), (14, 14)]
    expected = [View(y, x, flip) for flip in (False, True) for y, x in five]
    assert preprocessing.ten_views(CAFFE) == expected
    assert preprocessing.ten_views(PAPER, stored=224) == [
        View(0, 0, flip) for flip in (False, True) for _ in range(5)
    ]


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_each_of_the_ten_views(profile):
    for view in preprocessing.ten_views(profile):
        crops = preprocessing.crop(tf.constant(STORED[:2]), view, profile.input_size)
        assert crops.dtype == tf.uint8
        result = preprocessing.network_input(
            crops,
            offsets=np.int32([view[:2]] * 2),
            flips=np.array([view.flip] * 2),
            profile=profile,
            statistics=STATISTICS,
        )
        np.testing.assert_allclose(result, reference(STORED[:2], [view] * 2, profile), atol=1e-4)


def test_preprocess_input_is_the_central_view():
    for name, profile in PROFILES.items():
        view = preprocessing.central_view(profile)
        expected = reference(STORED, [view] * 5, profile)
        for given in (name, profile):
            result = preprocessing.preprocess_input(STORED, STATISTICS, given)
            np.testing.assert_allclose(result, expected, atol=1e-4)
    assert preprocessing.preprocess_input(STORED[:1], STATISTICS).shape == (1, 224, 224, 3)
    with pytest.raises(ValueError, match="profile must be one of"):
        preprocessing.preprocess_input(STORED, STATISTICS, "vgg")


def draw_views(profile, seeds, stored=256):
    data = tf.data.Dataset.from_tensor_slices(seeds).map(
        lambda seed: preprocessing.random_view(seed, profile, stored)
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
        offset, flip, draws = preprocessing.random_view(seed, CAFFE)
        np.testing.assert_array_equal(offset, offsets[row])
        assert bool(flip) == flips[row]
        np.testing.assert_array_equal(draws, noise[row])
    one_number = preprocessing.random_view(tf.constant(9, tf.int64), CAFFE)
    two_numbers = preprocessing.random_view(tf.constant([9, 0], tf.int32), CAFFE)
    for one, two in zip(one_number, two_numbers, strict=True):
        np.testing.assert_array_equal(one, two)


def test_a_photo_of_the_crops_size_has_one_place():
    offsets, flips, _ = draw_views(PAPER, np.arange(50), stored=224)
    assert not offsets.any()
    assert 0 < flips.sum() < 50


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
def test_network_input_as_a_layer_is_float32(policy):
    views, noise = random_views(PAPER), RANDOM.normal(size=(5, 3)).astype(np.float32)
    arguments = arguments_of(views, PAPER)
    before = keras.mixed_precision.global_policy()
    try:
        keras.mixed_precision.set_global_policy(policy)
        inputs = {
            "image": keras.Input([224, 224, 3], dtype="uint8", name="image"),
            "offset": keras.Input([2], dtype="int32", name="offset"),
            "flip": keras.Input([], dtype="uint8", name="flip"),
            "noise": keras.Input([3], dtype="float32", name="noise"),
        }
        layer = preprocessing.NetworkInput(PAPER, STATISTICS)
        model = keras.Model(inputs, layer(inputs))
    finally:
        keras.mixed_precision.set_global_policy(before)
    features = {
        "image": tf.constant(arguments["crops"]),
        "offset": tf.constant(arguments["offsets"]),
        "flip": tf.constant(arguments["flips"].astype(np.uint8)),
    }
    result = model(features | {"noise": tf.constant(noise)})
    assert result.dtype == "float32"
    np.testing.assert_allclose(result, reference(STORED, views, PAPER, noise), atol=1e-4)
    np.testing.assert_allclose(layer(features), reference(STORED, views, PAPER), atol=1e-4)


def test_photos_smaller_than_a_crop():
    for function in (
        lambda: preprocessing.central_view(CAFFE, stored=226),
        lambda: preprocessing.ten_views(CAFFE, stored=226),
        lambda: preprocessing.random_view(tf.constant([1, 2]), CAFFE, stored=226),
        lambda: preprocessing.preprocess_input(STORED[:, :226, :226], STATISTICS, CAFFE),
    ):
        with pytest.raises(ValueError, match=r"at least as large .* 227 pixels. Received: 226"):
            function()


def test_sizes_that_do_not_fit_the_profile():
    arguments = arguments_of(random_views(PAPER), PAPER)
    with pytest.raises(ValueError, match=r"shape \[B, 227, 227, 3\].*Received: \(5, 224, 224, 3\)"):
        preprocessing.network_input(**arguments, profile=CAFFE, statistics=STATISTICS)
    small = make_statistics(size=200)
    with pytest.raises(ValueError, match=r"stored at least 224. Received: \(200, 200, 3\)"):
        preprocessing.network_input(**arguments, profile=PAPER, statistics=small)
