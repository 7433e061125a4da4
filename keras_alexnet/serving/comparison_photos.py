"""Some photos of the data set that a network was trained on: what its export is compared on."""

import hashlib
import io
import os
from collections.abc import Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep import records, tfrecord
from data_prep.command_line import UserError
from keras_alexnet.stored_photos import to_photo_file

COUNT = 8


def manifest_of(data_dir: str, manifest_sha256: str) -> records.Manifest:
    """The manifest of a data set, if it is the one that is expected.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest_sha256: of the manifest.json that is expected there.

    Raises:
        UserError: it is another data set, or none.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != manifest_sha256:
        raise UserError(
            f"the data set that the network was trained on is needed (manifest.json of sha256 "
            f"{manifest_sha256[:12]}...), {data_dir} is another ({found[:12]}...); "
            f"check --data_dir"
        )
    return manifest


def stored_photos(data_dir: str, manifest: records.Manifest, count: int = COUNT) -> list[bytes]:
    """The first photos of the validation split (of train, if that is empty), as files.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: its manifest.
        count: at most so many.

    Raises:
        UserError: the data set is broken, or without photos.
    """
    photos: list[bytes] = []
    for split in ("validation", "train"):
        for shard in manifest.splits[split].shards if split in manifest.splits else ():
            photos += _photos_of_shard(os.path.join(data_dir, shard.name), count - len(photos))
            if len(photos) == count:
                return photos
        if photos:
            return photos
    raise UserError(f"a data set with photos is needed, {data_dir} has none; check --data_dir")


def _photos_of_shard(path: str, count: int) -> list[bytes]:
    photos = []
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            for record in tfrecord.read_records(file):
                if len(photos) == count:
                    break
                photos.append(to_photo_file(tfrecord.decode_example(record)))
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise UserError(f"{path} cannot be read ({error}); run data_prep.verify") from error
    return photos


def squares(photos: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """The squares in the middle, by another decoder than the graph's.

    Args:
        photos: N photos as a data set stores them, JPEG or PNG files.
        shape: (size, size, 3), of the mean image.

    Returns:
        uint8 [N, size, size, 3].

    Raises:
        UserError: a photo is broken, or its short side is not `size`.
    """
    size = shape[0]
    images = []
    for photo in photos:
        try:
            pixels = np.asarray(Image.open(io.BytesIO(photo)))
        except OSError as error:
            raise UserError(f"a stored photo is broken ({error}); run data_prep.verify") from error
        if pixels.ndim != 3 or min(pixels.shape[:2]) != size:
            raise UserError(
                f"stored photos of shape {shape}, as the mean image, or longer are needed; one has "
                f"{pixels.shape}; run data_prep.verify"
            )
        top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
        images.append(pixels[top : top + size, left : left + size])
    return np.stack(images)
