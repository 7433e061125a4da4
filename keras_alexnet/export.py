"""Writes a trained network as a model that TF Serving serves: photos in, class names out.

    python -m keras_alexnet.export --workdir=RUN --data_dir=DATA --export_dir=MODELS/alexnet

Makes MODELS/alexnet/1, or the next number: a version appears when it is whole, and TF Serving
picks it up by itself. Before that, the written model is loaded again and has to answer as the
trained network does. Try it with keras_alexnet.serving.local_server.

Beside the versions, in MODELS/alexnet/serving, lie files to start TF Serving with.

With --format=tflite, files for phones are written instead, MODELS/alexnet/tflite/alexnet-*.tflite,
and their accuracy is measured on validation photos, beside the network's.

With --verify nothing is written: the newest version, or the one of --version, is compared with its
checksums.json, loaded in a process without this project by both of TensorFlow's loaders, TF
Serving's and tf.saved_model.load, and has to answer as the run's network does.
"""

from collections.abc import Mapping, Sequence

from absl import flags

from data_prep import command_line
from keras_alexnet.training import flags as training_flags

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


def main(arguments: Sequence[str]) -> Mapping[str, object]:
    """Read the flags and export, or verify."""
    del arguments
    from keras_alexnet.saved_model import agreement
    from keras_alexnet.training.workdir import load_run

    trained = load_run(_WORKDIR.value, _CHECKPOINT.value)
    data_dir = _DATA_DIR.value
    manifest = agreement.manifest_of(data_dir, trained.description["manifest_sha256"])
    photos = agreement.stored_photos(data_dir, manifest)
    if _VERIFY.value:
        from keras_alexnet.saved_model.verification import verify

        return verify(
            trained=trained, photos=photos, export_dir=_EXPORT_DIR.value, version=_VERSION.value
        )
    if _FORMAT.value == "tflite":
        from keras_alexnet.saved_model import tflite

        return tflite.export(
            trained=trained,
            data_dir=data_dir,
            export_dir=_EXPORT_DIR.value,
            kinds=_TFLITE_KINDS.value,
        )
    from keras_alexnet.saved_model.publishing import export

    return export(
        trained=trained,
        photos=photos,
        export_dir=_EXPORT_DIR.value,
        fit=manifest.recipe.get("fit", "short_side"),
        keep_versions=_KEEP_VERSIONS.value,
    )


def run() -> None:
    """Run the console script."""
    command_line.run(main, FLAGS, __doc__)


if __name__ == "__main__":
    run()
