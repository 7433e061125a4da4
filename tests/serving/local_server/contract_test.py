"""The contract that any client of TF Serving relies on, asked of each server there is.

Only what TF Serving's documentation or source says is here, so that both have to answer alike;
what this project's server alone does is in local_server_test.py.
"""

import json

import grpc
import numpy as np
import pytest
import served
import stand_in
import tensorflow as tf
from served import b64, predict_request
from tensorflow_serving.apis import (
    get_model_metadata_pb2,
    get_model_status_pb2,
    model_service_pb2_grpc,
    predict_pb2,
    prediction_service_pb2_grpc,
)

pytestmark = pytest.mark.slow

PHOTOS = [stand_in.photo(300, 400, seed=seed) for seed in range(3)]
JUNK = b"no photo"


@pytest.fixture(scope="module", params=["local_server", "tensorflow_model_server"])
def either(request, server, model_dir, tmp_path_factory):
    """Start this project's server, and TF Serving where it is installed."""
    if request.param == "local_server":
        yield server
        return
    log = tmp_path_factory.mktemp("log") / "either.txt"
    with served.tensorflow_model_server(model_dir, log) as either:
        yield either


@pytest.fixture(scope="module")
def channel(either):
    with grpc.insecure_channel(either.grpc) as channel:
        yield channel


@pytest.fixture(scope="module")
def prediction(channel):
    return prediction_service_pb2_grpc.PredictionServiceStub(channel)


def post(either, path, body):
    """Return the answer to a request that is one."""
    status, content, content_type = served.ask(either, f"/v1/models/{path}", body)
    assert (status, content_type) == (200, "application/json"), content
    return json.loads(content)


