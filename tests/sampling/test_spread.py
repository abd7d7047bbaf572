"""The spread of flows whose errors are known."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.fft

from jimgen.sampling.diffusion import uniform_times
from jimgen.sampling.spread import BINS, Spread, cosines, spread_of, white_spread

TIMES = uniform_times(4)


def normal_velocity(s):
    """The exact velocity of images ~ N(0, s^2 I)."""
    return lambda x, t: (t - (1 - t) * s**2) / ((1 - t) ** 2 * s**2 + t**2) * x


@pytest.mark.parametrize("s", [1.0, 0.3])
def test_the_error_of_normal_images_is_known_and_even(s):
    images = s * jax.random.normal(jax.random.key(0), (64, 8, 12, 2))
    found = spread_of(normal_velocity(s), images, TIMES, jax.random.key(1))
    t = np.asarray(TIMES[:-1])
    expected = s * t / np.sqrt(t**2 + s**2 * (1 - t) ** 2)
    np.testing.assert_allclose(found.by_frequency, np.repeat(expected[:, None], BINS, 1), rtol=0.12)
    np.testing.assert_allclose(found.unevenness, 1, atol=0.05)
    if s == 1:
        white = white_spread(TIMES, images)
        np.testing.assert_allclose(white.by_frequency[:, 0], expected, rtol=1e-6)


def test_an_error_in_a_third_of_the_pixels_is_as_uneven_as_that():
    images = jax.random.normal(jax.random.key(0), (512, 6, 6, 1)) * (jnp.arange(6) < 2)[None, None, :, None]
    found = spread_of(lambda x, t: x / t, images, TIMES[:2], jax.random.key(1))  # denoises to 0
    np.testing.assert_allclose(found.unevenness, np.sqrt(3), rtol=0.05)


def test_noise_gets_the_spectrum_of_the_error():
    low = Spread((jnp.arange(BINS) == 0).astype(jnp.float32), jnp.float32(1))
    x = jax.random.normal(jax.random.key(0), (8, 12, 1))
    np.testing.assert_allclose(low.colour(x), jnp.full_like(x, x.mean()), atol=1e-5)
    even = Spread(jnp.full(BINS, 2.0), jnp.float32(1))
    np.testing.assert_allclose(even.colour(x), 2 * x, atol=1e-5)


def test_cosines_are_those_of_scipy():
    np.testing.assert_allclose(cosines(7), scipy.fft.dct(np.eye(7), axis=0, norm="ortho"), atol=1e-12)
