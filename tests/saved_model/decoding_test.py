import io
import struct
import zlib

import cv2
import numpy as np
import photo_sample
import pytest
import stand_in
import tensorflow as tf
from bad_photos import BAD, GOOD, PNG
from PIL import Image, ImageOps

from keras_alexnet.saved_model import decoding

stored_images = tf.function(
    lambda data: decoding.stored_images(data), input_signature=[tf.TensorSpec([None], tf.string)]
)


def reference(photo, size=256):
    """Pillow decodes, OpenCV resizes: what the data job uses."""
    image = ImageOps.exif_transpose(Image.open(io.BytesIO(photo)))
    if image.has_transparency_data:
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image.convert("RGBA"))
    pixels = np.asarray(image.convert("RGB"))
    height, width = pixels.shape[:2]
    short = min(height, width)
    target = [int(side * size / short + 0.5) for side in (height, width)]
    method = cv2.INTER_AREA if short > size else cv2.INTER_CUBIC
    resized = cv2.resize(pixels, target[::-1], interpolation=method) if short != size else pixels
    top, left = (target[0] - size) // 2, (target[1] - size) // 2
    return resized[top : top + size, left : left + size]


def chunk(name, data):
    """Return a chunk of a PNG file."""
    return struct.pack(">I", len(data)) + name + data + struct.pack(">I", zlib.crc32(name + data))


def assert_stored(photo, mean=0.05, largest=1):
    images, valid = stored_images([photo])
    assert valid.numpy().tolist() == [True]
    difference = np.abs(images[0].numpy().astype(int) - reference(photo))
    assert difference.mean() <= mean
    assert difference.max() <= largest


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width"),
    [
        (300, 400),
        (640, 512),  # halves exactly: averages of four, many of them .5
        (256, 300),
        (256, 256),
        (257, 511),
        (1000, 333),
        (100, 150),
        (75, 56),
        (255, 1000),
        (1, 9),
        (3, 2),
    ],
)
def test_resizes_as_opencv_does(height, width):
    assert_stored(stand_in.encoded(stand_in.pixels(height, width), "PNG"))


@pytest.mark.slow
def test_real_photos_differ_by_rounding_alone():
    data = [photo for _, photo in photo_sample.photo_files()][:100]
    images, valid = stored_images(data)
    assert valid.numpy().all()
    differences = [
        np.abs(image.astype(int) - reference(photo))
        for image, photo in zip(images.numpy(), data, strict=True)
    ]
    assert np.mean(differences) < 0.001
    assert np.max(differences) <= 1


@pytest.mark.slow
@pytest.mark.parametrize(
    ("mode", "kind", "options"),
    [
        ("RGB", "JPEG", {"quality": 95}),
        ("RGB", "JPEG", {"quality": 60, "progressive": True}),
        ("RGB", "JPEG", {"subsampling": 0}),
        ("L", "JPEG", {}),
        ("RGB", "PNG", {}),
        ("RGBA", "PNG", {}),
        ("L", "PNG", {}),
        ("LA", "PNG", {}),
        ("1", "PNG", {}),
        ("P", "PNG", {}),
        ("P", "PNG", {"transparency": 3}),
        ("P", "PNG", {"bits": 4}),
        ("P", "PNG", {"bits": 2, "transparency": 1}),
    ],
)
def test_kinds_of_photos(mode, kind, options):
    colors = stand_in.pixels(280, 300, channels=4)
    image = Image.fromarray(colors if "A" in mode else colors[..., :3]).convert(
        mode if mode != "P" else "RGB"
    )
    if mode == "P":
        image = image.quantize(2 ** options.pop("bits", 8))
    assert_stored(stand_in.encoded(image, kind, **options))


