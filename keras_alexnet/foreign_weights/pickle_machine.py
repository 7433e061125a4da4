"""A pickle machine that can build a dictionary of NumPy arrays, and can do nothing else.

It knows the operations and the names that NumPy's pickles of such a dictionary have (written by
Python 2 and 3, NumPy 1 and 2, protocols 2 to 5). A name stands for a role in that play and is
never imported; nothing that the file names is ever called. See npy_dictionary.py for the sources.
"""

import enum
from collections.abc import Callable, Mapping
from typing import BinaryIO, NoReturn

from data_prep.command_line import UserError
from keras_alexnet.foreign_weights.fitting import shown
from keras_alexnet.foreign_weights.pickle_opcodes import opcodes
from keras_alexnet.foreign_weights.pickled_array import PickledArray, PickledDtype


class _Role(enum.Enum):
    """What a name in the file stands for."""

    RECONSTRUCT = "an array, yet without contents"
    FROM_BUFFER = "an array of some bytes"
    ARRAY_TYPE = "the type of arrays"
    DTYPE = "a dtype"
    ENCODE = "bytes, written as text"


_ROLES = {
    **{
        f"{core}.multiarray _reconstruct": _Role.RECONSTRUCT
        for core in ("numpy.core", "numpy._core")  # NumPy 1, NumPy 2
    },
    **{f"{core}.numeric _frombuffer": _Role.FROM_BUFFER for core in ("numpy.core", "numpy._core")},
    "numpy ndarray": _Role.ARRAY_TYPE,
    "numpy dtype": _Role.DTYPE,
    "_codecs encode": _Role.ENCODE,
}


class _Mark:
    """What the operation MARK puts on the stack."""


class _RefusedError(Exception):
    """The pickle does what no dictionary of arrays needs; the text says what."""


class _Machine:
    """The stack and the memo of a pickle; a method an operation, or several that do the same."""

    def __init__(self):
        self.stack: list[object] = []
        self.memo: dict[int, object] = {}

    def push(self, value: object) -> None:
        self.stack.append(value)

    def pop(self) -> object:
        if not self.stack:
            raise _RefusedError("takes a value that is not there")
        return self.stack.pop()

    def pop_to_mark(self) -> list[object]:
        values = []
        while (value := self.pop()) is not _Mark:
            values.append(value)
        return values[::-1]

    def top(self, *kinds: type) -> object:
        if not self.stack or not isinstance(self.stack[-1], kinds):
            raise _RefusedError(
                f"needs {' or '.join(kind.__name__ for kind in kinds)} on the stack"
            )
        return self.stack[-1]

    def tuple_of(self, count: int) -> None:
        self.push(tuple([self.pop() for _ in range(count)][::-1]))

    def put(self, index: int) -> None:
        self.memo[index] = self.top(object)

    def get(self, index: int) -> None:
        if index not in self.memo:
            raise _RefusedError("recalls a value that was never kept")
        self.push(self.memo[index])

    def name(self, name: str) -> None:
        if name not in _ROLES:
            raise _RefusedError(f"names {shown(name.replace(' ', '.'))}")
        self.push(_ROLES[name])

    def stack_name(self) -> None:
        name, module = self.pop(), self.pop()
        self.name(f"{_text(module)} {_text(name)}")

    def set_items(self, values: list[object]) -> None:
        target = self.top(dict)
        if len(values) % 2:
            raise _RefusedError("has a key without a value")
        for key, value in zip(values[::2], values[1::2], strict=True):
            target[_text(key)] = value

    def set_item(self) -> None:
        value, key = self.pop(), self.pop()
        self.set_items([key, value])

    def append_one(self) -> None:
        value = self.pop()
        self.top(list).append(value)

    def append_many(self) -> None:
        values = self.pop_to_mark()
        self.top(list).extend(values)

    def reduce(self) -> None:
        """What stands for a call: makes a stand-in of the kind that the role says."""
        arguments, role = self.pop(), self.pop()
        match role, arguments:
            case _Role.RECONSTRUCT, (_Role.ARRAY_TYPE, (0,), _):
                self.push(PickledArray())
            case _Role.FROM_BUFFER, (data, dtype, shape, order):
                self.push(PickledArray(shape, dtype, _text(order) == "F", data))
            case _Role.DTYPE, (kind, _, _):
                self.push(PickledDtype(_text(kind)))
            case _Role.ENCODE, (str() as characters, encoding) if _text(encoding) == "latin1":
                try:
                    self.push(characters.encode("latin-1"))
                except UnicodeEncodeError as error:
                    raise _RefusedError("writes bytes as text that is not latin-1") from error
            case _:
                raise _RefusedError("calls what a dictionary of arrays does not need")

    def build(self) -> None:
        """What stands for __setstate__."""
        state = self.pop()
        target = self.top(PickledArray, PickledDtype)
        match target, state:
            case PickledArray(), (_, shape, dtype, fortran_order, data):
                target.shape, target.dtype = shape, dtype
                target.fortran_order, target.data = fortran_order, data
            case PickledDtype(), (_, byte_order, *_) if _text(byte_order) in ("<", ">", "|", "="):
                target.byte_order = _text(byte_order)
            case _:
                raise _RefusedError("has a state that NumPy does not write")


