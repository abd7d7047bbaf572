"""Similarity of an image to its original, one value per image: PSNR, SSIM, MS-SSIM, compiled.

Images are float [n, h, w, c], in any range of length `data_range`: 2 for [-1, 1], 1 for [0, 1], 255 for 8-bit values.
uint8 raises an error, because its differences wrap around; cast it to float32 first. 16-bit floats are computed in
float32. Gradients are finite everywhere, and zero where the value has a kink or is infinite.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array
from jax.nn import relu

_WINDOW = 11  # width of the Gaussian window of SSIM in pixels
_SIGMA = 1.5  # its standard deviation in pixels
_SCALE_WEIGHTS = (0.0448, 0.2856, 0.3001, 0.2363, 0.1333)


@partial(jax.jit, static_argnames="data_range")
def psnr(x: Array, y: Array, *, data_range: float) -> Array:
    """Peak signal-to-noise ratio, 10 log10(data_range^2 / mean (x - y)^2).

    Args:
        x, y: float [n, h, w, c].
        data_range: > 0.
    Returns: [n] decibels; infinite for equal images.
    Raises:
        ValueError: for different shapes, dtypes that are not floating point, or data_range <= 0.
    """
    x, y = _checked(x, y, data_range)
    error = jnp.mean(jnp.square(x - y), axis=(1, 2, 3))
    differ = error > 0
    # log10 must not be given zeros, even in the branch that where() discards: inf * 0 is NaN in the backward pass.
    return jnp.where(differ, 10 * jnp.log10(data_range**2 / jnp.where(differ, error, 1)), jnp.inf)


@partial(jax.jit, static_argnames="data_range")
def ssim(x: Array, y: Array, *, data_range: float) -> Array:
    """Structural similarity: mean over pixels and channels of l(x, y) cs(x, y) in a Gaussian window.

    l = (2 m_x m_y + C1) / (m_x^2 + m_y^2 + C1) and cs = (2 s_xy + C2) / (s_x^2 + s_y^2 + C2), with local means m and
    (co)variances s in an 11x11 window of standard deviation 1.5, without padding, C1 = (.01 R)^2 and C2 = (.03 R)^2.

    Args:
        x, y: float [n, h, w, c], h and w at least 11.
        data_range: R > 0.
    Returns: [n], from -1 to 1; 1 for equal images.
    Raises:
        ValueError: see `psnr`; also for smaller images.
    References:
        Wang et al., Image Quality Assessment: From Error Visibility to Structural Similarity, 2004, equation 13.
        Channels are averaged, not converted to grey.
    """
    x, y = _checked(x, y, data_range)
    if min(x.shape[1:3]) < _WINDOW:
        raise ValueError(f"the window of SSIM needs {_WINDOW} pixels each way, got images {list(x.shape)}")
    luminance, structure = _similarities(x, y, data_range)
    return jnp.mean(luminance * structure, axis=(1, 2, 3))


@partial(jax.jit, static_argnames="data_range")
def ms_ssim(x: Array, y: Array, *, data_range: float) -> Array:
    """SSIM over five scales, each half of the previous: prod_s cs_s^w_s, times l at the coarsest scale.

    For each channel, l cs and cs are averaged over pixels and clipped at 0 before the powers; then channels are
    averaged. Scales are 2x2 means; an odd last row or column is repeated.

    Args:
        x, y: float [n, h, w, c], h and w more than 160, so that the window fits into the coarsest scale.
        data_range: > 0.
    Returns: [n], from 0 to 1; 1 for equal images.
    Raises:
        ValueError: see `psnr`; also for images of at most 160 pixels on a side.
    References:
        Wang, Simoncelli and Bovik, Multi-scale Structural Similarity for Image Quality Assessment, 2003, equation 7.
    """
    x, y = _checked(x, y, data_range)
    if min(x.shape[1:3]) <= 160:
        raise ValueError(f"MS-SSIM is defined above 160 pixels each way, got images {list(x.shape)}: use ssim")
    product = jnp.ones((x.shape[0], x.shape[3]), x.dtype)
    for scale, weight in enumerate(_SCALE_WEIGHTS):
        luminance, structure = _similarities(x, y, data_range)
        coarsest = scale == len(_SCALE_WEIGHTS) - 1
        similarity = luminance * structure if coarsest else structure
        product *= relu(jnp.mean(similarity, axis=(1, 2))) ** weight
        x, y = _halve(x), _halve(y)
    return jnp.mean(product, axis=1)


def _similarities(x: Array, y: Array, data_range: float) -> tuple[Array, Array]:
    """(l, cs), each [n, h - 10, w - 10, c]."""
    c1, c2 = (0.01 * data_range) ** 2, (0.03 * data_range) ** 2
    mean_x, mean_y, square, product = jnp.split(_blur(jnp.concatenate([x, y, x * x + y * y, x * y])), 4)
    variances = square - mean_x**2 - mean_y**2
    covariance = product - mean_x * mean_y
    luminance = (2 * mean_x * mean_y + c1) / (mean_x**2 + mean_y**2 + c1)
    return luminance, (2 * covariance + c2) / (variances + c2)


def _blur(x: Array) -> Array:
    """Gaussian means without padding, by shifted sums, because depthwise convolutions are slow in XLA on CPU."""
    offsets = jnp.arange(_WINDOW, dtype=x.dtype) - _WINDOW // 2
    weights = jnp.exp(-jnp.square(offsets / _SIGMA) / 2)
    weights /= weights.sum()
    height, width = x.shape[1] - _WINDOW + 1, x.shape[2] - _WINDOW + 1
    rows = sum((weights[i] * x[:, i : i + height] for i in range(_WINDOW)), jnp.zeros((), x.dtype))
    return sum((weights[i] * rows[:, :, i : i + width] for i in range(_WINDOW)), jnp.zeros((), x.dtype))


def _halve(x: Array) -> Array:
    x = jnp.pad(x, ((0, 0), (0, x.shape[1] % 2), (0, x.shape[2] % 2), (0, 0)), mode="edge")
    n, height, width, channels = x.shape
    return x.reshape(n, height // 2, 2, width // 2, 2, channels).mean(axis=(2, 4))


def _checked(x: Array, y: Array, data_range: float) -> tuple[Array, Array]:
    if x.ndim != 4 or x.shape != y.shape:
        raise ValueError(f"expected two batches of images [n, h, w, c], got {list(x.shape)} and {list(y.shape)}")
    if not (jnp.issubdtype(x.dtype, jnp.floating) and jnp.issubdtype(y.dtype, jnp.floating)):
        raise ValueError(f"expected floating point images, got {x.dtype} and {y.dtype}: cast them to float32")
    if not data_range > 0:
        raise ValueError(f"expected data_range > 0, got {data_range}")
    precise = jnp.promote_types(jnp.promote_types(x.dtype, y.dtype), jnp.float32)
    return x.astype(precise), y.astype(precise)
