"""Each augmentation against the same arithmetic in NumPy, in float64."""

import dataclasses
import math
import shutil

import numpy as np
import pytest
import scipy.ndimage
import stand_in
import tensorflow as tf
from absl import flags
from train_runs import PROFILE, assert_same_run, options, places_of, run

from keras_alexnet.inputs import augmentations, preprocessing, views
from keras_alexnet.network.choices import AUGMENTATIONS
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.preflight_checks.report import preflight
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training.checkpoints import Place
from keras_alexnet.training.options import RunOptions, flags_behind, recipe_from_flags

SIDE = 63
MIDDLE = (SIDE - 1) / 2
GRAIN = np.random.default_rng(0).integers(-30, 31, [4, SIDE, SIDE, 3])
SMOOTH = np.stack([stand_in.pixels(SIDE, SIDE, seed) for seed in range(4)])
PHOTOS = np.clip(SMOOTH + GRAIN, 0, 255).astype(np.uint8)
DRAWS = np.array(
    [[0.0, 0.0, 0.0, 0.0], [0.1, 0.9, 0.3, 0.6], [0.49, 0.51, 0.8, 0.2], [0.99, 0.2, 0.7, 0.4]]
)


def either_way(draw, strength):
    return (2 * draw - 1) * strength


def moved(photo, to_source):
    """Interpolate each pixel between the four around its place in the photo, 128 outside."""
    y, x = np.mgrid[:SIDE, :SIDE].astype(np.float64)
    source_x, source_y = to_source(x, y)
    places, options = [source_y + 1, source_x + 1], {"order": 1, "mode": "constant", "cval": 128}
    # A frame of what is outside, so that the outermost pixels are blended with it.
    framed = np.pad(photo.astype(float), [(1, 1), (1, 1), (0, 0)], constant_values=128)
    channels = np.moveaxis(framed, -1, 0)
    return np.stack([scipy.ndimage.map_coordinates(c, places, **options) for c in channels], -1)


def rotated(photo, draws):
    # A complex number is a place; times exp(i angle) it is turned.
    turn = np.exp(1j * math.radians(either_way(draws[0], 20)))

    def to_source(x, y):
        source = (x + 1j * y - MIDDLE * (1 + 1j)) * turn
        return source.real + MIDDLE, source.imag + MIDDLE

    return moved(photo, to_source)


def translated(photo, draws):
    dx, dy = either_way(draws[:2], 9.5)
    return moved(photo, lambda x, y: (x - dx, y - dy))


def sheared_x(photo, draws):
    level = either_way(draws[0], 0.3)
    return moved(photo, lambda x, y: (x + level * (y - MIDDLE), y))


def sheared_y(photo, draws):
    level = either_way(draws[0], 0.3)
    return moved(photo, lambda x, y: (x, y + level * (x - MIDDLE)))


def cut_out(photo, draws):
    top, left = (int(draw * SIDE) - 10 for draw in draws[:2])
    result = photo.astype(np.float64)
    result[max(top, 0) : top + 20, max(left, 0) : left + 20] = 128
    return result


def in_yiq(photo, draws):
    hue = either_way(draws[0], 0.4)
    saturation, value = 1 + either_way(draws[1:3], 0.4)
    to_yiq = np.array([[0.299, 0.587, 0.114], [0.596, -0.274, -0.322], [0.211, -0.523, 0.312]])
    y, i, q = np.moveaxis(photo @ to_yiq.T, -1, 0)
    chroma = (i + 1j * q) * np.exp(1j * hue) * saturation
    yiq = np.stack([y, chroma.real, chroma.imag], axis=-1) * value
    return np.clip(yiq @ np.linalg.inv(to_yiq).T, 0, 255)


# Largest difference, grey levels: float32's rounding of places.
REFERENCES = {
    "rotate:20": (rotated, 0.01),
    "translate:9.5": (translated, 0.01),
    "shear_x:0.3": (sheared_x, 0.01),
    "shear_y:0.3": (sheared_y, 0.01),
    "cutout:20": (cut_out, 0),
    "hsv_in_yiq:0.4": (in_yiq, 0.001),
}


def changed(texts, photos=PHOTOS, drawn=DRAWS):
    """Augment in a graph, as in training."""
    chosen = augmentations.parse(texts)
    repeated = np.repeat(drawn[:, None], len(chosen), axis=1).astype(np.float32)
    function = tf.function(lambda images, draws: augmentations.change(images, draws, chosen))
    return function(tf.constant(photos), tf.constant(repeated)).numpy()


@pytest.mark.parametrize("text", REFERENCES)
def test_an_augmentation_is_what_numpy_computes(text):
    reference, tolerance = REFERENCES[text]
    expected = np.stack([reference(photo, row) for photo, row in zip(PHOTOS, DRAWS, strict=True)])
    assert np.abs(expected - PHOTOS).max() > 10, "the reference changes nothing"
    result = changed([text])
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, rtol=0, atol=tolerance)


def test_every_augmentation_has_a_reference():
    assert {text.partition(":")[0] for text in REFERENCES} == set(AUGMENTATIONS)
    streams = [limits.stream for limits in AUGMENTATIONS.values()]
    assert len(set(streams)) == len(streams)
    assert min(streams) > 1, "what views.random_views draws from"


@pytest.mark.slow
def test_augmentations_follow_one_another_in_the_order_that_was_given():
    one, other = changed(["rotate:20", "cutout:20"]), changed(["cutout:20", "rotate:20"])
    assert np.abs(one - other).max() > 10
    np.testing.assert_array_equal(
        one, changed(["cutout:20"], changed(["rotate:20"])), err_msg="first turned, then cut out"
    )


