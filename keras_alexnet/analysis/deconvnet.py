"""What excites a map of a network: photos of the validation split, and what of them does it.

A deconvnet (Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014)
goes back from one activation to the pixels.
"""

import dataclasses
import sys
from collections.abc import Callable, Mapping, Sequence

import keras
import numpy as np
import tensorflow as tf
import tqdm
from PIL import Image

from data_prep import records
from keras_alexnet.inputs import pipeline, preprocessing, views
from keras_alexnet.network import layers
from keras_alexnet.network.profile import Profile
from keras_alexnet.training import workdir as workdirs

_SIDE = 3  # photos, of the square of those that excite a map most
_TILE = 96  # pixels
_GAP = 4  # pixels, between squares
_GREY = 128

# (signal [N, H', W', C'], layer, its input [N, H, W, C]) -> signal [N, H, W, C].
_Back = Callable[[tf.Tensor, keras.layers.Layer, tf.Tensor], tf.Tensor]


@dataclasses.dataclass(frozen=True)
class Field:
    """What the units of a layer see of the network's input, along one side of it.

    Unit i sees the pixels first + i * stride ... first + i * stride + size - 1, of which some may
    lie outside.
    """

    first: int = 0
    stride: int = 1
    size: int = 1

    def behind(self, window: int, strides: int, padding: int) -> "Field":
        """Of a layer behind this one whose units each see so many of its, so far apart."""
        return Field(
            first=self.first - padding * self.stride,
            stride=self.stride * strides,
            size=self.size + (window - 1) * self.stride,
        )


def excitation(
    model: keras.Model, profile: Profile, images: tf.Tensor, layer: str, map_index: int
) -> tf.Tensor:
    """What of some photos excites one map most, in the space of the network's input.

    Goes back from the largest value of the map, all others of the layer being 0:

    - convolutions: with the transposed kernels, group by group, and without biases;
    - ReLU: negative signals become 0, whatever the sign of the activation was;
    - max pooling: to the places where the maxima were; where two of its overlapping windows had the
      same one, the sum of both;
    - normalizations pass a signal as it is: Zeiler and Fergus, whose network normalizes contrast
      too, do not take that back either.

    Args:
        model: from network input to scores, as `AlexNet` makes it.
        profile: the model's; its activation must be ReLU.
        images: network input, float [N, S, S, 3].
        layer: a convolution, such as "conv3".
        map_index: which of its maps, from 0.

    Returns:
        float32 [N, S, S, 3], of which what is outside of the one unit's field is 0; 0 everywhere
        where no unit of the map is excited.

    Raises:
        ValueError: the profile has no such layer, the layer no such map, or another activation.
    """
    _require_map(model, profile, layer, map_index)
    x, passed = tf.cast(images, tf.float32), []
    for step in _steps_to(model, layer):
        passed.append((step, x))
        x = tf.cast(step(x, training=False), tf.float32)
    signal = _strongest(x, map_index)
    for step, its_input in reversed(passed):
        signal = _BACK[type(step)](signal, step, its_input)
    return signal


def activations(model: keras.Model, images: tf.Tensor, layer: str) -> tf.Tensor:
    """The maps of a convolution behind its ReLU, float32 [N, h, w, C].

    Args:
        model: from network input to scores.
        images: network input, float [N, S, S, 3].
        layer: a convolution of it.
    """
    for step in _steps_to(model, layer):
        images = step(images, training=False)
    return tf.nn.relu(tf.cast(images, tf.float32))


def field(model: keras.Model, layer: str) -> Field:
    """What the units of a convolution see of the network's input.

    Args:
        model: from network input to scores.
        layer: a convolution of it.
    """
    seen = Field()
    for step in _steps_to(model, layer):
        seen = _FIELDS[type(step)](seen, step)
    return seen


