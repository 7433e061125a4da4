import dataclasses

import keras
import numpy as np
import pytest
import tensorflow as tf

from data_prep.records import Statistics
from keras_alexnet.inputs import preprocessing, views
from keras_alexnet.inputs.views import View
from keras_alexnet.network.profiles import PROFILES

RANDOM = np.random.default_rng(0)
PAPER, CAFFE, KRIZHEVSKY = (PROFILES[name] for name in ("paper", "caffe", "krizhevsky2012"))

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


STATISTICS, SMALL_STATISTICS = make_statistics(), make_statistics(size=80)
STORED = RANDOM.integers(0, 256, (5, 256, 256, 3)).astype(np.uint8)

# What a profile may do with pixels, each with each: a small input, photos of 80 pixels.
MEANS = {
    "crop": {"mean_position": "crop"},
    "centre": {"mean_position": "centre"},
    "channels": {
        "mean": "channels",
        "mean_position": None,
        "channel_mean": (120.0, 110.5, 99.25),
    },
}
ENDS = {
    "grey levels": {},
    "scaled": {"pixel_scale": 0.25},
    "divided": {"channel_std": (58.4, 57.1, 57.4), "pixel_scale": 3.0},
}
NOISES = {
    "none": {"colour_noise": None},
    "eigenvalue": {"colour_noise": "eigenvalue", "colour_noise_std": 0.3},
    "deviation": {"colour_noise": "deviation", "colour_noise_divisor": 1.1},
}


def reference(stored, its_views, profile, statistics=STATISTICS, noise=None):
    """Network input of one view a photo, in float64, a photo and a row of pixels at a time."""
    size = profile.input_size
    middle = (stored.shape[1] - size) // 2
    result = np.zeros((len(stored), size, size, 3))
    for number, (photo, view) in enumerate(zip(stored, its_views, strict=True)):
        for row in range(size):
            pixels = photo[view.y + row, view.x : view.x + size].astype(np.float64)
            if profile.mean_position == "crop":
                pixels -= statistics.mean_image[view.y + row, view.x : view.x + size]
            if view.flip:
                pixels = pixels[::-1]
            if profile.mean_position == "centre":
                pixels = pixels - statistics.mean_image[middle + row, middle : middle + size]
            if profile.mean == "channels":
                pixels = pixels - np.array(profile.channel_mean)
            if noise is not None and profile.colour_noise:
                for component, deviation in enumerate(DEVIATIONS):
                    in_grey_levels = {
                        "eigenvalue": (deviation / 255) ** 2 * 255,  # in 0-1, and back
                        "deviation": deviation,
                    }[profile.colour_noise]
                    draw = profile.colour_noise_std * noise[number, component]
                    pixels = pixels + draw * in_grey_levels * VECTORS[:, component]
                pixels = pixels / profile.colour_noise_divisor
            if profile.channel_std:
                pixels = pixels / np.array(profile.channel_std)
            result[number, row] = pixels * profile.pixel_scale
    return result


def arguments_of(its_views, profile, stored=STORED):
    size = profile.input_size
    return {
        "crops": np.stack(
            [
                photo[view.y : view.y + size, view.x : view.x + size]
                for photo, view in zip(stored, its_views, strict=True)
            ]
        ),
        "offsets": np.array([view[:2] for view in its_views], np.int32),
        "flips": np.array([view.flip for view in its_views]),
    }


def random_views(profile, stored=256):
    margin = stored - profile.input_size
    corner, opposite = View(0, margin, True), View(margin, 0, False)
    drawn = RANDOM.integers(0, margin + 1, (len(STORED) - 2, 2))
    return [corner, opposite, *(View(int(y), int(x), i % 2 == 0) for i, (y, x) in enumerate(drawn))]


def in_graph(profile, statistics, **arguments):
    function = tf.function(
        lambda **tensors: preprocessing.network_input(
            **tensors, profile=profile, statistics=statistics
        )
    )
    return function(**{name: tf.constant(value) for name, value in arguments.items()})


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_network_input_of_each_profile_in_training_and_in_evaluation(profile):
    its_views, noise = random_views(profile), RANDOM.normal(size=(5, 3)).astype(np.float32)
    arguments = arguments_of(its_views, profile)
    evaluation = in_graph(profile, STATISTICS, **arguments)
    assert evaluation.dtype == tf.float32
    np.testing.assert_allclose(evaluation, reference(STORED, its_views, profile), atol=1e-4)
    training = in_graph(profile, STATISTICS, **arguments, colour_noise=noise)
    expected = reference(STORED, its_views, profile, noise=noise)
    np.testing.assert_allclose(training, expected, atol=1e-4)
    if profile.colour_noise:
        assert np.abs(expected - evaluation).max() > 1
    else:
        np.testing.assert_array_equal(training, evaluation)


