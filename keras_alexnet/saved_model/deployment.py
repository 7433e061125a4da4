"""README.txt of a version: what a person who finds the folder wants to know."""

import json
from collections.abc import Mapping

import tensorflow as tf

from keras_alexnet import workdir as workdirs
from keras_alexnet.serving import checksums

FILE_NAME = "README.txt"


def text(
    trained: workdirs.TrainedRun,
    *,
    inputs: Mapping[str, tf.TensorSpec],
    model_name: str,
    fit: str,
) -> str:
    """The file's text.

    Args:
        trained: the network and what it was trained with.
        inputs: of each signature, as `ServedModel.inputs`.
        model_name: that the model is to be served under.
        fit: how photos are made square, see `data_prep.conversion_rule.Rule`.
    """
    facts, profile = trained.description, trained.profile
    signatures = [
        f"{name}: {spec.name}, {spec.dtype.name} {list(spec.shape)}"
        for name, spec in sorted(inputs.items())
    ]
    return f"""\
AlexNet, profile {profile.name}, {len(trained.classes)} classes, as a SavedModel for TF Serving.

Serve it: the folder above this one, MODEL_DIR, is the model's and holds its versions.
    docker run -p 8500:8500 -p 8501:8501 -v MODEL_DIR:/models/{model_name} \\
        -e MODEL_NAME={model_name} tensorflow/serving
or, on a laptop:
    python -m keras_alexnet.serving.local_server --model_dir=MODEL_DIR
and ask it:
    python -m keras_alexnet.serving.client --server=http://localhost:8501 \\
        --model={model_name} PHOTO.jpg

Accuracy of the central view on the data set's validation photos, as the training run measured it
after epoch {facts["epoch"]}, whose weights these are:
    top1: {facts["top1"]}
    top5: {facts["top5"]}

Signatures and their inputs:
{_indented(signatures)}
They take photos as files (JPEG or PNG) and do all that was done in training: decode, make a square
of {trained.statistics.mean_image.shape[0]} pixels of each ({fit}), subtract the mean.
The class names are in assets/labels.txt: wnid, tab, name.

How it came to be:
    workdir: {facts["workdir"]}
    epoch: {facts["epoch"]}
    manifest_sha256: {facts["manifest_sha256"]} (of the data set's manifest.json)
    precision: {facts["precision"]} (in training; answers are float32)
    tensorflow: {tf.__version__}

The whole profile:
    {json.dumps(profile.to_dict())}

{checksums.FILE_NAME} has the SHA-256 of every other file here;
    python -m keras_alexnet.export --verify --workdir=RUN --data_dir=DATA --export_dir=MODEL_DIR
checks them, and compares the answers with the network of the run.
"""


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)
