"""A trained network as a file for phones: TensorFlow Lite, by the converter in TensorFlow itself.

    signature        input                                  output
    serving_default  images uint8 [1, size, size, 3], RGB,  scores float32 [1, classes], softmax
                     a photo as it is stored

The input is that of the SavedModel's signature `pixels`: the crop, the mean and the scale are
inside. All operators are TensorFlow Lite's own. The shapes are fixed, one photo at a time, which is
what a phone has: with a free batch dimension the shapes of the response normalizations would be
computed while the model runs, and what an accelerator takes falls into pieces (XNNPACK, on a CPU:
eight instead of three).

Beside NAME.tflite lie NAME.labels.txt, in the form of the data set's labels.txt, and
NAME.README.txt: what would put them inside as metadata is no part of TensorFlow.
"""

import contextlib
import dataclasses
import os
import string
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence

import numpy as np
import tensorflow as tf
import tqdm

from data_prep import files, records
from keras_alexnet.analysis import evaluation
from keras_alexnet.inputs import pipeline, preprocessing
from keras_alexnet.inputs.views import central_view, crop
from keras_alexnet.network import normalization
from keras_alexnet.network.keras_compat import tf_variable
from keras_alexnet.saved_model import publishing, versions
from keras_alexnet.training import workdir as workdirs

CALIBRATION_PHOTOS = 200
SUFFIX = ".tflite"
TOP = 5

_SIGNATURE = "serving_default"
_COMPARED_PHOTOS = 8
_BATCH_SIZE = 32  # of the reader, and of what takes batches


@dataclasses.dataclass(frozen=True)
class Kind:
    """What the numbers in a file are.

    Attributes:
        summary: a line for a person.
        tolerance: how far a score may be from the network's, above which nothing is written.
        convert: a SavedModel's folder, and photos uint8 [N, size, size, 3] to calibrate with -> the
            file's content.
    """

    summary: str
    tolerance: float
    convert: Callable[[str, np.ndarray], bytes]


def export(
    *, trained: workdirs.TrainedRun, kind: str, calibration: np.ndarray, path: str
) -> dict[str, object]:
    """Writes a network as a TensorFlow Lite file, and its labels and a README.txt beside it.

    Args:
        trained: the network and what it was trained with.
        kind: one of `KINDS`.
        calibration: photos as they are stored, uint8 [N, size, size, 3], N at least 1 (see
            `calibration_photos`). "int8" takes the range of each layer's values from them; a few
            of them are what the file is compared with the network on, of every kind.
        path: local path of the file, which ends in .tflite; its folder is made if absent, what is
            there is replaced.

    Returns:
        kind, path, bytes (of the .tflite file), max_difference (of a score, between the file and
        the network), seconds.

    Raises:
        ValueError: there is no such kind, or the photos have another shape or type.
        ValueError: the path has another ending or cannot be written, or the file answers otherwise
            than the network; then nothing is written.
    """
    started = time.perf_counter()
    _check_arguments(trained, kind, calibration, path)
    stem = path.removesuffix(SUFFIX)
    with _told_as_user_error(path):  # before the minutes that a wide network takes
        os.makedirs(os.path.dirname(path) or ".", exist_ok=True)
    with tempfile.TemporaryDirectory() as aside:
        _save(trained, aside)
        content = KINDS[kind].convert(aside, calibration)
    difference = _compare(content, trained, calibration[:_COMPARED_PHOTOS], KINDS[kind].tolerance)
    with _told_as_user_error(path):
        files.write_file(f"{stem}.labels.txt", records.labels_text(trained.classes))
        files.write_file(f"{stem}.README.txt", _readme(trained, kind, os.path.basename(stem)))
        files.write_file(path, content)
    return {
        "kind": kind,
        "path": os.path.abspath(path),
        "bytes": len(content),
        "max_difference": difference,
        "seconds": round(time.perf_counter() - started, 1),
    }


def export_all(
    *, trained: workdirs.TrainedRun, data_dir: str, export_dir: str, kinds: Sequence[str]
) -> dict[str, object]:
    """Write a network as TensorFlow Lite files, and measure them.

    Args:
        trained: the network and what it was trained with.
        data_dir: the data set that it was trained on: of its train split come the photos that int8
            is calibrated with, of its validation split those that accuracy is measured on.
        export_dir: local folder of the model; the files come into its folder "tflite".
        kinds: of `KINDS`.

    Returns:
        files: by kind, see `export`; accuracy: see `measure`, with the newest version
        in the folder, if there is one, as saved_model; seconds.

    Raises:
        ValueError: no such kind, the folder cannot be written, or a file answers otherwise than
            the network.
    """
    if unknown := sorted(set(kinds) - set(KINDS)):
        raise ValueError(
            f"tflite_kinds are some of {', '.join(KINDS)}, but {unknown[0]} was asked for"
        )
    started = time.perf_counter()
    published = versions.published(publishing.base_folder(export_dir))
    name = os.path.basename(os.path.abspath(export_dir))
    calibration = calibration_photos(data_dir)
    written = {
        kind: export(
            trained=trained,
            kind=kind,
            calibration=calibration,
            path=os.path.join(export_dir, "tflite", f"{name}-{kind}{SUFFIX}"),
        )
        for kind in kinds
    }
    accuracy = measure(
        trained=trained,
        data_dir=data_dir,
        paths={kind: file["path"] for kind, file in written.items()},
        saved_model=published[max(published)] if published else None,
    )
    return {
        "files": written,
        "accuracy": accuracy,
        "seconds": round(time.perf_counter() - started, 1),
    }


