"""A test process with TensorFlow: two CPU devices, and fixtures that clean up after tests.

The conftest.py of each folder whose tests need TensorFlow imports this, and so do the scripts that
tests run in a process of their own.
"""

import contextlib
import ctypes
import gc

import keras
import pytest
import tensorflow as tf

# Before TensorFlow starts, or it has one CPU device for good: MirroredStrategy needs two.
tf.config.set_logical_device_configuration(
    tf.config.list_physical_devices("CPU")[0], [tf.config.LogicalDeviceConfiguration()] * 2
)
# What TensorFlow has brought is left out of the collections after each file, which are quick then.
gc.freeze()


@pytest.fixture(autouse=True)
def float32_again():
    """Restore the dtype policy of the process, which training sets."""
    yield
    keras.mixed_precision.set_global_policy("float32")


@pytest.fixture
def float64():
    """Make networks, losses and optimizers compute in float64.

    For a comparison of gradients whose sums are taken in another order. In float32, on some CPUs,
    that decides the sign before a ReLU or the maximum of a pooling window, and the gradient then
    takes another way.
    """
    keras.backend.set_floatx("float64")
    keras.mixed_precision.set_global_policy("float64")
    yield
    keras.backend.set_floatx("float32")


@pytest.fixture(autouse=True, scope="module")
def memory_is_given_back():
    """After each file: models are full of cycles, and two suites of them filled 24 GiB."""
    yield
    gc.collect()
    with contextlib.suppress(OSError, AttributeError):  # another C library than glibc
        ctypes.CDLL("libc.so.6").malloc_trim(0)
