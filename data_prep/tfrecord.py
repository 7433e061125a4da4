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

from data_prep import protobuf

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


_Example = protobuf.message_classes(
    {
        "BytesList": {"value": (1, "repeated bytes")},
        "FloatList": {"value": (1, "repeated float")},
        "Int64List": {"value": (1, "repeated int64")},
        "Feature": {
            "bytes_list": (1, "oneof BytesList"),
            "float_list": (2, "oneof FloatList"),
            "int64_list": (3, "oneof Int64List"),
        },
        "Features": {"feature": (1, "map Feature")},
        "Example": {"features": (1, "Features")},
    }
)["Example"]
