"""Resampling by the filter [1, 3, 3, 1]: anti-aliased doubling and halving of images (Zhang, arXiv:1904.11486).

Both are a few shifted sums that XLA fuses into one pass. Doubling is four times the transpose of halving, also on
circular images, so the gradient of each is the other: derivatives of every order stay as fast. `jax.custom_vjp` says
so, and forward mode (`jax.jvp`) is therefore not supported. docs/benchmarks.md compares other forms.
"""

from functools import partial

import jax
import jax.numpy as jnp
from jax import Array


def upsample(x: Array, *, circular: bool = False) -> Array:
    """Doubles both sides: zeros are inserted between pixels, and the result is filtered by [1, 3, 3, 1] / 4 per axis.

    The inner pixels of a constant image keep their value.

    Args:
        x: float [b, h, w, c].
        circular: continue the image beyond its edges by its opposite side; by default, by zeros.
    Returns: [b, 2h, 2w, c].
    """
    return _upsample(circular, x)


def downsample(x: Array, *, circular: bool = False) -> Array:
    """Halves both sides: the image is filtered by [1, 3, 3, 1] / 8 per axis, and every other pixel is kept.

    Args:
        x: float [b, h, w, c].
        circular: as of `upsample`.
    Returns: [b, h / 2, w / 2, c].
    Raises:
        ValueError: an odd height or width.
    """
    if x.shape[1] % 2 or x.shape[2] % 2:
        raise ValueError(f"downsample halves height and width, so both must be even; got {x.shape[1]}x{x.shape[2]}")
    return _downsample(circular, x)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _upsample(circular: bool, x: Array) -> Array:
    b, h, w, c = x.shape
    x = _padded(x, (1, 2), circular)
    top, middle, bottom = (_part(x, 1, i, h) for i in range(3))
    rows = []
    for row in (top + 3 * middle, 3 * middle + bottom):
        left, centre, right = (_part(row, 2, i, w) for i in range(3))
        rows.append(jnp.stack([left + 3 * centre, 3 * centre + right], axis=3) / 16)
    return jnp.stack(rows, axis=2).reshape(b, 2 * h, 2 * w, c)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _downsample(circular: bool, x: Array) -> Array:
    for axis in (1, 2):
        parts = [_part(_padded(x, (axis,), circular), axis, i, x.shape[axis] // 2, stride=2) for i in range(4)]
        x = (parts[0] + 3 * parts[1] + 3 * parts[2] + parts[3]) / 8
    return x


def _upsample_transposed(circular: bool, _: None, y: Array) -> tuple[Array]:
    return (jnp.multiply(_downsample(circular, y), 4),)


def _downsample_transposed(circular: bool, _: None, y: Array) -> tuple[Array]:
    return (jnp.divide(_upsample(circular, y), 4),)


_upsample.defvjp(lambda circular, x: (_upsample(circular, x), None), _upsample_transposed)
_downsample.defvjp(lambda circular, x: (_downsample(circular, x), None), _downsample_transposed)


def _padded(x: Array, axes: tuple[int, ...], circular: bool) -> Array:
    """x with one more pixel at each end of some axes."""
    pads = [(1, 1) if i in axes else (0, 0) for i in range(x.ndim)]
    return jnp.pad(x, pads, mode="wrap" if circular else "constant")


def _part(x: Array, axis: int, start: int, count: int, stride: int = 1) -> Array:
    """`count` pixels of an axis, from `start` on."""
    index = [slice(None)] * x.ndim
    index[axis] = slice(start, start + stride * (count - 1) + 1, stride)
    return x[tuple(index)]
