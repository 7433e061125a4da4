"""The NumPy reference is held to SciPy's filters."""

import numpy as np
import numpy_alexnet
import pytest
import scipy.ndimage
import scipy.signal

RANDOM = np.random.default_rng(0)


@pytest.mark.parametrize("groups", [1, 2])
@pytest.mark.parametrize("stride", [1, 4])
def test_conv_is_scipys_correlation(groups, stride):
    x = RANDOM.normal(size=(2, 9, 13, 4))
    kernel = RANDOM.normal(size=(3, 5, 4 // groups, 6))
    expected = np.zeros((2, 7, 9, 6))
    for image, output, own in np.ndindex(2, 6, 4 // groups):
        channel = own + output // (6 // groups) * (4 // groups)
        expected[image, ..., output] += scipy.signal.correlate2d(
            x[image, ..., channel], kernel[:, :, own, output], mode="valid"
        )
    y = numpy_alexnet.conv(x, kernel, stride, groups)
    np.testing.assert_allclose(y, expected[:, ::stride, ::stride], atol=1e-12)


def test_max_pool_is_scipys_filter():
    x = RANDOM.normal(size=(2, 9, 12, 3))
    expected = scipy.ndimage.maximum_filter(x, (1, 3, 3, 1))[:, 1:-1:2, 1:-1:2]
    np.testing.assert_array_equal(numpy_alexnet.max_pool(x), expected)
    # SciPy's even windows reach one further to the left
    expected = scipy.ndimage.maximum_filter(x, (1, 2, 2, 1))[:, 1::2, 1::2]
    np.testing.assert_array_equal(numpy_alexnet.max_pool(x, 2), expected)


def test_activations_are_numpys():
    x = np.concatenate([RANDOM.normal(size=50), RANDOM.normal(0, 1000, 50), [0.0]])
    np.testing.assert_array_equal(numpy_alexnet.activation(x, "relu"), np.where(x > 0, x, 0))
    np.testing.assert_allclose(numpy_alexnet.activation(x, "tanh"), np.tanh(x), atol=1e-15)


@pytest.mark.parametrize("size", [3, 5])
def test_lrn_is_a_moving_mean_over_channels(size):
    x = RANDOM.normal(0, 10, (2, 3, 4, 8))
    sums = size * scipy.ndimage.uniform_filter1d(x**2, size, mode="constant")
    expected = x / (2 + 0.1 * sums) ** 0.75
    np.testing.assert_allclose(numpy_alexnet.lrn(x, size, 2.0, 0.1, 0.75), expected)


def test_lrn_of_columns_is_that_of_each_alone():
    x = RANDOM.normal(0, 10, (2, 3, 4, 12))
    arguments = (5, 2.0, 0.1, 0.75)
    alone = [numpy_alexnet.lrn(part, *arguments) for part in np.split(x, 3, axis=-1)]
    y = numpy_alexnet.lrn(x, *arguments, columns=3)
    np.testing.assert_array_equal(y, np.concatenate(alone, axis=-1))
    assert np.abs(y - numpy_alexnet.lrn(x, *arguments)).max() > 0.01


@pytest.mark.parametrize("size", [3, 5])
def test_map_norm_is_a_moving_mean_over_the_map(size):
    x = RANDOM.normal(0, 10, (2, 7, 6, 3))
    # Divided by size^2 at the border too: the mean of a window whose outside is zeros.
    means = scipy.ndimage.uniform_filter(x**2, (1, size, size, 1), mode="constant")
    expected = x / (1 + 0.1 * means) ** 0.75
    np.testing.assert_allclose(numpy_alexnet.map_norm(x, size, 1.0, 0.1, 0.75), expected)
