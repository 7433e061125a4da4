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
from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

_LENGTH = struct.Struct("<Q")
_CHECKSUM = struct.Struct("<I")
_HEADER_BYTES = _LENGTH.size + _CHECKSUM.size
# A length past this is a broken file, not a photo; it must not become an allocation.
_LONGEST_RECORD = 1 << 30


class CorruptRecordError(ValueError):
    """A record whose length or checksum is wrong, or that is cut short."""


def frame(payload: bytes) -> bytes:
    """The bytes of one record in a TFRecord file."""
    length = _LENGTH.pack(len(payload))
    return b"".join((length, _masked_crc(length), payload, _masked_crc(payload)))


class Frame(NamedTuple):
    """One record as it lies in a file.

    Attributes:
        offset: of its first byte in the file.
        length: bytes, its framing included; 0 where it is not known.
        payload: the content; of no use where there is a fault.
        fault: what is wrong with it; "" if nothing is.
    """

    offset: int
    length: int
    payload: bytes
    fault: str


def read_records(file: BinaryIO) -> Iterator[bytes]:
    """The payloads of a TFRecord file, each proven by its checksums.

    Raises:
        CorruptRecordError: with the record's number in the file, counted from 0.
    """
    for number, frame in enumerate(read_frames(file)):
        if frame.fault:
            raise CorruptRecordError(f"record {number}: {frame.fault}")
        yield frame.payload


def read_frames(file: BinaryIO) -> Iterator[Frame]:
    """The records of a TFRecord file, the broken ones too.

    Where only a payload is broken, its length still leads to the next record. Where the length is,
    or the file is cut short, nothing does: that frame is the last one.
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
    """The length that a header tells, or what is wrong with it."""
    if len(header) < _HEADER_BYTES:
        return 0, "its header is cut short"
    if _masked_crc(header[: _LENGTH.size]) != header[_LENGTH.size :]:
        return 0, "the checksum of its length is wrong"
    (length,) = _LENGTH.unpack_from(header)
    if length > _LONGEST_RECORD:
        return 0, f"a length of {length} bytes"
    return length, ""


def _masked_crc(data: bytes) -> bytes:
    """crc32c, rotated and shifted as TensorFlow's core/lib/hash/crc32c.h does."""
    crc = google_crc32c.value(data)
    return _CHECKSUM.pack((((crc >> 15) | (crc << 17)) + 0xA282EAD8) & 0xFFFFFFFF)


def encode_example(features: Mapping[str, bytes | str | int]) -> bytes:
    """A serialized tf.train.Example with one value a feature; map keys in sorted order."""
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
    """The features of a serialized tf.train.Example that hold exactly one value.

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


def _example_class() -> type:
    """The Example message, from a pool of our own so as not to collide with TensorFlow's."""
    field = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(
        name="example.proto", package="tensorflow", syntax="proto3"
    )

    def add_message(name: str) -> descriptor_pb2.DescriptorProto:
        return file.message_type.add(name=name)

    for name, kind in (
        ("BytesList", field.TYPE_BYTES),
        ("FloatList", field.TYPE_FLOAT),
        ("Int64List", field.TYPE_INT64),
    ):
        add_message(name).field.add(
            name="value", number=1, type=kind, label=field.LABEL_REPEATED
        )  # proto3 packs repeated numbers by itself
    feature = add_message("Feature")
    feature.oneof_decl.add(name="kind")
    for number, name in enumerate(("bytes_list", "float_list", "int64_list"), start=1):
        type_name = ".tensorflow." + "".join(part.title() for part in name.split("_"))
        feature.field.add(
            name=name,
            number=number,
            type=field.TYPE_MESSAGE,
            type_name=type_name,
            label=field.LABEL_OPTIONAL,
            oneof_index=0,
        )
    features = add_message("Features")
    entry = features.nested_type.add(name="FeatureEntry")
    entry.options.map_entry = True
    entry.field.add(name="key", number=1, type=field.TYPE_STRING, label=field.LABEL_OPTIONAL)
    entry.field.add(
        name="value",
        number=2,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Feature",
        label=field.LABEL_OPTIONAL,
    )
    features.field.add(
        name="feature",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features.FeatureEntry",
        label=field.LABEL_REPEATED,
    )
    add_message("Example").field.add(
        name="features",
        number=1,
        type=field.TYPE_MESSAGE,
        type_name=".tensorflow.Features",
        label=field.LABEL_OPTIONAL,
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return message_factory.GetMessageClass(pool.FindMessageTypeByName("tensorflow.Example"))


_Example = _example_class()
