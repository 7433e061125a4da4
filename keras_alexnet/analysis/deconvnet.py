"""The validation photos that excite a map of a network most, and their exciting patterns.

A deconvnet (Zeiler and Fergus, "Visualizing and understanding convolutional networks", ECCV 2014)
goes back from one activation to the pixels.
"""

import dataclasses
import heapq
import operator
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

# By class of a layer: signal behind it -> signal in front of it. Through other layers a signal
# goes back by the gradient: through convolutions with the transposed kernels, group by group and
# without biases, through max pooling to the places where the maxima were.
_BACK: Mapping[type, Callable[[tf.Tensor], tf.Tensor]] = {
    keras.layers.ReLU: tf.nn.relu,  # the signal's own sign decides, not the activation's
    # Zeiler and Fergus, whose network normalizes contrast too, do not take that back either.
    layers.LocalResponseNormalization: tf.identity,
    layers.SameMapNormalization: tf.identity,
}


def excitation(
    model: keras.Model, profile: Profile, images: tf.Tensor, layer: str, map_index: int
) -> tf.Tensor:
    """Return what of some photos excites one map most, in the space of the network's input.

    Goes back from the largest value of the map, all others of the layer being 0, as `_BACK` says.
    Where two overlapping pooling windows had the same maximum, their signals are summed.

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
    images = x = tf.cast(images, tf.float32)
    with tf.GradientTape() as tape:
        tape.watch(images)
        for step in _steps_to(model, layer):
            x = _run_with_way_back(step, x)
    flat = tf.reshape(x[..., map_index], [x.shape[0], -1])
    strongest = tf.one_hot(tf.argmax(flat, axis=1), flat.shape[1]) * tf.nn.relu(flat)
    of_map = tf.reshape(strongest, [*x.shape[:3], 1])
    return tape.gradient(x, images, of_map * tf.one_hot(map_index, x.shape[3]))


def _run_with_way_back(step: keras.layers.Layer, x: tf.Tensor) -> tf.Tensor:
    """Return a layer's output, float32, whose gradient is the deconvnet's way back."""
    if isinstance(step, keras.layers.MaxPooling2D):
        # Of equal values the first is the maximum, on every device.
        return tf.nn.max_pool_with_argmax(x, step.pool_size, step.strides, "VALID")[0]
    if type(step) not in _BACK:
        return tf.cast(step(x, training=False), tf.float32)
    run = tf.custom_gradient(
        lambda x: (tf.cast(step(x, training=False), tf.float32), _BACK[type(step)])
    )
    return run(x)


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
    """Return the layers from the input to a convolution and with it, in order."""
    chain = [step for step in model.layers if not isinstance(step, keras.layers.InputLayer)]
    return chain[: [step.name for step in chain].index(layer) + 1]


@dataclasses.dataclass(frozen=True)
class Field:
    """Receptive field of a layer's units in the network's input, along one side of it.

    Unit i sees the pixels first + i * stride ... first + i * stride + size - 1, of which some may
    lie outside.
    """

    first: int
    stride: int
    size: int


def field(model: keras.Model, layer: str) -> Field:
    """Return the receptive field of the units of a convolution.

    A normalization's neighbours, which only weaken a unit, do not count.

    Args:
        model: from network input to scores.
        layer: a convolution of it.
    """
    first, stride, size = 0, 1, 1
    for step in _steps_to(model, layer):
        window, strides, padding = 1, 1, 0
        if isinstance(step, keras.layers.ZeroPadding2D):
            padding = step.padding[0][0]
        elif isinstance(step, keras.layers.MaxPooling2D):
            window, strides = step.pool_size[0], step.strides[0]
        elif isinstance(step, layers.GroupedConv2D):
            window, strides = step.kernel_size[0], step.strides[0]
            # "same" has here strides of 1 and odd kernels alone.
            padding = window // 2 if step.padding == "same" else 0
        first -= padding * stride
        size += (window - 1) * stride
        stride *= strides
    return Field(first, stride, size)


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
    """Find the nine photos of the validation split that excite each map most, and their patterns.

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
    model, profile = trained.model, trained.profile
    for map_index in maps:
        _require_map(model, profile, layer, map_index)
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    pipeline.check_stored_size(manifest, profile)
    view = views.central_view(profile, manifest.photo_format.short_side)
    dataset = pipeline.eval_dataset(data_dir, manifest, batch_size=batch_size)
    layer_output = keras.Model(model.inputs, model.get_layer(layer).output)

    def network_input(images: tf.Tensor) -> tf.Tensor:
        return preprocessing.view_input(images, view, profile, trained.statistics)

    @tf.function
    def strongest_of(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        """Return of each photo and map the largest value, and its place in the rows of the map."""
        found = tf.cast(layer_output(network_input(images), training=False), tf.float32)
        found = tf.nn.relu(tf.gather(found, list(maps), axis=-1))
        flat = tf.reshape(found, [tf.shape(found)[0], -1, len(maps)])
        return tf.reduce_max(flat, axis=1), tf.argmax(flat, axis=1)

    best: list[list[tuple]] = [[] for _ in maps]  # (value, place, photo); of equal ones the first
    with pipeline.broken_data_is_one_line(data_dir, manifest, "validation"):
        for images, _, weights in tqdm.tqdm(dataset, unit=" batches", file=sys.stderr):
            values, places = (found.numpy() for found in strongest_of(images))
            values = np.where(weights.numpy()[:, None] > 0, values, 0)  # no padding
            photos = images.numpy()
            for column, kept in enumerate(best):
                found = zip(values[:, column], places[:, column], photos, strict=True)
                kept[:] = heapq.nlargest(_SIDE**2, [*kept, *found], key=operator.itemgetter(0))
    rows = []
    for map_index, kept in zip(maps, best, strict=True):
        kept = [entry for entry in kept if entry[0] > 0]
        whole = np.array([photo for *_, photo in kept], np.uint8)
        whole = whole.reshape(-1, *trained.statistics.mean_image.shape)
        photos = views.crop(whole, view, profile.input_size)
        patterns = np.zeros(photos.shape, np.float32)
        if kept:  # a convolution refuses a batch of no photos
            seen = network_input(tf.constant(whole))
            patterns = excitation(model, profile, seen, layer, map_index).numpy()
        places = np.array([place for _, place, _ in kept], np.int64)
        rows.append(
            Excited(
                map_index=map_index,
                values=np.array([value for value, *_ in kept], np.float32),
                places=np.stack(np.divmod(places, layer_output.output.shape[2]), axis=1),
                photos=photos,
                patterns=patterns,
            )
        )
    return rows


def draw(rows: Sequence[Excited], seen: Field) -> Image.Image:
    """Draw the picture that the command's `--help` describes.

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
    """Stretch a pattern around grey so that its largest value is black or white: uint8."""
    largest = max(float(np.abs(pattern).max()), np.finfo(np.float32).tiny)
    return np.round(_GREY + pattern / largest * (_GREY - 1)).astype(np.uint8)


def _cut(pixels: np.ndarray, place: np.ndarray, seen: Field) -> np.ndarray:
    """Cut out what the unit at a place sees; grey where its field reaches beyond the photo."""
    top, left = (int(seen.first + index * seen.stride) for index in place)
    result = np.full([seen.size, seen.size, 3], _GREY, np.uint8)
    inside = pixels[max(top, 0) : top + seen.size, max(left, 0) : left + seen.size]
    y, x = max(-top, 0), max(-left, 0)
    result[y : y + inside.shape[0], x : x + inside.shape[1]] = inside
    return result
