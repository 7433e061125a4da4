"""Reads the lists that come with Kaggle's copy of ILSVRC2012; untrusted, like all input."""

import csv
import io
from collections.abc import Collection, Iterator

from data_prep import records, storage
from data_prep.sources import ground_truth, tars
from data_prep.sources.reference import printable

SOLUTION = "LOC_val_solution.csv"
SYNSET_MAPPING = "LOC_synset_mapping.txt"
# Where the zip has train/ and val/; the two lists lie at its top.
PHOTOS = ("ILSVRC", "Data", "CLS-LOC")
_HEADER = ["ImageId", "PredictionString"]
_BOX = 5  # a wnid and four numbers


def read_solution(path: str, wnids: Collection[str]) -> dict[int, str]:
    """Return the wnid of each validation photo by its number, as LOC_val_solution.csv says.

    A row is an ImageId, such as ILSVRC2012_val_00048981, and its boxes, such as
    "n03995372 85 1 499 272 ": the boxes of a photo are of one class.

    Raises:
        ValueError: a row is not like that or not of `wnids`, or two rows are of one photo.
        OSError: it cannot be read.
    """
    truth: dict[int, str] = {}
    for line, row in _rows(path):
        if len(row) != 2 or (number := ground_truth.photo_number(row[0])) is None:
            raise _faulty(path, line, f"an ImageId such as {ground_truth.photo_name(1)} and boxes")
        boxes = row[1].split()
        if not boxes or len(boxes) % _BOX or len(set(boxes[::_BOX])) > 1:
            raise _faulty(path, line, "one class' wnid and four numbers for each box")
        if boxes[0] not in wnids:
            wnid = printable(boxes[0][:40])
            raise _faulty(path, line, f"one of the {len(wnids)} classes, not {wnid}")
        if number in truth:
            raise _faulty(path, line, f"the only row of {ground_truth.photo_name(number)}")
        truth[number] = boxes[0]
    return truth


def read_synset_mapping(path: str) -> tuple[records.ClassName, ...]:
    """Return the classes by wnid, as LOC_synset_mapping.txt says: "n01440764 tench, Tinca tinca".

    Raises:
        ValueError: a line is not like that, or two lines are of one class.
        OSError: it cannot be read.
    """
    names: dict[str, str] = {}
    for line, text in enumerate(_text(path).splitlines(), start=1):
        if not text:
            continue
        wnid, *words = text.split() or [""]
        if not words:
            raise _faulty(path, line, "a wnid and the name of the class")
        if wnid in names:
            raise _faulty(path, line, f"the only line of {printable(wnid[:40])}")
        names[wnid] = " ".join(words)
    return tuple(records.ClassName(printable(w), printable(names[w])) for w in sorted(names))


def _rows(path: str) -> Iterator[tuple[int, list[str]]]:
    """Return line number and cells of each row under the header."""
    reader = csv.reader(io.StringIO(_text(path), newline=""), strict=True)
    try:
        header = next(reader, [])
        if header != _HEADER:
            raise _faulty(path, 1, f"the header {','.join(_HEADER)}")
        for row in reader:
            if row:  # an empty line is none
                yield reader.line_num, row
    except csv.Error as error:
        raise _faulty(path, reader.line_num, f"a row of a csv file ({error})") from error


def _text(path: str) -> str:
    with storage.open_file(path) as file:
        content = tars.read_list(file, path)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        line = content.count(b"\n", 0, error.start) + 1
        raise _faulty(path, line, "text in UTF-8") from error


def _faulty(path: str, line: int, needed: str) -> ValueError:
    return ValueError(f"line {line} of {path} must hold {needed}; fetch the file again")
