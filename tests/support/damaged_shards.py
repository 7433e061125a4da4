"""Breaks records of shards in each way that a disk, a copy or a program may, for tests."""

import pathlib

from data_prep import tfrecord


def frames(path: pathlib.Path) -> list[tfrecord.Frame]:
    with open(path, "rb") as file:
        return list(tfrecord.read_frames(file))


def flip_byte(path: pathlib.Path, number: int, at: int = 100) -> None:
    """Change a byte of a record, by its place in the record's frame; 100 is in the payload."""
    data = bytearray(path.read_bytes())
    data[frames(path)[number].offset + at] ^= 0xFF
    path.write_bytes(data)


def break_length(path: pathlib.Path, number: int) -> None:
    """Make the length of a record another, against its checksum."""
    flip_byte(path, number, at=0)


def cut(path: pathlib.Path, number: int, after: int = 50) -> None:
    """End a shard so many bytes into a record."""
    path.write_bytes(path.read_bytes()[: frames(path)[number].offset + after])


def replace_photo(path: pathlib.Path, number: int, photo: bytes = b"no photo") -> None:
    """Put other bytes in the place of a photo, with good checksums."""
    payloads = [frame.payload for frame in frames(path)]
    payloads[number] = tfrecord.encode_example(
        tfrecord.decode_example(payloads[number]) | {"image/encoded": photo}
    )
    path.write_bytes(b"".join(map(tfrecord.frame, payloads)))
