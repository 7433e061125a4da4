"""The loops that `prepare_speed` measures data_prep.prepare against, each a process of its own.

    python -m benchmarks.prepare_contestants CONTESTANT LIST OUTPUT_DIR SHARDS

CONTESTANT is bare, bare_stored, slim or slim_resized. LIST is a file with the path of a photo a
line. It prints one line of JSON: stored_bytes (by bare: what would have been stored).
"""

import functools
import io
import json
import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Sequence

import cv2
import numpy as np
from PIL import Image

SIZE, QUALITY = 256, 95  # prepare's defaults
WORKERS = 2  # processes of `bare`, threads of slim


def bare(paths: Sequence[str], *, decodes_stored: bool) -> int:
    """Decode, resize and encode the photos by prepare's own library calls, and nothing else.

    Args:
        paths: of the photos.
        decodes_stored: whether to decode what was encoded, as prepare does for its statistics.
    """
    convert = functools.partial(_bare_photo, decodes_stored=decodes_stored)
    with multiprocessing.get_context("spawn").Pool(WORKERS, initializer=_one_thread) as pool:
        return sum(pool.imap_unordered(convert, paths, chunksize=32))


def _one_thread() -> None:
    cv2.setNumThreads(1)


def _bare_photo(path: str, *, decodes_stored: bool) -> int:
    pixels = _decode(np.fromfile(path, np.uint8))
    if pixels is None:  # what prepare rejects, or leaves to Pillow
        return 0
    height, width, _ = pixels.shape
    short = min(height, width)
    new_height, new_width = ((2 * side * SIZE + short) // (2 * short) for side in (height, width))
    if short != SIZE:
        method = cv2.INTER_AREA if short > SIZE else cv2.INTER_CUBIC
        pixels = cv2.resize(pixels, (new_width, new_height), interpolation=method)
    top, left = (new_height - SIZE) // 2, (new_width - SIZE) // 2
    bgr = cv2.cvtColor(pixels[top : top + SIZE, left : left + SIZE], cv2.COLOR_RGB2BGR)
    _, stored = cv2.imencode(".jpg", bgr, (cv2.IMWRITE_JPEG_QUALITY, QUALITY))
    if decodes_stored:
        _decode(stored)
    return stored.size


def _decode(data: np.ndarray) -> np.ndarray | None:
    return cv2.imdecode(data, cv2.IMREAD_COLOR_RGB | cv2.IMREAD_IGNORE_ORIENTATION)


def slim(paths: Sequence[str], output_dir: str, shards: int, *, resized: bool) -> int:
    """Run the converter of TensorFlow's slim: build_imagenet_data.py of tensorflow/models.

    As there: threads with a range of shards each, one session for all, each photo decoded to check
    it and to get its size, PNG and CMYK made RGB JPEGs of quality 100, every other photo's own
    bytes stored. What there was a list of the faulty files' names is a look at their bytes here.

    Args:
        paths: of the photos.
        output_dir: an existing folder.
        shards: how many files to write.
        resized: instead of the original, stores what prepare does: the central square of the photo
            scaled to 256 pixels as a JPEG of quality 95. TensorFlow's ops do that, too.
    """
    code = _slim_coder(resized)
    per_shard = np.array_split(np.array(paths), shards)

    def work(thread: int) -> None:
        import tensorflow as tf

        for shard in np.array_split(np.arange(shards), WORKERS)[thread]:
            name = f"train-{shard:05d}-of-{shards:05d}"
            with tf.io.TFRecordWriter(os.path.join(output_dir, name)) as writer:
                for path in per_shard[shard]:
                    with tf.io.gfile.GFile(path, "rb") as file:
                        encoded, height, width = code(file.read())
                    writer.write(_slim_example(path, encoded, height, width))

    threads = [threading.Thread(target=work, args=(index,)) for index in range(WORKERS)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(entry.stat().st_size for entry in os.scandir(output_dir))


def _slim_coder(resized: bool) -> Callable[[bytes], tuple[bytes, int, int]]:
    """Return a function from a photo's bytes to what is stored: JPEG bytes, height, width."""
    import tensorflow as tf

    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        data = v1.placeholder(tf.string)
        pixels = tf.io.decode_jpeg(data, channels=3)
        square = tf.io.encode_jpeg(_square(pixels), quality=QUALITY)
        from_png = tf.io.encode_jpeg(tf.io.decode_png(data, channels=3), "rgb", quality=100)
        from_cmyk = tf.io.encode_jpeg(tf.io.decode_jpeg(data, channels=3), "rgb", quality=100)
    config = v1.ConfigProto(
        inter_op_parallelism_threads=WORKERS, intra_op_parallelism_threads=WORKERS
    )
    session = v1.Session(graph=graph, config=config)

    def code(original: bytes) -> tuple[bytes, int, int]:
        if original.startswith(b"\x89PNG"):
            original = session.run(from_png, {data: original})
        elif b"Adobe" in original and Image.open(io.BytesIO(original)).mode == "CMYK":
            original = session.run(from_cmyk, {data: original})
        if resized:
            return session.run(square, {data: original}), SIZE, SIZE
        height, width, _ = session.run(pixels, {data: original}).shape
        return original, height, width

    return code


def _square(pixels):
    """Apply prepare's rule in TensorFlow: [height, width, 3] uint8 -> [SIZE, SIZE, 3] uint8."""
    import tensorflow as tf

    sides = tf.shape(pixels)[:2]
    short = tf.reduce_min(sides)
    scaled = (2 * sides * SIZE + short) // (2 * short)
    floats = tf.cond(
        short > SIZE,
        lambda: tf.image.resize(pixels, scaled, method="area"),
        lambda: tf.image.resize(pixels, scaled, method="bicubic"),
    )
    top, left = tf.unstack((scaled - SIZE) // 2)
    cropped = floats[top : top + SIZE, left : left + SIZE]
    return tf.saturate_cast(tf.round(cropped), tf.uint8)


def _slim_example(path: str, encoded: bytes, height: int, width: int) -> bytes:
    import tensorflow as tf

    def integer(value: int):
        return tf.train.Feature(int64_list=tf.train.Int64List(value=[value]))

    def text(value: bytes):
        return tf.train.Feature(bytes_list=tf.train.BytesList(value=[value]))

    folder, name = os.path.split(path)
    wnid = os.path.basename(folder).encode()
    features = {
        "image/height": integer(height),
        "image/width": integer(width),
        "image/colorspace": text(b"RGB"),
        "image/channels": integer(3),
        "image/class/label": integer(1),
        "image/class/synset": text(wnid),
        "image/class/text": text(wnid),
        "image/format": text(b"JPEG"),
        "image/filename": text(name.encode()),
        "image/encoded": text(encoded),
    }
    example = tf.train.Example(features=tf.train.Features(feature=features))
    return example.SerializeToString()


def main(contestant: str, list_path: str, output_dir: str, shards: str) -> dict[str, int]:
    """Run the contestant; return how many bytes it stored."""
    with open(list_path) as file:
        paths = file.read().splitlines()
    if contestant.startswith("bare"):
        stored = bare(paths, decodes_stored=contestant == "bare_stored")
    else:
        stored = slim(paths, output_dir, int(shards), resized=contestant == "slim_resized")
    return {"stored_bytes": stored}


if __name__ == "__main__":
    print(json.dumps(main(*sys.argv[1:])))
