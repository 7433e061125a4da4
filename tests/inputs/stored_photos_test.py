import io

import cv2
import numpy as np
import pytest
import tensorflow as tf
from PIL import Image

from data_prep import records, tfrecord
from data_prep.photos import images
from keras_alexnet.inputs import stored_photos

SIDE = 32
JPEG = records.Rule(SIDE)
LONG_JPEG = records.Rule(SIDE, crop="none")
RAW = records.Rule(SIDE, storage="raw")


def record(photo_format, height=SIDE, width=SIDE):
    """Return a record of a smooth photo, and its pixels as Pillow decodes them."""
    coarse = np.random.default_rng(0).integers(0, 256, (5, 5, 3), np.uint8)
    pixels = cv2.resize(coarse, (width, height))
    encoded = pixels.tobytes()
    if photo_format.storage == "jpeg":
        output = io.BytesIO()
        Image.fromarray(pixels).save(output, "JPEG", quality=95)
        encoded, pixels = output.getvalue(), np.asarray(Image.open(output))
    serialized = records.encode(
        image=encoded,
        image_format=records.IMAGE_FORMATS[photo_format.storage],
        height=height,
        width=width,
        filename="",
        label=0,
        wnid="",
        text="",
    )
    return serialized, pixels


PHOTOS = [
    (JPEG, SIDE, SIDE),
    (RAW, SIDE, SIDE),
    (LONG_JPEG, SIDE, SIDE),
    (LONG_JPEG, SIDE, 61),
    (LONG_JPEG, 60, SIDE),
]


@pytest.mark.parametrize(("photo_format", "height", "width"), PHOTOS)
def test_the_square_in_the_middle_is_decoded(photo_format, height, width):
    serialized, pixels = record(photo_format, height, width)
    decoded = stored_photos.decode(records.parse(serialized), photo_format)
    np.testing.assert_array_equal(decoded, images.central_square(pixels, SIDE))


@pytest.mark.parametrize(("photo_format", "height", "width"), PHOTOS)
def test_a_part_is_that_of_the_square(photo_format, height, width):
    serialized, pixels = record(photo_format, height, width)
    part = stored_photos.decode_part(
        records.parse(serialized), photo_format, tf.constant([3, 7]), 20
    )
    expected = images.central_square(pixels, SIDE)[3:23, 7:27]
    difference = np.abs(part.numpy().astype(int) - expected)
    assert difference.mean() < 1.0  # two grey levels of smooth photos are half a pixel's shift
    # Chroma at the edge of the part is what differs; inside nothing does.
    np.testing.assert_array_equal(difference[2:-2, 2:-2], 0)


def test_the_same_graph_reads_photos_of_all_lengths():
    serialized = [record(LONG_JPEG, SIDE, width)[0] for width in (SIDE, 40, 77)]
    dataset = tf.data.Dataset.from_tensor_slices(serialized).map(
        lambda record: stored_photos.decode(records.parse(record), LONG_JPEG)
    )
    assert dataset.element_spec.shape == [SIDE, SIDE, 3]
    assert len(list(dataset)) == 3


@pytest.mark.parametrize(
    ("photo_format", "size"), [(JPEG, (SIDE, 40)), (LONG_JPEG, (30, 40)), (RAW, (SIDE, 40))]
)
def test_photos_of_another_size_are_an_error(photo_format, size):
    features = records.parse(record(photo_format, *size)[0])
    with pytest.raises((tf.errors.InvalidArgumentError, ValueError)):
        stored_photos.decode(features, photo_format)


def test_raw_pixels_of_another_number_are_an_error():
    features = records.parse(record(RAW)[0])
    features["image/encoded"] += b"\0"
    with pytest.raises(tf.errors.InvalidArgumentError):
        stored_photos.decode(features, RAW)


@pytest.mark.parametrize(("photo_format", "format_name"), [(JPEG, "JPEG"), (RAW, "PNG")])
def test_a_file_of_a_record_has_its_pixels(photo_format, format_name):
    serialized, pixels = record(photo_format)
    photo = stored_photos.to_photo_file(tfrecord.decode_example(serialized))
    with Image.open(io.BytesIO(photo)) as image:
        assert image.format == format_name
        np.testing.assert_array_equal(np.asarray(image), pixels)


@pytest.mark.slow
def test_no_file_is_made_of_a_wrong_number_of_pixels():
    example = tfrecord.decode_example(record(RAW)[0])
    with pytest.raises(ValueError, match="reshape"):
        stored_photos.to_photo_file(example | {"image/height": SIDE + 1})
