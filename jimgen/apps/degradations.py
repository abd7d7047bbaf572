"""Degradations of images: linear operators from images to what is observed of them.

An operator maps images float [n, h, w, c] to observations float [n, ...], each image by itself. It is a plain JAX
function; `adjoint` and `require_linear` work for any. Radon transforms are in tomography.py.
"""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.data.fitting import LUMA
from jimgen.noise import normal

Operator = Callable[[Array], Array]


def identity(images: Array) -> Array:
    """The images themselves, for noise alone."""
    return images


def masked(known: Array | np.ndarray) -> Operator:
    """Known pixels, and 0 for the others: [n, h, w, c] -> [n, h, w, c].

    Args:
        known: bool [h, w], True where a pixel is observed.
    """
    weight = np.asarray(known, np.float32)[None, ..., None]

    def operator(images: Array) -> Array:
        if images.shape[1:3] != weight.shape[1:3]:
            raise ValueError(f"the mask is {list(weight.shape[1:3])}, images are {list(images.shape[1:3])}")
        return images * weight.astype(images.dtype)

    return operator


def box_downsampled(factor: int) -> Operator:
    """Means over squares of `factor` pixels a side: [n, h, w, c] -> [n, h / factor, w / factor, c]."""

    def operator(images: Array) -> Array:
        n, h, w, c = images.shape
        _require_divisible((h, w), factor)
        return images.reshape(n, h // factor, factor, w // factor, factor, c).mean((2, 4))

    return operator


def bicubic_downsampled(factor: int) -> Operator:
    """Keys' cubic filter (a = -0.5), widened by `factor` against aliasing: [n, h, w, c] -> [n, h / f, w / f, c]."""

    def operator(images: Array) -> Array:
        n, h, w, c = images.shape
        _require_divisible((h, w), factor)
        return jax.image.resize(images, (n, h // factor, w // factor, c), "cubic", antialias=True)

    return operator


def gaussian_blur(std: float) -> Operator:
    """A Gaussian window of standard deviation `std` pixels; at the border it counts only pixels of the image."""
    if not 0 < std < math.inf:
        raise ValueError(f"expected a standard deviation > 0, got {std}")

    def operator(images: Array) -> Array:
        down, across = (jnp.asarray(_gaussian_rows(side, std), images.dtype) for side in images.shape[1:3])
        return jnp.einsum("ij,kl,njlc->nikc", down, across, images)

    return operator


def motion_blur(length: float, angle: float = 0.0) -> Operator:
    """The mean along a straight path of `length` pixels about each pixel, at `angle` degrees from the right upwards.

    The path is sampled twice a pixel by bilinear interpolation. Outside an image its border is repeated.
    """
    if not 0 < length < math.inf:
        raise ValueError(f"expected a length > 0, got {length}")
    places = np.linspace(-length / 2, length / 2, 2 * math.ceil(length) + 1)
    down, right = -math.sin(math.radians(angle)), math.cos(math.radians(angle))
    margin = math.ceil(length / 2) + 1

    def operator(images: Array) -> Array:
        padded = jnp.pad(images, ((0, 0), (margin, margin), (margin, margin), (0, 0)), mode="edge")
        shifted = [_shifted(padded, margin + at * down, margin + at * right, images.shape) for at in places]
        return sum(shifted[1:], shifted[0]) / len(places)

    return operator


def grey(images: Array) -> Array:
    """Luma of colours, by BT.601: [n, h, w, 3] -> [n, h, w, 1]."""
    if images.shape[-1] != 3:
        raise ValueError(f"expected images of 3 colours, got {images.shape[-1]} channels")
    return images @ jnp.asarray(LUMA, images.dtype)[:, None]


def fourier(kept: Array | np.ndarray) -> Operator:
    """Some coefficients of the unitary 2-D Fourier transform, as an MRI scanner measures them.

    Args:
        kept: bool [h, w] in the order of `jnp.fft.fft2`, with the mean at [0, 0]; True where it is measured.
    Returns: an operator to [n, h, w, c, 2], real and imaginary parts, 0 where not measured.
    """
    weight = np.asarray(kept, np.float32)[None, ..., None, None]

    def operator(images: Array) -> Array:
        if images.shape[1:3] != weight.shape[1:3]:
            raise ValueError(f"the mask is {list(weight.shape[1:3])}, images are {list(images.shape[1:3])}")
        coefficients = jnp.fft.fft2(images, axes=(1, 2), norm="ortho")
        return jnp.stack([coefficients.real, coefficients.imag], axis=-1) * weight.astype(images.dtype)

    return operator


def adjoint(operator: Operator, shape: tuple[int, ...], dtype: jnp.dtype | type = jnp.float32) -> Operator:
    """H^T with <H a, b> = <a, H^T b>, of an operator H on images of `shape` [n, h, w, c]."""
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct(shape, dtype))
    return lambda observed: transpose(observed)[0]


def require_linear(operator: Operator, shape: tuple[int, ...], key: Array) -> None:
    """Raises ValueError unless H(2 a - 3 b) = 2 H(a) - 3 H(b), to 1e-4, for random images of `shape` [n, h, w, c]."""
    a, b = (normal(jax.random.fold_in(key, i), jnp.arange(shape[0]), shape[1:]) for i in range(2))
    combined, apart = operator(2 * a - 3 * b), 2 * operator(a) - 3 * operator(b)
    error = jnp.linalg.norm((combined - apart).ravel()) / (1e-12 + jnp.linalg.norm(apart.ravel()))
    if not float(error) < 1e-4:
        raise ValueError(
            f"the operator is not linear: H(2 a - 3 b) and 2 H(a) - 3 H(b) differ by {float(error):.1%}. Restoration "
            "takes linear operators; clipping, rounding and JPEG are not"
        )


def _require_divisible(size: tuple[int, int], factor: int) -> None:
    if factor < 1 or size[0] % factor or size[1] % factor:
        raise ValueError(f"a factor of {factor} does not divide images of {size[0]}x{size[1]}")


def _gaussian_rows(side: int, std: float) -> np.ndarray:
    """The weights [side, side] of a Gaussian window about each of `side` pixels; rows sum to 1."""
    offset = np.arange(side)
    weights = np.exp(-(((offset[:, None] - offset) / std) ** 2) / 2)
    return weights / weights.sum(1, keepdims=True)


def _shifted(padded: Array, top: float, left: float, shape: tuple[int, ...]) -> Array:
    """The part [n, h, w, c] of a padded image whose upper left corner lies between pixels, bilinearly."""
    (y, v), (x, u) = ((math.floor(at), at - math.floor(at)) for at in (top, left))
    part = lambda i, j: padded[:, y + i : y + i + shape[1], x + j : x + j + shape[2]]  # noqa: E731
    above = (1 - u) * part(0, 0) + u * part(0, 1)
    below = (1 - u) * part(1, 0) + u * part(1, 1)
    return (1 - v) * above + v * below
