"""How well a flow tells an image from x_t, measured on its own samples."""

from typing import NamedTuple

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen import noise
from jimgen.sampling.diffusion import data_of, interpolate
from jimgen.sampling.solvers import Velocity, steps_of

BINS = 16  # of spatial frequency


class Spread(NamedTuple):
    """The error of the denoised image x^ = x_t - t v, at each time but the last.

    It is the same at equal frequency for images of any size. `unevenness` is 1 for an error that is normal and equally
    large everywhere, and sqrt(3) for one in a third of the pixels: how much larger it is there than on average.
    """

    by_frequency: Array  # root mean square of its cosine coefficients, float [steps, BINS], low frequencies first
    unevenness: Array  # sqrt(kurtosis / 3), at least 1, float [steps]

    def colour(self, x: Array) -> Array:
        """An image x float [h, w, c] with its cosine coefficients scaled by the error at one time, [BINS]."""
        height, width, _ = x.shape
        down, across = (jnp.asarray(cosines(side), x.dtype) for side in (height, width))
        scale = self.by_frequency[frequency_bins(height, width)].astype(x.dtype)
        coefficients = jnp.einsum("ih,hwc,jw->ijc", down, x, across)
        return jnp.einsum("ih,ijc,jw->hwc", down, coefficients * scale[..., None], across)


def white_spread(times: Array | np.ndarray, like: Array) -> Spread:
    """The spread of the exact flow of images ~ N(0, I), t / sqrt(t^2 + (1 - t)^2), in the dtype of `like`."""
    t, _ = steps_of(times, like)
    error = t / jnp.sqrt(jnp.square(t) + jnp.square(1 - t))
    return Spread(jnp.broadcast_to(error[:, None], (t.size, BINS)), jnp.ones_like(t))


def spread_of(velocity: Velocity, images: Array, times: Array | np.ndarray, key: Array) -> Spread:
    """The spread of a flow, from the mean squared error of x^ over samples of the flow at each time.

    Args:
        velocity: see the solvers; of n images.
        images: samples of the flow, float [n, h, w, c].
        times: see the solvers; the last is left out.
        key: a PRNG key.
    """
    n, height, width, _ = images.shape
    eps = noise.normal(key, jnp.arange(n, dtype=jnp.int32), images.shape[1:]).astype(images.dtype)
    down, across = (jnp.asarray(cosines(side), images.dtype) for side in (height, width))
    bins = frequency_bins(height, width).reshape(-1)
    counts = np.bincount(bins, minlength=BINS)
    filled = np.flatnonzero(counts)
    nearest = filled[np.abs(np.arange(BINS)[:, None] - filled).argmin(1)]  # small images leave bins empty

    def measure(t: Array) -> Spread:
        x = interpolate(images, eps, t)
        error = data_of(x, velocity(x, t), t) - images
        power = jnp.square(jnp.einsum("ih,nhwc,jw->nijc", down, error, across)).mean((0, 3)).reshape(-1)
        sums = jnp.zeros(BINS, power.dtype).at[bins].add(power)
        squared = jnp.square(error).mean()
        uneven = jnp.sqrt(jnp.square(jnp.square(error)).mean() / 3) / jnp.maximum(squared, 1e-12)
        return Spread(jnp.sqrt(sums / np.maximum(counts, 1))[nearest], jnp.maximum(uneven, 1))

    return lax.map(measure, steps_of(times, images)[0])


def cosines(side: int) -> np.ndarray:
    """The orthonormal cosine transform (DCT-II) as a matrix, float64 [side, side]: a row for each frequency.

    Products with it take a quarter of the time of `jax.scipy.fft.dctn` on a CPU, at 32 and 64 pixels.
    """
    frequency, place = np.arange(side)[:, None], np.arange(side)[None]
    rows = np.sqrt(2 / side) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * side))
    rows[0] /= np.sqrt(2)
    return rows


def frequency_bins(height: int, width: int) -> np.ndarray:
    """The bin of each cosine coefficient by its distance from 0, of frequencies from 0 to 1: int [h, w]."""
    distance = np.hypot(np.arange(height)[:, None] / height, np.arange(width)[None] / width)
    return np.minimum((distance * BINS).astype(int), BINS - 1)
