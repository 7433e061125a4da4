"""What the markers of a JPEG say before its pixels: whether every reader decodes it alike.

ITU-T T.81, annex B: a JPEG is a row of segments, each 0xFF, a code and, for most, its length.
"""

_START = b"\xff\xd8"
_END = b"\xff\xd9"
_BASELINE_FRAME = 0xC0  # SOF0: Huffman-coded, sequential, 8 bits a sample
# The codes 0xC0 to 0xCF that begin no frame: Huffman tables, an extension, arithmetic conditions.
_NO_FRAMES = (0xC4, 0xC8, 0xCC)
_APPLICATION = range(0xE0, 0xF0)
_JFIF, _MULTI_PICTURE, _ADOBE = b"JFIF\0", b"MPF\0", b"Adobe"
_YCBCR = 1  # Adobe's color transform


def is_baseline_rgb(data: bytes) -> bool:
    """Whether `data` is a JPEG of the plainest kind, which no two readers decode differently.

    That is: one picture, baseline, 8 bits a sample, three components which are YCbCr by what JFIF
    or Adobe's marker says, or for want of both by the component numbers 1, 2, 3 (the order in
    which libjpeg asks); and nothing before its first or behind its last marker. Where two
    markers contradict each other, or the colors are stored as RGB, it is not of that kind.
    Nothing is said of the pixels: they are still to be decoded.
    """
    if not (data.startswith(_START) and data.endswith(_END)):
        return False
    application = []
    for code, content in _segments(data):
        if code in _APPLICATION:
            application.append(content)
        elif 0xC0 <= code <= 0xCF and code not in _NO_FRAMES:
            return code == _BASELINE_FRAME and _is_ycbcr(content, application)
    return False


def _segments(data: bytes):
    """Yields (code, content) of each segment up to the first that is out of order."""
    at = len(_START)
    while at + 4 <= len(data) and data[at] == 0xFF:
        if data[at + 1] == 0xFF:  # padding, as many as one likes
            at += 1
            continue
        length = int.from_bytes(data[at + 2 : at + 4], "big")
        yield data[at + 1], data[at + 4 : at + 2 + length]
        at += 2 + length


def _is_ycbcr(frame: bytes, application: list[bytes]) -> bool:
    """Whether a frame (its precision, height, width, count and triples) is of YCbCr pixels."""
    if len(frame) != 6 + 3 * 3 or frame[0] != 8 or frame[5] != 3:
        return False
    if any(content.startswith(_MULTI_PICTURE) for content in application):
        return False
    adobe = [content for content in application if content.startswith(_ADOBE)]
    if adobe:
        return all(len(content) >= 12 and content[11] == _YCBCR for content in adobe)
    has_jfif = any(content.startswith(_JFIF) for content in application)
    return has_jfif or (frame[6], frame[9], frame[12]) == (1, 2, 3)
