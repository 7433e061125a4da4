"""A NumPy array as a pickle describes it, and its way to an array that can be trusted."""

import dataclasses
import math

import numpy as np

from data_prep.command_line import UserError
from keras_alexnet.foreign_weights.fitting import shown

_FLOATS = ("f2", "f4", "f8")
_OBJECTS = ("O", "O4", "O8")  # the pointers' size was part of the name
_MOST_DIMENSIONS = 32


@dataclasses.dataclass(eq=False)
class PickledDtype:
    """A dtype as a pickle describes it: its name without the byte order, and that."""

    kind: str
    byte_order: str = "|"


@dataclasses.dataclass(eq=False)
class PickledArray:
    """An array as a pickle describes it; nothing in it has been believed yet."""

    shape: object = None
    dtype: object = None
    fortran_order: object = False
    data: object = None

    def single_object(self) -> object:
        """What an array of objects without dimensions holds; None if it is no such array."""
        is_object = isinstance(self.dtype, PickledDtype) and self.dtype.kind in _OBJECTS
        if is_object and self.shape == () and isinstance(self.data, list) and len(self.data) == 1:
            return self.data[0]
        return None

    def to_numpy(self, path: str, name: str) -> np.ndarray:
        """The numbers, as a view of the file's bytes.

        Args:
            path: of the file, for the error message.
            name: of the tensor, for the error message.

        Raises:
            UserError: these are no floating numbers, or not as many as the shape says.
        """
        dtype = self.dtype
        if not (
            isinstance(dtype, PickledDtype)
            and dtype.kind in _FLOATS
            and isinstance(self.shape, tuple)
            and len(self.shape) <= _MOST_DIMENSIONS
            and all(type(size) is int and size > 0 for size in self.shape)
            and isinstance(self.data, bytes | bytearray)
            and math.prod(self.shape) * int(dtype.kind[1:]) == len(self.data)
        ):
            held = len(self.data) if isinstance(self.data, bytes | bytearray) else 0
            kind = shown(getattr(dtype, "kind", None))
            raise UserError(
                f"{path}: {name} must be an array of floating numbers ({', '.join(_FLOATS)}), as "
                f"many as its shape says and not none; its dtype is {kind}, its shape "
                f"{self._shown_shape()}, and it holds {held} bytes; get the file again"
            )
        values = np.frombuffer(self.data, dtype.byte_order + dtype.kind)
        return values.reshape(self.shape, order="F" if self.fortran_order else "C")

    def _shown_shape(self) -> str:
        sizes = self.shape if isinstance(self.shape, tuple) else ()
        known = len(sizes) <= _MOST_DIMENSIONS and all(type(size) is int for size in sizes)
        return str(list(sizes)) if known else "no shape"
