"""Tests of this folder need TensorFlow."""

import keras
import pytest
from tensorflow_process import float32_again, float64, memory_is_given_back

__all__ = ["float32_again", "float64", "memory_is_given_back"]


@pytest.fixture
def mixed_policy(request):
    """Return the global policy that a test names by `indirect`; `float32_again` sets it back."""
    keras.mixed_precision.set_global_policy(request.param)
    return request.param
