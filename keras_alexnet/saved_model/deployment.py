"""Files for the people who serve a model: READMEs, and settings of TF Serving, ready to be edited.

    MODELS/alexnet/serving/models.config       which model, and which of its versions
                           batching.config     how requests are merged
                           monitoring.config   metrics for Prometheus
                           ssl.config          TLS of gRPC, an example without keys
                           kubernetes.yaml     a Deployment and a Service
                           README.md           the commands
    MODELS/alexnet/1/README.txt                of a version

TF Serving takes folders with a number for versions and looks at no other. The .config files are
text protocol buffers of tensorflow_serving: ModelServerConfig, MonitoringConfig and SSLConfig of
config/, BatchingParameters of servables/tensorflow/session_bundle_config.proto. The flags that name
them are those of model_servers/main.cc. The texts are in the folder templates.
"""

import importlib.resources
import json
import os
import re
import shlex
import string
import urllib.parse

import tensorflow as tf
from google.protobuf import text_encoding

from data_prep import files
from keras_alexnet.saved_model import signatures
from keras_alexnet.saved_model.warmup import MAX_BATCH
from keras_alexnet.training import workdir as workdirs

FOLDER = "serving"
_FILES = (
    "models.config",
    "batching.config",
    "monitoring.config",
    "ssl.config",
    "kubernetes.yaml",
    "README.md",
)
_DNS_LABEL_LENGTH = 63
# What the numbers in a TensorFlow Lite file are, by its kind.
_TFLITE_NUMBERS = {
    "float32": "32-bit numbers: the network as it is",
    "float16": "weights of 16 bits, half the size",
    "int8": "weights and values of 8 bits, a quarter of the size; normalizations of 32 bits",
}


def version_readme(trained: workdirs.TrainedRun, model_name: str, fit: str) -> str:
    """Return the text of a version's README.txt.

    Args:
        trained: the network and what it was trained with.
        model_name: name that the model is to be served under.
        fit: how photos are made square, see `data_prep.conversion_rule.Rule`.
    """
    facts = _facts(trained)
    inputs = [
        f"    {name}: {spec.name}, {spec.dtype.name} {list(spec.shape)}"
        for name, spec in sorted(signatures.input_specs(facts["size"]).items())
    ]
    return _fill(
        "README.txt",
        **facts,
        model_name=model_name,
        fit=fit,
        signatures="\n".join(inputs),
        profile_json=json.dumps(trained.profile.to_dict()),
    )


def tflite_readme(trained: workdirs.TrainedRun, model_name: str, kind: str) -> str:
    """Return the text of the README.txt beside a TensorFlow Lite file, MODEL_NAME-KIND.tflite."""
    name, numbers = f"{model_name}-{kind}", _TFLITE_NUMBERS[kind]
    return _fill("README.tflite.txt", **_facts(trained), name=name, numbers=numbers)


def _facts(trained: workdirs.TrainedRun) -> dict[str, object]:
    return {
        **trained.description,
        "profile": trained.profile.name,
        "classes": len(trained.classes),
        "size": trained.statistics.mean_image.shape[0],
        "tensorflow": tf.__version__,
    }


def write(export_dir: str, model_name: str) -> list[str]:
    """Write those files of TF Serving that are not there yet, each as a whole.

    A file that is there is left as it is: so what a person edited stays. To have one anew, delete
    it and export again.

    Args:
        export_dir: local folder of the model, whose versions are inside.
        model_name: name that the model is to be served under.

    Returns:
        The paths of the files that were written.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = os.path.join(export_dir, FOLDER)
    os.makedirs(folder, exist_ok=True)
    written = []
    for name in _FILES:
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            files.write_file(path, _fill(name, **_values(model_name)))
            written.append(path)
    return written


def _fill(file_name: str, **values: object) -> str:
    """Return a file of templates/ with each $name replaced by its value."""
    template = importlib.resources.files(__package__) / "templates" / file_name
    return string.Template(template.read_text(encoding="utf-8")).substitute(values)


def _values(model_name: str) -> dict[str, object]:
    """Return what stands in the files of TF Serving, quoted for the syntax in its name."""
    path = f"/models/{model_name}"  # where TF Serving's container sees the model
    status = f"/v1/models/{urllib.parse.quote(model_name, safe='')}"
    arguments = [
        f"--model_config_file={path}/{FOLDER}/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--enable_batching",
        f"--batching_parameters_file={path}/{FOLDER}/batching.config",
        f"--monitoring_config_file={path}/{FOLDER}/monitoring.config",
    ]
    return {
        "max_batch": MAX_BATCH,
        "batch_sizes": "\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes()),
        "proto_name": _proto_string(model_name),
        "proto_path": _proto_string(path),
        "label": json.dumps(_dns_label(model_name)),
        # Strings of JSON are strings of YAML.
        "json_name": json.dumps(model_name),
        "json_arguments": json.dumps(arguments),
        "json_status": json.dumps(status),
        "shell_name": shlex.quote(model_name),
        "shell_path": shlex.quote(path),
        "shell_arguments": " \\\n      ".join(map(shlex.quote, arguments)),
        "shell_status": shlex.quote(f"http://localhost:8501{status}"),
    }


def batch_sizes() -> list[int]:
    """Return the sizes that TF Serving fills a merged batch up to: powers of two, and the limit."""
    powers = [2**exponent for exponent in range(MAX_BATCH.bit_length())]
    return [*(size for size in powers if size < MAX_BATCH), MAX_BATCH]


def _proto_string(text: str) -> str:
    return f'"{text_encoding.CEscape(text, as_utf8=True)}"'


def _dns_label(model_name: str) -> str:
    """Return a name that Kubernetes takes: a-z, 0-9 and inner dashes, from a letter on."""
    label = re.sub(r"[^a-z0-9]+", "-", model_name.lower())
    if not label[:1].isalpha():
        label = f"model-{label}"
    return label[:_DNS_LABEL_LENGTH].strip("-")
