"""The markers of a JPEG, read without decoding it: is it whole, do all readers agree on it.

ITU-T T.81, annex B: a JPEG is a row of segments, each 0xFF, a code and, for most, its length.
Behind the header of a scan come its entropy-coded pixels, in which a 0xFF that is no marker is
followed by a zero.
"""

import re
from collections.abc import Iterator

_START = b"\xff\xd8"
_END = 0xD9
_BASELINE_FRAME = 0xC0  # SOF0: Huffman-coded, sequential, 8 bits a sample
_SCAN = 0xDA
_APPLICATION = range(0xE0, 0xF0)
_JFIF, _MULTI_PICTURE, _ADOBE = b"JFIF\0", b"MPF\0", b"Adobe"
_YCBCR = 1  # Adobe's color transform
# Not the escaped 0xFF, nor padding, nor the eight restart markers, which belong to the pixels.
_MARKER = re.compile(rb"\xff[\x01-\xcf\xd8-\xfe]")


def end_of_only_scan(data: bytes, start: int) -> int | None:
    """Return the end of a JPEG whose entropy-coded pixels begin at `start`.

    Returns:
        The position behind the end marker; None if anything else comes first: a further scan, as
        progressive JPEGs have, a marker that damage made, or the end of the file.
    """
    marker = _MARKER.search(data, start)
    return marker.end() if marker and data[marker.end() - 1] == _END else None


def is_baseline_rgb(data: bytes) -> bool:
    """Return whether `data` is a plain JPEG, which no two readers decode differently.

    That is: one picture in one scan, baseline, 8 bits a sample, of three components which are
    YCbCr by what JFIF or Adobe's marker says, or for want of both by the component numbers 1, 2, 3
    (which is how libjpeg finds out); with nothing behind its end. Where Adobe's marker says that
    the colors are stored as RGB, it is not of that kind.
    """
    if not data.startswith(_START):
        return False
    application, frame = [], b""
    for code, content, end in _segments(data):
        if code in _APPLICATION:
            application.append(content)
        elif code == _BASELINE_FRAME:
            frame = content
        elif code == _SCAN:
            return _is_ycbcr(frame, application) and end_of_only_scan(data, end) == len(data)
    return False


def _segments(data: bytes) -> Iterator[tuple[int, bytes, int]]:
    """Yield (code, content, position behind it) up to what is no segment."""
    at = len(_START)
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # padding, as many as one likes
            at += 1
            continue
        end = at + 2 + int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : end], end
        at = end


def _is_ycbcr(frame: bytes, application: list[bytes]) -> bool:
    """Return whether a frame (precision, height, width, count, triples) has YCbCr pixels."""
    if len(frame) != 6 + 3 * 3 or frame[0] != 8 or frame[5] != 3:
        return False
    if any(content.startswith(_MULTI_PICTURE) for content in application):
        return False
    adobe = [content for content in application if content.startswith(_ADOBE)]
    if adobe:
        return all(len(content) >= 12 and content[11] == _YCBCR for content in adobe)
    has_jfif = any(content.startswith(_JFIF) for content in application)
    return has_jfif or (frame[6], frame[9], frame[12]) == (1, 2, 3)
