"""Convolutions with doubling or halving in one step, and circular ones."""

import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.nets.resampled_convolution import conv3, conv3_halve, double_conv3, mean_pool, nearest


@pytest.mark.parametrize("circular", [False, True])
def test_resampled_convolutions_equal_their_two_steps(x64, circular):
    x, k = (jnp.asarray(np.random.default_rng(0).standard_normal(s)) for s in ((2, 4, 6, 3), (3, 3, 3, 5)))
    doubled = conv3(nearest(x), k, circular=circular)
    assert doubled.shape == (2, 8, 12, 5)
    np.testing.assert_allclose(double_conv3(x, k, circular=circular), doubled, atol=1e-12)
    np.testing.assert_allclose(conv3_halve(x, k), mean_pool(conv3(x, k)), atol=1e-12)


def test_a_circular_convolution_commutes_with_rolling(x64):
    x, k = (jnp.asarray(np.random.default_rng(0).standard_normal(s)) for s in ((1, 4, 6, 2), (3, 3, 2, 2)))
    rolled = jnp.roll(x, (1, -2), (1, 2))
    np.testing.assert_allclose(
        conv3(rolled, k, circular=True), jnp.roll(conv3(x, k, circular=True), (1, -2), (1, 2)), atol=1e-12
    )
    np.testing.assert_allclose(
        double_conv3(rolled, k, circular=True), jnp.roll(double_conv3(x, k, circular=True), (2, -4), (1, 2)), atol=1e-12
    )
