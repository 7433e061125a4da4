"""A trained network as files for phones: TensorFlow Lite, by the converter in TensorFlow itself.

They take a photo as it is stored, uint8, and give the scores of all classes. The batch dimension is
fixed at 1: with a free one XNNPACK takes the network in eight pieces instead of three.
"""

import os
import sys
import tempfile
import time
import warnings
from collections.abc import Callable, Sequence

import numpy as np
import tensorflow as tf
import tqdm

from data_prep import files, records
from keras_alexnet.analysis import evaluation
from keras_alexnet.inputs import pipeline, preprocessing
from keras_alexnet.inputs.views import central_view, crop
from keras_alexnet.network import normalization, predictions
from keras_alexnet.network.keras_compat import tf_variable
from keras_alexnet.saved_model import deployment, publishing
from keras_alexnet.training import workdir as workdirs

TOLERANCES = {"float32": 1e-3, "float16": 0.05, "int8": 1.0}  # of a score; 1.0: all but NaN


def export(
    *, trained: workdirs.TrainedRun, data_dir: str, export_dir: str, kinds: Sequence[str]
) -> dict[str, object]:
    """Write files of a network, with labels and a README beside each, and measure their accuracy.

    Args:
        trained: the network and what it was trained with.
        data_dir: its data set. int8 is calibrated with the first 200 train photos, which are in
            random order; accuracy is measured on the first 1000 validation photos.
        export_dir: local folder NAME of the model; the files are its tflite/NAME-KIND.tflite.
        kinds: keys of `TOLERANCES`.

    Returns:
        files: by kind, path, bytes and max_difference (of a score, from the network's). accuracy:
        images, and for "network" and each kind top1, top5 and agreement (of the best class with
        the network's), fractions of 1. seconds.

    Raises:
        ValueError: an argument is wrong, or a file answers otherwise than the network.
    """
    started = time.perf_counter()
    if unknown := [kind for kind in kinds if kind not in TOLERANCES]:
        raise ValueError(f"tflite_kinds are {', '.join(TOLERANCES)}. Received: {unknown[0]}.")
    name = os.path.basename(os.path.abspath(publishing.base_folder(export_dir)))
    folder = os.path.join(os.path.abspath(export_dir), "tflite")
    os.makedirs(folder, exist_ok=True)  # before the minutes that converting takes
    manifest = evaluation.matching_manifest(trained, data_dir)
    calibration = _first(data_dir, manifest, "train", 200)[0]
    images, labels, _ = _first(data_dir, manifest, "validation", 1000)
    predict = evaluation.make_predict(trained, views=1)
    network = _scores(lambda images: {"scores": predict(images)}, images)
    written, accuracy = {}, {"images": len(images), "network": _accuracy(network, network, labels)}
    with tempfile.TemporaryDirectory() as aside, warnings.catch_warnings():
        warnings.filterwarnings("ignore", message=r"(?s).*tf\.lite\.Interpreter is deprecated")
        _save(trained, aside)
        for kind in kinds:
            content = _convert(kind, aside, calibration)
            lite = tf.lite.Interpreter(model_content=content, num_threads=os.cpu_count())
            scores = _scores(lite.get_signature_runner(), images)
            difference = float(np.abs(scores - network).max())
            if not difference <= TOLERANCES[kind]:  # so that NaN fails, too
                raise ValueError(
                    f"a {kind} score differs by {difference:.3g} from the network's; "
                    f"choose another checkpoint"
                )
            path = os.path.join(folder, f"{name}-{kind}")
            files.write_file(f"{path}.README.txt", deployment.tflite_readme(trained, name, kind))
            files.write_file(f"{path}.labels.txt", records.labels_text(trained.classes))
            files.write_file(path := f"{path}.tflite", content)
            written[kind] = {"path": path, "bytes": len(content), "max_difference": difference}
            accuracy[kind] = _accuracy(scores, network, labels)
    seconds = round(time.perf_counter() - started, 1)
    return {"files": written, "accuracy": accuracy, "seconds": seconds}


