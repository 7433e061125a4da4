import io
import resource
import threading

import cv2
import numpy as np
import odd_photos
import pytest
from odd_photos import encoded, picture
from PIL import Image, ImageFile, PngImagePlugin

from data_prep.photos import decoding

KINDS = odd_photos.odd_photos()
# Of odd metadata, which pytest shows whatever the package has asked for.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


@pytest.mark.parametrize("name", KINDS)
def test_what_each_kind_of_photo_ends_as(name):
    kind = KINDS[name]
    if kind.reason:
        with pytest.raises(decoding.UnusableError) as raised:
            decoding.decode(kind.data)
        found = raised.value
        assert (found.reason, found.height, found.width) == (kind.reason, *kind.size)
        return
    photo = decoding.decode(kind.data)
    assert (photo.repairs, photo.notes) == (kind.repairs, kind.notes)
    assert (photo.pixels.dtype, photo.pixels.ndim) == (np.uint8, 3)
    if kind.pixels is not None:
        assert photo.pixels.shape == kind.pixels.shape
        assert np.abs(photo.pixels.astype(int) - kind.pixels).mean() <= kind.tolerance


def test_bombs_cost_no_memory():
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    for name, kind in KINDS.items():
        if name.startswith("bomb"):
            with pytest.raises(decoding.UnusableError, match="too_many_pixels"):
                decoding.decode(kind.data, fill_after=("truncated", "undecodable"))
    assert resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before < 64 << 10  # KiB


def test_a_bomb_is_not_decoded_to_find_its_orientation(monkeypatch):
    # Pillow looks behind the pixels of a PNG for it, which is to decode them all.
    loads = []
    monkeypatch.setattr(PngImagePlugin.PngImageFile, "load", lambda image: loads.append(image))
    data = odd_photos.png(9000, 9000, 8, 2, (b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0<x/>"))
    with pytest.raises(decoding.UnusableError, match="too_many_pixels"):
        decoding.decode(data)
    assert not loads


@pytest.mark.parametrize("orientation", range(1, 9))
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "TIFF"])
def test_the_size_of_a_rejected_photo_is_that_of_the_upright_one(kind, orientation):
    data = encoded(picture(48, 64), kind, exif=odd_photos.oriented(orientation))
    with pytest.raises(decoding.UnusableError, match="truncated") as raised:
        decoding.decode(data[: len(data) * 3 // 4])
    size = (48, 64) if orientation < 5 else (64, 48)
    assert (raised.value.height, raised.value.width) == size


def test_an_orientation_behind_the_pixels_counts():
    plain, turned = (
        encoded(picture(), "PNG"),
        encoded(picture(), "PNG", exif=odd_photos.oriented(3)),
    )
    start = turned.index(b"eXIf") - 4
    chunk = turned[start : start + 12 + int.from_bytes(turned[start : start + 4], "big")]
    photo = decoding.decode(plain[:-12] + chunk + plain[-12:])
    assert photo.repairs == ("not_a_jpeg", "exif_rotated")
    np.testing.assert_array_equal(photo.pixels, picture()[::-1, ::-1])


def test_a_jpeg_is_truncated_wherever_it_is_cut():
    data = encoded(picture(40, 40))
    reasons = set()
    for length in range(3, len(data) - 1):
        with pytest.raises(decoding.UnusableError) as raised:
            decoding.decode(data[:length])
        reasons.add(raised.value.reason)
    assert reasons == {"truncated"}


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"subsampling": 0},
        {"subsampling": "4:1:1"},
        {"progressive": True},
        {"keep_rgb": True},
        {"restart_marker_blocks": 2},
    ],
)
def test_opencv_and_pillow_give_the_same_pixels_of_a_jpeg(options):
    data = encoded(picture(61, 75), **options)
    with Image.open(io.BytesIO(data)) as image:
        scan, pillow = image.fp.tell(), np.asarray(image)
    opencv = decoding.decode_plain_jpeg(data, scan)
    assert (opencv is None) == ("progressive" in options)  # which are Pillow's
    np.testing.assert_array_equal(decoding.decode(data).pixels, pillow)
    if opencv is not None:
        np.testing.assert_array_equal(opencv, pillow)


