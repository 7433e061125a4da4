import io

import cv2
import numpy as np
import pytest
from PIL import Image, ImageOps

from data_prep import images


def picture(height, width, seed=0):
    """Smooth random colours, [height, width, 3] uint8: survives JPEG almost unchanged."""
    noise = np.random.default_rng(seed).integers(0, 256, (6, 6, 3), np.uint8)
    return np.asarray(Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC))


def encoded(image, kind="JPEG", **options):
    output = io.BytesIO()
    if isinstance(image, np.ndarray):
        image = Image.fromarray(image)
    image.save(output, kind, **({"quality": 95} if kind == "JPEG" else {}) | options)
    return output.getvalue()


def converted(data, size=256):
    result = images.convert(data, size=size)
    assert isinstance(result, images.Converted), result
    return images.decode_record(result.jpeg).astype(int), result.repairs


def assert_shows(data, expected, *repairs, tolerance=4):
    """That the conversion of `data`, at its own size, is `expected` but for JPEG's noise."""
    pixels, found = converted(data, size=len(expected))
    assert found == repairs
    assert np.abs(pixels - expected).mean() < tolerance


def test_a_plain_photo_needs_no_repair():
    photo = picture(64, 64)
    assert_shows(encoded(photo), photo)


def test_the_result_is_a_baseline_jpeg_without_metadata():
    exif = Image.Exif()
    exif[0x010E] = "description"
    photo = Image.fromarray(picture(300, 400))
    result = images.convert(encoded(photo, exif=exif, progressive=True, icc_profile=b"x" * 99))
    with Image.open(io.BytesIO(result.jpeg)) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (256, 256))
        assert not {"exif", "icc_profile", "progressive"} & set(image.info)
    assert b"\xff\xc0" in result.jpeg  # start of a baseline frame


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


@pytest.mark.parametrize(
    ("height", "width", "weights"),
    [(97, 61, area_weights), (60, 201, area_weights), (17, 29, cubic_weights)],
)
def test_the_resize_is_area_averaging_or_bicubic_then_the_central_square(height, width, weights):
    size = 32
    photo = np.random.default_rng(1).integers(0, 256, (height, width, 3), np.uint8)
    scale = size / min(height, width)
    new_height, new_width = round(height * scale), round(width * scale)
    resized = np.einsum(
        "ih,jw,hwc->ijc", weights(height, new_height), weights(width, new_width), photo * 1.0
    )
    top, left = (new_height - size) // 2, (new_width - size) // 2
    expected = np.clip(resized[top : top + size, left : left + size], 0, 255)
    found = images.resize_and_crop(photo, size)
    assert found.shape == (size, size, 3)
    np.testing.assert_allclose(found, expected, atol=1.01)


def test_the_long_side_is_rounded_half_up():
    # 3 * 2 / 4 = 1.5 pixels become 2: then the crop starts at 0, and the left column is kept.
    photo = np.zeros((4, 5, 3), np.uint8)
    photo[:, :2] = 200
    assert images.resize_and_crop(photo, 2)[0, 0, 0] > 100


def test_opencv_uses_one_thread():
    assert cv2.getNumThreads() == 1


def test_cmyk_of_adobe_is_inverted():
    photo = picture(64, 64)
    data = encoded(Image.fromarray(photo).convert("CMYK"))
    assert b"Adobe" in data
    assert_shows(data, photo, "cmyk_to_rgb")


def test_cmyk_without_adobes_marker_is_not():
    photo = picture(64, 64)
    inverted = Image.fromarray(255 - np.asarray(Image.fromarray(photo).convert("CMYK")), "CMYK")
    data = encoded(inverted)
    start = data.index(b"\xff\xee")
    length = int.from_bytes(data[start + 2 : start + 4], "big")
    data = data[:start] + data[start + 2 + length :]
    assert b"Adobe" not in data
    assert_shows(data, photo, "cmyk_to_rgb")


def test_grey_becomes_rgb():
    grey = Image.fromarray(picture(64, 64)).convert("L")
    assert_shows(encoded(grey), np.asarray(grey.convert("RGB")), "grey_to_rgb")


def test_one_bit_becomes_rgb():
    half = np.zeros((64, 64), np.uint8)
    half[:, 32:] = 255
    expected = np.repeat(half[..., None], 3, axis=2)
    image = Image.fromarray(half).convert("1")
    assert_shows(encoded(image, "PNG"), expected, "not_a_jpeg", "grey_to_rgb")


@pytest.mark.parametrize("kind", ["PNG", "BMP", "WEBP", "TIFF"])
def test_other_formats_are_known_by_their_bytes(kind):
    photo = picture(64, 64)
    assert_shows(encoded(photo, kind), photo, "not_a_jpeg")


def test_gif_has_a_palette():
    photo = picture(64, 64)
    assert_shows(encoded(photo, "GIF"), photo, "not_a_jpeg", "palette_to_rgb", tolerance=9)


def test_of_an_animation_the_first_frame_is_taken():
    first, second = (Image.fromarray(picture(64, 64, seed)) for seed in (0, 1))
    data = encoded(first, "WEBP", save_all=True, append_images=[second], lossless=True)
    assert_shows(data, np.asarray(first), "not_a_jpeg")


def test_a_jpeg_with_further_pictures_behind_it_is_a_jpeg():
    first, second = (Image.fromarray(picture(64, 64, seed)) for seed in (0, 1))
    data = encoded(first, "MPO", save_all=True, append_images=[second])
    assert_shows(data, np.asarray(first))


