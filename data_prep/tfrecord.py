"""The TFRecord framing and the tf.train.Example message, without TensorFlow.

A Beam worker that imports TensorFlow costs half a gigabyte and seconds of start-up, and needs
nothing of it but these two formats:

    record  = length (uint64 LE) | masked crc32c of length | payload | masked crc32c of payload
    Example = {1: Features {1: map<string, Feature>}}, tensorflow/core/example/example.proto
"""

import struct
from collections.abc import Iterator, Mapping
from typing import BinaryIO, NamedTuple

import google_crc32c
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory, text_format

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
# A length past this is a broken file, not a photo; it must not become an allocation.
_LONGEST_RECORD = 1 << 30


class CorruptRecordError(ValueError):
    """A record whose length or checksum is wrong, or that is cut short."""


def frame(payload: bytes) -> bytes:
    """Return the bytes of one record in a TFRecord file."""
    length = _LENGTH.pack(len(payload))
    return b"".join((length, _masked_crc(length), payload, _masked_crc(payload)))


class Frame(NamedTuple):
    """One record as it lies in a file.

    Attributes:
        offset: of its first byte in the file.
        length: bytes, its framing included; 0 where it is unknown.
        payload: the content; useless where there is a fault.
        fault: a text; "" for a whole record.
    """

    offset: int
    length: int
    payload: bytes
    fault: str


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """Read the payloads of a TFRecord file, and check their checksums.

    Raises:
        CorruptRecordError: with the record's number in the file, counted from 0.
    """
    for number, frame in enumerate(read_frames(file)):
        if frame.fault:
            raise CorruptRecordError(f"record {number}: {frame.fault}")
        yield frame.payload


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """Read the records of a TFRecord file, the broken ones too.

    Where only a payload is broken, its length still leads to the next record. Where the length is
    broken, or the file is cut short, that frame is the last one.
    """
    offset = 0
    while header := file.read(_HEADER_BYTES):
        length, fault = _payload_length(header)
        if fault:
            yield Frame(offset, 0, b"", fault)
            return
        payload = file.read(length)
        checksum = file.read(_CHECKSUM.size)
        if len(payload) < length or len(checksum) < _CHECKSUM.size:
            yield Frame(offset, 0, b"", "cut short")
            return
        fault = "" if _masked_crc(payload) == checksum else "the checksum of its payload is wrong"
        total = _HEADER_BYTES + length + _CHECKSUM.size
        yield Frame(offset, total, payload, fault)
        offset += total


def _payload_length(header: bytes) -> tuple[int, str]:
    """Return the length in a header, and its fault."""
    if len(header) < _HEADER_BYTES:
        return 0, "its header is cut short"
    if _masked_crc(header[: _LENGTH.size]) != header[_LENGTH.size :]:
        return 0, "the checksum of its length is wrong"
    (length,) = _LENGTH.unpack_from(header)
    if length > _LONGEST_RECORD:
        return 0, f"a length of {length} bytes"
    return length, ""


def _masked_crc(data: bytes) -> bytes:
    """Return crc32c, rotated and shifted as in TensorFlow's core/lib/hash/crc32c.h."""
    crc = google_crc32c.value(data)
    return _CHECKSUM.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def encode_example(features: Mapping[str, bytes | str | int]) -> bytes:
    """Return a serialized tf.train.Example with one value a feature; map keys are sorted."""
    example = _Example()
    for name, value in features.items():
        feature = example.features.feature[name]
        if isinstance(value, int):
            feature.int64_list.value.append(value)
        else:
            data = value.encode() if isinstance(value, str) else value
            feature.bytes_list.value.append(data)
    # deterministic: sorts the map, whose order otherwise differs between processes.
    return example.SerializeToString(deterministic=True)


def decode_example(payload: bytes) -> dict[str, bytes | int]:
    """Return the features of a serialized tf.train.Example that hold exactly one value.

    Raises:
        CorruptRecordError: the payload is no Example.
    """
    example = _Example()
    try:
        example.ParseFromString(payload)
    except Exception as error:  # the protobuf back ends raise different classes
        raise CorruptRecordError(f"not a tf.train.Example: {error}") from error
    values = {}
    for name, feature in example.features.feature.items():
        kind = feature.WhichOneof("kind")
        if kind and len(getattr(feature, kind).value) == 1:
            values[name] = getattr(feature, kind).value[0]
    return values


def message_class(file: str, name: str) -> type:
    """Return the class of a protobuf message.

    Args:
        file: a FileDescriptorProto in protobuf's text format.
        name: of the message in it, with the package.
    """
    pool = descriptor_pool.DescriptorPool()  # of its own, so as not to collide with TensorFlow's
    pool.Add(text_format.Parse(file, descriptor_pb2.FileDescriptorProto()))
    return message_factory.GetMessageClass(pool.FindMessageTypeByName(name))


_Example = message_class(
    """
    name: "example.proto" package: "tensorflow" syntax: "proto3"
    message_type { name: "BytesList"
      field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_BYTES } }
    message_type { name: "FloatList"
      field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_FLOAT } }
    message_type { name: "Int64List"
      field { name: "value" number: 1 label: LABEL_REPEATED type: TYPE_INT64 } }
    message_type { name: "Feature" oneof_decl { name: "kind" }
      field { name: "bytes_list" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
              type_name: ".tensorflow.BytesList" oneof_index: 0 }
      field { name: "float_list" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE
              type_name: ".tensorflow.FloatList" oneof_index: 0 }
      field { name: "int64_list" number: 3 label: LABEL_OPTIONAL type: TYPE_MESSAGE
              type_name: ".tensorflow.Int64List" oneof_index: 0 } }
    message_type { name: "Features"
      field { name: "feature" number: 1 label: LABEL_REPEATED type: TYPE_MESSAGE
              type_name: ".tensorflow.Features.FeatureEntry" }
      nested_type { name: "FeatureEntry" options { map_entry: true }
        field { name: "key" number: 1 label: LABEL_OPTIONAL type: TYPE_STRING }
        field { name: "value" number: 2 label: LABEL_OPTIONAL type: TYPE_MESSAGE
                type_name: ".tensorflow.Feature" } } }
    message_type { name: "Example"
      field { name: "features" number: 1 label: LABEL_OPTIONAL type: TYPE_MESSAGE
              type_name: ".tensorflow.Features" } }
    """,
    "tensorflow.Example",
)
