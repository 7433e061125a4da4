"""Read a pickle of NumPy arrays in plain containers, and run nothing that the file names.

`pickle.Unpickler` builds lists, tuples, dictionaries, numbers and texts. The names of NumPy's own
functions mean the stand-ins below, which only keep their arguments; others are refused. NumPy's
functions trust a pickle: `dtype.__setstate__` accepts raw bytes as object pointers, `_reconstruct`
and `ndarray.__setstate__` allocate as much memory as a shape names.

Read are arrays and dtypes of NumPy 1 and 2, pickled by Python 2 and 3 with protocols 0 to 5.
"""

import math
import pickle
import pickletools
from typing import BinaryIO, NoReturn

import numpy as np

# The dictionary of an AlexNet takes about 500 operations, a checkpoint with Adam's state 10,000.
# Each may make an object of a hundred bytes, so their number bounds what a hostile file costs.
MOST_OPERATIONS = 100_000
_LONGEST_LINE = 4096
_OBJECTS = ("O", "O4", "O8")  # the size of a pointer was part of the name
_MOST_DIMENSIONS = 32


class _StandIn:
    """Base of the stand-ins for names in a pickle.

    Every stand-in defines `__setstate__`, because without it a pickle can set attributes.
    """

    def __init__(self, *arguments: object):
        self.arguments = arguments

    def __setstate__(self, state: object) -> None:
        raise pickle.UnpicklingError("it gives a state to what has none")


class _Dtype(_StandIn):
    arguments: tuple = ()
    byte_order: object = b"|"

    def __setstate__(self, state: object) -> None:
        self.byte_order = state[1]

    @property
    def name(self) -> str:
        """Return kind and size, such as f4; "" if there is none."""
        return _text(self.arguments[0]) if self.arguments else ""


class Array(_StandIn):
    """An array as a pickle describes it; `to_numpy` checks the description."""

    shape: object = None
    dtype: object = None
    fortran_order: object = False
    data: object = b""

    def __setstate__(self, state: object) -> None:
        _, self.shape, self.dtype, self.fortran_order, self.data = state

    def item(self) -> object:
        """Return the object in an array of objects without dimensions; None for other arrays."""
        is_object = isinstance(self.dtype, _Dtype) and self.dtype.name in _OBJECTS
        if is_object and self.shape == () and isinstance(self.data, list) and len(self.data) == 1:
            return self.data[0]
        return None

    def to_numpy(self, dtypes: tuple[str, ...], described: str) -> np.ndarray:
        """Return the numbers as a view of the bytes in the pickle.

        Args:
            dtypes: allowed kinds and sizes, such as ("f4", "f8").
            described: file and name of the array, for the error message.

        Raises:
            ValueError: the dtype is another, or the shape does not fit the number of bytes.
        """
        name = self.dtype.name if isinstance(self.dtype, _Dtype) else ""
        order = _text(self.dtype.byte_order) if name else ""
        shape = self.shape if isinstance(self.shape, tuple) else (None,)
        is_shape = len(shape) <= _MOST_DIMENSIONS and all(
            type(size) is int and abs(size) < 2**63 for size in shape
        )
        data = self.data if isinstance(self.data, bytes | bytearray) else b""
        if not (
            name in dtypes
            and order in ("<", ">", "|", "=")
            and is_shape
            and min(shape, default=1) > 0
            and math.prod(shape) * int(name[1:]) == len(data)
        ):
            raise ValueError(
                f"{described} must be an array of {', '.join(dtypes)} with as many numbers as its "
                f"shape says, and at least one; its dtype is {name[:20]!a}, its shape "
                f"{list(shape) if is_shape else 'none'}, and it holds {len(data)} bytes; get the "
                "file again"
            )
        values = np.frombuffer(data, order + name)
        return values.reshape(shape, order="F" if self.fortran_order else "C")


class _FromBuffer(Array):
    """Array of protocol 5."""

    def __init__(self, data: object, dtype: object, shape: object, order: object):
        self.data, self.dtype, self.shape = data, dtype, shape
        self.fortran_order = order == "F"


