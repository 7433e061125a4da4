"""Classes of protobuf messages from a table: no generated code, no clash with other packages'."""

from collections.abc import Mapping

from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_FIELD = descriptor_pb2.FieldDescriptorProto


def message_classes(
    messages: Mapping[str, Mapping[str, tuple[int, str]]], syntax: str = "proto3"
) -> dict[str, type]:
    """Return the classes of some messages, by name.

    Args:
        messages: for each message its fields' (number, type). A type is a scalar's ("int64") or,
            with a capital, a message's of the table; before it may stand "repeated", "map" (from
            strings), or "oneof" for the fields of the message of which only one is set.
        syntax: "proto3", or "proto2", in which numbers and texts may be absent.
    """
    file = descriptor_pb2.FileDescriptorProto(name="messages.proto", package="table", syntax=syntax)
    for name, fields in messages.items():
        message = file.message_type.add(name=name)
        for field, (number, kind) in fields.items():
            *rule, base = kind.split()
            if rule == ["map"]:
                entry = message.nested_type.add(name=f"{field.title()}Entry")
                entry.options.map_entry = True
                _add(entry, "key", 1, "string")
                _add(entry, "value", 2, base)
                base = f"{name}.{entry.name}"
            added = _add(message, field, number, base)
            if rule in (["repeated"], ["map"]):
                added.label = _FIELD.LABEL_REPEATED
            if rule == ["oneof"]:
                if not message.oneof_decl:
                    message.oneof_decl.add(name="kind")
                added.oneof_index = 0
    pool = descriptor_pool.DescriptorPool()  # not the default one, which knows TensorFlow's
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"table.{name}"))
        for name in messages
    }


def _add(
    message: descriptor_pb2.DescriptorProto, name: str, number: int, kind: str
) -> descriptor_pb2.FieldDescriptorProto:
    field = message.field.add(name=name, number=number, label=_FIELD.LABEL_OPTIONAL)
    if kind[0].isupper():
        field.type, field.type_name = _FIELD.TYPE_MESSAGE, f".table.{kind}"
    else:
        field.type = _FIELD.Type.Value(f"TYPE_{kind.upper()}")
    return field
