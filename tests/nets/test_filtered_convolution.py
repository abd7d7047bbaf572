"""Convolutions with doubling and halving by [1, 3, 3, 1]: equal to their two steps."""

import jax.numpy as jnp
import numpy as np

from jimgen.nets.filtered_convolution import _by_products, _by_shifts, down_conv3, up_conv3
from jimgen.nets.resampled_convolution import conv3
from jimgen.nets.resampling import downsample, upsample


def arrays(*shapes):
    return [jnp.asarray(np.random.default_rng(i).standard_normal(shape)) for i, shape in enumerate(shapes)]


def test_doubling_first_and_convolving_first_are_equal_without_edges(x64):
    x, kernel = arrays((2, 4, 6, 3), (3, 3, 3, 5))
    expected = conv3(upsample(x, circular=True), kernel, circular=True)
    np.testing.assert_allclose(up_conv3(x, kernel, circular=True), expected, atol=1e-12)
    found, expected = up_conv3(x, kernel), conv3(upsample(x), kernel)
    assert found.shape == (2, 8, 12, 5)
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-12)


def test_halving_filters_before_it_drops_pixels(x64):
    """Within, a convolution at the full size and then `downsample`; a constant stays constant."""
    x, kernel = arrays((2, 8, 12, 3), (3, 3, 3, 5))
    found, expected = down_conv3(x, kernel), downsample(conv3(x, kernel))
    assert found.shape == (2, 4, 6, 5)
    np.testing.assert_allclose(found[:, 1:-1, 1:-1], expected[:, 1:-1, 1:-1], atol=1e-12)


def test_both_forms_of_the_filter_are_equal(x64):
    (x,) = arrays((2, 5, 8, 3))
    found = _by_products(x)
    assert found.shape == (2, 2, 5, 3)
    np.testing.assert_allclose(found, _by_shifts(x), atol=1e-12)
    one = _by_shifts(jnp.zeros((1, 7, 7, 1)).at[0, 3, 3, 0].set(1.0))[0, :, :, 0]
    np.testing.assert_allclose(one, np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / 64, atol=1e-12)