@pytest.mark.parametrize(
    ("texts", "message"),
    [
        (["rotate", "spin"], r"augment .*rotate, translate, .*'spin'"),
        (["sharpness:0.9"], r"augment .*'sharpness'"),  # of runs of earlier versions
        (["rotate:400"], r"rotate .*180.*'400'"),
        (["rotate:much"], r"'much'"),
        (["rotate:nan"], r"'nan'"),
        (["cutout:0"], r"'0'"),
        (["cutout:7"], r"multiple of 2.*'7'"),
        (["rotate", "cutout", "rotate:3"], r"rotate twice"),
    ],
)
def test_a_mistake_is_one_line(texts, message):
    with pytest.raises(ValueError, match=message) as error:
        augmentations.parse(texts)
    assert "\n" not in str(error.value)


def test_a_strength_that_is_not_named_is_the_usual_one():
    chosen = augmentations.parse([" rotate", "cutout:32"])
    assert list(map(str, chosen)) == ["rotate:15", "cutout:32"]
    assert augmentations.parse(list(map(str, chosen))) == chosen
    assert augmentations.parse(None) == ()


def options_of(*arguments):
    values = flags.FlagValues()
    training_flags.define_training(values)
    values(["train", *arguments])
    return recipe_from_flags(values, PROFILES["paper"])


def test_the_flag_is_a_list_whose_strengths_are_kept_with_the_run():
    assert options_of("--augment=cutout,rotate:3").augment == ("cutout:64", "rotate:3")
    assert options_of().augment is None, "as in the run.json of runs before there was the flag"
    assert flags_behind("options.augment") == {"augment"}
    with pytest.raises(ValueError, match="'spin'"):
        options_of("--augment=spin")


def test_draws_depend_on_seed_and_place_alone():
    seed = tf.constant([3, 0], tf.int64)
    both = augmentations.parse(["rotate", "cutout"])
    whole = augmentations.draws(seed, 0, 64, both).numpy()
    np.testing.assert_array_equal(augmentations.draws(seed, 24, 8, both), whole[24:32])
    cutout = augmentations.draws(seed, 0, 64, both[1:]).numpy()
    np.testing.assert_array_equal(cutout, whole[:, 1:], err_msg="rotate is another stream")
    assert whole.min() >= 0
    assert whole.max() < 1
    assert len(np.unique(whole)) > 500
    next_epoch = tf.constant([3, 1], tf.int64)
    assert not np.array_equal(augmentations.draws(next_epoch, 0, 64, both), whole)
    _, _, noise = views.random_views(seed, 0, 64, PROFILE)
    assert noise.shape == (64, 3)
    for stream in (0, 1):
        assert abs(np.corrcoef(whole[:, stream, 0], noise[:, 0])[0, 1]) < 0.4


def test_the_network_sees_the_changed_photo_in_training_and_its_own_in_validation():
    profile = dataclasses.replace(PROFILE, colour_noise=None)
    size = profile.input_size
    chosen = augmentations.parse(["cutout:100"])
    features = {
        "image": tf.fill([2, size, size, 3], tf.constant(7, tf.uint8)),
        "offset": tf.zeros([2, 2], tf.int32),
        "flip": tf.constant([0, 1], tf.uint8),
        "noise": tf.zeros([2, 3]),
        "augment": tf.constant([[[0.5] * 4]] * 2),
    }
    with_augment, without = (
        preprocessing.NetworkInput(profile, stand_in.statistics(), augment)
        for augment in (chosen, ())
    )
    for training in (False, True):
        seen, own = (layer(features, training=training) for layer in (with_augment, without))
        levels = np.round(np.abs(seen - own) / profile.pixel_scale, 3)
        if training:
            assert levels.max() == 121
            assert np.sum(levels > 0) == 2 * 100 * 100 * 3
        else:
            assert not levels.any()


AUGMENT = ("rotate:20", "cutout:64", "hsv_in_yiq:0.3", "shear_x:0.1")


@pytest.mark.slow
def test_a_run_that_goes_on_from_its_first_step_ends_as_the_one_that_was_not_stopped(
    data_dir, tmp_path
):
    """With a checkpoint after each step; the second folder loses all but the first of them."""
    often = RunOptions(checkpoint_seconds=0.0, keep=8)
    whole, resumed = tmp_path / "whole", tmp_path / "resumed"
    changes = {"augment": AUGMENT, "epochs": 1, "batch_size": 16}  # two steps
    run(data_dir, whole, run_options=often, **changes)
    assert Place(0, 1) in places_of(whole)
    shutil.copytree(whole, resumed)
    for path in (resumed / "checkpoints").iterdir():
        if path.name != "epoch-0000-step-000001" and path.name.startswith("epoch-"):
            shutil.rmtree(path)
    assert places_of(resumed) == [Place(0, 1)]
    run(data_dir, resumed, run_options=often, **changes)
    assert_same_run(whole, resumed)
    with pytest.raises(ValueError, match="allow_changed_flags=augment"):
        run(data_dir, whole, **changes | {"augment": None})


@pytest.mark.slow
def test_the_preflight_takes_the_augmentations(data_dir):
    seen = [
        preflight(
            data_dir=str(data_dir), profile=PROFILE, recipe=options(augment=augment), seconds=1.0
        )
        for augment in (None, AUGMENT)
    ]
    assert seen[0]["losses"][0] != seen[1]["losses"][0]
    assert seen[0]["layers"]["conv1"]["rms"] == seen[1]["layers"]["conv1"]["rms"]
