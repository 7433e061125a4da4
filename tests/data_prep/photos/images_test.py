import dataclasses
import io

import cv2
import numpy as np
import odd_photos
import pytest
from odd_photos import encoded, picture
from PIL import Image

from data_prep import conversion_rule
from data_prep.conversion_rule import Rule
from data_prep.photos import images

KINDS = odd_photos.odd_photos()
# Of odd metadata, which pytest shows whatever the package has asked for.
pytestmark = pytest.mark.filterwarnings("ignore::UserWarning:PIL")


def converted(data, rule):
    result = images.convert(data, rule)
    assert not result.reason
    return result


def stored_pixels(result, storage):
    return images.decode_stored(
        result.image, storage=storage, height=result.height, width=result.width
    ).astype(int)


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
@pytest.mark.parametrize("name", KINDS)
def test_every_kind_of_photo_is_a_record_or_has_a_reason(name, storage):
    kind = KINDS[name]
    result = images.convert(kind.data, Rule(short_side=32, storage=storage))
    if kind.reason:
        assert result == images.Conversion(*kind.size, kind.reason)
        return
    assert (result.repairs, result.notes) == (kind.repairs, kind.notes)
    assert stored_pixels(result, storage).shape == (32, 32, 3)
    if kind.pixels is not None:
        assert (result.original_height, result.original_width) == kind.pixels.shape[:2]


def test_the_result_is_a_baseline_jpeg_without_metadata():
    exif = Image.Exif()
    exif[0x010E] = "description"
    photo = Image.fromarray(picture(300, 400))
    data = encoded(photo, exif=exif, progressive=True, icc_profile=b"x" * 99)
    result = converted(data, Rule())
    assert (result.height, result.width) == (256, 256)
    assert (result.original_height, result.original_width) == (300, 400)
    with Image.open(io.BytesIO(result.image)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))
        assert not {"exif", "icc_profile", "progressive"} & set(image.info)
        assert [layer[1:3] for layer in image.layer] == [(2, 2), (1, 1), (1, 1)]  # 4:2:0
    assert b"\xff\xc0" in result.image  # start of a baseline frame


def test_the_bytes_are_those_that_pillow_would_write():
    data = encoded(picture(300, 400))
    with Image.open(io.BytesIO(data)) as image:
        pixels = images.resize_and_crop(np.asarray(image), 256)
    assert converted(data, Rule(quality=90)).image == encoded(pixels, quality=90, subsampling=2)


def area_weights(old, new):
    """[new, old]: the share of each old pixel in each new one, by the overlap of the two."""
    edges = np.arange(new + 1) * old / new
    low, high = edges[:-1, None], edges[1:, None]
    pixel = np.arange(old)
    overlap = np.minimum(high, pixel + 1) - np.maximum(low, pixel)
    return np.clip(overlap, 0, None) * new / old


def cubic_weights(old, new):
    """[new, old]: Keys' cubic convolution with a = -0.75, the edge pixels repeated outward."""
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        for tap in range(int(np.floor(centre)) - 1, int(np.floor(centre)) + 3):
            x, a = abs(centre - tap), -0.75
            near = (a + 2) * x**3 - (a + 3) * x**2 + 1
            far = a * x**3 - 5 * a * x**2 + 8 * a * x - 4 * a
            weights[row, np.clip(tap, 0, old - 1)] += near if x <= 1 else far
    return weights


def linear_weights(old, new):
    """[new, old]: the two nearest pixels by their distance, the edge pixels repeated outward."""
    weights = np.zeros((new, old))
    for row in range(new):
        centre = (row + 0.5) * old / new - 0.5
        low = int(np.floor(centre))
        for tap in (low, low + 1):
            weights[row, np.clip(tap, 0, old - 1)] += 1 - abs(centre - tap)
    return weights


def resized(photo, height, width, weights):
    rows, columns = weights(len(photo), height), weights(photo.shape[1], width)
    return np.clip(np.einsum("ih,jw,hwc->ijc", rows, columns, photo * 1.0), 0, 255)


SHAPES = [(97, 61, area_weights), (60, 201, area_weights), (17, 29, cubic_weights)]


@pytest.mark.parametrize(("height", "width", "weights"), SHAPES)
def test_the_resize_is_area_averaging_or_bicubic_then_the_central_square(height, width, weights):
    size = 32
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    scale = size / min(height, width)
    expected = resized(photo, round(height * scale), round(width * scale), weights)
    top, left = (np.array(expected.shape[:2]) - size) // 2
    expected = expected[top : top + size, left : left + size]
    found = images.resize_and_crop(photo, size)
    assert found.shape == (size, size, 3)
    np.testing.assert_allclose(found, expected, atol=1.01)
    record = converted(encoded(photo, "PNG"), Rule(short_side=size, storage="raw"))
    np.testing.assert_array_equal(stored_pixels(record, "raw"), found)


