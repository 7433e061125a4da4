"""Measurements and rules of `keras_alexnet.preflight`."""
