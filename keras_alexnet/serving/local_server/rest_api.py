"""TF Serving's REST API over the versions of a model.

A path begins with /v1/models/NAME, /v1/models/NAME/versions/N or /v1/models/NAME/labels/LABEL.
Then

    POST ...:predict     runs a signature
    GET  ...             the states of all versions, or of one
    GET  .../metadata    the signatures of a version

In tensorflow/serving: http_rest_api_handler.cc and http_rest_api_util.cc. :classify and :regress
are TF Serving's alone (501 here), and no version has a label here.
"""

import inspect
import json
import re
import urllib.parse
from collections.abc import Mapping

from google.protobuf import json_format, message

from keras_alexnet.serving.local_server import json_tensors
from keras_alexnet.serving.local_server.errors import RequestError, invalid
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
_VERSION = r"(?:/versions/0*(?P<version>[0-9]{1,19})|/labels/(?P<label>[^/:]+))?"
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
# The answer to a call that this server has not.
ONLY_TENSORFLOW_SERVING = "TF Serving answers this call, and this server does not; use predict"


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
    if not path.lower().startswith("/v1/"):
        raise RequestError("NOT_FOUND", f"There is nothing at {path}; the API is below /v1/models")
    match = _PATHS[method].fullmatch(path) if method in _PATHS else None
    # The pattern takes ":Predict" too, but no such verb is known: as in TF Serving.
    if match is None or (method == "POST" and match["verb"] != match["verb"].lower()):
        raise invalid(f"Malformed request: {method} {path}")
    if match["name"] is None:
        raise invalid("Missing model name in request.")
    verb, name = match["verb"], urllib.parse.unquote(match["name"])
    label = urllib.parse.unquote(match["label"] or "")
    version = match["version"] and int(match["version"])
    if version and version > _LARGEST_VERSION:
        raise invalid(f"version {version} is larger than {_LARGEST_VERSION}")
    if method == "GET":
        if verb is None:  # as in TF Serving, a label does not narrow down the versions
            return _statuses(versions, name, version)
        with versions.use(name, version, label) as model:
            return _metadata(model)
    if verb != "predict":
        raise RequestError("UNIMPLEMENTED", ONLY_TENSORFLOW_SERVING)
    document = json_tensors.parse(body)
    with versions.use(name, version, label) as model:
        signature = document.get("signature_name") or DEFAULT_SIGNATURE
        inputs, as_rows = json_tensors.to_tensors(document, model.input_types(signature))
        outputs = model.predict(signature, inputs, timeout=timeout)
    return json_tensors.from_tensors(outputs, as_rows=as_rows)


def _statuses(versions: ServedVersions, name: str, version: int | None) -> bytes:
    statuses = [
        {
            "version": str(known.version),
            "state": known.state,
            "status": {"error_code": known.error_code, "error_message": known.error_message},
        }
        for known in versions.statuses(name, version)
    ]
    return _to_json({"model_version_status": statuses})


def _metadata(model: LoadedModel) -> bytes:
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
