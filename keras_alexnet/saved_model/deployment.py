"""README.txt of a version: what a person who finds the folder wants to know.

The settings of TF Serving for a model: files that lie beside its versions, ready to be edited.

    MODELS/alexnet/serving/models.config       which model, and which of its versions
                           batching.config     how requests are merged
                           monitoring.config   metrics for Prometheus
                           ssl.config          TLS of gRPC, an example without keys
                           kubernetes.yaml     a Deployment and a Service
                           README.md           the commands

TF Serving takes folders with a number for versions and looks at no other. The .config files are
text protocol buffers of tensorflow_serving: ModelServerConfig, MonitoringConfig and SSLConfig of
config/, BatchingParameters of servables/tensorflow/session_bundle_config.proto. The flags that name
them are those of model_servers/main.cc.
"""

import json
import os
import re
import shlex
import string
import urllib.parse
from collections.abc import Callable, Mapping

import tensorflow as tf
from google.protobuf import text_encoding

from data_prep import files
from keras_alexnet.saved_model import versions
from keras_alexnet.saved_model.warmup import MAX_BATCH
from keras_alexnet.training import workdir as workdirs

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

{versions.FILE_NAME} has the SHA-256 of every other file here;
    python -m keras_alexnet.export --verify --workdir=RUN --data_dir=DATA --export_dir=MODEL_DIR
checks them, and compares the answers with the network of the run.
"""


def _indented(lines: list[str]) -> str:
    return "\n".join(f"    {line}" for line in lines)


# What the numbers in a TensorFlow Lite file are, by its kind.
_TFLITE_NUMBERS = {
    "float32": "32-bit numbers: the network as it is",
    "float16": "weights of 16 bits, half the size",
    "int8": "weights and values of 8 bits, a quarter of the size; normalizations of 32 bits",
}


def tflite_readme(trained: workdirs.TrainedRun, model_name: str, kind: str) -> str:
    """Return the text of the README.txt beside a TensorFlow Lite file, MODEL_NAME-KIND.tflite."""
    profile = trained.profile.name
    facts = {**trained.description, "profile": profile, "tensorflow": tf.__version__}
    return _fill(
        "tflite.txt",
        profile=profile,
        classes=len(trained.classes),
        name=f"{model_name}-{kind}",
        summary=_TFLITE_NUMBERS[kind],
        size=trained.statistics.mean_image.shape[0],
        facts="\n".join(f"    {key}: {value}" for key, value in facts.items()),
    )


def _fill(file_name: str, **values: object) -> str:
    """Return a file of templates/ with each $name replaced by its value."""
    path = os.path.join(os.path.dirname(__file__), "templates", file_name)
    with open(path, encoding="utf-8") as file:
        return string.Template(file.read()).substitute(values)


FOLDER = "serving"
README = "README.md"

_DNS_LABEL_LENGTH = 63


def write(export_dir: str, model_name: str) -> list[str]:
    """Writes those of the files that are not there yet, each as a whole.

    A file that is there is left as it is, whoever wrote it: so what a person edited stays. To have
    one anew, delete it and export again.

    Args:
        export_dir: local folder of the model, whose versions are inside.
        model_name: that the model is to be served under.

    Returns:
        The paths of the files that were written, in the order of the module's docstring.

    Raises:
        OSError: the folder cannot be written.
    """
    folder = os.path.join(export_dir, FOLDER)
    os.makedirs(folder, exist_ok=True)
    written = []
    for name, text in _TEXTS.items():
        path = os.path.join(folder, name)
        if not os.path.lexists(path):
            files.write_file(path, text(model_name))
            written.append(path)
    return written


def batch_sizes() -> list[int]:
    """The sizes that TF Serving fills a merged batch up to: powers of two, and `MAX_BATCH` last."""
    powers = [2**exponent for exponent in range(MAX_BATCH.bit_length())]
    return [*(size for size in powers if size < MAX_BATCH), MAX_BATCH]


def _models_config(model_name: str) -> str:
    return f"""\