def _first(data_dir: str, manifest: records.Manifest, split: str, limit: int) -> list[np.ndarray]:
    """Return photos of a split, uint8 [N, size, size, 3], their labels and their weights."""
    dataset = pipeline.eval_dataset(data_dir, manifest, batch_size=1, split=split)
    with pipeline.broken_data_is_one_line(data_dir, manifest, split):
        return [x.numpy() for x in dataset.unbatch().take(limit).batch(limit).get_single_element()]


def _save(trained: workdirs.TrainedRun, folder: str) -> None:
    """Write a SavedModel to convert, in which network input is pixels * gain + shift."""
    # TensorFlow Lite has not the operator with which `preprocessing.view_input` mirrors photos.
    profile, shape = trained.profile, (1, *trained.statistics.mean_image.shape)
    view = central_view(profile, stored=shape[1])
    ends = np.tile(np.uint8([0, 255])[:, None, None, None], shape)  # a black photo, a white one
    shift, white = preprocessing.view_input(ends, view, profile, trained.statistics).numpy()
    gain = ((white.astype(np.float64) - shift) / 255).mean(axis=(0, 1)).astype(np.float32)

    def scores(images: tf.Tensor) -> dict[str, tf.Tensor]:
        pixels = tf.cast(crop(images, view, profile.input_size), tf.float32)
        return {"scores": trained.model(pixels * gain + shift, training=False)}

    module = tf.Module(name="alexnet")
    # TensorFlow's own variables, so that they are saved: see `signatures.ServedModel`.
    module.weights = [tf_variable(variable) for variable in trained.model.variables]
    module.scores = tf.function(scores, [tf.TensorSpec(shape, tf.uint8, name="images")])
    tf.saved_model.save(module, folder, signatures=module.scores)


def _convert(kind: str, folder: str, calibration: np.ndarray) -> bytes:
    """Return the file of a SavedModel; int8 takes the range of each value from `calibration`."""
    converter = tf.lite.TFLiteConverter.from_saved_model(folder)
    # No operator of TensorFlow's own ("flex"), which most phones do not have.
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS]
    converter.target_spec.supported_types = [tf.float16] if kind == "float16" else []
    converter.optimizations = [] if kind == "float32" else [tf.lite.Optimize.DEFAULT]
    if kind != "int8":
        return converter.convert()
    converter.target_spec.supported_ops = [tf.lite.OpsSet.TFLITE_BUILTINS_INT8]
    converter.representative_dataset = lambda: ({"images": photo[None]} for photo in calibration)
    # The converter itself cannot leave operators out; TensorFlow's debugger of quantization can.
    kept = _kept_float(_convert("float32", folder, calibration))
    options = tf.lite.experimental.QuantizationDebugOptions(denylisted_nodes=kept)
    debug = tf.lite.experimental.QuantizationDebugger(converter=converter, debug_options=options)
    return debug.get_nondebug_quantized_model()


def _kept_float(content: bytes) -> list[str]:
    """Return the names of the tensors that stay float32 in a file of int8.

    A normalization's sums of squares reach 187,000 where input is in grey levels: with 256 steps
    54.8 % of photos are right, without 59.4 %, in float32 60.0 %. Most scores are below 1/256.
    """
    model = tf.lite.Interpreter(model_content=content)
    scores = [tensor["name"] for tensor in model.get_output_details()]
    names = [tensor["name"] for tensor in model.get_tensor_details()]
    return scores + [name for name in names if normalization.SCOPE in name]


def _scores(signature: Callable[..., dict], images: np.ndarray) -> np.ndarray:
    bar = tqdm.tqdm(images, unit=" images", file=sys.stderr)
    return np.concatenate([signature(images=image[None])["scores"] for image in bar])


def _accuracy(scores: np.ndarray, network: np.ndarray, labels: np.ndarray) -> dict[str, float]:
    ranks, agrees = predictions.label_ranks(scores, labels), scores.argmax(1) == network.argmax(1)
    hits = {"top1": ranks < 1, "top5": ranks < 5, "agreement": agrees}
    return {name: float(np.mean(hit)) for name, hit in hits.items()}
