"""A network's two columns on two devices, as in 2012."""

from keras_alexnet.column_parallel.columns import column_devices, place_columns
from keras_alexnet.column_parallel.updates import UpdatesInPlace
from keras_alexnet.column_parallel.weights import (
    assign_weights,
    merge,
    named_values,
    read_weights,
    split,
)

__all__ = [
    "UpdatesInPlace",
    "assign_weights",
    "column_devices",
    "merge",
    "named_values",
    "place_columns",
    "read_weights",
    "split",
]
