"""A network's two columns on two devices, as in 2012."""

from keras_alexnet.column_parallel.columns import column_devices, place_columns
from keras_alexnet.column_parallel.updates import UpdatesInPlace

__all__ = ["UpdatesInPlace", "column_devices", "place_columns"]
