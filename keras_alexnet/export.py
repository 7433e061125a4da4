"""Writes a trained network as a model that TF Serving serves: photos in, class names out.

    python -m keras_alexnet.export --workdir=RUN --data_dir=DATA --export_dir=MODELS/alexnet

Makes MODELS/alexnet/1, or the next number: a version appears when it is whole, and TF Serving
picks it up by itself. Before that, the written model is loaded again and has to answer as the
trained network does. Try it with keras_alexnet.serving.local_server.
"""

import hashlib
import io
import json
import os
import tempfile
import time
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from absl import flags
from PIL import Image

from data_prep import command_line, files, records, tfrecord
from data_prep.command_line import UserError
from keras_alexnet import evaluate
from keras_alexnet import flags as training_flags
from keras_alexnet import workdir as workdirs
from keras_alexnet.serving import signatures, versions, warmup
from keras_alexnet.stored_photos import to_photo_file

FLAGS = flags.FlagValues()
_WORKDIR = training_flags.workdir(FLAGS)
_DATA_DIR = training_flags.data_dir(FLAGS)
_CHECKPOINT = training_flags.checkpoint(FLAGS)
_EXPORT_DIR = flags.DEFINE_string(
    "export_dir",
    None,
    "the model's folder, named as the model is to be called; versions are made inside",
    required=True,
    flag_values=FLAGS,
)

_COMPARED_PHOTOS = 8
# Of scores between 0 and 1. The graph fuses operations that run one by one in training, so the
# last bits differ; a wrong mean image or a swapped channel differs by far more.
_TOLERANCE = 1e-3


def export(
    *, trained: workdirs.TrainedRun, photos: Sequence[bytes], export_dir: str
) -> dict[str, object]:
    """Publishes a network as the next version of a model.

    Args:
        trained: the network and what it was trained with.
        photos: some photos as the data set stores them, JPEG or PNG files, on which the written
            model is compared with the network, and which become TF Serving's warm-up requests.
        export_dir: local folder of the model, made if absent.

    Returns:
        version, path, max_difference (of a score, between the written model and the network),
        photos (how many were compared), warmup_requests, seconds.

    Raises:
        UserError: the folder cannot be written, or the written model answers otherwise than the
            network; then nothing is published.
    """
    started = time.perf_counter()
    version = 1 + max(versions.published(_base_folder(export_dir)), default=0)
    path = os.path.join(export_dir, str(version))
    images = _decode(photos, trained.statistics.mean_image.shape)
    try:
        with files.new_folder(path) as folder:
            served = _save(trained, folder)
            warmup_requests = warmup.write(
                folder,
                inputs=served.inputs,
                model_name=os.path.basename(os.path.abspath(export_dir)),
                photos=photos,
                images=tf.constant(images),
            )
            files.write_file(os.path.join(folder, "README.txt"), _readme(trained, served))
            difference = _compare(folder, trained, photos, images)
    except OSError as error:
        raise UserError(
            f"{path} cannot be written ({error.strerror or error}); check --export_dir, or run "
            f"again if another export was at work there"
        ) from error
    return {
        "version": version,
        "path": os.path.abspath(path),
        "max_difference": difference,
        "photos": len(photos),
        "warmup_requests": warmup_requests,
        "seconds": round(time.perf_counter() - started, 1),
    }


def _base_folder(export_dir: str) -> str:
    """The same path, if versions can be made in it."""
    name = os.path.basename(os.path.abspath(export_dir))
    if "://" in export_dir:
        raise UserError(
            f"a local folder is needed, --export_dir={export_dir} is not; export to a local one "
            f"and copy the version to where it is served"
        )
    if versions.is_version(name):
        raise UserError(
            f"the folder of the model is needed, --export_dir={export_dir} looks like one of its "
            f"versions; leave the number out, it is chosen"
        )
    if os.path.exists(export_dir) and not os.path.isdir(export_dir):
        raise UserError(f"a folder is needed, --export_dir={export_dir} is a file; name another")
    return export_dir


