import tracemalloc

import numpy as np
import pytest

from data_prep import conversion_rule, records
from data_prep.job import statistics
from data_prep.job.statistics import PixelSums

SIZE = 12


def photos(count, seed=0):
    """[count, SIZE, SIZE, 3] uint8, with channels of different means that vary together."""
    random = np.random.default_rng(seed)
    grey = random.integers(0, 200, (count, SIZE, SIZE, 1))
    return (grey * [1.0, 0.7, 0.3] + random.integers(0, 56, (count, SIZE, SIZE, 3))).astype("uint8")


def summed(taken):
    sums = PixelSums.zeros(SIZE)
    for image in taken:
        sums.add(image)
    return sums


def test_agrees_with_numpy():
    taken = photos(50)
    found = statistics.finish(summed(taken))
    flat = taken.reshape(-1, 3).astype(np.float64)
    assert found.count == 50
    np.testing.assert_allclose(found.mean_image, taken.mean(axis=0), rtol=1e-6)
    np.testing.assert_allclose(found.channel_mean, flat.mean(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.channel_std, flat.std(axis=0), rtol=1e-12)
    np.testing.assert_allclose(found.covariance, np.cov(flat.T, bias=True), rtol=1e-10)
    # An independent way to the PCA: the singular values of the centred pixels.
    _, singular, rows = np.linalg.svd(flat - flat.mean(axis=0), full_matrices=False)
    np.testing.assert_allclose(found.pca_eigenvalues, singular[::-1] ** 2 / len(flat), rtol=1e-9)
    vectors = found.pca_eigenvectors
    assert (vectors[np.abs(vectors).argmax(axis=0), range(3)] > 0).all()
    same_axis = np.abs(np.sum(found.pca_eigenvectors * rows[::-1].T, axis=0))
    np.testing.assert_allclose(same_axis, 1, rtol=1e-9)


def test_neither_order_nor_shards_change_a_bit(tmp_path):
    taken = photos(31)
    written = statistics.finish(summed(taken))
    whole = statistics.to_files(written)
    parts = [summed(part) for part in np.array_split(taken[::-1], 4)]
    merged = PixelSums.zeros(SIZE)
    for index in (2, 0, 3, 1):
        merged.merge(parts[index])
    assert statistics.to_files(statistics.finish(merged)) == whole

    (tmp_path / "statistics").mkdir()
    for name, content in whole.items():
        (tmp_path / name).write_bytes(content)
    read = records.read_statistics(str(tmp_path))
    assert read.count == 31
    for name in ("mean_image", "channel_mean", "channel_std", "covariance", "pca_eigenvalues"):
        np.testing.assert_array_equal(getattr(read, name), getattr(written, name))
    assert read.mean_image.dtype == np.float32


def products_in_integers(image):
    flat = image.reshape(-1, 3).astype(np.int64)
    return (flat.T @ flat).tolist()


def test_white_photos_do_not_overflow():
    white = np.full((SIZE, SIZE, 3), 255, np.uint8)
    sums = summed([white] * 1000)  # uint16 would hold 257
    assert (sums.pixels == 255_000).all()
    assert sums.products.tolist() == [[1000 * SIZE**2 * 255**2] * 3] * 3
    # As many photos as 2e9 of 256 x 256: products of 9.2e18 are the most that int64 holds.
    factor = 2**63 // int(sums.products[0, 0]) - 1
    many = PixelSums(sums.count * factor, sums.pixels * factor, sums.products * factor)
    found = statistics.finish(many)
    assert found.channel_mean.tolist() == [255.0] * 3
    assert found.covariance.tolist() == [[0.0] * 3] * 3


def test_products_of_odd_sizes_are_exact():
    random = np.random.default_rng(1)
    for size in range(1, 70):  # all remainders of what the processor takes at once
        image = random.integers(0, 256, (size, size, 3), np.uint8)
        sums = PixelSums.zeros(size)
        sums.add(image)
        assert sums.products.tolist() == products_in_integers(image)
        np.testing.assert_array_equal(sums.pixels, image)


@pytest.mark.slow
def test_products_of_the_largest_photos_are_exact():
    size = conversion_rule.LARGEST_SIZE
    image = np.zeros((size, size, 3), np.uint8)
    image[..., 0] = 255  # the largest squares and, to green, the largest differences
    image[1::2, 1:, 2] = 255
    image[-1, -1] = (254, 1, 3)
    sums = PixelSums.zeros(size)
    sums.add(image)
    both = (size // 2 * (size - 1) - 1) * 255**2
    assert sums.products.tolist() == [
        [(size**2 - 1) * 255**2 + 254**2, 254, both + 254 * 3],
        [254, 1, 3],
        [both + 254 * 3, 3, both + 9],
    ]


def test_few_large_photos_wait_in_memory():
    large = np.ones((1500, 1500, 3), np.uint8)  # 7 MB
    sums = PixelSums.zeros(1500)
    sums.add(large)
    tracemalloc.start()
    try:
        for _ in range(5):
            sums.add(large.copy())
        kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert kept < large.nbytes
    assert peak < 6 * large.nbytes
    assert sums.pixels[0, 0].tolist() == [6, 6, 6]


def test_sums_are_right_whenever_they_are_read():
    taken = photos(37)
    sums, other = PixelSums.zeros(SIZE), PixelSums.zeros(SIZE)
    for number, image in enumerate(taken, start=1):
        sums.add(image)
        if number % 3 == 0 or number > 30:
            np.testing.assert_array_equal(sums.pixels, taken[:number].sum(axis=0))
    other.add(taken[0])
    sums.add(taken[1])
    sums.merge(other)
    sums.add(taken[2])
    assert sums.count == 40
    np.testing.assert_array_equal(
        sums.pixels, taken.sum(axis=0) + taken[:3].astype(np.int64).sum(axis=0)
    )
    assert other.count == 1
    np.testing.assert_array_equal(other.pixels, taken[0])


def test_takes_a_part_of_a_larger_photo_in_any_layout():
    wide = np.random.default_rng(0).integers(0, 256, (SIZE, 40, 3), np.uint8)
    for view in (wide[:, 7 : 7 + SIZE], wide[::-1, :SIZE, ::-1], wide[:, :SIZE].swapaxes(0, 1)):
        sums = summed([view])
        np.testing.assert_array_equal(sums.pixels, view)
        assert sums.products.tolist() == products_in_integers(view)


def test_photos_of_another_kind_are_refused_and_not_counted():
    sums = PixelSums.zeros(SIZE)
    for shape, dtype in (
        ((SIZE, SIZE + 1, 3), np.uint8),
        ((SIZE, SIZE), np.uint8),
        ((SIZE, SIZE, 3), np.uint16),
        ((SIZE, SIZE, 3), np.float32),
    ):
        with pytest.raises(ValueError, match=r"\(12, 12, 3\) uint8 is required\. Received: \("):
            sums.add(np.ones(shape, dtype))
    assert (sums.count, sums.pixels.any(), sums.products.any()) == (0, False, False)
    with pytest.raises(ValueError, match="at least one photo is required"):
        statistics.finish(sums)


def test_caffes_blob_holds_the_mean_image_by_planes():
    mean = np.random.default_rng(0).uniform(0, 255, (256, 300, 3)).astype(np.float32)
    # Tag and varint of num, channels, height, width; tag and length of the packed floats.
    header = b"\x08\x01\x10\x03\x18\x80\x02\x20\xac\x02\x2a\x80\xa0\x38"
    planes = b"".join(mean[..., channel].tobytes() for channel in (2, 1, 0))  # blue first
    assert len(planes) == 0x38 << 14 | 0x20 << 7
    assert statistics.caffe_mean(mean) == header + planes