@pytest.mark.slow
@pytest.mark.parametrize("noise_kind", NOISES)
@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("mean", MEANS)
def test_every_mean_noise_and_scale_goes_with_every_other(mean, end, noise_kind):
    fields = {"input_size": 72, **MEANS[mean], **ENDS[end], **NOISES[noise_kind]}
    profile = dataclasses.replace(PAPER, **fields)
    stored = np.ascontiguousarray(STORED[:, :80, :80])
    noise = RANDOM.normal(size=(5, 3)).astype(np.float32)
    for flips in ([True] * 5, [False] * 5, [True, False, False, True, False]):
        its_views = [
            view._replace(flip=flip)
            for view, flip in zip(random_views(profile, stored=80), flips, strict=True)
        ]
        arguments = arguments_of(its_views, profile, stored)
        for colour_noise in (None, noise):
            given = arguments if colour_noise is None else {**arguments, "colour_noise": noise}
            result = in_graph(profile, SMALL_STATISTICS, **given)
            expected = reference(stored, its_views, profile, SMALL_STATISTICS, colour_noise)
            np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)


@pytest.mark.parametrize(
    ("profile", "grey_levels"),
    # 0.1 * (121.7801 / 255)^2 * 255, and 0.1 * 121.7801 / 1.1 with a photo that shrinks too
    [(PAPER, 5.816), (KRIZHEVSKY, 11.071)],
    ids=["paper", "2012"],
)
def test_colour_noise_is_some_grey_levels(profile, grey_levels):
    arguments = arguments_of([View(16, 16, False)] * 5, profile)
    arguments |= {"profile": profile, "statistics": STATISTICS}
    brightness = np.tile(np.float32([0, 0, 1]), (5, 1))  # one deviation of the largest component
    still = preprocessing.network_input(**arguments) / profile.colour_noise_divisor
    added = preprocessing.network_input(**arguments, colour_noise=brightness) - still
    expected = np.broadcast_to(grey_levels * VECTORS[:, 2], added.shape)
    np.testing.assert_allclose(added, expected, atol=2e-3)


@pytest.mark.parametrize("end", ENDS)
@pytest.mark.parametrize("name", ["paper", "krizhevsky2012"])
def test_draws_that_are_all_zero_are_a_photo_without_noise_or_divisor(name, end):
    profile = dataclasses.replace(PROFILES[name], **ENDS[end])
    its_views, noise = random_views(profile), RANDOM.normal(size=(5, 3)).astype(np.float32)
    noise[[1, 4]] = 0.0
    noise[2, :2] = 0.0  # one component alone is noise
    result = in_graph(profile, STATISTICS, **arguments_of(its_views, profile), colour_noise=noise)
    still = reference(STORED, its_views, profile)
    expected = np.where(
        np.any(noise, axis=1)[:, None, None, None],
        reference(STORED, its_views, profile, noise=noise),
        still,
    )
    np.testing.assert_allclose(result, expected, rtol=1e-5, atol=1e-4)
    assert np.abs(expected - still)[[0, 2, 3]].max((1, 2, 3)).min() > 1e-3


@pytest.mark.parametrize("name", ["caffe", "owt", "krizhevsky2012"])
def test_a_profile_without_noise_or_of_deviation_0_ignores_draws_and_divisor(name):
    profile = dataclasses.replace(PROFILES[name], colour_noise_std=0.0)
    arguments = arguments_of(random_views(profile), profile)
    arguments |= {"profile": profile, "statistics": STATISTICS}
    noise = np.full((5, 3), np.nan, np.float32)
    np.testing.assert_array_equal(
        preprocessing.network_input(**arguments, colour_noise=noise),
        preprocessing.network_input(**arguments),
    )


