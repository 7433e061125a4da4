"""TF Serving's REST API over a loaded model (tensorflow/serving: http_rest_api_handler.cc).

A path begins with /v1/models/NAME or /v1/models/NAME/versions/N. Then

    POST ...:predict     runs a signature
    GET  ...             the status of the version
    GET  .../metadata    its signatures
"""

import json
import re
import urllib.parse
from collections.abc import Mapping

import tensorflow as tf
from google.protobuf import json_format

from keras_alexnet.serving import rest_json
from keras_alexnet.serving.loaded_model import DEFAULT_SIGNATURE, LoadedModel, RequestError

# http_server.cc, ToHTTPStatusCode
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "FAILED_PRECONDITION": 400,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "INTERNAL": 500,
    "UNIMPLEMENTED": 501,
    "UNAVAILABLE": 503,
    "DEADLINE_EXCEEDED": 504,
}
_MODEL = r"/v1/models/([^/:]+)(?:/versions/(\d{1,18})|/labels/([^/:]+))?"
_POST = re.compile(rf"{_MODEL}:(classify|regress|predict)", re.IGNORECASE)
_GET = re.compile(rf"{_MODEL}(/metadata)?", re.IGNORECASE)


def answer(model: LoadedModel, method: str, path: str, body: bytes, timeout: float) -> bytes:
    """The body of the answer to a request.

    Args:
        model: that is served.
        method: "GET" or "POST"; others are errors.
        path: of the URL, as it came.
        body: of the request.
        timeout: seconds to wait for other requests.

    Raises:
        RequestError: what is to be answered instead.
    """
    match = {"GET": _GET, "POST": _POST}.get(method, _GET).fullmatch(path)
    if match is None or method not in ("GET", "POST"):
        raise RequestError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
    name = urllib.parse.unquote(match[1])
    version = int(match[2]) if match[2] else None
    if match[3]:
        label = urllib.parse.unquote(match[3])
        raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")
    if method == "POST":
        return _predict(model, name, version, match[4].lower(), body, timeout)
    if match[4]:
        model.require(name, version)
        return _to_json(_metadata(model))
    return _to_json(_status(model, name, version))


def _predict(
    model: LoadedModel, name: str, version: int | None, verb: str, body: bytes, timeout: float
) -> bytes:
    if verb != "predict":
        raise RequestError("UNIMPLEMENTED", f"{verb} is not served here; use predict")
    document = rest_json.parse(body)
    model.require(name, version)
    signature = document.get("signature_name") or DEFAULT_SIGNATURE
    declared = model.signature_inputs(signature)
    if declared is None:
        raise RequestError(
            "INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def'
        )
    dtypes = {name: tf.as_dtype(info.dtype) for name, info in declared.items()}
    inputs, as_rows = rest_json.to_tensors(document, dtypes)
    outputs = model.predict(signature, inputs, timeout=timeout)
    return rest_json.from_tensors(outputs, as_rows=as_rows)


def _status(model: LoadedModel, name: str, version: int | None) -> Mapping[str, object]:
    require_known(model, name, version)
    return {
        "model_version_status": [
            {
                "version": str(model.version),
                "state": "AVAILABLE",
                "status": {"error_code": "OK", "error_message": ""},
            }
        ]
    }


def require_known(model: LoadedModel, name: str, version: int | None) -> None:
    """Refuses a question for the status of another model or version.

    Raises:
        RequestError: NOT_FOUND, in TF Serving's words (get_model_status_impl.cc).
    """
    if name != model.name:
        raise RequestError("NOT_FOUND", f"Could not find any versions of model {name}")
    if version not in (None, model.version):
        raise RequestError("NOT_FOUND", f"Could not find version {version} of model {name}")


def _metadata(model: LoadedModel) -> Mapping[str, object]:
    signatures = {
        name: json_format.MessageToDict(
            signature,
            preserving_proto_field_name=True,
            always_print_fields_with_no_presence=True,
        )
        for name, signature in model.signature_defs.items()
    }
    return {
        "model_spec": {"name": model.name, "signature_name": "", "version": str(model.version)},
        "metadata": {"signature_def": {"signature_def": signatures}},
    }


def _to_json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"
