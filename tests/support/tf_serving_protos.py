"""Protocol buffers of TF Serving that the package tensorflow-serving-api leaves out.

Field names, numbers and types are those of tensorflow/serving at
- tensorflow_serving/config/monitoring_config.proto, commit 021efbd3281aa815cab0b35eab6d6d25249c12d4
- tensorflow_serving/config/ssl_config.proto, commit 4bc435b55ae46a03192ba0191e3bd76d5cf5e17c
- tensorflow_serving/servables/tensorflow/session_bundle_config.proto, commit
  03f8b6b5fceec0df896da1e85d02b101b4ff2b7a (of later fields of BatchingParameters none is used here)
"""

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, wrappers_pb2

_FIELD = descriptor_pb2.FieldDescriptorProto
_INT64_VALUE = ".google.protobuf.Int64Value"
_STRING_VALUE = ".google.protobuf.StringValue"

# Of each message the fields (name, number, type): a scalar's type, or a message's name.
_MESSAGES = {
    "PrometheusConfig": [("enable", 1, _FIELD.TYPE_BOOL), ("path", 2, _FIELD.TYPE_STRING)],
    "MonitoringConfig": [("prometheus_config", 1, ".tensorflow.serving.PrometheusConfig")],
    "SSLConfig": [
        ("server_key", 1, _FIELD.TYPE_STRING),
        ("server_cert", 2, _FIELD.TYPE_STRING),
        ("custom_ca", 3, _FIELD.TYPE_STRING),
        ("client_verify", 4, _FIELD.TYPE_BOOL),
    ],
    "BatchingParameters": [
        ("max_batch_size", 1, _INT64_VALUE),
        ("batch_timeout_micros", 2, _INT64_VALUE),
        ("max_enqueued_batches", 3, _INT64_VALUE),
        ("num_batch_threads", 4, _INT64_VALUE),
        ("thread_pool_name", 5, _STRING_VALUE),
        ("allowed_batch_sizes", 6, _FIELD.TYPE_INT64),
        ("pad_variable_length_inputs", 7, _FIELD.TYPE_BOOL),
    ],
}
_REPEATED = {"allowed_batch_sizes"}


def _pool() -> descriptor_pool.DescriptorPool:
    pool = descriptor_pool.DescriptorPool()  # not the default one, which a later wheel may fill
    pool.AddSerializedFile(wrappers_pb2.DESCRIPTOR.serialized_pb)
    file = descriptor_pb2.FileDescriptorProto(
        name="tf_serving_protos.proto",
        package="tensorflow.serving",
        dependency=[wrappers_pb2.DESCRIPTOR.name],
        syntax="proto3",
    )
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for field_name, number, kind in fields:
            repeated = field_name in _REPEATED
            field = message.field.add(
                name=field_name,
                number=number,
                label=_FIELD.LABEL_REPEATED if repeated else _FIELD.LABEL_OPTIONAL,
            )
            if isinstance(kind, str):
                field.type, field.type_name = _FIELD.TYPE_MESSAGE, kind
            else:
                field.type = kind
    pool.Add(file)
    return pool


def _message_class(name: str):
    descriptor = _POOL.FindMessageTypeByName(f"tensorflow.serving.{name}")
    return message_factory.GetMessageClass(descriptor)


_POOL = _pool()
BatchingParameters = _message_class("BatchingParameters")
MonitoringConfig = _message_class("MonitoringConfig")
SSLConfig = _message_class("SSLConfig")