def test_no_profile_pays_for_what_another_does():
    """Compare the operations in the graph: all that each profile's arithmetic is made of."""

    def operations(name, **draws):
        profile = PROFILES[name]
        specs = {
            "crops": tf.TensorSpec([None, *[profile.input_size] * 2, 3], tf.uint8),
            "offsets": tf.TensorSpec([None, 2], tf.int32),
            "flips": tf.TensorSpec([None], tf.bool),
            **draws,
        }
        options = {"profile": profile, "statistics": STATISTICS}
        function = tf.function(lambda tensors: preprocessing.network_input(**tensors, **options))
        graph = function.get_concrete_function(specs).graph
        types = [operation.type for operation in graph.get_operations()]
        arithmetic = ("AddV2", "GatherV2", "MatMul", "Mul", "ReverseV2", "Select", "Any", "Sub")
        return {kind: count for kind in arithmetic if (count := types.count(kind))}

    mirrored = {"ReverseV2": 1, "Select": 1}
    crop_mean = {"GatherV2": 1, "Mul": 1, "AddV2": 3, "Sub": 1}  # pixels, by their numbers
    noise = {"colour_noise": tf.TensorSpec([None, 3])}
    assert operations("caffe", **noise) == {**mirrored, **crop_mean}
    assert operations("paper") == {**mirrored, **crop_mean}
    assert operations("paper", **noise) == {**mirrored, **crop_mean, "MatMul": 1, "AddV2": 4}
    centre_mean = {**mirrored, "Sub": 1}
    assert operations("krizhevsky2012") == centre_mean
    noisy = {**centre_mean, "MatMul": 1, "AddV2": 1, "Mul": 1, "Any": 1}  # and the divisor
    assert operations("krizhevsky2012", **noise) == noisy
    for name in ("owt", "seed"):
        assert operations(name, **noise) == {**mirrored, "Sub": 1, "Mul": 1}


@pytest.mark.parametrize("name", PROFILES)
def test_each_of_the_ten_views_and_preprocess_input_of_the_central_one(name):
    profile = PROFILES[name]
    for view in views.ten_views(profile):
        result = preprocessing.view_input(tf.constant(STORED[:2]), view, profile, STATISTICS)
        np.testing.assert_allclose(result, reference(STORED[:2], [view] * 2, profile), atol=1e-4)
    expected = reference(STORED[:2], [views.central_view(profile)] * 2, profile)
    for given in (name, profile):
        result = preprocessing.preprocess_input(STORED[:2], STATISTICS, given)
        np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.slow
def test_preprocess_input_takes_arrays_and_tensors_of_any_numbers():
    stored = STORED[:2]
    expected = preprocessing.preprocess_input(stored, STATISTICS)
    assert expected.shape == (2, 224, 224, 3)
    of_types = [stored.astype(dtype) for dtype in (np.float32, np.float64, int)]
    for images in (*of_types, tf.constant(stored), tf.constant(stored, tf.float32)):
        result = preprocessing.preprocess_input(images, STATISTICS)
        assert result.dtype == tf.float32
        np.testing.assert_array_equal(result, expected)
    half = preprocessing.preprocess_input(stored + 0.5, STATISTICS)
    np.testing.assert_allclose(half - expected, np.full(half.shape, 0.5), atol=1e-4)
    in_graph = tf.function(lambda images: preprocessing.preprocess_input(images, STATISTICS))
    np.testing.assert_array_equal(in_graph(tf.constant(stored)), expected)


@pytest.mark.parametrize("profile", PROFILES.values(), ids=PROFILES)
def test_without_statistics_imagenets_channel_means_stand_in_for_the_mean_image(profile):
    ilsvrc2012 = np.full((256, 256, 3), (127.305, 119.715, 104.913))
    statistics = dataclasses.replace(STATISTICS, mean_image=ilsvrc2012)
    expected = reference(STORED, [views.central_view(profile)] * 5, profile, statistics)
    result = preprocessing.preprocess_input(STORED, profile=profile)
    np.testing.assert_allclose(result, expected, atol=1e-4)