@pytest.mark.parametrize("depth", [1, 2, 4, 8])
def test_grey_of_few_bits(depth):
    row = -(-280 * depth // 8)
    noise = np.random.default_rng(0).integers(0, 256, (260, row), dtype=np.uint8)
    lines = b"".join(b"\0" + line.tobytes() for line in noise)

    header = chunk(b"IHDR", struct.pack(">IIBBBBB", 280, 260, depth, 0, 0, 0, 0))
    assert_stored(
        b"\x89PNG\r\n\x1a\n" + header + chunk(b"IDAT", zlib.compress(lines)) + chunk(b"IEND", b"")
    )


def test_cmyk_differs_by_a_grey_level():
    image = Image.fromarray(stand_in.pixels(300, 300, channels=4), "CMYK")
    assert_stored(stand_in.encoded(image, quality=95), mean=0.6)


def with_exif(photo, exif):
    """Return the JPEG with an APP1 segment behind its first one (JFIF)."""
    end = 4 + int.from_bytes(photo[4:6], "big")
    segment = b"Exif\0\0" + exif
    return photo[:end] + b"\xff\xe1" + struct.pack(">H", len(segment) + 2) + segment + photo[end:]


def tiff(orientation, order="<", entries_before=2):
    tags = [(0x0100 + n, 4, 1, n) for n in range(entries_before)] + [(0x0112, 3, 1, orientation)]
    directory = struct.pack(order + "H", len(tags))
    for tag, kind, count, value in tags:
        field = struct.pack(order + ("HH" if kind == 3 else "I"), *([value, 0][: 3 - kind // 2]))
        directory += struct.pack(order + "HHI", tag, kind, count) + field
    mark = b"II" if order == "<" else b"MM"
    return mark + struct.pack(order + "HI", 42, 8) + directory + b"\0\0\0\0"


@pytest.mark.parametrize("order", ["<", ">"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation(orientation, order):
    photo = with_exif(stand_in.photo(300, 401), tiff(orientation, order))
    assert Image.open(io.BytesIO(photo)).getexif()[0x0112] == orientation
    assert_stored(photo)


@pytest.mark.slow
@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("place", ["before", "behind"])
def test_exif_orientation_of_png(orientation, place):
    """Before the picture, as most programs write it, or behind it."""
    plain = stand_in.encoded(stand_in.pixels(300, 401), "PNG")
    at = plain.index(b"IDAT") - 4 if place == "before" else plain.index(b"IEND") - 4
    photo = plain[:at] + chunk(b"eXIf", tiff(orientation)) + plain[at:]
    image = Image.open(io.BytesIO(photo))
    image.load()
    assert image.getexif()[0x0112] == orientation
    assert_stored(photo)


def test_files_made_of_headers_alone_are_given_up_on():
    """An orientation behind more segments than a photo has is not looked for."""
    plain = stand_in.photo(300, 401)
    png = stand_in.encoded(stand_in.pixels(300, 401), "PNG")
    fillers = plain[:2] + b"\xff" * 200_000 + with_exif(plain, tiff(6))[2:]
    at = png.index(b"IDAT") - 4
    chunks = png[:at] + chunk(b"teSt", b"") * 100_000 + chunk(b"eXIf", tiff(6)) + png[at:]
    images, valid = stored_images([plain, fillers, png, chunks])
    assert valid.numpy().all()
    np.testing.assert_array_equal(images[0], images[1])
    np.testing.assert_array_equal(images[2], images[3])


@pytest.mark.parametrize(
    "exif",
    [b"", b"II*\0", b"II*\0\xff\xff\xff\xff", tiff(0), tiff(9), tiff(6)[:12], b"\xff" * 400],
)
def test_broken_exif_means_upright(exif):
    plain = stand_in.photo(300, 401)
    images, valid = stored_images([plain, with_exif(plain, exif)])
    assert valid.numpy().all()
    np.testing.assert_array_equal(images[0], images[1])


@pytest.mark.parametrize("name", BAD)
def test_bad_photo_is_not_valid_and_harms_no_other(name):
    images, valid = stored_images([GOOD, BAD[name], PNG])
    assert valid.numpy().tolist() == [True, False, True]
    assert not images[1].numpy().any()
    alone, _ = stored_images([GOOD])
    np.testing.assert_array_equal(images[0], alone[0])


@pytest.mark.slow
@pytest.mark.parametrize("less", [0, 1])
def test_limit_on_pixels(monkeypatch, less):
    monkeypatch.setattr(decoding, "MAX_PIXELS", 300 * 260 - less)
    assert decoding.stored_image(GOOD)[1].numpy() == (not less)


@pytest.mark.slow
def test_limit_is_checked_before_decoding():
    bomb = BAD["jpeg_bomb"]  # it would decode
    assert tf.io.extract_jpeg_shape(bomb).numpy().tolist() == [65500, 2600, 3]
    assert decoding.stored_image(bomb)[1].numpy() == False  # noqa: E712


@pytest.mark.slow
@pytest.mark.parametrize(
    ("height", "width"), [(300, 400), (640, 512), (100, 150), (256, 256), (1000, 90), (1, 60000)]
)
def test_warps_as_opencv_does(height, width):
    pixels = stand_in.pixels(height, width) if height > 1 else np.full([1, width, 3], 7, np.uint8)
    photo = stand_in.encoded(pixels, "PNG")
    image, valid = decoding.stored_image(tf.constant(photo), fit="warp")
    assert bool(valid)
    expected = cv2.resize(pixels, (256, 256), interpolation=cv2.INTER_LINEAR)
    difference = np.abs(image.numpy().astype(int) - expected)
    assert difference.max() <= 1  # OpenCV computes in whole numbers, and rounds down between steps
    assert difference.mean() < 0.2


def test_no_photos():
    images, valid = stored_images(tf.constant([], tf.string))
    assert images.shape == (0, 256, 256, 3)
    assert valid.shape == (0,)


@pytest.mark.slow
def test_mutated_photos_never_fail():
    random = np.random.default_rng(7)
    mutated = []
    for number in range(300):
        data = bytearray(with_exif(GOOD, tiff(6)) if number % 2 else PNG)
        places = random.integers(2, 900 if number % 3 else len(data), random.integers(1, 9))
        for place in places:
            data[place] = random.integers(256)
        mutated.append(bytes(data))
    images, valid = stored_images([*mutated, GOOD])
    assert valid.numpy()[-1]
    assert 0 < valid.numpy().sum() < 300  # of both kinds
    assert not images.numpy()[~valid.numpy()].any()