def _require_map(model: keras.Model, profile: Profile, layer: str, map_index: int) -> None:
    convolutions = [name for name in profile.layer_names if name.startswith("conv")]
    if layer not in convolutions:
        raise ValueError(
            f"layer must be one of {', '.join(convolutions)}, the convolutions of the profile "
            f"{profile.name}. Received: {layer!r}. Take one of these."
        )
    maps = model.get_layer(layer).filters
    if not 0 <= map_index < maps:
        raise ValueError(
            f"The maps of {layer} are 0 to {maps - 1}. Received: {map_index}. Take one of these."
        )
    if profile.activation != "relu":
        raise ValueError(
            "A deconvnet goes back through ReLU. Received: a network with the activation "
            f"{profile.activation}. Take a run without the ablation relu."
        )


def _steps_to(model: keras.Model, layer: str) -> list[keras.layers.Layer]:
    """The layers from the input to a convolution and with it, in order."""
    chain = [step for step in model.layers if not isinstance(step, keras.layers.InputLayer)]
    return chain[: [step.name for step in chain].index(layer) + 1]


def _strongest(maps: tf.Tensor, map_index: int) -> tf.Tensor:
    """The maps, of which nothing but the largest value of one stays, and that if it is positive."""
    count, height, width, channels = tf.unstack(tf.shape(maps))
    flat = tf.reshape(maps[..., map_index], [count, height * width])
    best = tf.one_hot(tf.argmax(flat, axis=1), height * width) * tf.nn.relu(flat)
    of_map = tf.reshape(best, [count, height, width, 1])
    return of_map * tf.one_hot(map_index, channels)


def _back_through_padding(
    signal: tf.Tensor, step: keras.layers.ZeroPadding2D, its_input: tf.Tensor
) -> tf.Tensor:
    (top, _), (left, _) = step.padding
    height, width = its_input.shape[1:3]
    return signal[:, top : top + height, left : left + width]