# ModelServerConfig of TF Serving, for --model_config_file.
model_config_list {{
  config {{
    name: {_quoted(model_name)}
    base_path: {_quoted(f"/models/{model_name}")}
    model_platform: "tensorflow"
    # The version with the highest number. A new one is loaded before the old one goes. To stay at
    # one, or to go back: specific {{ versions: 1 }}
    model_version_policy {{ latest {{ num_versions: 1 }} }}
  }}
}}
"""


def _batching_config(model_name: str) -> str:
    del model_name  # the same of every model
    sizes = "\n".join(f"allowed_batch_sizes: {size}" for size in batch_sizes())
    return f"""\
# BatchingParameters of TF Serving, for --batching_parameters_file, with --enable_batching.
#
# The most photos in a batch, and in a request: a larger one is refused. keras_alexnet's own server
# has the same limit. The last of allowed_batch_sizes has to be this number.
max_batch_size {{ value: {MAX_BATCH} }}
# How long a request waits for others, microseconds; none waits while a batch is full.
batch_timeout_micros {{ value: 1000 }}
# With so many batches waiting, a further request is refused at once (UNAVAILABLE).
max_enqueued_batches {{ value: 32 }}
# Batches that compute at the same time: about the number of cores, or one or two a GPU.
num_batch_threads {{ value: 4 }}
# A batch is filled up to the next of these. A GPU is fastest where it has seen a size before, and
# the warm-up requests have sizes of this list. On CPUs the filling costs time: delete these lines.
{sizes}
"""


def _monitoring_config(model_name: str) -> str:
    del model_name  # the same of every model
    return """\
# MonitoringConfig of TF Serving, for --monitoring_config_file: metrics for Prometheus, at this path
# of the REST port.
prometheus_config {
  enable: true
  path: "/monitoring/prometheus/metrics"
}
"""


def _ssl_config(model_name: str) -> str:
    del model_name  # the same of every model
    return r"""# SSLConfig of TF Serving, for --ssl_config_file: TLS of the gRPC port. The REST port
# has none.
#
# An example: put your own key and certificate in. TF Serving takes what is in the PEM files, not
# where they are: the text, with \n for the ends of lines. README.md has a command that does it.
server_key: "-----BEGIN PRIVATE KEY-----\nYOUR KEY\n-----END PRIVATE KEY-----\n"
server_cert: "-----BEGIN CERTIFICATE-----\nYOUR CERTIFICATE\n-----END CERTIFICATE-----\n"
# With client_verify, only clients with a certificate of this authority are served.
custom_ca: ""
client_verify: false
"""


_KUBERNETES = string.Template("""\
# kubectl apply -f kubernetes.yaml
# Wants a PersistentVolumeClaim named "models" that holds $base_name/ with its versions.
apiVersion: apps/v1
kind: Deployment
metadata:
  name: $label
spec:
  replicas: 2
  selector:
    matchLabels: {app: $label}
  template:
    metadata:
      labels: {app: $label}
    spec:
      containers:
        - name: tensorflow-serving
          image: tensorflow/serving  # name a version of it, or each start may bring another
          args: $arguments
          ports: [{name: grpc, containerPort: 8500}, {name: rest, containerPort: 8501}]
          # REST answers when the model is loaded and warm.
          startupProbe: {httpGet: {path: $status, port: rest}, failureThreshold: 60}
          readinessProbe: {httpGet: {path: $status, port: rest}}
          livenessProbe: {httpGet: {path: $status, port: rest}, timeoutSeconds: 10}
          # TF Serving stops at once; so first no new requests.
          lifecycle: {preStop: {exec: {command: [sleep, "10"]}}}
          resources: {requests: {cpu: "2", memory: 2Gi}, limits: {memory: 4Gi}}
          volumeMounts: [{name: models, mountPath: /models, readOnly: true}]
      volumes:
        - name: models
          persistentVolumeClaim: {claimName: models, readOnly: true}
---
apiVersion: v1
kind: Service
metadata:
  name: $label
spec:
  selector: {app: $label}
  ports: [{name: grpc, port: 8500}, {name: rest, port: 8501}]
