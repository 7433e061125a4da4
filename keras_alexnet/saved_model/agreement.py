"""Comparison of an exported model with the network that it was made of.

Every signature gets photos of the data set, with something that is no photo between them, and the
warm-up requests of the version; each output is compared with what the network computes of the same
pixels in this process.
"""

import dataclasses
import hashlib
import io
import itertools
import os
from collections.abc import Mapping, Sequence

import numpy as np
import tensorflow as tf
from PIL import Image

from data_prep import records, tfrecord
from keras_alexnet.analysis import grad_cam
from keras_alexnet.inputs import preprocessing
from keras_alexnet.inputs.stored_photos import to_photo_file
from keras_alexnet.inputs.views import View, central_view, ten_views
from keras_alexnet.saved_model import signatures, warmup
from keras_alexnet.saved_model.fresh_process import Request, Values
from keras_alexnet.saved_model.signatures import encode
from keras_alexnet.training import workdir as workdirs

# Of scores and heat maps, both from 0 to 1, and of features in parts of the largest. The graph
# fuses operations that run one by one in training, so the last bits differ; a wrong mean image or
# a swapped channel differs by far more. By what the network computes in.
_TOLERANCES = {"float32": 1e-3}
_COARSE_TOLERANCE = 3e-2

_NO_PHOTO = b"this is no photo"


@dataclasses.dataclass(frozen=True)
class Reference:
    """Outputs of the network itself for N photos.

    Attributes:
        photos: JPEG or PNG files.
        images: uint8 [N, size, size, 3], the same decoded.
        names: class names, UTF-8.
        views: the V = 10 views of the paper.
        view_scores: float32 [V, N, classes].
        centre: index of the central view.
        features: float32 [N, units of fc7], of the central view.
        heat_maps: float32 [N, h, w], of the central view.
        input_size: side of a view, pixels.
        tolerance: largest difference allowed.
    """

    photos: Sequence[bytes]
    images: np.ndarray
    names: Sequence[bytes]
    views: Sequence[View]
    view_scores: np.ndarray
    centre: int
    features: np.ndarray
    heat_maps: np.ndarray
    input_size: int
    tolerance: float


def reference(trained: workdirs.TrainedRun, photos: Sequence[bytes]) -> Reference:
    """Return the network's outputs for photos as its data set stores them, JPEG or PNG files.

    Raises:
        ValueError: a photo is broken, or its short side is not that of the mean image.
    """
    profile, statistics = trained.profile, trained.statistics
    size = statistics.mean_image.shape[0]
    images = np.stack([_square(photo, size) for photo in photos])
    views, centre = ten_views(profile, stored=size), central_view(profile, stored=size)
    fc7 = signatures.features_of(trained.model, profile)
    heat = grad_cam.with_heat_maps(trained.model, profile)
    network = tf.function(trained.model)  # traced once for all views

    @tf.function
    def ask(images: tf.Tensor) -> tuple[tf.Tensor, tf.Tensor, tf.Tensor]:
        def of(model: object, view: View) -> tf.Tensor:
            return preprocessing.mean_over_views(model, images, [view], profile, statistics)

        central = preprocessing.view_input(images, centre, profile, statistics)
        return (
            tf.stack([of(network, view) for view in views]),
            of(fc7, centre),
            heat(central)[1],
        )

    view_scores, features, heat_maps = (output.numpy() for output in ask(tf.constant(images)))
    return Reference(
        photos=photos,
        images=images,
        names=[entry.name.encode() for entry in trained.classes],
        views=views,
        view_scores=view_scores,
        centre=views.index(centre),
        features=features,
        heat_maps=heat_maps,
        input_size=profile.input_size,
        tolerance=_TOLERANCES.get(trained.model.compute_dtype, _COARSE_TOLERANCE),
    )


def requests_for(known: Reference, folder: str) -> list[Request]:
    """Return a request for each signature, and the warm-up requests in a version's folder.

    Raises:
        ValueError: the version's warm-up requests are broken.
    """
    with_junk = [*known.photos[:1], _NO_PHOTO, *known.photos[1:]]
    own = signatures.inputs_of(with_junk, known.images).items()
    return [Request(*asked) for asked in [*own, *warmup.read(folder)]]


