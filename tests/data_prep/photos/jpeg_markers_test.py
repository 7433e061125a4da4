import io
import os

import numpy as np
import odd_photos
import pytest
from PIL import Image

from data_prep.photos import jpeg_markers

os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")


def jpeg(**options):
    return odd_photos.encoded(odd_photos.picture(37, 43), **options)


def frame_at(data):
    return data.index(b"\xff\xc0")


@pytest.mark.parametrize("subsampling", [0, 1, 2, "4:1:1"])
def test_tensorflow_and_pillow_read_the_same_pixels_of_a_baseline_jpeg(subsampling):
    import tensorflow as tf

    data = jpeg(subsampling=subsampling, restart_marker_blocks=2)
    assert jpeg_markers.is_baseline_rgb(data)
    found = tf.io.decode_jpeg(data, channels=3, dct_method="INTEGER_ACCURATE").numpy()
    np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(data))))


def test_they_also_agree_on_a_damaged_one():
    import tensorflow as tf

    data = jpeg(subsampling=0)
    scan, random, agreed = data.index(b"\xff\xda") + 14, np.random.default_rng(0), 0
    for _ in range(60):
        damaged = bytearray(data)
        for _ in range(random.integers(1, 6)):
            damaged[random.integers(scan, len(data) - 2)] = random.integers(256)
        if jpeg_markers.is_baseline_rgb(bytes(damaged)):
            found = tf.io.decode_jpeg(
                bytes(damaged), channels=3, dct_method="INTEGER_ACCURATE"
            ).numpy()
            np.testing.assert_array_equal(found, np.asarray(Image.open(io.BytesIO(damaged))))
            agreed += 1
    assert agreed > 40


def with_adobe(transform):
    """Return a JPEG of YCbCr without JFIF's marker, with Adobe's."""
    data = odd_photos.without_segment(jpeg(), 0xE0)
    adobe = b"\xff\xee\x00\x0eAdobe\x00\x64\x00\x00\x00\x00" + bytes([transform])
    return data[:2] + adobe + data[2:]


def test_the_colors_are_ycbcr_by_jfif_or_adobe_or_the_component_numbers():
    plain = odd_photos.without_segment(jpeg(), 0xE0)
    assert b"JFIF" not in plain
    assert jpeg_markers.is_baseline_rgb(plain)
    assert jpeg_markers.is_baseline_rgb(with_adobe(1))
    components = frame_at(plain) + 10
    numbered = plain
    for index, number in enumerate(b"RGB"):
        numbered = odd_photos.with_bytes(numbered, components + 3 * index, bytes([number]))
    assert not jpeg_markers.is_baseline_rgb(numbered)
    assert not jpeg_markers.is_baseline_rgb(with_adobe(0))
    assert not jpeg_markers.is_baseline_rgb(jpeg(keep_rgb=True))


def test_jfif_against_adobe_is_not_plain():
    data = with_adobe(0)
    assert not jpeg_markers.is_baseline_rgb(jpeg()[:20] + data[2:])


@pytest.mark.parametrize(
    "data",
    [
        pytest.param(b"", id="nothing"),
        pytest.param(b"\xff\xd8", id="start"),
        pytest.param(odd_photos.encoded(odd_photos.picture(), "PNG"), id="PNG"),
        pytest.param(jpeg(progressive=True), id="progressive"),
        pytest.param(jpeg()[:-2], id="endless"),
        pytest.param(jpeg() + b"\0", id="trailing"),
        pytest.param(jpeg()[: len(jpeg()) // 2] + jpeg(), id="two"),
        pytest.param(odd_photos.encoded(odd_photos.picture()[..., 0]), id="grey"),
        pytest.param(
            odd_photos.encoded(Image.fromarray(odd_photos.picture()).convert("CMYK")), id="CMYK"
        ),
        pytest.param(odd_photos.odd_photos()["JPEG, arithmetic coding"].data, id="arithmetic"),
        pytest.param(odd_photos.odd_photos()["JPEG with further pictures (MPO)"].data, id="MPO"),
        pytest.param(odd_photos.with_bytes(jpeg(), frame_at(jpeg()) + 4, b"\x0c"), id="deep"),
        pytest.param(odd_photos.with_bytes(jpeg(), frame_at(jpeg()) + 1, b"\xc1"), id="SOF1"),
    ],
)
def test_what_is_not_plain(data):
    assert not jpeg_markers.is_baseline_rgb(data)


def test_padding_between_segments_is_passed_over():
    data = jpeg()
    assert jpeg_markers.is_baseline_rgb(data[:2] + b"\xff\xff" + data[2:])


def test_the_end_of_the_only_scan():
    data = jpeg(restart_marker_blocks=1)
    scan = data.index(b"\xff\xda") + 14
    assert b"\xff\xd1" in data[scan:]
    assert jpeg_markers.end_of_only_scan(data, scan) == len(data)
    assert jpeg_markers.end_of_only_scan(data + b"junk\xff\xd9", scan) == len(data)
    assert jpeg_markers.end_of_only_scan(data[:-2], scan) is None
    damaged = odd_photos.with_bytes(data, scan + 9, b"\xff\xc4")
    assert jpeg_markers.end_of_only_scan(damaged, scan) is None
