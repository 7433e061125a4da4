"""The outcome of one photo: the small facts that a worker returns besides its record."""

from typing import NamedTuple


class Outcome(NamedTuple):
    """The outcome of one photo.

    Attributes:
        content: the first 16 bytes of the SHA-256 of the file: equal for exact duplicates alone.
        width: of the original, upright, pixels; 0 where it could not be found out.
        height: likewise.
        reason: why there is no record, of `images.Conversion`; "" where there is one.
        repairs: what had to be done, of `images.Conversion`.
        notes: what else is to be known of it, of `images.Conversion`.
        record_bytes: length of its record in the shard, framing included; 0 where there is none.
    """

    content: bytes
    width: int
    height: int
    reason: str
    repairs: tuple[str, ...]
    notes: tuple[str, ...]
    record_bytes: int


class Thumbnail(NamedTuple):
    """A small picture of a photo that was repaired or rejected, for a person to look at.

    Attributes:
        key: of the photo's reference.
        what: the repair, or the reason of the rejection.
        jpeg: the picture; empty where nothing of the photo can be shown.
    """

    key: str
    what: str
    jpeg: bytes