def as_rows(columns):
    return [dict(zip(columns, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def test_rows(either, assert_right):
    for instances in (
        [b64(photo) for photo in PHOTOS],
        [{"image_bytes": b64(photo)} for photo in PHOTOS],
    ):
        answer = post(either, "birds:predict", {"instances": instances})
        assert list(answer) == ["predictions"]
        assert_right(answer["predictions"], PHOTOS)


def test_columns(either, assert_right):
    photos = [b64(photo) for photo in PHOTOS]
    for inputs in (photos, {"image_bytes": photos}):
        answer = post(either, "birds/versions/1:predict", {"inputs": inputs})
        assert list(answer) == ["outputs"]
        assert_right(as_rows(answer["outputs"]), PHOTOS)


def test_base64_without_padding(either, assert_right):
    # As many bytes as need padding: what is behind the end of a JPEG does not count.
    text = b64(PHOTOS[0] + bytes(-len(PHOTOS[0]) % 3 + 1))["b64"]
    assert text.endswith("==")
    answer = post(either, "birds:predict", {"instances": [{"b64": text.rstrip("=")}]})
    assert_right(answer["predictions"], PHOTOS[:1])


def test_signature_by_name(either, run):
    image = stand_in.pixels(256, 256)
    body = {"signature_name": "pixels", "instances": [image.tolist()]}
    (row,) = post(either, "birds:predict", body)["predictions"]
    scores = stand_in.scores(run, image[np.newaxis])[0]
    np.testing.assert_allclose(row["scores"], -np.sort(-scores)[:5], atol=1e-5)


def test_bad_photo_harms_no_other(either, assert_right):
    instances = [b64(photo) for photo in (PHOTOS[0], JUNK, PHOTOS[1])]
    first, junk, last = post(either, "birds:predict", {"instances": instances})["predictions"]
    assert_right([first, last], PHOTOS[:2])
    assert junk["valid"] is False
    assert junk["classes"] == [""] * 5


def test_paths_are_case_insensitive(either):
    assert served.ask(either, "/V1/MODELS/birds:predict", {"instances": [b64(JUNK)]})[0] == 200


def test_status(either):
    version = {
        "version": "1",
        "state": "AVAILABLE",
        "status": {"error_code": "OK", "error_message": ""},
    }
    # Which label is asked for does not count here.
    for path in ("birds", "birds/versions/1", "birds/labels/x"):
        assert post(either, path, None) == {"model_version_status": [version]}


def test_metadata(either):
    for path in ("birds/metadata", "birds/versions/1/metadata"):
        answer = post(either, path, None)
        assert answer["model_spec"] == {"name": "birds", "signature_name": "", "version": "1"}
        assert list(answer["metadata"]) == ["signature_def"]
        signatures = answer["metadata"]["signature_def"]["signature_def"]
        signature = signatures["serving_default"]
        assert signature["method_name"] == "tensorflow/serving/predict"
        assert signatures["classify"]["method_name"] == "tensorflow/serving/classify"
        assert signature["inputs"] == {
            "image_bytes": {
                "dtype": "DT_STRING",
                "tensor_shape": {"dim": [{"size": "-1", "name": ""}], "unknown_rank": False},
                "name": "serving_default_image_bytes:0",
            }
        }
        assert signature["outputs"]["scores"]["dtype"] == "DT_FLOAT"


PHOTO = b64(JUNK)


@pytest.mark.parametrize(
    ("path", "body", "status", "field"),
    [
        ("cats:predict", {"instances": [PHOTO]}, 404, "cats"),
        ("birds/versions/6:predict", {"instances": [PHOTO]}, 404, "birds, 6"),
        ("cats", None, 404, "cats"),
        ("birds/versions/6", None, 404, "version 6"),
        ("cats/metadata", None, 404, "cats"),
        ("birds/labels/x:predict", {"instances": [PHOTO]}, 400, "label: x"),
        ("birds/labels/x/metadata", None, 400, "label: x"),
        ("", None, 400, "GET /v1/models/"),
        ("birds/", None, 400, "GET /v1/models/birds/"),
        ("birds/versions/x", None, 400, "birds/versions/x"),
        ("birds:predict", None, 400, "GET /v1/models/birds:predict"),
        ("birds", {}, 400, "POST /v1/models/birds"),
        ("birds:predict/x", {}, 400, "birds:predict/x"),
        ("birds:Predict", {"instances": [PHOTO]}, 400, "birds:Predict"),
        ("birds/metadata:predict", {}, 400, "birds/metadata:predict"),
        ("birds:predict", b"", 400, "JSON"),
        ("birds:predict", b"{", 400, "JSON"),
        ("birds:predict", [], 400, "[]"),
        ("birds:predict", {"signature_name": 3}, 400, "signature_name"),
        ("birds:predict", {"signature_name": "x", "instances": [PHOTO]}, 400, '"x"'),
        ("birds:predict", {}, 400, "'instances'"),
        ("birds:predict", {"inputs": [], "instances": []}, 400, "'instances'"),
        ("birds:predict", {"instances": []}, 400, "'instances'"),
        ("birds:predict", {"inputs": {"x": [PHOTO]}}, 400, "image_bytes"),
        ("birds:predict", {"instances": [{"x": 1}]}, 400, "x"),
        ("birds:predict", {"instances": [PHOTO, {"x": 1}]}, 400, "item 1"),
        ("birds:predict", {"instances": [3]}, 400, "string"),
        ("birds:predict", {"instances": [{"b64": "?"}]}, 400, "base64"),
        ("birds:predict", {"instances": [["a"], ["a", "b"]]}, 400, "size"),
        ("birds:predict", {"signature_name": "pixels", "inputs": [1.5]}, 400, "uint8"),
    ],
)
def test_rest_errors(either, path, body, status, field):
    method = "GET" if body is None else "POST"
    code, content, content_type = served.ask(either, f"/v1/models/{path}", body, method)
    assert (code, content_type) == (status, "application/json")
    answer = json.loads(content)
    assert list(answer) == ["error"]
    assert field in answer["error"]


def test_paths_and_methods_that_are_no_request(either):
    for method, path, status in (
        ("GET", "/v1/models", 400),
        ("GET", f"/v1/models/birds/versions/{2**63}", 400),
        ("PUT", "/v1/models/birds", 400),
        ("DELETE", "/v1/models/birds", 400),
        ("GET", "/v2/models/birds", 404),
        ("GET", "/../../etc/passwd", 404),
    ):
        assert served.ask(either, path, method=method)[0] == status, (method, path)


def test_grpc_predict(prediction, assert_right):
    request = predict_request({"image_bytes": PHOTOS})
    response = prediction.Predict(request)
    assert response.model_spec.name == "birds"
    assert response.model_spec.version.value == 1
    assert response.model_spec.signature_name == "serving_default"
    assert len(response.outputs["scores"].float_val) == 15  # not in tensor_content
    columns = {name: tf.make_ndarray(proto).tolist() for name, proto in response.outputs.items()}
    columns["classes"] = [[name.decode() for name in row] for row in columns["classes"]]
    assert_right(as_rows(columns), PHOTOS)
    request.output_filter.append("valid")
    request.model_spec.version.value = 1
    assert list(prediction.Predict(request).outputs) == ["valid"]


def test_grpc_metadata(prediction):
    request = about(metadata("signature_def"))
    response = prediction.GetModelMetadata(request)
    assert response.model_spec.name == "birds"
    assert response.model_spec.version.value == 1
    signatures = get_model_metadata_pb2.SignatureDefMap()
    assert response.metadata["signature_def"].Unpack(signatures)
    assert {"serving_default", "ten_crop", "features", "pixels", "classify"} <= set(
        signatures.signature_def
    )


def test_grpc_status(channel):
    stub = model_service_pb2_grpc.ModelServiceStub(channel)
    for version in (None, 1):
        request = about(STATUS(), version=version)
        (status,) = stub.GetModelStatus(request).model_version_status
        assert status.version == 1
        assert status.state == get_model_status_pb2.ModelVersionStatus.AVAILABLE
        assert (status.status.error_code, status.status.error_message) == (0, "")


def about(request, name="birds", version=None, label=""):
    """Return a request with another model_spec."""
    request.model_spec.name = name
    request.model_spec.version_label = label
    if version is not None:
        request.model_spec.version.value = version
    return request


def one(*output_filter, signature=""):
    request = predict_request({"image_bytes": ["x"]}, signature)
    request.output_filter.extend(output_filter)
    return request


def metadata(*fields):
    return get_model_metadata_pb2.GetModelMetadataRequest(metadata_field=fields)


INVALID = "INVALID_ARGUMENT"
STATUS = get_model_status_pb2.GetModelStatusRequest


@pytest.mark.parametrize(
    ("call", "request_", "code", "field"),
    [
        ("Predict", about(one(), "cats"), "NOT_FOUND", "cats"),
        ("Predict", about(one(), version=6), "NOT_FOUND", "birds, 6"),
        ("Predict", predict_pb2.PredictRequest(), INVALID, "ModelSpec"),
        ("Predict", about(one(), ""), INVALID, "name"),
        ("Predict", about(one(), label="x"), INVALID, ": x"),
        ("Predict", one(signature="x"), "FAILED_PRECONDITION", '"x"'),
        ("Predict", predict_request({}), INVALID, "image_bytes"),
        ("Predict", predict_request({"image_bytes": ["x"], "x": ["y"]}), INVALID, "{x}"),
        ("Predict", predict_request({"image_bytes": [1.0]}), INVALID, ""),
        ("Predict", one("x"), INVALID, ": x"),
        ("Predict", one("valid", "scores", "valid"), INVALID, "valid"),
        ("GetModelMetadata", metadata(), INVALID, "ModelSpec"),
        ("GetModelMetadata", about(metadata()), INVALID, "metadata_field"),
        ("GetModelMetadata", about(metadata("x")), INVALID, "x"),
        ("GetModelMetadata", about(metadata("signature_def"), version=6), "NOT_FOUND", "birds, 6"),
        ("GetModelStatus", STATUS(), INVALID, "ModelSpec"),
        ("GetModelStatus", about(STATUS(), version=6), "NOT_FOUND", "version 6"),
        ("GetModelStatus", about(STATUS(), "cats"), "NOT_FOUND", "cats"),
    ],
)
def test_grpc_errors(channel, call, request_, code, field):
    stub = (
        model_service_pb2_grpc.ModelServiceStub
        if call == "GetModelStatus"
        else prediction_service_pb2_grpc.PredictionServiceStub
    )(channel)
    with pytest.raises(grpc.RpcError) as error:
        getattr(stub, call)(request_)
    assert error.value.code().name == code
    assert field in error.value.details()
