"""The contestants of `input_speed`: each makes batches of photos, in a process of its own.

Started as `python -m benchmarks.input_contestants NAME FOLDER --batch_size=128 --seconds=10`, it
prints one line of JSON: photos, seconds and cpu_seconds after the first batch.

FOLDER holds `photos`, the originals in class folders, and `jpeg` and `raw`, the same photos as
data_prep.prepare stores them.
"""

import dataclasses
import itertools
import os
import resource
import time
from collections.abc import Callable, Iterable, Iterator, Mapping

import numpy as np
from absl import flags
from PIL import Image, ImageOps

from data_prep import command_line, records

FLAGS = flags.FlagValues()
BATCH_SIZE = flags.DEFINE_integer("batch_size", 128, "photos a batch", 1, flag_values=FLAGS)
SECONDS = flags.DEFINE_float("seconds", 10.0, "how long is timed", flag_values=FLAGS)

PHOTOS = "photos"
PROFILE = "paper"
SHUFFLE_BLOCK = 1024
_WORKERS = 2
_ENDLESS = 1 << 30
_PORT_SIZE = 227
_PORT_MEAN, _PORT_STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


@dataclasses.dataclass(frozen=True)
class Contestant:
    """One way to make batches of photos.

    Attributes:
        batches: (contestant, folder, batch size) -> batches without an end.
        storage: which of the folder's copies of the photos it reads.
    """

    batches: Callable[["Contestant", str, int], Iterable]
    storage: str


def _torch_loader(contestant: Contestant, folder: str, batch_size: int) -> Iterable:
    """Return dansuh17/alexnet-pytorch's batches: ImageFolder, CenterCrop, Normalize; 2 workers."""
    import torch

    paths = sorted(
        os.path.join(parent, name)
        for parent, _, names in os.walk(os.path.join(folder, contestant.storage))
        for name in names
    )

    class Photos(torch.utils.data.Dataset):
        def __len__(self) -> int:
            return _ENDLESS

        def __getitem__(self, number: int) -> tuple["torch.Tensor", int]:
            return port_input(paths[number % len(paths)]), 0

    return torch.utils.data.DataLoader(Photos(), batch_size, num_workers=_WORKERS)


def port_input(path: str) -> "torch.Tensor":  # noqa: F821 (an extra, imported where it is used)
    """Return a photo as the port sees it, float32 [3, 227, 227]: torchvision's four steps.

    Args:
        path: of an original photo.
    """
    import torch

    with open(path, "rb") as file:
        photo = center_crop(Image.open(file).convert("RGB"), _PORT_SIZE)
    pixels = torch.from_numpy(np.array(photo)).permute(2, 0, 1).contiguous()
    values = pixels.to(torch.float32).div(255)
    mean, std = (torch.tensor(constants)[:, None, None] for constants in (_PORT_MEAN, _PORT_STD))
    return values.sub_(mean).div_(std)


def center_crop(photo: Image.Image, size: int) -> Image.Image:
    """Crop the middle of a photo as torchvision's CenterCrop: black borders for a smaller one.

    Args:
        photo: RGB.
        size: side of the crop, pixels.
    """
    missing = [max(size - side, 0) for side in photo.size]
    if any(missing):
        before, after = ([(m + extra) // 2 for m in missing] for extra in (0, 1))
        photo = ImageOps.expand(photo, (*before, *after), fill=0)
    left, top = (round((side - size) / 2.0) for side in photo.size)
    return photo.crop((left, top, left + size, top + size))


def _bare(contestant: Contestant, folder: str, batch_size: int) -> Iterable:
    """Return batches by the least work: no shuffling, no draws, one fixed window."""
    import tensorflow as tf

    from keras_alexnet import PROFILES

    data_dir = os.path.join(folder, contestant.storage)
    manifest = records.read_manifest(data_dir)
    side, size = manifest.photo_format.short_side, PROFILES[PROFILE].input_size
    corner = (side - size) // 2
    spec = {
        "image/encoded": tf.io.FixedLenFeature([], tf.string),
        "image/class/label": tf.io.FixedLenFeature([], tf.int64),
    }

    def jpeg_window(encoded: tf.Tensor) -> tf.Tensor:
        window = [corner, corner, size, size]
        return tf.image.decode_and_crop_jpeg(
            encoded, window, channels=3, dct_method="INTEGER_ACCURATE"
        )

    def raw_window(encoded: tf.Tensor) -> tf.Tensor:
        pixels = tf.reshape(tf.io.decode_raw(encoded, tf.uint8), [side, side, 3])
        return pixels[corner : corner + size, corner : corner + size]

    to_pixels = {"jpeg": jpeg_window, "raw": raw_window}[contestant.storage]

    def to_example(serialized: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor]:
        features = tf.io.parse_single_example(serialized, spec)
        return to_pixels(features["image/encoded"]), features["image/class/label"]

    shards = manifest.splits["train"].shards
    return (
        tf.data.TFRecordDataset([os.path.join(data_dir, shard.name) for shard in shards])
        .repeat()
        .map(to_example, num_parallel_calls=tf.data.AUTOTUNE)
        .batch(batch_size, drop_remainder=True)
        .prefetch(tf.data.AUTOTUNE)
    )


def _ours(contestant: Contestant, folder: str, batch_size: int) -> Iterable:
    """Return what `keras_alexnet.train` reads, with a shuffle buffer for few photos."""
    from keras_alexnet import PROFILES
    from keras_alexnet.inputs import pipeline

    data_dir = os.path.join(folder, contestant.storage)
    return pipeline.train_dataset(
        data_dir,
        records.read_manifest(data_dir),
        PROFILES[PROFILE],
        pipeline.Feed(batch_size, seed=0, epochs=_ENDLESS, shuffle_block=SHUFFLE_BLOCK),
    )


CONTESTANTS: Mapping[str, Contestant] = {
    "torch_loader": Contestant(_torch_loader, PHOTOS),
    "bare": Contestant(_bare, "jpeg"),
    "ours": Contestant(_ours, "jpeg"),
    "bare_raw": Contestant(_bare, "raw"),
    "ours_raw": Contestant(_ours, "raw"),
}


def time_batches(batches: Iterator, batch_size: int, seconds: float) -> dict[str, float]:
    """Time batches for some seconds.

    Args:
        batches: without an end.
        batch_size: photos in each.
        seconds: how long, after the first batch.

    Returns:
        photos, seconds, cpu_seconds (of this process alone), all after the first batch.
    """
    next(batches)
    cpu, started = time.process_time(), time.perf_counter()
    for count in itertools.count(1):
        next(batches)
        elapsed = time.perf_counter() - started
        if elapsed >= seconds:
            return {
                "photos": count * batch_size,
                "seconds": elapsed,
                "cpu_seconds": time.process_time() - cpu,
            }


def main(arguments: list[str]) -> dict[str, float]:
    """Run the contestant that the command line names."""
    name, folder = arguments
    contestant = CONTESTANTS[name]
    batches = iter(contestant.batches(contestant, folder, BATCH_SIZE.value))
    figures = time_batches(batches, BATCH_SIZE.value, SECONDS.value)
    del batches  # ends PyTorch's workers, whose CPU time is known only then
    children = resource.getrusage(resource.RUSAGE_CHILDREN)
    figures["cpu_seconds"] += children.ru_utime + children.ru_stime
    return figures


if __name__ == "__main__":
    command_line.run(main, FLAGS, __doc__, takes_arguments=True)
