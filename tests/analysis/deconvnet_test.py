"""The deconvnet against one of loops in NumPy, in float64, on whichever stack runs."""

import dataclasses
import io
import json

import commands
import numpy as np
import numpy_alexnet
import pytest
import tensorflow as tf
from PIL import Image
from random_networks import photos, random_network
from train_runs import PROFILE, run

from data_prep import records, tfrecord
from keras_alexnet.analysis import deconvnet
from keras_alexnet.columns import read_weights
from keras_alexnet.network.model import AlexNet
from keras_alexnet.network.profiles import PROFILES
from keras_alexnet.training import workdir

pytestmark = pytest.mark.slow

PAPER = PROFILES["paper"].scaled(0.0625)
_STRIDES = {"conv1": 4}


def unpooled(signal, before, size):
    """Put each value of a photo to the place of its window's first maximum; sum where they meet."""
    result = np.zeros_like(before)
    for y, x, channel in np.ndindex(signal.shape):
        window = before[2 * y : 2 * y + size, 2 * x : 2 * x + size, channel]
        dy, dx = np.unravel_index(np.argmax(window), window.shape)
        result[2 * y + dy, 2 * x + dx, channel] += signal[y, x, channel]
    return result


def unconvolved(signal, kernel, stride, groups, before):
    """Lay each value of a photo times its kernel where the kernel had looked."""
    pad = 0 if stride == 4 else kernel.shape[0] // 2
    height, width, _ = before.shape
    result = np.zeros([height + 2 * pad, width + 2 * pad, before.shape[2]])
    size, inputs, outputs = kernel.shape[0], kernel.shape[2], kernel.shape[3] // groups
    for y, x, channel in zip(*np.nonzero(signal), strict=True):
        own = slice(channel // outputs * inputs, (channel // outputs + 1) * inputs)
        rows = slice(stride * y, stride * y + size)
        columns = slice(stride * x, stride * x + size)
        result[rows, columns, own] += signal[y, x, channel] * kernel[..., channel]
    return result[pad : pad + height, pad : pad + width]


def reference(images, weights, profile, layer, map_index):
    outputs = numpy_alexnet.layer_outputs(images, weights, profile)
    names = list(outputs)[: list(outputs).index(layer) + 1]
    befores = dict(zip(names, [images, *(outputs[name] for name in names)], strict=False))
    patterns = []
    for photo in range(len(images)):
        maps = outputs[layer][photo]
        signal = np.zeros_like(maps)
        place = np.unravel_index(np.argmax(maps[..., map_index]), maps.shape[:2])
        signal[(*place, map_index)] = max(maps[(*place, map_index)], 0)
        for name in reversed(names):
            before = befores[name][photo]
            if name.startswith("conv"):
                kernel = weights[f"{name}/kernel"].astype(np.float64)
                groups = profile.conv_groups[int(name[4]) - 1]
                signal = unconvolved(signal, kernel, _STRIDES.get(name, 1), groups, before)
            elif name.startswith("relu"):
                signal = np.maximum(signal, 0)
            elif name.startswith("pool"):
                signal = unpooled(signal, before, profile.pool_size)
            elif name == "pad1":
                first = profile.conv1_padding[0]
                side = before.shape[0]
                signal = signal[first : first + side, first : first + side]
        patterns.append(signal)
    return np.stack(patterns)


# Of 55 pixels, windows of 2x2 do not reach the last; "krizhevsky2012" has map norms.
@pytest.mark.parametrize(
    ("name", "layer", "pool_size"),
    [
        ("paper", "conv1", 3),
        ("paper", "conv5", 3),
        ("paper", "conv3", 2),
        ("caffe", "conv3", 3),
        ("krizhevsky2012", "conv3", 3),
        ("seed", "conv5", 3),
        ("owt", "conv5", 3),
    ],
)
def test_what_excites_a_map_is_what_numpy_computes(name, layer, pool_size):
    profile = dataclasses.replace(PROFILES[name].scaled(0.0625), pool_size=pool_size)
    model, weights = random_network(profile)
    images = photos(2, profile.input_size)
    maps = numpy_alexnet.layer_outputs(images, weights, profile)[layer]
    # The map whose weaker photo excites it most: not one that nothing excites.
    map_index = int(maps.max(axis=(1, 2)).min(axis=0).argmax())
    expected = reference(images, weights, profile, layer, map_index)
    assert np.abs(expected).max(axis=(1, 2, 3)).min() > 0
    patterns = deconvnet.excitation(model, profile, tf.constant(images), layer, map_index)
    assert patterns.dtype == tf.float32
    scale = np.abs(expected).max()
    np.testing.assert_allclose(patterns, expected, rtol=0, atol=1e-4 * scale)


def test_a_map_that_nothing_excites_has_an_empty_pattern():
    model, _ = random_network(PAPER)
    kernel, bias = model.get_layer("conv2").get_weights()
    model.get_layer("conv2").set_weights([kernel, bias - 1e6])
    assert not np.any(deconvnet.excitation(model, PAPER, photos(2, 224), "conv2", 0))


@pytest.mark.parametrize(
    ("layer", "map_index", "ablated", "message"),
    [
        ("pool1", 0, {}, "one of conv1, conv2, conv3, conv4, conv5"),
        ("conv1", 8, {}, "maps of conv1 are 0 to 7. Received: 8"),
        ("conv1", -1, {}, "Received: -1"),
        ("conv1", 0, {"activation": "tanh"}, "goes back through ReLU. Received: .* tanh"),
    ],
)
def test_what_cannot_be_shown_is_said(layer, map_index, ablated, message):
    profile = dataclasses.replace(PAPER, **ablated)
    with pytest.raises(ValueError, match=message):
        deconvnet.excitation(AlexNet(profile), profile, photos(1, 224), layer, map_index)


# conv1 sees 11 pixels; each pooling adds 2, and each convolution k - 1, of what it is made of.
@pytest.mark.parametrize(
    ("layer", "size", "stride"),
    [("conv1", 11, 4), ("conv2", 51, 8), ("conv3", 99, 16), ("conv4", 131, 16), ("conv5", 163, 16)],
)
def test_a_pattern_is_within_the_field_of_its_unit(layer, size, stride):
    model, weights = random_network(PAPER)
    seen = deconvnet.field(model, layer)
    assert (seen.size, seen.stride) == (size, stride)
    images = photos(3, 224)
    maps = numpy_alexnet.layer_outputs(images, weights, PAPER)[layer][..., 0]
    patterns = deconvnet.excitation(model, PAPER, images, layer, 0).numpy()
    for photo, pattern in zip(maps, patterns, strict=True):
        place = np.unravel_index(np.argmax(photo), photo.shape)
        for along, index in enumerate(place):
            hit = np.flatnonzero(pattern.any(axis=(1 - along, 2)))
            first = seen.first + seen.stride * index
            assert hit.min() >= max(first, 0)
            assert hit.max() < first + size
            if layer == "conv1":
                assert hit.min() == max(first, 0)
                assert hit.max() == min(first + size, 224) - 1


@pytest.fixture(scope="module")
def folder(data_dir, tmp_path_factory):
    folder = tmp_path_factory.mktemp("deconvnet") / "run"
    run(data_dir, folder, epochs=1, strategy="one_device")
    return folder


def validation_views(data_dir):
    """Decoded by Pillow, uint8 [N, 224, 224, 3]."""
    decoded = []
    for path in sorted(data_dir.glob("validation-*")):
        with open(path, "rb") as file:
            for payload in tfrecord.read_records(file):
                encoded = tfrecord.decode_example(payload)["image/encoded"]
                decoded.append(np.asarray(Image.open(io.BytesIO(encoded))))
    return np.stack(decoded)[:, 16:240, 16:240]


def test_the_photos_are_those_that_excite_the_map_most(folder, data_dir):
    trained = workdir.load_run(str(folder))
    crops = validation_views(data_dir)
    mean = records.read_statistics(str(data_dir)).mean_image[16:240, 16:240]
    weights = read_weights(trained.model)
    seen = (crops - mean) * PROFILE.pixel_scale
    maps = numpy_alexnet.layer_outputs(seen, weights, PROFILE)["conv2"]
    found = deconvnet.most_excited(
        trained=trained, data_dir=str(data_dir), layer="conv2", maps=[3, 0], batch_size=4
    )
    assert [excited.map_index for excited in found] == [3, 0]
    for excited in found:
        largest = maps[..., excited.map_index].max(axis=(1, 2))
        order = [photo for photo in np.argsort(-largest)[:9] if largest[photo] > 0]
        np.testing.assert_allclose(excited.values, largest[order], rtol=1e-4)
        # Pillow and TensorFlow decode a JPEG to within some grey levels.
        assert np.abs(excited.photos - crops[order].astype(np.float64)).mean() < 1
        for photo, place in zip(order, excited.places, strict=True):
            own = maps[photo, ..., excited.map_index]
            assert own[tuple(place)] == pytest.approx(own.max(), rel=1e-4)
        expected = reference(seen[order], weights, PROFILE, "conv2", excited.map_index)
        atol = 1e-3 * np.abs(expected).max()
        np.testing.assert_allclose(excited.patterns, expected, rtol=0, atol=atol)


def command(folder, data_dir, output, *arguments):
    return commands.in_process(
        "keras_alexnet.deconvnet",
        *(f"--workdir={folder}", f"--data_dir={data_dir}", f"--output={output}", *arguments),
    )


def test_the_command_draws_photos_and_patterns_side_by_side(folder, data_dir, tmp_path):
    output = tmp_path / "maps.png"
    done = command(folder, data_dir, output, "--layer=conv1", "--maps=2,0")
    assert done.returncode == 0
    assert list(json.loads(done.stdout.splitlines()[-1])["maps"]) == ["2", "0"]
    picture = np.asarray(Image.open(output))
    assert picture.shape == (2 * 288 + 4, 2 * 288 + 4, 3)
    (found,) = deconvnet.most_excited(
        trained=workdir.load_run(str(folder)), data_dir=str(data_dir), layer="conv1", maps=[2]
    )
    # The first photo's tile: the 11 pixels of a side that the unit saw, as large as a tile.
    top, left = 4 * found.places[0] - PROFILE.conv1_padding[0]
    if min(top, left) >= 0 and max(top, left) + 11 <= 224:
        expected = Image.fromarray(found.photos[0][top : top + 11, left : left + 11])
        np.testing.assert_array_equal(picture[:96, :96], expected.resize((96, 96)))
    pattern = picture[:96, 292 : 292 + 96].astype(int)
    assert np.abs(pattern - 128).max() > 100, "stretched to the whole range"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--layer=conv1", "--maps=600"), "maps of conv1 are 0 to 7"),
        (("--maps=first",), "--maps takes numbers from 0, as 0,1,2, but got 'first'"),
    ],
)
def test_a_mistake_is_one_line(arguments, message, folder, data_dir, tmp_path):
    output = tmp_path / "maps.png"
    done = command(folder, data_dir, output, *arguments)
    assert done.returncode == 1
    assert message in done.stderr.splitlines()[-1]
    assert not done.stdout
    assert not output.exists()


def test_a_map_that_no_photo_excites_has_none(folder, data_dir):
    trained = workdir.load_run(str(folder))
    kernel, bias = trained.model.get_layer("conv1").get_weights()
    trained.model.get_layer("conv1").set_weights([kernel, bias - 1e6])
    (found,) = deconvnet.most_excited(
        trained=trained, data_dir=str(data_dir), layer="conv1", maps=[1]
    )
    assert len(found.values) == len(found.places) == len(found.photos) == len(found.patterns) == 0
