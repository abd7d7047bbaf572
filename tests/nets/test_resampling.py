"""Resampling by [1, 3, 3, 1]: by hand, against a convolution, circular, and with its derivatives."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import lax

from jimgen.nets.resampling import downsample, upsample


@pytest.fixture(autouse=True)
def float64(x64):
    """Every test here runs in float64."""


def images(*shape, seed=0):
    return jnp.asarray(np.random.default_rng(seed).normal(size=shape))


def by_convolution(x, up: bool):
    """The definition: zeros inserted and the outer product of the filter with itself, or every other pixel kept."""
    taps = np.outer([1, 3, 3, 1], [1, 3, 3, 1]) / (16 if up else 64)
    kernel = jnp.broadcast_to(jnp.asarray(taps)[:, :, None, None], (4, 4, 1, x.shape[3]))
    return lax.conv_general_dilated(
        x,
        kernel,
        (1, 1) if up else (2, 2),
        [(2, 2)] * 2 if up else [(1, 1)] * 2,
        lhs_dilation=(2, 2) if up else (1, 1),
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[3],
    )


@pytest.mark.parametrize(("function", "up"), [(upsample, True), (downsample, False)])
@pytest.mark.parametrize("shape", [(2, 4, 6, 3), (1, 2, 2, 1)])
def test_values_are_those_of_the_convolution(function, up, shape):
    x = images(*shape)
    np.testing.assert_allclose(function(x), by_convolution(x, up), atol=1e-12)


def test_a_row_by_hand():
    """Down: (1 x0 + 3 x1 + 3 x2 + 1 x3) / 8; up: (x0 + 3 x1) / 4 and (3 x1 + x2) / 4; zeros or wrapped beyond."""
    row = jnp.asarray([8.0, 16, 24, 32])
    wide = jnp.tile(row[None, None, :, None], (1, 2, 1, 1))  # two equal rows; circular, they stay as they are
    np.testing.assert_allclose(
        downsample(wide, circular=True)[0, 0, :, 0], np.array([32 + 24 + 48 + 24, 16 + 72 + 96 + 8]) / 8
    )
    np.testing.assert_allclose(downsample(wide)[0, 0, :, 0], np.array([0 + 24 + 48 + 24, 16 + 72 + 96]) / 8 * 6 / 8)
    found = upsample(wide, circular=True)[0, 1, :, 0]
    np.testing.assert_allclose(found, [(32 + 24) / 4, (24 + 16) / 4, 14, 18, 22, 26, 30, (96 + 8) / 4])


@pytest.mark.parametrize("circular", [False, True])
def test_each_is_the_transpose_of_the_other(circular):
    """<up x, y> = 4 <x, down y>."""
    x, y = images(2, 3, 5, 2), images(2, 6, 10, 2, seed=1)
    up, down = upsample(x, circular=circular), downsample(y, circular=circular)
    np.testing.assert_allclose(jnp.vdot(up, y), 4 * jnp.vdot(x, down), rtol=1e-12)


@pytest.mark.parametrize("circular", [False, True])
@pytest.mark.parametrize("function", [upsample, downsample])
def test_gradients_of_first_and_second_order_are_those_of_finite_differences(function, circular):
    x = images(1, 2, 4, 1)

    def score(x):
        return jnp.sum(jnp.sin(function(x, circular=circular)))

    def penalty(x):
        return jnp.sum(jax.grad(score)(x) ** 2)

    for f in (score, penalty):
        f, step = jax.jit(f), 1e-5
        directions = step * jnp.eye(x.size).reshape(-1, *x.shape)
        numerical = [(f(x + d) - f(x - d)) / (2 * step) for d in directions]
        np.testing.assert_allclose(jax.grad(f)(x).ravel(), numerical, rtol=1e-6, atol=1e-8)


def test_circular_resampling_commutes_with_rolls():
    x = images(2, 4, 6, 2)
    up, down = upsample(x, circular=True), downsample(x, circular=True)
    np.testing.assert_allclose(upsample(jnp.roll(x, (1, 2), (1, 2)), circular=True), jnp.roll(up, (2, 4), (1, 2)))
    np.testing.assert_allclose(downsample(jnp.roll(x, (2, 4), (1, 2)), circular=True), jnp.roll(down, (1, 2), (1, 2)))


def test_constant_images_stay_constant():
    """Circular ones everywhere, others away from the edges."""
    x = jnp.ones((1, 8, 8, 1))
    for function in (upsample, downsample):
        np.testing.assert_allclose(function(x, circular=True), 1)
        np.testing.assert_allclose(function(x)[:, 1:-1, 1:-1], 1)


def test_odd_sides_are_not_halved():
    with pytest.raises(ValueError, match="must be even; got 3x4"):
        downsample(images(1, 3, 4, 1))
