"""Whether an exported model answers as the network that it was made of.

Every signature is asked about photos of the data set, with something that is no photo between
them, and about the warm-up requests that lie in the version; each output is compared with what the
network computes of the same pixels in this process.

Some photos of the data set that a network was trained on: what its export is compared on.
"""

import dataclasses
import hashlib
import io
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


class DifferenceError(ValueError):
    """An answer is not the network's."""


@dataclasses.dataclass(frozen=True)
class Reference:
    """What the network itself says of N photos.

    Attributes:
        photos: files.
        images: uint8 [N, size, size, 3], the same decoded.
        names: of the classes, UTF-8.
        views: V, the ten of the paper.
        view_scores: float32 [V, N, classes].
        centre: the place of the central view.
        features: float32 [N, units of fc7], of the central view.
        heat_maps: float32 [N, h, w], likewise.
        input_size: side of a view, pixels.
        tolerance: how far an answer may be off.
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


def reference(
    trained: workdirs.TrainedRun, photos: Sequence[bytes], images: np.ndarray
) -> Reference:
    """Asks the network about photos.

    Args:
        trained: the network and what it was trained with.
        photos: N files.
        images: uint8 [N, size, size, 3], the same decoded.
    """
    profile, statistics = trained.profile, trained.statistics
    size = images.shape[1]
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
    """A request a signature, and the warm-up requests of a version.

    Args:
        known: tells the photos.
        folder: of the version.

    Raises:
        ValueError: the version's warm-up requests are broken.
    """
    with_junk = [*known.photos[:1], _NO_PHOTO, *known.photos[1:]]
    own = signatures.inputs_of(with_junk, known.images).items()
    return [Request(*asked) for asked in [*own, *warmup.read(folder)]]


def largest_difference(
    known: Reference, requests: Sequence[Request], answers: Sequence[Values]
) -> float:
    """Compares answers with the network.

    Args:
        known: what the network says.
        requests: of `requests_for`.
        answers: the outputs of each.

    Returns:
        The largest difference that was found: see `_TOLERANCES` for of what.

    Raises:
        DifferenceError: an output differs by more than is allowed. Requests with photos that are
            not known are not compared.
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
                raise DifferenceError(
                    f"{request.signature} differs by {difference:.3g} in {output} "
                    f"(allowed: {known.tolerance:g})"
                )
            largest = max(largest, difference)
    return largest


def _numbers(known: Reference) -> dict[bytes, int]:
    """The number of each photo, by all that a request may hold of it; -1 of what is none."""
    numbers = {image.tobytes(): number for number, image in enumerate(known.images)}
    for number, photo in [*enumerate(known.photos), (-1, _NO_PHOTO)]:
        numbers |= {photo: number, encode(photo): number}
    return numbers


def _rows(numbers: Mapping[bytes, int], request: Request) -> np.ndarray | None:
    """The numbers of a request's photos; None if one is not known."""
    (values,) = request.inputs.values()
    keys = [value if isinstance(value, bytes) else value.tobytes() for value in values]
    return np.array([numbers[key] for key in keys]) if set(keys) <= set(numbers) else None


def _differences(
    known: Reference, signature: str, rows: np.ndarray, answer: Values
) -> dict[str, float]:
    """How far each output is off; infinite where it is wrong and has no measure."""
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
    """What the network gives each class, [N, classes]: of the ten views, or of the central one."""
    return known.view_scores.mean(0) if signature == "ten_crop" else known.view_scores[known.centre]


def _ranking_difference(
    known: Reference, expected: np.ndarray, classes: np.ndarray, scores: np.ndarray
) -> float:
    """Of the best classes and their scores, [N, K], from what all classes should have.

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
    """Of those photos whose best class is the network's: of equal scores, another may be."""
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


COUNT = 8


def manifest_of(data_dir: str, manifest_sha256: str) -> records.Manifest:
    """The manifest of a data set, if it is the one that is expected.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest_sha256: of the manifest.json that is expected there.

    Raises:
        ValueError: it is another data set, or none.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    with tf.io.gfile.GFile(os.path.join(data_dir, records.MANIFEST), "rb") as file:
        found = hashlib.sha256(file.read()).hexdigest()
    if found != manifest_sha256:
        raise ValueError(
            f"the data set that the network was trained on is needed (manifest.json of sha256 "
            f"{manifest_sha256[:12]}...), {data_dir} is another ({found[:12]}...); "
            f"check data_dir"
        )
    return manifest


def stored_photos(data_dir: str, manifest: records.Manifest, count: int = COUNT) -> list[bytes]:
    """The first photos of the validation split (of train, if that is empty), as files.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        manifest: its manifest.
        count: at most so many.

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
    photos = []
    try:
        with tf.io.gfile.GFile(path, "rb") as file:
            for record in tfrecord.read_records(file):
                if len(photos) == count:
                    break
                photos.append(to_photo_file(tfrecord.decode_example(record)))
    except (tf.errors.OpError, ValueError, KeyError) as error:
        raise ValueError(f"{path} cannot be read ({error}); run data_prep.verify") from error
    return photos


def squares(photos: Sequence[bytes], shape: tuple[int, ...]) -> np.ndarray:
    """The squares in the middle, by another decoder than the graph's.

    Args:
        photos: N photos as a data set stores them, JPEG or PNG files.
        shape: (size, size, 3), of the mean image.

    Returns:
        uint8 [N, size, size, 3].

    Raises:
        ValueError: a photo is broken, or its short side is not `size`.
    """
    size = shape[0]
    images = []
    for photo in photos:
        try:
            pixels = np.asarray(Image.open(io.BytesIO(photo)))
        except OSError as error:
            raise ValueError(f"a stored photo is broken ({error}); run data_prep.verify") from error
        if pixels.ndim != 3 or min(pixels.shape[:2]) != size:
            raise ValueError(
                f"stored photos of shape {shape}, as the mean image, or longer are needed; one has "
                f"{pixels.shape}; run data_prep.verify"
            )
        top, left = (pixels.shape[0] - size) // 2, (pixels.shape[1] - size) // 2
        images.append(pixels[top : top + size, left : left + size])
    return np.stack(images)
