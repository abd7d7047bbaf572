"""Computed tomography with parallel beams: the Radon transform, and filtered back-projection."""

import math

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.apps.degradations import Operator, adjoint

MOST_WEIGHTS = 2**25  # of a transform that is kept as a matrix: 128 MiB


def num_detectors(height: int, width: int) -> int:
    """Detectors that see the whole image from every side."""
    return math.ceil(math.hypot(height, width))


def radon(angles: np.ndarray) -> Operator:
    """Line integrals of images: [n, h, w, c] -> [n, views, detectors, c], in pixels times values.

    Detectors lie one pixel apart on a line through the middle, `num_detectors` of them. At 0 degrees they integrate
    down the columns; the view turns as scikit-image's `radon` does. Pixel [h // 2, w // 2] is the centre, and all that
    is outside an image is 0. Rays are sampled at every pixel, bilinearly.

    Args:
        angles: degrees [views].
    References: Kak and Slaney, Principles of Computerized Tomographic Imaging, 1988, section 3.1.
    """
    angles = np.asarray(angles, np.float64)
    if angles.ndim != 1 or not angles.size or not np.isfinite(angles).all():
        raise ValueError(f"expected angles in degrees [views], at least one, got {list(angles.shape)}")

    def operator(images: Array) -> Array:
        n, h, w, c = images.shape
        detectors = num_detectors(h, w)
        if angles.size * detectors * h * w <= MOST_WEIGHTS:
            matrix = jnp.asarray(_matrix(angles, h, w), images.dtype)
            return jnp.einsum("rp,npc->nrc", matrix, images.reshape(n, h * w, c)).reshape(n, -1, detectors, c)
        rows, columns = (jnp.asarray(at, images.dtype) for at in _rays(angles, h, w))
        return jax.lax.map(lambda at: _integrals(images, *at), (rows, columns)).transpose(1, 0, 2, 3)

    return operator


def filtered_back_projection(sinogram: Array, angles: np.ndarray, size: tuple[int, int]) -> Array:
    """Images [n, h, w, c] whose transform is about the sinogram [n, views, detectors, c], by a ramp filter.

    Args:
        sinogram: of `radon`.
        angles: degrees [views], evenly spaced over 180.
        size: (h, w).
    Returns: pi / (2 views) R^T (|k| * sinogram), with R^T the adjoint of `radon`.
    References: Kak and Slaney, 1988, equations 3.61 (the filter in space) and 3.34.
    """
    n, views, detectors, c = sinogram.shape
    length = 2 ** math.ceil(math.log2(max(64, 2 * detectors)))
    offset = np.fft.fftfreq(length, 1 / length)
    kernel = np.where(offset % 2 == 1, -1 / (np.pi * np.where(offset == 0, 1, offset)) ** 2, 0)
    kernel[0] = 0.25
    ramp = 2 * np.fft.fft(kernel).real
    spectrum = jnp.fft.fft(sinogram, n=length, axis=2) * jnp.asarray(ramp, sinogram.dtype)[None, None, :, None]
    filtered = jnp.fft.ifft(spectrum, axis=2).real[:, :, :detectors].astype(sinogram.dtype)
    back = adjoint(radon(angles), (n, *size, c), sinogram.dtype)
    return back(filtered) * (math.pi / (2 * views))


def _rays(angles: np.ndarray, h: int, w: int) -> tuple[np.ndarray, np.ndarray]:
    """Row and column of each point of each ray, [views, detectors, points] each."""
    detectors = num_detectors(h, w)
    along = np.arange(detectors) - detectors // 2
    s, t = along[:, None], along[None]  # the detector, and the place on its ray
    cos, sin = (f(np.radians(angles))[:, None, None] for f in (np.cos, np.sin))
    return h // 2 + t * cos - s * sin, w // 2 + t * sin + s * cos


def _matrix(angles: np.ndarray, h: int, w: int) -> np.ndarray:
    """The transform as weights float32 [views * detectors, h * w]."""
    rows, columns = (at.reshape(at.shape[0] * at.shape[1], -1) for at in _rays(angles, h, w))
    top, left = np.floor(rows).astype(int), np.floor(columns).astype(int)
    matrix = np.zeros((len(rows), h * w), np.float32)
    ray = np.broadcast_to(np.arange(len(rows))[:, None], rows.shape)
    for i, j in ((0, 0), (0, 1), (1, 0), (1, 1)):
        y, x = top + i, left + j
        weight = (1 - np.abs(rows - y)) * (1 - np.abs(columns - x))
        inside = (y >= 0) & (y < h) & (x >= 0) & (x < w)
        np.add.at(matrix, (ray[inside], (y * w + x)[inside]), weight[inside])
    return matrix


def _integrals(images: Array, rows: Array, columns: Array) -> Array:
    """Sums over the points [detectors, points] of one view: [n, detectors, c] of images [n, h, w, c]."""
    at = lambda image: jax.scipy.ndimage.map_coordinates(image, [rows, columns], order=1, mode="constant")  # noqa: E731
    return jax.vmap(jax.vmap(at, 2, 2))(images).sum(2)