def largest_difference(
    known: Reference, requests: Sequence[Request], answers: Sequence[Values], model: str
) -> float:
    """Return the largest difference between answers and the network: see `_TOLERANCES`.

    Args:
        known: outputs of the network.
        requests: those of `requests_for`; one with other photos is not compared.
        answers: the outputs for each request.
        model: what answered, for the error.

    Raises:
        ValueError: an output differs by more than is allowed.
    """
    largest = 0.0
    numbers = _numbers(known)
    for request, answer in zip(requests, answers, strict=True):
        rows = _rows(numbers, request)
        if rows is None:
            continue
        for output, difference in _differences(known, request.signature, rows, answer).items():
            # Written so that NaN, which compares false with everything, fails.
            if not difference <= known.tolerance:
                raise ValueError(
                    f"{model} has to answer as the network does, but {request.signature} differs "
                    f"by {difference:.3g} in {output} (allowed: {known.tolerance:g}); check "
                    f"workdir and checkpoint (metrics of NaN?), or export again"
                )
            largest = max(largest, difference)
    return largest


def _numbers(known: Reference) -> dict[bytes, int]:
    """Return the number of each photo by what a request may hold of it; -1 for no photo."""
    numbers = {image.tobytes(): number for number, image in enumerate(known.images)}
    for number, photo in [*enumerate(known.photos), (-1, _NO_PHOTO)]:
        numbers |= {photo: number, encode(photo): number}
    return numbers


def _rows(numbers: Mapping[bytes, int], request: Request) -> np.ndarray | None:
    """Return the numbers of a request's photos; None if one is not known."""
    (values,) = request.inputs.values()
    keys = [value if isinstance(value, bytes) else value.tobytes() for value in values]
    return np.array([numbers[key] for key in keys]) if set(keys) <= set(numbers) else None


def _differences(
    known: Reference, signature: str, rows: np.ndarray, answer: Values
) -> dict[str, float]:
    """Return how far each output is off; infinite where it is wrong and has no measure."""
    is_photo = rows >= 0
    of_photos = {name: output[is_photo] for name, output in answer.items()}
    of_others = {name: output[~is_photo] for name, output in answer.items()}
    differences = {
        name: check(known, rows[is_photo], of_photos, signature)
        for name, check in _CHECKS.items()
        if name in answer
    }
    if "valid" in answer:
        differences["valid"] = _zero_if(np.array_equal(answer["valid"], is_photo))
    for name, blank in _BLANKS.items():
        if name in answer and not np.all(of_others[name] == blank):
            differences[name] = np.inf
    return differences


def _scores(known: Reference, signature: str) -> np.ndarray:
    """Return the network's scores [N, classes]: of the ten views, or of the central one."""
    return known.view_scores.mean(0) if signature == "ten_crop" else known.view_scores[known.centre]


def _ranking_difference(
    known: Reference, expected: np.ndarray, classes: np.ndarray, scores: np.ndarray
) -> float:
    """Return how far the best classes and their scores, [N, K], are from those of all classes.

    Another class of the same score is no mistake.
    """
    if len(expected) == 0:
        return 0.0
    if not set(classes.ravel()) <= set(known.names):
        return np.inf
    best = -np.sort(-expected, axis=1)[:, : classes.shape[1]]
    names = np.array(known.names, object)
    # Two classes may have one name, as ImageNet's cranes have.
    own = np.array(
        [
            [
                row[names == name][np.abs(row[names == name] - score).argmin()]
                for name, score in pair
            ]
            for row, pair in zip(expected, map(zip, classes, scores), strict=True)
        ]
    )
    return float(max(np.abs(scores - best).max(), np.abs(scores - own).max()))


def _scores_difference(known: Reference, rows: np.ndarray, answer: Values, signature: str) -> float:
    expected = _scores(known, signature)[rows]
    return _ranking_difference(known, expected, answer["classes"], answer["scores"])


def _ids_difference(known: Reference, rows: np.ndarray, answer: Values, signature: str) -> float:
    del rows, signature  # its names are compared with the network's
    names = dict(enumerate(known.names))
    named = [[names.get(number) for number in row] for row in answer["class_ids"]]
    return _zero_if(named == answer["classes"].tolist())


def _features_difference(
    known: Reference, rows: np.ndarray, answer: Values, signature: str
) -> float:
    del signature
    expected = known.features[rows]
    largest = np.abs(known.features).max() or 1.0
    return float(np.abs(answer["features"] - expected).max(initial=0.0) / largest)