def calibration_photos(data_dir: str, count: int = CALIBRATION_PHOTOS) -> np.ndarray:
    """The first photos of the train split, which data_prep.prepare has put in random order.

    Not those of the validation split, which say how accurate the result is.

    Args:
        data_dir: folder that data_prep.prepare wrote.
        count: at most so many.

    Returns:
        uint8 [N, size, size, 3].

    Raises:
        ValueError: there are none, or the data set is broken.
    """
    manifest = records.read_manifest(data_dir, tf.io.gfile.GFile)
    return np.concatenate([images for images, _ in _read(data_dir, manifest, "train", count)])


def measure(
    *,
    trained: workdirs.TrainedRun,
    data_dir: str,
    paths: Mapping[str, str],
    saved_model: str | None = None,
    limit: int = 1000,
) -> dict[str, object]:
    """Accuracy and size of TensorFlow Lite files, beside those of what they were made from.

    Args:
        trained: the network.
        data_dir: folder that data_prep.prepare wrote; its classes must be the network's.
        paths: of the .tflite files, by the names that they are to have in the result.
        saved_model: a version that keras_alexnet.export wrote, to be measured too.
        limit: the first so many of the validation photos are asked about, the central view of
            each. A file takes them one by one.

    Returns:
        images (how many there were), seconds, "network" and each of the names (and "saved_model"):
        top1 and top5, fractions of 1, as `evaluation.evaluate` counts them; but for the network
        also agreement, the fraction of photos with the same best class as the network's, and bytes,
        the size of the file (of all files of the version).

    Raises:
        ValueError: the data set has other classes, is broken, or has no validation photos.
    """
    started = time.perf_counter()
    manifest = evaluation.matching_manifest(trained, data_dir)
    predict = evaluation.make_predict(trained, views=1)
    answerers = {"network": lambda images: _best(predict(tf.constant(images)).numpy())}
    sizes = {}
    if saved_model is not None:
        answerers["saved_model"] = _saved_model_answerer(saved_model)
        sizes["saved_model"] = _folder_size(saved_model)
    for name, path in paths.items():
        answerers[name] = _file_answerer(path)
        sizes[name] = os.path.getsize(path)
    answers: dict[str, list[np.ndarray]] = {name: [] for name in answerers}
    labels = []
    for images, labels_of_images in _read(data_dir, manifest, "validation", limit):
        labels.append(labels_of_images)
        for name, answer in answerers.items():
            answers[name].append(answer(images))
    truth = np.concatenate(labels)
    best = {name: np.concatenate(batches) for name, batches in answers.items()}
    figures: dict[str, object] = {"network": _accuracy(best["network"], truth)}
    for name, size in sizes.items():
        agreement = float(np.mean(best[name][:, 0] == best["network"][:, 0]))
        figures[name] = {**_accuracy(best[name], truth), "agreement": agreement, "bytes": size}
    seconds = round(time.perf_counter() - started, 1)
    return {"images": len(truth), "seconds": seconds, **figures}


def _check_arguments(
    trained: workdirs.TrainedRun, kind: str, calibration: np.ndarray, path: str
) -> None:
    if kind not in KINDS:
        raise ValueError(f"kind must be one of {', '.join(KINDS)}. Received: {kind!r}.")
    size = trained.statistics.mean_image.shape[0]
    if (
        calibration.dtype != np.uint8
        or calibration.shape[1:] != (size, size, 3)
        or not len(calibration)
    ):
        raise ValueError(
            f"calibration must be uint8 [N, {size}, {size}, 3], stored photos. Received: "
            f"{calibration.dtype} {list(calibration.shape)}. calibration_photos reads some."
        )
    if not path.endswith(SUFFIX):
        raise ValueError(f"a file name that ends in {SUFFIX} is needed, {path} does not")


@contextlib.contextmanager
def _told_as_user_error(path: str) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise ValueError(
            f"{path} cannot be written ({error.strerror or error}); name another file"
        ) from error


