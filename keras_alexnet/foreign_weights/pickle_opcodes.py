"""The operations of a pickle, read but never carried out.

A pickle is a program; loading one runs what its maker wrote. `pickletools.genops` of the standard
library only splits it into operations and their arguments.
"""

import pickletools
from collections.abc import Iterator
from typing import BinaryIO

from data_prep.command_line import UserError

# The dictionary of an AlexNet takes about 500 operations, a checkpoint with Adam's state 10,000.
# Each may make an object of a hundred bytes, so their number bounds what a hostile file costs.
MOST_OPCODES = 100_000
_LONGEST_LINE = 4096


class _Bounded:
    """A file that does not set memory aside for what it does not hold.

    An operation says how long its argument is, and `read(n)` allocates n bytes before it looks
    whether they are there.
    """

    def __init__(self, file: BinaryIO, end: int):
        self._file = file
        self._position = file.tell()
        self._end = end

    def tell(self) -> int:
        return self._position

    def read(self, count: int) -> bytes:
        return self._counted(self._file.read(min(count, self._end - self._position)))

    def readline(self) -> bytes:
        return self._counted(self._file.readline(_LONGEST_LINE))

    def _counted(self, data: bytes) -> bytes:
        self._position += len(data)
        return data


def opcodes(file: BinaryIO, end: int, path: str) -> Iterator[tuple[str, object, int]]:
    """Reads the operations of one pickle; the file is then behind its last one, STOP.

    Args:
        file: at the first byte of the pickle.
        end: number of bytes in the file.
        path: of the file, for the error message.

    Yields:
        Name, argument (None, number, str, bytes or bytearray), and offset in the file of each.

    Raises:
        UserError: the bytes are no pickle, or an unreasonably long one.
    """
    offset = file.tell()
    try:
        for count, (opcode, argument, offset) in enumerate(
            pickletools.genops(_Bounded(file, end)), start=1
        ):
            if count > MOST_OPCODES:
                raise UserError(
                    f"{path}: weights need far fewer than {MOST_OPCODES} pickle operations; it has "
                    "more; is this the file that you mean?"
                )
            yield opcode.name, argument, offset
    except ValueError as error:
        raise UserError(
            f"{path}: a whole pickle is needed; it is damaged behind byte {offset}; get it again"
        ) from error
