"""Against TensorFlow and the official protocol buffers."""

import numpy as np
import pytest
import tensorflow as tf
from google.protobuf import descriptor_pb2
from serving_answers import as_content, as_fields
from tensorflow.core.example import example_pb2, feature_pb2
from tensorflow.core.framework import tensor_pb2, tensor_shape_pb2
from tensorflow_serving.apis import classification_pb2, input_pb2, model_pb2, predict_pb2

from keras_alexnet.serving.client import grpc_connection

OFFICIAL = {
    message.DESCRIPTOR.name: message.DESCRIPTOR
    for message in (
        *(predict_pb2.PredictRequest, predict_pb2.PredictResponse, model_pb2.ModelSpec),
        *(classification_pb2.ClassificationRequest, classification_pb2.ClassificationResponse),
        *(classification_pb2.ClassificationResult, classification_pb2.Classifications),
        *(classification_pb2.Class, input_pb2.Input, input_pb2.ExampleList),
        *(example_pb2.Example, feature_pb2.Features, feature_pb2.Feature, feature_pb2.BytesList),
        *(tensor_pb2.TensorProto, tensor_shape_pb2.TensorShapeProto),
    )
}
OFFICIAL["Dim"] = OFFICIAL["TensorShapeProto"].nested_types_by_name["Dim"]
OFFICIAL["Int64Value"] = OFFICIAL["ModelSpec"].fields_by_name["version"].message_type
OFFICIAL["TensorEntry"] = OFFICIAL["PredictRequest"].nested_types_by_name["InputsEntry"]
OFFICIAL["FeatureEntry"] = OFFICIAL["Features"].nested_types_by_name["FeatureEntry"]
# Where the two are written differently and are the same on the wire.
SAME_ON_THE_WIRE = {("TensorProto", "dtype"), ("Class", "label")}


def fields(descriptor):
    """By name: as descriptors have them, in every version of protobuf."""
    proto = descriptor_pb2.DescriptorProto()
    descriptor.CopyToProto(proto)
    return {field.name: field for field in proto.field}


@pytest.mark.parametrize("name", list(grpc_connection._MESSAGES))
def test_fields_are_the_official_ones(name):
    ours = fields(grpc_connection._CLASSES[name].DESCRIPTOR)
    official = fields(OFFICIAL[name])
    assert ours
    for field in ours.values():
        assert field.number == official[field.name].number
        assert field.label == official[field.name].label
        if (name, field.name) not in SAME_ON_THE_WIRE:
            assert field.type == official[field.name].type


ARRAYS = [
    np.array([[0.25, -1e-30, 3e38], [0.1, 0, 1]], np.float32),
    np.array([[1, -(2**62)], [2**63 - 1, 0]], np.int64),
    np.array([[7, -(2**31)]], np.int32),
    np.array([True, False, True]),
    np.array([[b"n\xc3\xa4ve", b""], [b"x" * 300, b"\x00"]], "O"),
    np.float32(0.5),
    np.zeros([0, 5], np.float32),
]


@pytest.mark.parametrize(
    ("to_proto", "array"),
    [
        *((to_proto, array) for to_proto in (as_fields, tf.make_tensor_proto) for array in ARRAYS),
        *((as_content, array) for array in ARRAYS if array.size),
    ],
)
def test_values(to_proto, array):
    official = to_proto(np.asarray(array))
    tensor = grpc_connection.TensorProto.FromString(official.SerializeToString())
    expected = np.asarray(array)
    if expected.dtype == object:
        expected = np.vectorize(lambda value: value.decode(), otypes="O")(expected)
    assert grpc_connection.to_lists(tensor) == expected.tolist()


def test_the_last_value_stands_for_those_that_follow():
    official = tf.make_tensor_proto(2.5, shape=[2, 3])
    assert len(official.float_val) == 1
    tensor = grpc_connection.TensorProto.FromString(official.SerializeToString())
    assert grpc_connection.to_lists(tensor) == tf.make_ndarray(official).tolist()


def test_what_is_no_utf8_is_replaced():
    official = tf.make_tensor_proto([b"a\xff"])
    tensor = grpc_connection.TensorProto.FromString(official.SerializeToString())
    assert grpc_connection.to_lists(tensor) == ["a\ufffd"]


def test_photos():
    photos = [b"\xff\xd8", b"", b"x" * 1000]
    content = grpc_connection.from_photos(photos).SerializeToString()
    array = tf.make_ndarray(tensor_pb2.TensorProto.FromString(content))
    assert array.shape == (3,)
    assert array.tolist() == photos


def broken(sizes, **fields):
    tensor = grpc_connection.TensorProto(**fields)
    for size in sizes:
        tensor.tensor_shape.dim.add(size=size)
    return tensor


@pytest.mark.parametrize(
    ("tensor", "message"),
    [
        (broken([1], dtype=999, float_val=[1]), "DataType 999"),
        (broken([1]), "DataType 0"),
        (broken([-1], dtype=1, float_val=[1]), "without a shape"),
        (broken([2**62], dtype=1, float_val=[1]), "of the shape"),
        (broken([2, 2**40, 0], dtype=1), "of the shape"),
        (broken([1] * 300, dtype=1, float_val=[1]), "of the shape"),
        (broken([2], dtype=1), "2 values with 0"),
        (broken([], dtype=1), "1 values with 0"),
        (broken([1], dtype=1, float_val=[1, 2]), "1 values with 2"),
        (broken([2], dtype=1, tensor_content=b"1234567"), "2 values in 7 bytes"),
        (broken([2], dtype=7, tensor_content=b"\x01"), "2 strings in 1 bytes"),
        (broken([2], dtype=7, tensor_content=b"\x01\x05ab"), "2 strings in 4 bytes"),
        (broken([1], dtype=7, tensor_content=b"\x01ab"), "1 strings in 3 bytes"),
        (broken([1], dtype=7, tensor_content=b"\xff" * 100000), "1 strings in 100000 bytes"),
    ],
)
def test_broken_tensors(tensor, message):
    with pytest.raises(ValueError, match=message):
        grpc_connection.to_lists(tensor)


def test_unknown_rank():
    tensor = broken([], dtype=1, float_val=[1])
    tensor.tensor_shape.unknown_rank = True
    with pytest.raises(ValueError, match="without a shape"):
        grpc_connection.to_lists(tensor)