class _PhoneModel(tf.Module):
    """What is converted: stored photo -> scores, as the signature in this module's docstring."""

    def __init__(self, trained: workdirs.TrainedRun) -> None:
        super().__init__(name="alexnet")
        # TensorFlow's own variables, so that they are saved: see `signatures.ServedModel`.
        self._weights = [tf_variable(variable) for variable in trained.model.variables]
        size = trained.statistics.mean_image.shape[0]
        view = central_view(trained.profile, stored=size)
        gain, shift = _input_line(trained)

        def scores(images: tf.Tensor) -> dict[str, tf.Tensor]:
            pixels = tf.cast(crop(images, view, trained.profile.input_size), tf.float32)
            return {"scores": trained.model(pixels * gain + shift, training=False)}

        spec = tf.TensorSpec([1, size, size, 3], tf.uint8, name="images")
        self.scores = tf.function(scores, input_signature=[spec])


def _input_line(trained: workdirs.TrainedRun) -> tuple[np.ndarray, np.ndarray]:
    """Network input of the central view as pixels * gain + shift: [3] and [1, S, S, 3], float32.

    A mean, a scale and no mirroring are a line in each pixel, and `preprocessing.view_input` says
    through which points it goes. Its own operations are for any view, and one of them, which
    mirrors some photos of a batch, is none of TensorFlow Lite's.
    """
    size = trained.statistics.mean_image.shape[0]
    view = central_view(trained.profile, stored=size)

    def network_input(pixel: int) -> np.ndarray:
        images = tf.fill([1, size, size, 3], tf.constant(pixel, tf.uint8))
        return preprocessing.view_input(images, view, trained.profile, trained.statistics).numpy()

    black, white = network_input(0), network_input(255)
    gain = ((white.astype(np.float64) - black) / 255).mean(axis=(0, 1, 2))
    return gain.astype(np.float32), black


def _save(trained: workdirs.TrainedRun, folder: str) -> None:
    module = _PhoneModel(trained)
    tf.saved_model.save(module, folder, signatures={_SIGNATURE: module.scores})


def _converter(folder: str) -> tf.lite.TFLiteConverter:
    converter = tf.lite.TFLiteConverter.from_saved_model(folder, signature_keys=[_SIGNATURE])
    # No operator of TensorFlow's own ("flex"), which most phones do not have.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    return converter


def _to_float32(folder: str, calibration: np.ndarray) -> bytes:
    del calibration  # nothing is rounded
    return _converter(folder).convert()


def _to_float16(folder: str, calibration: np.ndarray) -> bytes:
    del calibration  # the weights alone are rounded
    converter = _converter(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_types = [tf.float16]
    return converter.convert()


def _to_int8(folder: str, calibration: np.ndarray) -> bytes:
    kept_float = _kept_float(_to_float32(folder, calibration))
    converter = _converter(folder)
    converter.optimizations = [tf.lite.Optimize.DEFAULT]
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ({"images": photo[None]} for photo in calibration)
    # The converter itself has no way to leave some operators out; TensorFlow's debugger of
    # quantization has.
    debugger = tf.lite.experimental.QuantizationDebugger(
        converter=converter,
        debug_dataset=converter.representative_dataset,
        debug_options=tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=kept_float),
    )
    return debugger.get_nondebug_quantized_model()


def _kept_float(content: bytes) -> list[str]:
    """The tensors that stay float32 in a file of int8, by their names in the file of float32.

    - The insides of the normalizations. Their sums of squares go from 0 to 187,000 in a network
      whose input is in grey levels: 256 steps are too few. On the rehearsal's photos such a
      network, right on 60.0 % of them, is right on 54.8 % with all of it in int8, and on 59.4 %
      with this left out.
    - The scores: of 1,000 classes most are below the 1/256 that a step is.
    """
    interpreter = _interpreter(model_content=content)
    tensors = [details["name"] for details in interpreter.get_tensor_details()]
    outputs = [details["name"] for details in interpreter.get_output_details()]
    return outputs + [name for name in tensors if normalization.SCOPE in name]


KINDS: Mapping[str, Kind] = {
    # The tolerances are for what is wrong altogether; `measure` says how good a file is.
    "float32": Kind("32-bit numbers: the network as it is", 1e-3, _to_float32),
    "float16": Kind("weights of 16 bits, half the size", 0.05, _to_float16),
    "int8": Kind(
        "weights and values of 8 bits, a quarter of the size; normalizations of 32 bits",
        1.0,  # any score, but a number
        _to_int8,
    ),
}