@pytest.mark.parametrize("policy", ["float32", "mixed_bfloat16"])
@pytest.mark.parametrize("name", ["paper", "krizhevsky2012", "owt"])
def test_network_input_as_a_layer_is_float32_and_noisy_in_training_alone(name, policy):
    profile = PROFILES[name]
    its_views, noise = random_views(profile), RANDOM.normal(size=(5, 3))
    keras.mixed_precision.set_global_policy(policy)  # conftest.py sets it back
    layer = preprocessing.NetworkInput(profile, STATISTICS)
    arguments = arguments_of(its_views, profile)
    features = {
        "image": keras.Input(arguments["crops"].shape[1:], dtype="uint8", name="image"),
        "offset": keras.Input([2], dtype="int32", name="offset"),
        "flip": keras.Input([], dtype="uint8", name="flip"),
        "noise": keras.Input([3], dtype="float32", name="noise"),
    }
    model = keras.Model(features, layer(features))
    values = (arguments["crops"], arguments["offsets"], arguments["flips"].astype(np.uint8), noise)
    features = {
        key: tf.constant(value, spec.dtype)
        for (key, spec), value in zip(features.items(), values, strict=True)
    }
    for training, draws in ((True, noise), (False, None)):
        result = model(features, training=training)
        assert result.dtype == "float32"
        expected = reference(STORED, its_views, profile, noise=draws)
        np.testing.assert_allclose(result, expected, atol=1e-4)
    np.testing.assert_array_equal(model(features), result)  # evaluation, unless told otherwise
    no_draws = features | {"noise": tf.fill([5, 3], np.float32(np.nan))}
    np.testing.assert_array_equal(model(no_draws, training=False), result)


@pytest.mark.parametrize(
    ("images", "profile", "message"),
    [
        (STORED[:, :226, :226], CAFFE, r"at least as large .* 227 pixels. Received: 226"),
        (STORED[0], PAPER, r"squares of known size.*Received: \(256, 256, 3\)"),
        (STORED[:, :, :250], PAPER, r"squares of known size.*Received: \(5, 256, 250, 3\)"),
        (STORED[..., :1], PAPER, r"squares of known size.*Received: \(5, 256, 256, 1\)"),
        (STORED, "vgg", "profile must be one of"),
    ],
    ids=["small", "no batch", "no square", "grey", "profile"],
)
def test_images_that_do_not_fit(images, profile, message):
    with pytest.raises(ValueError, match=message):
        preprocessing.preprocess_input(images, STATISTICS, profile)


def test_crops_that_do_not_fit_the_profile():
    arguments = arguments_of(random_views(PAPER), PAPER)
    with pytest.raises(ValueError, match=r"shape \[B, 227, 227, 3\].*Received: \(5, 224, 224, 3\)"):
        preprocessing.network_input(**arguments, profile=CAFFE, statistics=STATISTICS)


@pytest.mark.parametrize("shape", [(71, 71, 3), (80, 90, 3), (80, 80), (80, 80, 1)])
@pytest.mark.parametrize("mean_position", ["crop", "centre"])
def test_a_mean_image_that_does_not_fit(mean_position, shape):
    profile = dataclasses.replace(PAPER, input_size=72, mean_position=mean_position)
    statistics = dataclasses.replace(STATISTICS, mean_image=np.zeros(shape, np.float32))
    arguments = arguments_of(random_views(profile, stored=80), profile)
    with pytest.raises(ValueError, match=r"\[stored, stored, 3\] with stored at least 72. Rec"):
        preprocessing.network_input(**arguments, profile=profile, statistics=statistics)


def test_photos_of_another_size_than_the_mean_image():
    message = r"shape of the mean image, \(80, 80, 3\). Received: \(256, 256, 3\)"
    for profile in (PAPER, KRIZHEVSKY):
        with pytest.raises(ValueError, match=message):
            preprocessing.preprocess_input(STORED, SMALL_STATISTICS, profile)
    preprocessing.preprocess_input(STORED, SMALL_STATISTICS, "owt")  # has no use for it


@pytest.mark.slow
def test_statistics_are_needed_by_a_mean_image_and_by_noise():
    constants = dataclasses.replace(
        PAPER, mean="channels", mean_position=None, channel_mean=(1.0, 2.0, 3.0)
    )
    arguments = arguments_of(random_views(PAPER), PAPER) | {"statistics": None}
    noise = np.zeros((5, 3), np.float32)
    preprocessing.network_input(**arguments, profile=constants)
    for profile, draws in ((PAPER, None), (constants, noise)):
        with pytest.raises(ValueError, match=r"statistics .* for the profile paper. Received: No"):
            preprocessing.network_input(**arguments, profile=profile, colour_noise=draws)
