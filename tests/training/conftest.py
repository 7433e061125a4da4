"""Tests of this folder need TensorFlow."""

from tensorflow_process import float32_again, float64, memory_is_given_back

__all__ = ["float32_again", "float64", "memory_is_given_back"]
