"""Writes a trained network as a model that TF Serving serves: photos in, class names out.

    python -m keras_alexnet.export --workdir=RUN --data_dir=DATA --export_dir=MODELS/alexnet

Makes MODELS/alexnet/1, or the next number: a version appears when it is whole, and TF Serving
picks it up by itself. Before that, the written model is loaded again and has to answer as the
trained network does. Try it with keras_alexnet.serving.local_server.

Beside the versions, in MODELS/alexnet/serving, lie files to start TF Serving with.

With --format=tflite, files for phones are written instead, MODELS/alexnet/tflite/alexnet-*.tflite,
and measured on the validation photos, beside the network and the newest version.

With --verify nothing is written: the newest version, or the one of --version, is compared with its
checksums.json, loaded in a process without this project by both of TensorFlow's loaders, TF
Serving's and tf.saved_model.load, and has to answer as the run's network does.
"""

import os
import tempfile
import time
from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line, files, records
from data_prep.command_line import UserError
from keras_alexnet.saved_model import (
    agreement,
    deployment,
    fresh_process,
    signatures,
    verification,
    versions,
    warmup,
)
from keras_alexnet.saved_model.versions import write
from keras_alexnet.training import flags as training_flags
from keras_alexnet.training import workdir as workdirs

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
_KEEP_VERSIONS = flags.DEFINE_integer(
    "keep_versions",
    0,
    "once the new version is there, delete the oldest beyond so many; 0: keep all",
    lower_bound=0,
    flag_values=FLAGS,
)
_FORMAT = flags.DEFINE_enum(
    "format",
    "saved_model",
    ["saved_model", "tflite"],
    "what to write; tflite: TensorFlow Lite files, for phones",
    flag_values=FLAGS,
)
_TFLITE_KINDS = flags.DEFINE_list(
    "tflite_kinds",
    ["float32", "float16", "int8"],
    "numbers of the TensorFlow Lite files; int8 is calibrated with training photos",
    flag_values=FLAGS,
)
_VERIFY = flags.DEFINE_bool(
    "verify", False, "check a version that is already there, instead", flag_values=FLAGS
)
_VERSION = flags.DEFINE_integer(
    "version", None, "with --verify: which; default: the newest", 0, flag_values=FLAGS
)


def export(
    *,
    trained: workdirs.TrainedRun,
    photos: Sequence[bytes],
    export_dir: str,
    fit: str = "short_side",
    keep_versions: int = 0,
) -> dict[str, object]:
    """Publishes a network as the next version of a model.

    Args:
        trained: the network and what it was trained with.
        photos: some photos as the data set stores them, JPEG or PNG files, on which the written
            model is compared with the network, and which become TF Serving's warm-up requests.
        export_dir: local folder of the model, made if absent.
        fit: how the data set's squares were made of photos, see `data_prep.conversion_rule.Rule`.
        keep_versions: how many versions to keep, the new one among them; 0 for all.

    Returns:
        version, path, max_difference (of a score, a feature or a heat map, between the written
        model and the network), photos (how many were compared), warmup_requests, removed (the
        versions that were), seconds.

    Raises:
        UserError: the folder cannot be written, or the written model answers otherwise than the
            network; then nothing is published.
    """
    started = time.perf_counter()
    version = 1 + max(versions.published(_base_folder(export_dir)), default=0)
    path = os.path.join(export_dir, str(version))
    images = agreement.squares(photos, trained.statistics.mean_image.shape)
    known = agreement.reference(trained, photos, images)
    model_name = os.path.basename(os.path.abspath(export_dir))
    try:
        with files.new_folder(path) as folder:
            served = _save(trained, fit, folder)
            values = signatures.inputs_of(photos, images)
            warmup_requests = warmup.write(
                folder,
                inputs={
                    name: {signatures.INPUT_NAMES[name]: value} for name, value in values.items()
                },
                model_name=model_name,
                classify=[signatures.CLASSIFY],
            )
            text = deployment.text(trained, inputs=served.inputs, model_name=model_name, fit=fit)
            files.write_file(os.path.join(folder, deployment.FILE_NAME), text)
            difference = _compare(folder, known)
            write(folder)
        deployment.write(export_dir, model_name)
        removed = versions.remove_oldest(export_dir, keep_versions) if keep_versions else []
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
        "removed": removed,
        "seconds": round(time.perf_counter() - started, 1),
    }