""")


def _kubernetes(model_name: str) -> str:
    # Strings of JSON are strings of YAML.
    return _KUBERNETES.substitute(
        base_name=json.dumps(model_name),
        label=json.dumps(_dns_label(model_name)),
        arguments=json.dumps(_arguments(model_name)),
        status=json.dumps(_status_path(model_name)),
    )


_README_TEXT = string.Template("""\
# Serving this model with TF Serving

The commands are for the folder of the model, where the versions are. They were not run when these
files were written, nor is any of this tested with TF Serving itself: no binary of it could be had.
Tested is that TF Serving's own protocol buffers read the .config files, that its main.cc has these
flags, and that the loader of TensorFlow 1, which TF Serving has, loads the versions.

Plain:

    docker run --rm -p 8500:8500 -p 8501:8501 \\
      -v "$$PWD":$target:ro -e MODEL_NAME=$name \\
      tensorflow/serving

With these files, that is with batching and metrics:

    docker run --rm -p 8500:8500 -p 8501:8501 \\
      -v "$$PWD":$target:ro \\
      tensorflow/serving \\
      $arguments

Then

    curl $status
    curl http://localhost:8501/monitoring/prometheus/metrics
    python -m keras_alexnet.serving.client --server=http://localhost:8501 --model=$name PHOTO.jpg

A new version is served as soon as its folder is there. models.config is read again every minute.

## TLS

For gRPC alone. TF Serving's REST port knows no TLS: the command below does not publish it; put a
proxy in front of it if you need it. From your server_key.pem and server_cert.pem, in a folder tls
outside of this one, ssl.config is made by

    ( umask 077; cd tls; for field in server_key server_cert; do printf '%s: "' $$field
      awk '{printf "%s\\\\n", $$0}' $$field.pem; echo '"'; done > ssl.config )

    docker run --rm -p 8500:8500 \\
      -v "$$PWD":$target:ro -v /PATH/TO/tls:/tls:ro \\
      tensorflow/serving \\
      $arguments \\
      --ssl_config_file=/tls/ssl.config

The file holds your private key; the user that TF Serving runs as has to be able to read it.

## Kubernetes

kubernetes.yaml: edit the image's version, the claim and the resources, then
`kubectl apply -f serving/kubernetes.yaml`.

These files are written when they are not there, and never again: what you edit stays. Delete one,
and the next export writes it anew.
""")


def _readme(model_name: str) -> str:
    return _README_TEXT.substitute(
        name=shlex.quote(model_name),
        target=shlex.quote(f"/models/{model_name}"),
        arguments=" \\\n      ".join(map(shlex.quote, _arguments(model_name))),
        status=shlex.quote(f"http://localhost:8501{_status_path(model_name)}"),
    )


def _arguments(model_name: str) -> list[str]:
    """What TF Serving is started with to use the files, where its container sees them."""
    folder = f"/models/{model_name}/{FOLDER}"
    return [
        f"--model_config_file={folder}/models.config",
        "--model_config_file_poll_wait_seconds=60",
        "--enable_batching",
        f"--batching_parameters_file={folder}/batching.config",
        f"--monitoring_config_file={folder}/monitoring.config",
    ]


def _status_path(model_name: str) -> str:
    return f"/v1/models/{urllib.parse.quote(model_name, safe='')}"


def _quoted(text: str) -> str:
    """A string of a text protocol buffer."""
    return f'"{text_encoding.CEscape(text, as_utf8=True)}"'


def _dns_label(model_name: str) -> str:
    """A name that Kubernetes takes: a-z, 0-9 and inner dashes, from a letter on."""
    label = re.sub(r"[^a-z0-9]+", "-", model_name.lower())
    if not label[:1].isalpha():
        label = f"model-{label}"
    return label[:_DNS_LABEL_LENGTH].strip("-")


_TEXTS: Mapping[str, Callable[[str], str]] = {
    "models.config": _models_config,
    "batching.config": _batching_config,
    "monitoring.config": _monitoring_config,
    "ssl.config": _ssl_config,
    "kubernetes.yaml": _kubernetes,
    README: _readme,
}
