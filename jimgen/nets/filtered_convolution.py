"""A 3x3 convolution after doubling, or before halving, with the filter [1, 3, 3, 1] of `jimgen.nets.resampling`.

The filter commutes with the convolution. So the image is doubled by a transposed convolution of stride two and then
filtered, and is filtered and then halved by a convolution of stride two. Both take a quarter of the products of a
convolution at the higher resolution.
"""

from functools import reduce
from operator import add

import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.nets.convolution import conv, conv_transpose

_TAPS = (1 / 8, 3 / 8, 3 / 8, 1 / 8)


def up_conv3(x: Array, kernel: Array, *, circular: bool = False) -> Array:
    """Doubles both sides and convolves; where no edge is near, `conv(upsample(x), kernel)`.

    Args:
        x: float [b, h, w, c].
        kernel: float [3, 3, c, o], same dtype.
        circular: continue the image beyond its edges by its opposite side; by default, by zeros.
    Returns: [b, 2h, 2w, o].
    """
    kernel = kernel[::-1, ::-1].swapaxes(2, 3)  # as of the convolution of an image with zeros between its pixels
    if circular:
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
        x = conv_transpose(x, kernel, stride=2, padding="VALID")[:, 1:-1, 1:-1]
    else:
        x = conv_transpose(x, kernel, stride=2, padding="VALID")
        x = jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)))
    return 4 * _filtered(x)


def down_conv3(x: Array, kernel: Array) -> Array:
    """Convolves and halves both sides: [b, h, w, c], [3, 3, c, o] -> [b, h / 2, w / 2, o], for even sides."""
    x = _filtered(jnp.pad(x, ((0, 0), (2, 2), (2, 2), (0, 0))))
    return conv(x, kernel, stride=2, padding="VALID")


def _filtered(x: Array) -> Array:
    """[b, h, w, c] -> [b, h - 3, w - 3, c], filtered by [1, 3, 3, 1] / 8 along both axes.

    On a CPU as a product with a band matrix for each axis. XLA computes what comes before shifted sums anew for each
    shift, so that a layer with its gradient takes up to twice as long.
    """
    return lax.platform_dependent(x, cpu=_by_products, default=_by_shifts)


def _by_products(x: Array) -> Array:
    rows, columns = (sum(np.eye(n, n - 3, -i) * tap for i, tap in enumerate(_TAPS)) for n in x.shape[1:3])
    x = jnp.einsum("bhwc,hk->bkwc", x, jnp.asarray(rows, x.dtype))
    return jnp.einsum("bhwc,wk->bhkc", x, jnp.asarray(columns, x.dtype))


def _by_shifts(x: Array) -> Array:
    h, w = x.shape[1] - 3, x.shape[2] - 3
    x = reduce(add, (x[:, i : i + h] * tap for i, tap in enumerate(_TAPS)))
    return reduce(add, (x[:, :, i : i + w] * tap for i, tap in enumerate(_TAPS)))
