"""TF Serving's REST API over the versions of a model.

A path begins with /v1/models/NAME, /v1/models/NAME/versions/N or /v1/models/NAME/labels/LABEL.
Then

    POST ...:predict     runs a signature
    GET  ...             the states of all versions, or of one
    GET  .../metadata    the signatures of a version

In tensorflow/serving: http_rest_api_handler.cc and http_rest_api_util.cc. :classify and :regress
are TF Serving's alone (501 here), and no version has a label here.
"""

import dataclasses
import inspect
import json
import re
import urllib.parse
from collections.abc import Mapping

import tensorflow as tf
from google.protobuf import json_format, message

from keras_alexnet.serving.local_server import json_tensors
from keras_alexnet.serving.local_server.errors import RequestError
from keras_alexnet.serving.local_server.loaded_model import DEFAULT_SIGNATURE, LoadedModel
from keras_alexnet.serving.local_server.served_versions import ServedVersions

# Of the codes that this server answers with: http_server.cc, ToHTTPStatusCode.
HTTP_STATUS = {
    "INVALID_ARGUMENT": 400,
    "DEADLINE_EXCEEDED": 504,
    "NOT_FOUND": 404,
    "RESOURCE_EXHAUSTED": 429,
    "FAILED_PRECONDITION": 400,
    "UNIMPLEMENTED": 501,
    "INTERNAL": 500,
    "UNAVAILABLE": 503,
}
_API = re.compile(r"/v1/.*", re.IGNORECASE | re.DOTALL)
_VERSION = r"(?:/versions/(?P<version>[0-9]+)|/labels/(?P<label>[^/:]+))?"
_PATHS = {
    "POST": re.compile(
        rf"/v1/models/(?P<name>[^/:]+){_VERSION}:(?P<verb>classify|regress|predict)",
        re.IGNORECASE,
    ),
    "GET": re.compile(
        rf"/v1/models(?:/(?P<name>[^/:]+))?{_VERSION}(?:/(?P<verb>metadata))?", re.IGNORECASE
    ),
}
_LARGEST_VERSION = 2**63 - 1


@dataclasses.dataclass(frozen=True)
class _Asked:
    """The model, version and verb of a path."""

    name: str
    version: int | None
    label: str | None
    verb: str | None


def answer(versions: ServedVersions, method: str, path: str, body: bytes, timeout: float) -> bytes:
    """Return the body of the answer to a request.

    Args:
        versions: of the model that is served.
        method: "GET" or "POST"; others are errors.
        path: of the URL, as it came.
        body: of the request.
        timeout: seconds to wait for other requests.

    Raises:
        RequestError: what is to be answered instead.
    """
    asked = _parse(method, path)
    if method == "GET":
        if asked.verb == "metadata":
            return _metadata(versions, asked)
        # As in TF Serving, a label does not narrow down the versions.
        return _status(versions, asked)
    if asked.verb != "predict":
        raise RequestError("UNIMPLEMENTED", only_tensorflow_serving(f":{asked.verb}"))
    return _predict(versions, asked, json_tensors.parse(body), timeout)


def _parse(method: str, path: str) -> _Asked:
    if not _API.fullmatch(path):
        raise RequestError("NOT_FOUND", f"There is nothing at {path}; the API is below /v1/models")
    match = _PATHS[method].fullmatch(path) if method in _PATHS else None
    # The pattern takes ":Predict" too, but no such verb is known: as in TF Serving.
    if match is None or (method == "POST" and match["verb"] != match["verb"].lower()):
        raise RequestError("INVALID_ARGUMENT", f"Malformed request: {method} {path}")
    if match["name"] is None:
        raise RequestError("INVALID_ARGUMENT", "Missing model name in request.")
    # Not made a number before it is known to be one of 64 bits: digits may be many.
    digits = (match["version"] or "").lstrip("0")
    if len(digits) > len(str(_LARGEST_VERSION)) or int(digits or 0) > _LARGEST_VERSION:
        raise RequestError(
            "INVALID_ARGUMENT", f"Failed to convert version: {match['version']} to numeric."
        )
    return _Asked(
        name=urllib.parse.unquote(match["name"]),
        version=None if match["version"] is None else int(digits or 0),
        label=None if match["label"] is None else urllib.parse.unquote(match["label"]),
        verb=match["verb"],
    )


def only_tensorflow_serving(call: str) -> str:
    """Return the message for a call that this server has not."""
    return f"{call} is answered by TF Serving, not by this server; use predict, or TF Serving"


def require_no_label(label: str | None) -> None:
    """Refuse a request for the version of a label (INVALID_ARGUMENT)."""
    if label:
        raise RequestError("INVALID_ARGUMENT", f"Unrecognized servable version label: {label}")


def _predict(
    versions: ServedVersions, asked: _Asked, document: Mapping[str, object], timeout: float
) -> bytes:
    require_no_label(asked.label)
    with versions.use(asked.name, asked.version) as model:
        signature = document.get("signature_name") or DEFAULT_SIGNATURE
        inputs, as_rows = json_tensors.to_tensors(document, _input_types(model, signature))
        outputs = model.predict(signature, inputs, timeout=timeout)
    return json_tensors.from_tensors(outputs, as_rows=as_rows)


def _input_types(model: LoadedModel, signature: str) -> dict[str, tf.DType]:
    declared = model.signature_inputs(signature)
    if declared is None:
        raise RequestError(
            "INVALID_ARGUMENT", f'Serving signature name: "{signature}" not found in signature def'
        )
    if not declared:
        raise RequestError(
            "INVALID_ARGUMENT", f"Failed to get input map for signature: {signature}"
        )
    return {name: tf.as_dtype(info.dtype) for name, info in declared.items()}


def _status(versions: ServedVersions, asked: _Asked) -> bytes:
    statuses = versions.statuses(asked.name, asked.version)
    return _to_json(
        {
            "model_version_status": [
                {
                    "version": str(status.version),
                    "state": status.state,
                    "status": {
                        "error_code": status.error_code,
                        "error_message": status.error_message,
                    },
                }
                for status in statuses
            ]
        }
    )


def _metadata(versions: ServedVersions, asked: _Asked) -> bytes:
    require_no_label(asked.label)
    with versions.use(asked.name, asked.version) as model:
        signatures = {name: _to_dict(proto) for name, proto in model.signature_defs.items()}
        spec = {"name": model.name, "signature_name": "", "version": str(model.version)}
    return _to_json(
        {"model_spec": spec, "metadata": {"signature_def": {"signature_def": signatures}}}
    )


def _to_dict(proto: message.Message) -> dict[str, object]:
    """Return a message as JSON, by the names in its .proto, with what is zero or empty."""
    parameters = inspect.signature(json_format.MessageToDict).parameters
    new, old = "always_print_fields_with_no_presence", "including_default_value_fields"
    option = new if new in parameters else old  # protobuf 5 renamed it
    return json_format.MessageToDict(proto, preserving_proto_field_name=True, **{option: True})


def _to_json(document: Mapping[str, object]) -> bytes:
    return json.dumps(document, indent=1).encode() + b"\n"