@pytest.mark.parametrize(("height", "width", "weights"), SHAPES)
def test_without_a_crop_the_long_side_is_kept(height, width, weights):
    photo = picture(height, width)
    record = converted(encoded(photo, "PNG"), Rule(short_side=32, crop="none"))
    scale = 32 / min(height, width)
    assert (record.height, record.width) == (round(height * scale), round(width * scale))
    assert (record.original_height, record.original_width) == (height, width)
    found = stored_pixels(record, "jpeg")
    expected = resized(photo, record.height, record.width, weights)
    assert np.abs(found - expected).mean() < 5  # JPEG's halved chroma, of a small photo
    # The central square is the record that --crop=center makes, but for that.
    square = stored_pixels(converted(encoded(photo, "PNG"), Rule(short_side=32)), "jpeg")
    assert np.abs(images.central_square(found, 32) - square).mean() < 5


@pytest.mark.parametrize(("height", "width"), [(97, 61), (17, 29), (64, 64), (1, 50)])
def test_warp_is_caffes_resize(height, width):
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    record = converted(encoded(photo, "PNG"), Rule(short_side=32, fit="warp", storage="raw"))
    assert (record.height, record.width) == (32, 32)
    found = stored_pixels(record, "raw")
    np.testing.assert_allclose(found, resized(photo, 32, 32, linear_weights), atol=1.01)
    # The call of Caffe's ReadImageToCVMat, on BGR as it is there.
    caffe = cv2.resize(np.ascontiguousarray(photo[..., ::-1]), (32, 32))
    np.testing.assert_array_equal(found, caffe[..., ::-1])


def test_the_long_side_is_rounded_half_up():
    # 17 * 8 / 16 = 8.5 pixels become 9: then the crop starts at 0, and the left column is kept.
    photo = np.zeros((16, 17, 3), np.uint8)
    photo[:, :2] = 200
    assert images.resize_and_crop(photo, 8)[0, 0, 0] > 100


def test_the_central_square_of_too_small_a_photo():
    with pytest.raises(ValueError, match=r"at least 9 x 9 pixels.*Received: 8 x 40"):
        images.central_square(np.zeros((8, 40, 3), np.uint8), 9)


@pytest.mark.parametrize(
    ("photo", "rule", "size"),
    [
        (encoded(np.zeros((1, 5000, 3), np.uint8)), Rule(), (1, 5000)),
        (encoded(np.zeros((5000, 1, 3), np.uint8)), Rule(crop="none"), (5000, 1)),
        # Few pixels, yet more in a row than a JPEG can have.
        (encoded(np.zeros((1, 9000, 3), np.uint8)), Rule(short_side=8, crop="none"), (1, 9000)),
    ],
)
def test_a_line_of_pixels_is_not_blown_up(photo, rule, size):
    assert images.convert(photo, rule) == images.Conversion(*size, "too_elongated")


def test_the_longest_side_that_is_kept():
    data = encoded(np.zeros((8, images.LONGEST_SIDE, 3), np.uint8), "PNG")
    assert converted(data, Rule(short_side=8, crop="none")).width == 65_500


@pytest.mark.parametrize(
    ("height", "width", "options"),
    [
        (64, 64, {}),
        (64, 64, {"fit": "warp"}),
        (64, 90, {"crop": "none"}),
        (90, 64, {"crop": "none"}),
    ],
)
def test_what_is_already_as_wanted_passes_through_when_asked(height, width, options):
    data = encoded(picture(height, width), subsampling=0)
    rule = Rule(short_side=64, quality=50, pass_through=True, **options)
    record = converted(data, rule)
    assert record.image == data
    assert (record.height, record.width) == (height, width)
    assert record.notes == ("passed_through",)
    assert stored_pixels(record, "jpeg").shape == (height, width, 3)
    unasked = converted(data, dataclasses.replace(rule, pass_through=False))
    assert unasked.image != data
    assert unasked.notes == ()


TAIL = encoded(picture(300, 300))