class _Latin1(_StandIn):
    """Bytes that protocol 2 of Python 3 writes as text."""

    def __new__(cls, characters: object = "", encoding: object = "") -> bytes:
        if not isinstance(characters, str) or encoding != "latin1":
            raise pickle.UnpicklingError("it encodes what is no text of latin1")
        return characters.encode("latin-1")


_NAMES = {
    "numpy.ndarray": Array,
    "numpy.dtype": _Dtype,
    "_codecs.encode": _Latin1,
    **{f"{core}.multiarray._reconstruct": Array for core in ("numpy.core", "numpy._core")},
    **{f"{core}.numeric._frombuffer": _FromBuffer for core in ("numpy.core", "numpy._core")},
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> type:
        full_name = f"{module}.{name}"
        if full_name not in _NAMES:
            raise pickle.UnpicklingError(f"it names {full_name[:60]!a}")
        return _NAMES[full_name]


def load(file: BinaryIO, end: int, path: str, most_operations: int = MOST_OPERATIONS) -> object:
    """Return the object in a pickle.

    Args:
        file: at the first byte of the pickle, which must be the rest of the file.
        end: number of bytes in the file.
        path: of the file, for the error message.
        most_operations: see `check_size`.

    Returns:
        Plain containers, numbers and texts (bytes where Python 2 wrote a str), with an `Array` for
        each array.

    Raises:
        ValueError: the pickle is damaged, too large, or has other names.
    """
    start = file.tell()
    check_size(file, end, path, most_operations)
    if file.tell() != end:
        _refuse(path, f"it is damaged behind byte {file.tell()}")
    file.seek(start)
    try:
        return _Unpickler(file, fix_imports=False, encoding="bytes").load()
    except pickle.UnpicklingError as error:
        _refuse(path, " ".join(str(error).split()), error)
    except Exception as error:  # the Unpickler raises whatever the objects in a damaged file do
        _refuse(path, f"it is damaged ({type(error).__name__})", error)


def _refuse(path: str, why: str, cause: BaseException | None = None) -> NoReturn:
    raise ValueError(
        f"{path}: a pickle of nothing but NumPy arrays in plain containers is needed; {why}; "
        "nothing that it names was run; get the file from a source that you trust"
    ) from cause


class _Bounded:
    """A file that allocates no memory for bytes that it does not have."""

    def __init__(self, file: BinaryIO, end: int):
        self._file, self._end = file, end
        self._position = file.tell()
        self.tell = file.tell

    def read(self, count: int) -> bytes:
        data = self._file.read(min(count, self._end - self._position))
        self._position += len(data)
        return data

    def readline(self) -> bytes:
        data = self._file.readline(_LONGEST_LINE)
        self._position += len(data)
        return data


def check_size(file: BinaryIO, end: int, path: str, most_operations: int = MOST_OPERATIONS) -> None:
    """Refuse a pickle that costs much more memory than it has bytes; execute none of it.

    Leaves the file behind the last operation, STOP.

    Args:
        file: at the first byte of the pickle.
        end: number of bytes in the file.
        path: of the file, for the error message.
        most_operations: limit of the operations, and of the indices of memoized values: Python
            allocates its list of these by the largest index.

    Raises:
        ValueError: the pickle is damaged or exceeds the limit.
    """
    offset = file.tell()
    try:
        operations = enumerate(pickletools.genops(_Bounded(file, end)), start=1)
        for count, (operation, argument, place) in operations:
            offset = place
            kept = argument if operation.name in ("PUT", "BINPUT", "LONG_BINPUT") else 0
            if max(count, kept) > most_operations:
                break
        else:
            return
    except ValueError as error:
        raise ValueError(
            f"{path}: a whole pickle is needed; it is damaged behind byte {offset}; get it again"
        ) from error
    raise ValueError(
        f"{path}: a pickle of at most {most_operations} operations is needed, more than any "
        "weights take; it has more; is this the right file?"
    )


def _text(value: object) -> str:
    """Return a text of either Python (those of Python 2 are bytes), "" for anything else."""
    text = value.decode("latin-1") if isinstance(value, bytes) else value
    return text if isinstance(text, str) else ""
