"""A network's two columns on two devices, as in 2012."""

from keras_alexnet.columns.placement import column_devices, place_columns
from keras_alexnet.columns.weights import assign_weights, merge, named_values, read_weights, split

__all__ = [
    "assign_weights",
    "column_devices",
    "merge",
    "named_values",
    "place_columns",
    "read_weights",
    "split",
]