def test_opencv_accepts_nothing_that_pillow_refuses():
    data = encoded(picture(61, 75), subsampling=0)
    random = np.random.default_rng(0)
    whole = 0
    for _ in range(400):
        broken = bytearray(data)
        for _ in range(random.integers(0, 9)):
            broken[random.integers(150, len(broken))] = random.integers(256)
        try:
            with Image.open(io.BytesIO(broken), formats=["JPEG"]) as image:
                if image.size != (75, 61) or image.mode != "RGB":
                    continue
                scan = image.fp.tell()
                opencv = decoding.decode_plain_jpeg(bytes(broken), scan)
                if opencv is not None:
                    np.testing.assert_array_equal(opencv, np.asarray(image))
                    whole += 1
        except (OSError, SyntaxError):
            continue
    assert whole > 50
    assert cv2.getNumThreads() == 1


def test_too_large_a_file_is_not_decoded(monkeypatch):
    monkeypatch.setattr(decoding, "MAX_BYTES", 100)
    with pytest.raises(decoding.UnusableError, match="too_many_bytes"):
        decoding.decode(encoded(picture()))


FILL = {"fill_after": ("truncated",)}


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP", "TIFF"])
def test_what_there_is_of_a_truncated_photo_can_be_had(kind):
    photo = picture(200, 200)
    data = encoded(photo, kind, **({"subsampling": 0} if kind == "JPEG" else {}))
    found = decoding.decode(data[: len(data) * 3 // 4], **FILL)
    assert found.repairs == (*(() if kind == "JPEG" else ("not_a_jpeg",)), "truncated_tail_filled")
    difference = np.abs(found.pixels.astype(int) - photo).mean(axis=(1, 2))
    # A BMP is stored from below; a TIFF's last strip is lost as a whole.
    there = slice(110, None) if kind == "BMP" else slice(None, 90)
    gone = slice(None, 20) if kind == "BMP" else slice(-20, None)
    assert difference[there].max() < 9
    assert difference[gone].min() > 9


def test_filling_alone_is_no_photo():
    data = encoded(picture(200, 200))
    scan = data.index(b"\xff\xda") + 14
    for length in (scan // 2, scan, scan + 1, scan + 99):
        with pytest.raises(decoding.UnusableError, match="truncated"):
            decoding.decode(data[:length], **FILL)
    assert decoding.decode(data[: scan + len(data[scan:]) // 3], **FILL).repairs
    with pytest.raises(decoding.UnusableError, match="truncated"):
        decoding.decode(KINDS["JPEG cut before its pixels"].data, **FILL)
    # And of what is undecodable, nothing is filled that was not asked for.
    with pytest.raises(decoding.UnusableError, match="undecodable"):
        decoding.decode(KINDS["PNG with damaged pixels"].data, **FILL)


@pytest.mark.parametrize("before", [False, True])
def test_pillows_switch_is_left_as_it_was(monkeypatch, before):
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", before)
    data = encoded(picture(99, 99), "PNG")[:-2000]
    with pytest.raises(decoding.UnusableError, match="truncated"):
        decoding.decode(data)
    assert before == ImageFile.LOAD_TRUNCATED_IMAGES
    assert decoding.decode(data, **FILL).repairs[-1] == "truncated_tail_filled"
    assert before == ImageFile.LOAD_TRUNCATED_IMAGES


def test_one_thread_that_fills_does_not_make_another_fill():
    noise = np.random.default_rng(0).integers(0, 256, (400, 400, 3), np.uint8)
    data = encoded(noise, "PNG")[:-99]
    stop = threading.Event()

    def fill():
        while not stop.is_set():
            decoding.decode(data, **FILL)

    thread = threading.Thread(target=fill)
    thread.start()
    try:
        for _ in range(40):
            with pytest.raises(decoding.UnusableError, match="truncated"):
                decoding.decode(data)
    finally:
        stop.set()
        thread.join()
