"""Mean image, channel mean and std, RGB covariance and its PCA, over the photos as stored.

All sums are integers and therefore exact: however the photos are cut into shards and in whatever
order the shards' sums are merged, the result is the same to the last bit.
"""

import dataclasses
import io
import itertools
import json

import cv2
import numpy as np

from data_prep import protobuf, records

# Photos summed at a time, in three fifths of the time of one by one (an AMD EPYC): the total stays
# in the processor's caches meanwhile. 257 is the most that uint16 can hold.
_BATCH = 16
_BATCH_BYTES = 1 << 22

# Of caffe.proto, where `data` is packed, as proto3 has it.
_BlobProto = protobuf.message_classes(
    {
        "BlobProto": {
            "num": (1, "int32"),
            "channels": (2, "int32"),
            "height": (3, "int32"),
            "width": (4, "int32"),
            "data": (5, "repeated float"),
        }
    }
)["BlobProto"]


class PixelSums:
    """Sums over the photos seen so far.

    They are 8 * 3 * size**2 bytes: 1.5 MB a shard at 256 pixels, 1.6 GB for the 1,024 train shards
    of ILSVRC2012. So they are kept on disk, one file a shard, and merged one at a time.

    int64 suffices for 2e9 photos of 256x256: each adds at most 255**2 * 256**2 = 4.3e9.

    Attributes:
        count: photos.
    """

    def __init__(self, count: int, pixels: np.ndarray, products: np.ndarray):
        self.count = count
        self._pixels = pixels
        self._products = products
        self._waiting: list[np.ndarray] = []

    @staticmethod
    def zeros(size: int) -> "PixelSums":
        """Return the sums of no photo, for photos of size x size pixels."""
        return PixelSums(0, np.zeros((size, size, 3), np.int64), np.zeros((3, 3), np.int64))

    @property
    def pixels(self) -> np.ndarray:
        """[size, size, 3] int64, the sum of the photos."""
        self._sum_waiting()
        return self._pixels

    @property
    def products(self) -> np.ndarray:
        """[3, 3] int64, the sum over photos and pixels of rgb * rgb^T."""
        self._sum_waiting()
        return self._products

    def add(self, image: np.ndarray) -> None:
        """Add one photo.

        Args:
            image: [size, size, 3] uint8 RGB; must stay as it is.

        Raises:
            ValueError: its size or type differs.
        """
        if image.shape != self._pixels.shape or image.dtype != np.uint8:
            raise ValueError(
                f"a photo of {self._pixels.shape} uint8 is required. "
                f"Received: {image.shape} {image.dtype}"
            )
        self.count += 1
        self._waiting.append(image)
        waiting = len(self._waiting)
        if waiting == _BATCH or waiting * image.nbytes >= _BATCH_BYTES:
            self._sum_waiting()

    def merge(self, other: "PixelSums") -> None:
        """Add the photos of `other`."""
        self.count += other.count
        self._pixels += other.pixels
        self._products += other.products

    def _sum_waiting(self) -> None:
        if not self._waiting:
            return
        # A quarter of an int64 array: together with a photo it fits into a core's cache.
        total = np.zeros(self._pixels.shape, np.uint16)
        for image in self._waiting:
            total += image
            self._products += _products(image)
        self._pixels += total
        self._waiting.clear()


def _products(image: np.ndarray) -> np.ndarray:
    """Return the sum over the pixels of rgb * rgb^T, [3, 3] int64.

    OpenCV has a fast sum of squares, and one of squared differences, but none of products:
    x * y = (x**2 + y**2 - (x - y)**2) / 2. The sums are integers, and exact in float64 up to photos
    of 186,000 x 186,000 pixels, even if OpenCV squares a root to get them: `round` undoes that.
    """
    planes = cv2.split(image)
    squares = [round(cv2.norm(plane, cv2.NORM_L2SQR)) for plane in planes]
    products = np.diag(np.array(squares, np.int64))
    for i, j in itertools.combinations(range(3), 2):
        differences = round(cv2.norm(planes[i], planes[j], cv2.NORM_L2SQR))
        products[i, j] = products[j, i] = (squares[i] + squares[j] - differences) // 2
    return products


def finish(sums: PixelSums) -> records.Statistics:
    """Return the statistics of the photos in `sums`; variances are divided by n, not n - 1.

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
    """Return the files of the statistics, by their path in the data set."""
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
    """Return a mean image as Caffe's compute_image_mean writes it: a BlobProto of BGR planes.

    Args:
        mean_image: [height, width, 3] float32 RGB.
    """
    height, width, channels = mean_image.shape
    planes = mean_image[..., ::-1].transpose(2, 0, 1).ravel()
    blob = _BlobProto(num=1, channels=channels, height=height, width=width, data=planes)
    return blob.SerializeToString()