def _back_through_convolution(
    signal: tf.Tensor, step: layers.GroupedConv2D, its_input: tf.Tensor
) -> tf.Tensor:
    kernel = tf.cast(tf.convert_to_tensor(step.kernel), tf.float32)
    count, height, width, channels = tf.unstack(tf.shape(its_input))
    parts = [
        tf.nn.conv2d_transpose(
            of_group,
            group_kernel,
            output_shape=[count, height, width, channels // step.groups],
            strides=step.strides,
            padding=step.padding.upper(),
        )
        for of_group, group_kernel in zip(
            tf.split(signal, step.groups, axis=-1),
            tf.split(kernel, step.groups, axis=-1),
            strict=True,
        )
    ]
    return tf.concat(parts, axis=-1)


def _back_through_relu(
    signal: tf.Tensor, step: keras.layers.ReLU, its_input: tf.Tensor
) -> tf.Tensor:
    del step, its_input  # the signal's own sign decides
    return tf.nn.relu(signal)


def _as_it_is(signal: tf.Tensor, step: keras.layers.Layer, its_input: tf.Tensor) -> tf.Tensor:
    del step, its_input
    return signal


def _back_through_pooling(
    signal: tf.Tensor, step: keras.layers.MaxPooling2D, its_input: tf.Tensor
) -> tf.Tensor:
    size, strides = step.pool_size[0], step.strides[0]
    # Rows and columns that no window reaches are left out: unpooling knows nothing of them.
    covered = [(pooled - 1) * strides + size for pooled in signal.shape[1:3]]
    _, switches = tf.nn.max_pool_with_argmax(
        its_input[:, : covered[0], : covered[1]], size, strides, "VALID"
    )
    unpooled = max_unpooling(signal, switches, size, strides)
    rest = [whole - part for whole, part in zip(its_input.shape[1:3], covered, strict=True)]
    return tf.pad(unpooled, [[0, 0], [0, rest[0]], [0, rest[1]], [0, 0]])


def max_unpooling(
    pooled: tf.Tensor, switches: tf.Tensor, pool_size: int, strides: int
) -> tf.Tensor:
    """Put values back at the places of the maxima that max pooling without padding took.

    Where windows overlap, two of them may have had the same maximum: their values are summed there.

    Args:
        pooled: [N, h, w, C].
        switches: int64 [N, h, w, C], of `tf.nn.max_pool_with_argmax` without batches in them, of
            maps of no more than the side that the windows cover.
        pool_size: side of the windows.
        strides: distance between neighbouring windows.

    Returns:
        [N, H, W, C], H = (h - 1) * strides + pool_size and W likewise; zeros elsewhere.
    """
    count, height, width, channels = tf.unstack(tf.shape(pooled))
    height, width = ((side - 1) * strides + pool_size for side in (height, width))
    size = height * width * channels
    places = tf.cast(switches, tf.int32) + size * tf.range(count)[:, None, None, None]
    flat = tf.math.unsorted_segment_sum(
        tf.reshape(pooled, [-1]), tf.reshape(places, [-1]), count * size
    )
    return tf.reshape(flat, [count, height, width, channels])


_BACK: Mapping[type, _Back] = {
    keras.layers.ZeroPadding2D: _back_through_padding,
    layers.GroupedConv2D: _back_through_convolution,
    keras.layers.ReLU: _back_through_relu,
    layers.LocalResponseNormalization: _as_it_is,
    layers.SameMapNormalization: _as_it_is,
    keras.layers.MaxPooling2D: _back_through_pooling,
}


def _field_of_convolution(seen: Field, step: layers.GroupedConv2D) -> Field:
    window = step.kernel_size[0]
    return seen.behind(window, step.strides[0], window // 2 if step.padding == "same" else 0)


def _field_of_normalization(seen: Field, step: keras.layers.Layer) -> Field:
    """Without the neighbours that only weaken a unit."""
    del step
    return seen


# What a layer adds to a `Field`; "same" has here strides of 1 and odd kernels alone.
_FIELDS: Mapping[type, Callable[[Field, keras.layers.Layer], Field]] = {
    keras.layers.ZeroPadding2D: lambda seen, step: seen.behind(1, 1, step.padding[0][0]),
    layers.GroupedConv2D: _field_of_convolution,
    keras.layers.ReLU: _field_of_normalization,
    layers.LocalResponseNormalization: _field_of_normalization,
    layers.SameMapNormalization: _field_of_normalization,
    keras.layers.MaxPooling2D: lambda seen, step: seen.behind(
        step.pool_size[0], step.strides[0], 0
    ),
}


@dataclasses.dataclass(frozen=True)
class Excited:
    """The photos that excite a map most, the most excited first.

    Attributes:
        map_index: which map.
        values: the largest activation in each, float32 [K].
        places: (row, column) of it in the map, int64 [K, 2].
        photos: central views, uint8 [K, S, S, 3].
        patterns: of `excitation`, float32 [K, S, S, 3].
    """

    map_index: int
    values: np.ndarray
    places: np.ndarray
    photos: np.ndarray
    patterns: np.ndarray


def most_excited(
    *,
    trained: workdirs.TrainedRun,
    data_dir: str,
    layer: str,
    maps: Sequence[int],
    batch_size: int = 64,
) -> list[Excited]:
    """The nine photos of the validation split that excite each map most, and their patterns.

    Args:
        trained: the network and what it was trained with.
        data_dir: folder that data_prep.prepare wrote.
        layer: a convolution.
        maps: which of its maps.
        batch_size: photos at once.

    Returns:
        One a map; fewer photos where the split has fewer, or where fewer excite the map at all.

    Raises:
        ValueError: there is no such layer or map, or the data set cannot be used.
    """
    for map_index in maps:
        _require_map(trained.model, trained.profile, layer, map_index)
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    pipeline.check_stored_size(manifest, trained.profile)
    best: dict[int, list[tuple]] = {map_index: [] for map_index in maps}
    view = views.central_view(trained.profile, manifest.photo_format.short_side)
    dataset = pipeline.eval_dataset(data_dir, manifest, batch_size=batch_size)

    @tf.function
    def strongest_of(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Of each photo and map the largest value, and its place in the rows of the map."""
        seen = preprocessing.view_input(images, view, trained.profile, trained.statistics)
        found = tf.gather(activations(trained.model, seen, layer), list(maps), axis=-1)
        flat = tf.reshape(found, [tf.shape(found)[0], -1, len(maps)])
        return tf.reduce_max(flat, axis=1), tf.argmax(flat, axis=1)

    with pipeline.broken_data_is_one_line(data_dir, manifest, "validation"):
        for images, _, weights in tqdm.tqdm(dataset, unit=" batches", file=sys.stderr):
            values, places = (found.numpy() for found in strongest_of(images))
            values = np.where(weights.numpy()[:, None] > 0, values, 0)  # no padding
            for column, map_index in enumerate(maps):
                _keep_best(best[map_index], values[:, column], places[:, column], images.numpy())
    width = trained.model.get_layer(layer).output.shape[2]
    return [
        _patterns(trained, layer, map_index, kept, view, width) for map_index, kept in best.items()
    ]


def _keep_best(
    kept: list[tuple], values: np.ndarray, places: np.ndarray, images: np.ndarray
) -> None:
    """Takes those of a batch that are among the best so far; of equal ones the first stay."""
    for index in np.argsort(-values, kind="stable")[: _SIDE**2]:
        if values[index] > 0:
            kept.append((float(values[index]), int(places[index]), images[index]))
    kept.sort(key=lambda entry: -entry[0])
    del kept[_SIDE**2 :]


def _patterns(
    trained: workdirs.TrainedRun,
    layer: str,
    map_index: int,
    kept: list[tuple],
    view: views.View,
    width: int,
) -> Excited:
    size = trained.profile.input_size
    values, places, images = zip(*kept, strict=True) if kept else ((), (), ())
    whole = np.array(images, np.uint8).reshape(-1, *trained.statistics.mean_image.shape)
    patterns = np.zeros([0, size, size, 3], np.float32)
    if kept:
        seen = preprocessing.view_input(
            tf.constant(whole), view, trained.profile, trained.statistics
        )
        patterns = excitation(trained.model, trained.profile, seen, layer, map_index).numpy()
    return Excited(
        map_index=map_index,
        values=np.array(values, np.float32),
        places=np.stack(np.divmod(np.array(places, np.int64), width), axis=1),
        photos=views.crop(whole, view, size),
        patterns=patterns,
    )


def draw(rows: Sequence[Excited], seen: Field) -> Image.Image:
    """The picture of the module's description.

    Args:
        rows: a map each, from top to bottom.
        seen: of the units of their layer.
    """
    square = _SIDE * _TILE
    height = len(rows) * (square + _GAP) - _GAP
    picture = Image.new("RGB", (2 * square + _GAP, height), (255, 255, 255))
    for row, excited in enumerate(rows):
        tiles = zip(excited.photos, excited.patterns, excited.places, strict=True)
        for index, (photo, pattern, place) in enumerate(tiles):
            top, left = (_TILE * part for part in divmod(index, _SIDE))
            for column, pixels in enumerate((photo, _stretched(pattern))):
                tile = Image.fromarray(_cut(pixels, place, seen)).resize((_TILE, _TILE))
                picture.paste(tile, (column * (square + _GAP) + left, row * (square + _GAP) + top))
    return picture


def _stretched(pattern: np.ndarray) -> np.ndarray:
    """A pattern around grey whose largest value, either way, is black or white: uint8."""
    largest = max(float(np.abs(pattern).max()), np.finfo(np.float32).tiny)
    return np.round(_GREY + pattern / largest * (_GREY - 1)).astype(np.uint8)


def _cut(pixels: np.ndarray, place: np.ndarray, seen: Field) -> np.ndarray:
    """What the unit at a place sees of a photo; grey where its field reaches beyond it."""
    top, left = (int(seen.first + index * seen.stride) for index in place)
    result = np.full([seen.size, seen.size, 3], _GREY, np.uint8)
    inside = pixels[max(top, 0) : top + seen.size, max(left, 0) : left + seen.size]
    y, x = max(-top, 0), max(-left, 0)
    result[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return result