def _decode(photos: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """The squares in the middle, uint8 [N, size, size, 3], by another decoder than the graph's."""
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


def _save(trained: workdirs.TrainedRun, folder: str) -> signatures.ServedModel:
    # Under this name the label file becomes assets/labels.txt.
    with tempfile.TemporaryDirectory() as aside:
        labels_file = os.path.join(aside, records.LABELS)
        files.write_file(labels_file, records.labels_text(trained.classes))
        served = signatures.ServedModel(
            model=trained.model,
            profile=trained.profile,
            classes=trained.classes,
            statistics=trained.statistics,
            labels_file=labels_file,
        )
        signatures.save(served, folder)
    return served


def _compare(
    folder: str, trained: workdirs.TrainedRun, photos: Sequence[bytes], images: np.ndarray
) -> float:
    """The largest difference of a score between what was written and the network in memory.

    Raises:
        UserError: it is above the tolerance, or a score is no number, or a class has another
            name.
    """
    loaded = tf.saved_model.load(folder)
    largest = 0.0
    for signature, views in (("serving_default", 1), ("ten_crop", 10)):
        answer = loaded.signatures[signature](image_bytes=tf.constant(list(photos)))
        ids = answer["class_ids"].numpy()
        expected = evaluate.make_predict(trained, views)(tf.constant(images)).numpy()
        # Scores in falling order: another class of the same score is no mistake.
        best = -np.sort(-expected, axis=1)[:, : ids.shape[1]]
        own = np.take_along_axis(expected, ids, axis=1)
        scores = answer["scores"].numpy()
        difference = float(max(np.abs(scores - best).max(), np.abs(scores - own).max()))
        names = [[trained.classes[index].name.encode() for index in row] for row in ids]
        # Written so that NaN, which compares false with everything, fails.
        same = difference <= _TOLERANCE and answer["valid"].numpy().all()
        if not same or names != answer["classes"].numpy().tolist():
            raise UserError(
                f"the written model has to answer as the network does on {len(photos)} photos, "
                f"but {signature} differs by {difference:.3g} (allowed: {_TOLERANCE:g}) or in "
                f"its names; nothing was published; if the run's metrics hold NaN, choose "
                f"another --checkpoint"
            )
        largest = max(largest, difference)
    return largest


def _readme(trained: workdirs.TrainedRun, served: signatures.ServedModel) -> str:
    """What a person who finds the folder wants to know."""
    facts = trained.description
    profile = trained.profile
    lines = [
        f"AlexNet, profile {profile.name}, {len(trained.classes)} classes, as a SavedModel for",
        "TF Serving. The class names are in assets/labels.txt: wnid, tab, name.",
        "",
        "Signatures and their inputs:",
        *(
            f"    {name}: {spec.name}, {spec.dtype.name} {list(spec.shape)}"
            for name, spec in sorted(served.inputs.items())
        ),
        "",
        "How it came to be:",
        *(f"    {key}: {value}" for key, value in {**facts, "profile": profile.name}.items()),
        f"    tensorflow: {tf.__version__}",
        "",
        "The whole profile:",
        f"    {json.dumps(profile.to_dict())}",
    ]
    return "\n".join(lines) + "\n"


def stored_photos(
    data_dir: str, manifest_sha256: str, count: int = _COMPARED_PHOTOS
) -> list[bytes]:
    """The first photos of a data set's validation split (of train, if that is empty), as files.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest_sha256: of the manifest.json of the data set that is expected there.
        count: at most so many.

    Raises:
        UserError: it is another data set, a broken one, or one without photos.
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


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and exports."""
    del arguments
    trained = workdirs.load_run(_WORKDIR.value, _CHECKPOINT.value)
    photos = stored_photos(_DATA_DIR.value, trained.description["manifest_sha256"])
    return export(trained=trained, photos=photos, export_dir=_EXPORT_DIR.value)


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