def test_transparency_is_laid_over_white():
    photo = picture(64, 64)
    alpha = np.zeros((64, 64, 1), np.uint8)
    alpha[:32], alpha[32:48] = 255, 128
    expected = photo * (alpha / 255) + 255 * (1 - alpha / 255)
    data = encoded(np.concatenate([photo, alpha], axis=2), "PNG")
    assert_shows(data, expected, "not_a_jpeg", "alpha_over_white")


def test_a_transparent_palette_entry_is_white():
    image = Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8) // 32).convert("P")
    image.putpalette([10, 20, 30, 200, 0, 0])
    data = encoded(image, "PNG", transparency=0)
    expected = np.full((8, 8, 3), 255)
    expected[4:] = [200, 0, 0]
    repairs = ("not_a_jpeg", "palette_to_rgb", "alpha_over_white")
    # The edge between the two is where JPEG's halved chroma shows.
    assert_shows(data, expected, *repairs, tolerance=20)


def test_16_bit_grey_keeps_its_high_byte():
    grey = (picture(64, 64)[..., 0].astype(np.uint16) << 8) + 77
    expected = np.repeat((grey >> 8)[..., None], 3, axis=2)
    repairs = ("not_a_jpeg", "16_bit_to_8_bit", "grey_to_rgb")
    for kind in ("PNG", "TIFF"):
        assert_shows(encoded(grey, kind), expected, *repairs)


def test_16_bit_colours_keep_their_high_byte():
    photo = picture(64, 64)
    _, data = cv2.imencode(".png", (photo[..., ::-1].astype(np.uint16) << 8) + 77)
    assert_shows(data.tobytes(), photo, "not_a_jpeg", "16_bit_to_8_bit")


@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_turns_a_photo_upright(orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    stored = Image.fromarray(picture(48, 64))
    stored.getexif()[0x0112] = orientation
    expected = np.asarray(ImageOps.exif_transpose(stored))
    data = encoded(stored, exif=exif)
    pixels, repairs = converted(data, size=48)
    assert repairs == (("exif_rotated",) if orientation > 1 else ())
    assert np.abs(pixels - images.resize_and_crop(expected, 48)).mean() < 4


def test_broken_exif_costs_no_photo():
    photo = picture(64, 64)
    assert_shows(encoded(photo, exif=b"Exif\0\0MM\0\x2a\xff\xff\xff\xff"), photo)


def reason(data, **options):
    result = images.convert(data, **options)
    assert isinstance(result, images.Rejected), result
    return result.reason


def test_nothing_is_empty():
    assert reason(b"") == "empty"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "BMP"])
def test_half_a_photo_is_truncated(kind):
    data = encoded(picture(300, 300), kind)
    assert reason(data[: len(data) // 2]) == "truncated"


def test_a_jpeg_is_truncated_wherever_it_is_cut():
    data = encoded(picture(40, 40))
    reasons = {reason(data[:length]) for length in range(3, len(data) - 2)}
    assert reasons == {"truncated"}


@pytest.mark.parametrize("data", [b"<html>404</html>", b"%PDF-1.4", b"\0" * 4096, b"%!PS-Adobe"])
def test_what_is_no_photo_is_rejected_as_such(data):
    assert reason(data) == "not_a_photo"


def test_a_broken_jpeg_is_undecodable():
    data = bytearray(encoded(picture(64, 64)))
    tables = data.index(b"\xff\xdb")
    data[tables + 2 : tables + 4] = b"\0\0"
    assert reason(bytes(data)) == "undecodable"


def test_pixels_of_no_known_range_are_rejected():
    assert reason(encoded(np.ones((9, 9), np.float32), "TIFF")) == "unsupported_pixels"


@pytest.mark.parametrize("side", [8200, 20_000])
def test_a_decompression_bomb_is_not_decoded(side):
    data = encoded(Image.new("1", (side, side)), "PNG")
    assert len(data) < 200_000
    assert reason(data) == "too_many_pixels"


def test_a_line_of_pixels_is_not_blown_up():
    assert reason(encoded(np.zeros((1, 5000, 3), np.uint8))) == "too_elongated"


def test_too_large_a_file_is_not_decoded(monkeypatch):
    monkeypatch.setattr(images, "MAX_BYTES", 100)
    assert reason(encoded(picture(64, 64))) == "too_many_bytes"


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "GIF", "WEBP", "TIFF", "BMP"])
def test_no_damage_raises(kind):
    data = encoded(picture(40, 60), kind)
    random = np.random.default_rng(0)
    for _ in range(150):
        broken = bytearray(data)
        for _ in range(random.integers(1, 20)):
            broken[random.integers(len(broken))] = random.integers(256)
        result = images.convert(bytes(broken[: random.integers(1, len(broken) + 1)]), size=32)
        assert isinstance(result, images.Converted | images.Rejected)


def test_the_same_photo_gives_the_same_bytes():
    data = encoded(picture(300, 400))
    assert images.convert(data) == images.convert(data)


def test_the_quality_is_that_asked_for():
    data = encoded(np.random.default_rng(0).integers(0, 256, (99, 99, 3), np.uint8))
    small, large = (images.convert(data, quality=quality).jpeg for quality in (50, 95))
    assert len(small) < len(large) / 2


def test_a_stored_photo_must_be_an_rgb_jpeg():
    with pytest.raises(ValueError, match="a JPEG is required"):
        images.decode_record(encoded(picture(9, 9), "PNG"))
    with pytest.raises(ValueError, match=r"RGB JPEG is required. Received: one with L pixels"):
        images.decode_record(encoded(picture(9, 9)[..., 0]))