@pytest.mark.parametrize(
    ("data", "side", "repairs"),
    [
        (encoded(picture(64, 65)), 64, ()),
        (encoded(picture(63, 63)), 64, ()),
        (encoded(picture(128, 128)), 64, ()),
        (encoded(picture(64, 64), exif=odd_photos.oriented(6)), 64, ("exif_rotated",)),
        (TAIL[: len(TAIL) // 2], 300, ("truncated_tail_filled",)),
    ],
)
def test_what_is_not_as_wanted_does_not_pass_through(data, side, repairs):
    record = converted(data, Rule(short_side=side, pass_through=True, truncated="accept"))
    assert (record.repairs, record.notes) == (repairs, ())


@pytest.mark.parametrize("name", KINDS)
def test_only_plain_jpegs_pass_through(name):
    plain = {
        "JPEG, restart markers",
        "JPEG, upright EXIF",
        "JPEG, broken EXIF",
        "JPEG, ICC profile",
        "JPEG, junk for an ICC profile",
        "JPEG, part of an ICC profile",
        # What libjpeg merely warns of, and every reader that has it.
        "JPEG with other Huffman codes",
        "JPEG damaged in its middle",
    }
    result = images.convert(KINDS[name].data, Rule(short_side=64, pass_through=True))
    assert ("passed_through" in result.notes) == (name in plain)


def test_a_tail_is_accepted_only_when_asked():
    cut = TAIL[: len(TAIL) // 2]
    assert images.convert(cut, Rule()) == images.Conversion(300, 300, "truncated")
    record = converted(cut, Rule(truncated="accept"))
    assert record.repairs == ("truncated_tail_filled",)
    assert (record.original_height, record.original_width) == (300, 300)


@pytest.mark.parametrize(
    ("image", "storage", "message"),
    [
        (b"GIF89a", "jpeg", "a JPEG is required"),
        (encoded(picture(9, 9), "PNG"), "jpeg", "a JPEG is required"),
        (encoded(picture(9, 9)[..., 0]), "jpeg", "RGB JPEG is required. Received: one with L"),
        (encoded(picture(9, 8)), "jpeg", "9 x 9 pixels is required. Received: 9 x 8"),
        (encoded(picture(9, 9))[:-2], "jpeg", "a whole JPEG is required"),
        (bytes(9 * 8 * 3), "raw", "9 x 9 x 3 bytes of pixels are required. Received: 216 bytes"),
    ],
)
def test_what_is_stored_must_be_what_is_said(image, storage, message):
    with pytest.raises(ValueError, match=message):
        images.decode_stored(image, storage=storage, height=9, width=9)


def test_a_bomb_in_a_record_is_not_decoded():
    large = odd_photos.with_jpeg_size(encoded(picture(9, 9)), 9000, 9000)
    with pytest.raises(ValueError, match=r"9 x 9 pixels is required. Received: 9000 x 9000"):
        images.decode_stored(large, storage="jpeg", height=9, width=9)
    with pytest.raises(ValueError, match="a JPEG is required"):
        images.decode_stored(KINDS["bomb: JPEG header"].data, storage="jpeg", height=9, width=9)


@pytest.mark.parametrize(
    ("height", "width", "size"), [(200, 400, (96, 48)), (40, 20, (20, 40)), (1, 5000, (96, 1))]
)
def test_a_thumbnail_is_small_and_of_the_same_shape(height, width, size):
    photo = picture(height, width)
    with Image.open(io.BytesIO(images.thumbnail(encoded(photo)))) as image:
        assert (image.format, image.size) == ("JPEG", size)
        expected = np.asarray(Image.fromarray(photo).resize(size, Image.Resampling.BOX))
        assert np.abs(np.asarray(image).astype(int) - expected).mean() < 8


def test_a_thumbnail_shows_what_there_is():
    data = encoded(picture(200, 200), "PNG")
    for broken in (data[: len(data) // 2], odd_photos.with_bytes(data, len(data) // 2, b"xxx")):
        assert images.convert(broken, Rule()).reason
        with Image.open(io.BytesIO(images.thumbnail(broken))) as image:
            assert np.asarray(image)[:20].std() > 9


@pytest.mark.parametrize("name", KINDS)
def test_a_thumbnail_is_a_small_jpeg_or_nothing(name):
    small = images.thumbnail(KINDS[name].data, side=32)
    if not KINDS[name].reason:
        assert small
    if small:
        with Image.open(io.BytesIO(small)) as image:
            assert image.format == "JPEG"
            assert max(image.size) <= 32


@pytest.mark.slow
@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_no_damage_raises(kind):
    data = encoded(picture(40, 60), kind)
    random = np.random.default_rng(0)
    rules = [
        Rule(short_side=32),
        Rule(short_side=32, truncated="accept", storage="raw"),
        Rule(short_side=40, crop="none", truncated="accept", pass_through=True),
    ]
    ends = set()
    for attempt in range(200):
        broken = bytearray(data)
        for _ in range(random.integers(1, 20)):
            broken[random.integers(len(broken))] = random.integers(256)
        if attempt % 2:
            del broken[random.integers(1, len(broken)) :]
        result = images.convert(bytes(broken), rules[attempt % 3])
        assert isinstance(images.thumbnail(bytes(broken)), bytes)
        ends.add(result.reason)
    assert ends - {""}


@pytest.mark.parametrize("storage", ["jpeg", "raw"])
def test_stored_pixels_are_those_that_a_reader_decodes(storage):
    rule = conversion_rule.Rule(short_side=32, storage=storage)
    photo = images.convert(encoded(picture(48, 64)), rule)
    read = images.decode_stored(photo.image, storage=storage, height=32, width=32)
    np.testing.assert_array_equal(images.stored_pixels(photo, rule), read)
    if storage == "jpeg":
        np.testing.assert_array_equal(read, np.asarray(Image.open(io.BytesIO(photo.image))))