def _text(value: object) -> str:
    """A text of either Python: Python 2's are bytes."""
    if isinstance(value, bytes):
        return value.decode("latin-1")
    if not isinstance(value, str):
        raise _RefusedError(f"has {type(value).__name__} where a text is needed")
    return value


# Operation -> what it does to the machine, given its argument.
_OPERATIONS: Mapping[str, Callable[[_Machine, object], object]] = {
    **dict.fromkeys(("PROTO", "FRAME", "STOP"), lambda machine, argument: None),
    **dict.fromkeys(
        (
            *("BININT", "BININT1", "BININT2", "LONG1"),
            *("BINUNICODE", "SHORT_BINUNICODE", "BINUNICODE8"),
            *("BINBYTES", "SHORT_BINBYTES", "BINBYTES8", "BYTEARRAY8"),
        ),
        _Machine.push,
    ),
    # Python 2's strings. pickletools gives them as text, a character a byte.
    **dict.fromkeys(
        ("BINSTRING", "SHORT_BINSTRING"),
        lambda machine, characters: machine.push(characters.encode("latin-1")),
    ),
    "NONE": lambda machine, _: machine.push(None),
    "NEWTRUE": lambda machine, _: machine.push(True),
    "NEWFALSE": lambda machine, _: machine.push(False),
    "MARK": lambda machine, _: machine.push(_Mark),
    "EMPTY_TUPLE": lambda machine, _: machine.push(()),
    "EMPTY_LIST": lambda machine, _: machine.push([]),
    "EMPTY_DICT": lambda machine, _: machine.push({}),
    "TUPLE": lambda machine, _: machine.push(tuple(machine.pop_to_mark())),
    "TUPLE1": lambda machine, _: machine.tuple_of(1),
    "TUPLE2": lambda machine, _: machine.tuple_of(2),
    "TUPLE3": lambda machine, _: machine.tuple_of(3),
    "APPEND": lambda machine, _: machine.append_one(),
    "APPENDS": lambda machine, _: machine.append_many(),
    "SETITEM": lambda machine, _: machine.set_item(),
    "SETITEMS": lambda machine, _: machine.set_items(machine.pop_to_mark()),
    **dict.fromkeys(("BINPUT", "LONG_BINPUT"), _Machine.put),
    **dict.fromkeys(("BINGET", "LONG_BINGET"), _Machine.get),
    "MEMOIZE": lambda machine, _: machine.put(len(machine.memo)),
    "GLOBAL": _Machine.name,
    "STACK_GLOBAL": lambda machine, _: machine.stack_name(),
    "REDUCE": lambda machine, _: machine.reduce(),
    "BUILD": lambda machine, _: machine.build(),
}


def run(file: BinaryIO, end: int, path: str) -> object:
    """Reads one pickle and returns what it builds.

    Args:
        file: at the first byte of the pickle, which must be the rest of the file.
        end: number of bytes in the file.
        path: of the file, for the error message.

    Returns:
        Numbers, texts (bytes from Python 2), lists, tuples, dictionaries with text keys, and
        `PickledArray`s of them.

    Raises:
        UserError: the pickle is damaged, or has an operation or a name that is not known here;
            it is named, with its offset in the file.
    """
    machine = _Machine()

    def refuse(operation: str, offset: int, why: str) -> NoReturn:
        raise UserError(
            f"{path}: a pickle of nothing but NumPy arrays in a dictionary is needed; {operation} "
            f"at byte {offset} {why}; it is not carried out; get the file from one you trust"
        )

    for operation, argument, offset in opcodes(file, end, path):
        if operation not in _OPERATIONS:
            refuse(operation, offset, "is none that such a pickle needs")
        try:
            _OPERATIONS[operation](machine, argument)
        except _RefusedError as error:
            refuse(operation, offset, str(error))
    if len(machine.stack) != 1 or file.tell() != end:
        refuse("STOP", offset, "is not the end of one object")
    return machine.stack[0]
