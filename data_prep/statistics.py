"""Mean image, channel mean and std, RGB covariance and its PCA, over the photos as stored.

All sums are integers and therefore exact: however the photos are cut into shards and in whatever
order the shards' sums are merged, the result is the same to the last bit.
"""

import dataclasses
import io
import json

import numpy as np

from data_prep import records


@dataclasses.dataclass
class PixelSums:
    """Sums over the photos seen so far.

    They are 8 * 3 * size**2 bytes: 1.5 MB a shard at 256 pixels, 1.6 GB for the 1,024 train shards
    of ILSVRC2012. So they are kept on disk, one file a shard, and merged one at a time.

    int64 suffices for 2e9 photos of 256x256: each adds at most 255**2 * 256**2 = 4.3e9.

    Attributes:
        count: photos.
        pixels: [size, size, 3] int64, the sum of the photos.
        products: [3, 3] int64, the sum over photos and pixels of rgb * rgb^T.
    """

    count: int
    pixels: np.ndarray
    products: np.ndarray

    @staticmethod
    def zeros(size: int) -> "PixelSums":
        """The sums of no photo, for photos of size x size pixels."""
        return PixelSums(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    def add(self, image: np.ndarray) -> None:
        """Counts one photo in.

        Args:
            image: [size, size, 3] uint8 RGB.
        """
        self.count += 1
        self.pixels += image
        # A float64 matrix product is the fastest exact one: every partial sum is an integer below
        # 2**53, up to photos of 372,000 x 372,000 pixels.
        flat = image.reshape(-1, 3).astype(np.float64)
        self.products += (flat.T @ flat).astype(np.int64)

    def merge(self, other: "PixelSums") -> None:
        """Counts the photos of `other` in."""
        self.count += other.count
        self.pixels += other.pixels
        self.products += other.products


def finish(sums: PixelSums) -> records.Statistics:
    """The statistics of the photos summed in `sums`; variances are divided by n, not n - 1.

    The PCA is that of section 4.1 of the paper: of the RGB values of all pixels.

    Raises:
        ValueError: no photo was counted.
    """
    if not sums.count:
        raise ValueError("at least one photo is required for statistics. Received: none")
    size = sums.pixels.shape[0]
    n = sums.count * size * size
    totals = [int(total) for total in sums.pixels.sum(axis=(0, 1))]
    # n * E[xy] - E[x] * E[y] / n in Python's integers, rounded once, by the division.
    covariance = np.array(
        [
            [(n * int(sums.products[i, j]) - totals[i] * totals[j]) / n**2 for j in range(3)]
            for i in range(3)
        ]
    )
    eigenvalues, eigenvectors = np.linalg.eigh(covariance)
    largest = eigenvectors[np.abs(eigenvectors).argmax(axis=0), range(3)]
    return records.Statistics(
        count=sums.count,
        mean_image=(sums.pixels / sums.count).astype(np.float32),
        channel_mean=np.array([total / n for total in totals]),
        channel_std=np.sqrt(np.diag(covariance)),
        covariance=covariance,
        pca_eigenvalues=eigenvalues,
        pca_eigenvectors=eigenvectors * np.sign(largest),
    )


def to_files(statistics: records.Statistics) -> dict[str, bytes]:
    """The files of the statistics, by their path in the data set."""
    numbers = {
        field.name: np.asarray(getattr(statistics, field.name)).tolist()
        for field in dataclasses.fields(statistics)
        if field.name != "mean_image"
    }
    array_file = io.BytesIO()
    np.save(array_file, statistics.mean_image, allow_pickle=False)
    return {
        records.STATISTICS: (json.dumps(numbers, indent=1) + "\n").encode(),
        records.MEAN_IMAGE: array_file.getvalue(),
        records.MEAN_IMAGE_CAFFE: caffe_mean(statistics.mean_image),
    }


def caffe_mean(mean_image: np.ndarray) -> bytes:
    """A mean image as Caffe's compute_image_mean writes it: a BlobProto of 1 x 3 (BGR) x H x W.

    Args:
        mean_image: [height, width, 3] float32 RGB.
    """
    height, width, channels = mean_image.shape
    data = mean_image[..., ::-1].transpose(2, 0, 1).astype("<f4").tobytes()
    # caffe.proto: num = 1, channels = 2, height = 3, width = 4 (int32), data = 5 (packed floats).
    message = b""
    for number, value in enumerate((1, channels, height, width), start=1):
        message += bytes([number << 3]) + _varint(value)
    packed = 2  # the wire type of a field that says its length
    return message + bytes([5 << 3 | packed]) + _varint(len(data)) + data


def _varint(value: int) -> bytes:
    """Protobuf's variable-length integer: 7 bits a byte, the lowest first."""
    encoded = bytearray()
    while value > 0x7F:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    return bytes([*encoded, value])