def _heat_difference(known: Reference, rows: np.ndarray, answer: Values, signature: str) -> float:
    """Compare photos whose best class is the network's: of equal scores, another may be."""
    best = _scores(known, signature)[rows].argmax(1)
    same = best == answer["class_ids"][:, 0]
    difference = np.abs(answer["heat_map"] - known.heat_maps[rows])[same]
    return float(difference.max(initial=0.0))


def _views_difference(known: Reference, rows: np.ndarray, answer: Values, signature: str) -> float:
    del signature
    expected = known.view_scores[:, rows].swapaxes(0, 1)  # [N, V, classes]
    return _ranking_difference(
        known,
        expected.reshape(-1, expected.shape[-1]),
        answer["view_classes"].reshape(-1, 1),
        answer["view_scores"].reshape(-1, 1),
    )


def _boxes_difference(known: Reference, rows: np.ndarray, answer: Values, signature: str) -> float:
    del rows, signature  # the same of all photos
    size = known.input_size
    boxes = np.array([[view.y, view.x, size, size, view.flip] for view in known.views], np.int64)
    same = (
        np.all(answer["view_boxes"] == boxes)
        and np.all(answer["heat_box"] == boxes[known.centre, :4])
        and np.all(answer["stored_size"] == known.images.shape[1])
    )
    return _zero_if(same)


def _zero_if(same: bool) -> float:
    return 0.0 if same else np.inf


# By output: known, rows of the photos, outputs of them alone, signature -> how far it is off.
_CHECKS = {
    "scores": _scores_difference,
    "class_ids": _ids_difference,
    "features": _features_difference,
    "heat_map": _heat_difference,
    "view_scores": _views_difference,
    "view_boxes": _boxes_difference,
}
# What stands for what is no photo.
_BLANKS: Mapping[str, object] = {
    "classes": b"",
    "class_ids": -1,
    "scores": 0.0,
    "features": 0.0,
    "heat_map": 0.0,
    "view_classes": b"",
    "view_scores": 0.0,
}


def manifest_of(data_dir: str, manifest_sha256: str) -> records.Manifest:
    """Return the manifest of a folder that data_prep.prepare wrote.

    Raises:
        ValueError: it is another data set than the one with this SHA-256 of manifest.json.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != manifest_sha256:
        raise ValueError(
            f"the data set that the network was trained on is needed (manifest.json of sha256 "
            f"{manifest_sha256[:12]}...), {data_dir} is another ({found[:12]}...); check data_dir"
        )
    return manifest


def stored_photos(data_dir: str, manifest: records.Manifest, count: int = 8) -> list[bytes]:
    """Return the first photos of the validation split (of train, if that is empty), as files.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: its manifest.
        count: the most photos to return.

    Raises:
        ValueError: the data set is broken, or without photos.
    """
    photos: list[bytes] = []
    for split in ("validation", "train"):
        for shard in manifest.splits[split].shards if split in manifest.splits else ():
            photos += _photos_of_shard(os.path.join(data_dir, shard.name), count - len(photos))
            if len(photos) == count:
                return photos
        if photos:
            return photos
    raise ValueError(f"a data set with photos is needed, {data_dir} has none; check data_dir")


def _photos_of_shard(path: str, count: int) -> list[bytes]:
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            found = itertools.islice(tfrecord.read_records(file), count)
            return [to_photo_file(tfrecord.decode_example(record)) for record in found]
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); run data_prep.verify") from error


def _square(photo: bytes, size: int) -> np.ndarray:
    """Return the square in the middle, uint8 [size, size, 3], by another decoder than the graph's.

    Raises:
        ValueError: the photo is broken, or its short side is not `size`.
    """
    try:
        pixels = np.asarray(Image.open(io.BytesIO(photo)))
    except OSError as error:
        raise ValueError(f"a stored photo is broken ({error}); run data_prep.verify") from error
    if pixels.ndim != 3 or min(pixels.shape[:2]) != size:
        raise ValueError(
            f"stored photos with a short side of {size}, as the mean image, are needed; one has "
            f"the shape {pixels.shape}; run data_prep.verify"
        )
    top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
    return pixels[top : top + size, left : left + size]
