"""The part of TF Serving's protocol buffers that the client uses.

The official modules (tensorflow_serving.apis) import all of TensorFlow: seconds before the first
photo is sent, where this takes milliseconds. Here is what is needed of their wire format, the
numbers and types of the fields (tensorflow/serving: predict.proto, classification.proto,
input.proto, model.proto; tensorflow: tensor.proto, tensor_shape.proto, example.proto); the tests
hold it against the official modules.
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

# message: {field: (number, type)}. A type that begins with a capital is a message. On the wire, a
# map is a list of entries with key (1) and value (2), and so it is here.
_MESSAGES = {
    "Int64Value": {"value": (1, "int64")},
    "ModelSpec": {
        "name": (1, "string"),
        "version": (2, "Int64Value"),
        "signature_name": (3, "string"),
    },
    "Dim": {"size": (1, "int64")},
    "TensorShapeProto": {"dim": (2, "repeated Dim"), "unknown_rank": (3, "bool")},
    "TensorProto": {
        "dtype": (1, "int32"),  # an enum: the same on the wire
        "tensor_shape": (2, "TensorShapeProto"),
        "tensor_content": (4, "bytes"),
        "float_val": (5, "repeated float"),
        "int_val": (7, "repeated int32"),
        "string_val": (8, "repeated bytes"),
        "int64_val": (10, "repeated int64"),
        "bool_val": (11, "repeated bool"),
    },
    "TensorEntry": {"key": (1, "string"), "value": (2, "TensorProto")},
    "PredictRequest": {"model_spec": (1, "ModelSpec"), "inputs": (2, "repeated TensorEntry")},
    "PredictResponse": {"outputs": (1, "repeated TensorEntry")},
    "BytesList": {"value": (1, "repeated bytes")},
    "Feature": {"bytes_list": (1, "BytesList")},
    "FeatureEntry": {"key": (1, "string"), "value": (2, "Feature")},
    "Features": {"feature": (1, "repeated FeatureEntry")},
    "Example": {"features": (1, "Features")},
    "ExampleList": {"examples": (1, "repeated Example")},
    "Input": {"example_list": (1, "ExampleList")},
    "ClassificationRequest": {"model_spec": (1, "ModelSpec"), "input": (2, "Input")},
    # A label is text in classification.proto; here, one that is not UTF-8 breaks nothing else.
    "Class": {"label": (1, "bytes"), "score": (2, "float")},
    "Classifications": {"classes": (1, "repeated Class")},
    "ClassificationResult": {"classifications": (1, "repeated Classifications")},
    "ClassificationResponse": {"result": (1, "ClassificationResult")},
}
_PACKAGE = "keras_alexnet.serving.client"


def _field(name: str, number: int, kind: str) -> descriptor_pb2.FieldDescriptorProto:
    field = descriptor_pb2.FieldDescriptorProto(name=name, number=number)
    *repeated, base = kind.split()
    field.label = field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL
    if base[0].isupper():
        field.type = field.TYPE_MESSAGE
        field.type_name = f".{_PACKAGE}.{base}"
    else:
        field.type = field.Type.Value(f"TYPE_{base.upper()}")
    return field


def _messages() -> dict[str, type]:
    file = descriptor_pb2.FileDescriptorProto(
        name="keras_alexnet_serving_client.proto", package=_PACKAGE, syntax="proto3"
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        message.field.extend(_field(field, *facts) for field, facts in fields.items())
    pool = descriptor_pool.DescriptorPool()  # of its own: no other module's names are in the way
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{_PACKAGE}.{name}"))
        for name in _MESSAGES
    }


_CLASSES = _messages()
PredictRequest = _CLASSES["PredictRequest"]
PredictResponse = _CLASSES["PredictResponse"]
ClassificationRequest = _CLASSES["ClassificationRequest"]
ClassificationResponse = _CLASSES["ClassificationResponse"]
TensorProto = _CLASSES["TensorProto"]