def export_tflite(
    *, trained: workdirs.TrainedRun, data_dir: str, export_dir: str, kinds: Sequence[str]
) -> dict[str, object]:
    """Writes a network as TensorFlow Lite files, and measures them.

    Args:
        trained: the network and what it was trained with.
        data_dir: the data set that it was trained on: of its train split come the photos that int8
            is calibrated with, of its validation split those that accuracy is measured on.
        export_dir: local folder of the model; the files come into its folder tflite.
        kinds: of `tflite.KINDS`.

    Returns:
        files: by kind, see `tflite.export`; accuracy: see `tflite.measure`, with the newest version
        in the folder, if there is one, as saved_model; seconds.

    Raises:
        UserError: no such kind, the folder cannot be written, or a file answers otherwise than
            the network.
    """
    from keras_alexnet.saved_model import tflite  # imports what a SavedModel does not need

    if unknown := sorted(set(kinds) - set(tflite.KINDS)):
        raise UserError(
            f"--tflite_kinds are some of {', '.join(tflite.KINDS)}, but {unknown[0]} was asked for"
        )
    started = time.perf_counter()
    published = versions.published(_base_folder(export_dir))
    name = os.path.basename(os.path.abspath(export_dir))
    calibration = tflite.calibration_photos(data_dir)
    written = {
        kind: tflite.export(
            trained=trained,
            kind=kind,
            calibration=calibration,
            path=os.path.join(export_dir, "tflite", f"{name}-{kind}{tflite.SUFFIX}"),
        )
        for kind in kinds
    }
    accuracy = tflite.measure(
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


def _save(trained: workdirs.TrainedRun, fit: str, folder: str) -> signatures.ServedModel:
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
            fit=fit,
        )
        signatures.save(served, folder)
    return served


def _compare(folder: str, known: agreement.Reference) -> float:
    """The largest difference between what was written, loaded again, and the network.

    In this process, by one of the loaders; `verification.verify` takes a new process and both.

    Raises:
        UserError: it is too large.
    """
    requests = agreement.requests_for(known, folder)
    answers = fresh_process.by_saved_model(folder, requests)
    try:
        return agreement.largest_difference(known, requests, answers)
    except agreement.DifferenceError as error:
        raise UserError(
            f"the written model has to answer as the network does on {len(known.photos)} photos, "
            f"but {error}; nothing was published; if the run's metrics hold NaN, choose another "
            f"--checkpoint"
        ) from error


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Reads the flags and exports, or verifies."""
    del arguments
    trained = workdirs.load_run(_WORKDIR.value, _CHECKPOINT.value)
    data_dir = _DATA_DIR.value
    manifest = agreement.manifest_of(data_dir, trained.description["manifest_sha256"])
    photos = agreement.stored_photos(data_dir, manifest)
    if _VERIFY.value:
        return verification.verify(
            trained=trained, photos=photos, export_dir=_EXPORT_DIR.value, version=_VERSION.value
        )
    if _FORMAT.value == "tflite":
        return export_tflite(
            trained=trained,
            data_dir=data_dir,
            export_dir=_EXPORT_DIR.value,
            kinds=_TFLITE_KINDS.value,
        )
    return export(
        trained=trained,
        photos=photos,
        export_dir=_EXPORT_DIR.value,
        fit=manifest.recipe.get("fit", "short_side"),
        keep_versions=_KEEP_VERSIONS.value,
    )


def run() -> None:
    """The console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