def _compare(
    content: bytes, trained: workdirs.TrainedRun, images: np.ndarray, tolerance: float
) -> float:
    """The largest difference of a score between a file and the network.

    Raises:
        ValueError: it is above the tolerance, or no number.
    """
    runner = _interpreter(model_content=content).get_signature_runner(_SIGNATURE)
    scores = np.concatenate([runner(images=image[None])["scores"] for image in images])
    expected = evaluation.make_predict(trained, views=1)(tf.constant(images)).numpy()
    difference = float(np.abs(scores - expected).max())
    if not difference <= tolerance:  # so that NaN fails, too
        raise ValueError(
            f"the file has to answer as the network does on {len(images)} photos, but a score "
            f"differs by {difference:.3g} (allowed: {tolerance:g}); nothing was written; if the "
            f"run's metrics hold NaN, choose another checkpoint"
        )
    return difference


def _interpreter(**source: object) -> tf.lite.Interpreter:
    with warnings.catch_warnings():
        # It says to use the package ai_edge_litert. TensorFlow 2.21 still has this one.
        warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
        return tf.lite.Interpreter(num_threads=os.cpu_count(), **source)


def _read(
    data_dir: str, manifest: records.Manifest, split: str, limit: int
) -> Iterator[tuple[np.ndarray, np.ndarray]]:
    """The first photos of a split: batches uint8 [B, size, size, 3], labels int64 [B]."""
    dataset = pipeline.eval_dataset(data_dir, manifest, batch_size=_BATCH_SIZE, split=split)
    left = min(limit, manifest.splits[split].records)
    with (
        pipeline.broken_data_is_one_line(data_dir, manifest, split),
        tqdm.tqdm(total=left, unit=" images", file=sys.stderr) as bar,
    ):
        for images, labels, _ in dataset:
            count = min(left, len(images))  # the last batch is filled up with black photos
            yield images[:count].numpy(), labels[:count].numpy()
            bar.update(count)
            left -= count
            if not left:
                break


def _file_answerer(path: str) -> Callable[[np.ndarray], np.ndarray]:
    runner = _interpreter(model_path=path).get_signature_runner(_SIGNATURE)

    def answer(images: np.ndarray) -> np.ndarray:
        return _best(np.concatenate([runner(images=image[None])["scores"] for image in images]))

    return answer


def _saved_model_answerer(folder: str) -> Callable[[np.ndarray], np.ndarray]:
    loaded = tf.saved_model.load(folder)

    def answer(images: np.ndarray) -> np.ndarray:
        return loaded.signatures["pixels"](images=tf.constant(images))["class_ids"].numpy()

    return answer


def _best(scores: np.ndarray) -> np.ndarray:
    """The best classes of each photo, the best first, in the order of `predictions.label_ranks`.

    Args:
        scores: [N, classes].

    Returns:
        int64 [N, `TOP` or all if fewer]; -1 for a class whose score is NaN.
    """
    best = np.argsort(-scores, axis=1, kind="stable")[:, :TOP]
    return np.where(np.isnan(np.take_along_axis(scores, best, axis=1)), -1, best)


def _accuracy(best: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    hits = best == labels[:, None]
    return {"top1": float(hits[:, 0].mean()), "top5": float(hits.any(axis=1).mean())}


def _folder_size(folder: str) -> int:
    return sum(
        os.path.getsize(os.path.join(parent, name))
        for parent, _, names in os.walk(folder)
        for name in names
    )


_README_TEXT = string.Template("""\
AlexNet, profile $profile, $classes classes, as a TensorFlow Lite file: $name.tflite
Numbers: $summary.

Input "images": uint8 [1, $size, $size, 3], RGB: a photo scaled so that its short side is $size
pixels, and of that the square in the middle. The crop, the mean and the scale are inside.
Output "scores": float32 [1, $classes], softmax. Class i is line i, from 0, of
$name.labels.txt: wnid, tab, name.

    interpreter = tf.lite.Interpreter("$name.tflite")
    scores = interpreter.get_signature_runner()(images=photo)["scores"]

All operators are TensorFlow Lite's own. The shapes are fixed, one photo at a time, so that a
phone's accelerators can take the whole. On a GPU ask for 32-bit arithmetic (in Android's
GpuDelegate.Options: setPrecisionLossAllowed(false)): the normalizations' sums of squares outgrow
16 bits. Not tried on a phone.

How it came to be:
$facts
""")


def _readme(trained: workdirs.TrainedRun, kind: str, name: str) -> str:
    facts = {
        **trained.description,
        "profile": trained.profile.name,
        "tensorflow": tf.__version__,
    }
    return _README_TEXT.substitute(
        profile=trained.profile.name,
        classes=len(trained.classes),
        name=name,
        summary=KINDS[kind].summary,
        size=trained.statistics.mean_image.shape[0],
        facts="\n".join(f"    {key}: {value}" for key, value in facts.items()),
    )
