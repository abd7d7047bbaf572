"""A 3x3 convolution after doubling, or before halving, with the filter [1, 3, 3, 1] of `jimgen.nets.resampling`.

The filter commutes with the convolution. So the image is doubled by a transposed convolution of stride two and then
filtered, and is filtered and then halved by a convolution of stride two. Both take a quarter of the products of a
convolution at the higher resolution.
"""

import jax.numpy as jnp
from jax import Array

from jimgen.nets.convolution import conv, conv_transpose


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
    """[b, h, w, c] -> [b, h - 3, w - 3, c], filtered by [1, 3, 3, 1] / 8 along both axes."""
    h, w = x.shape[1] - 3, x.shape[2] - 3
    x = (x[:, :h] + 3 * x[:, 1 : h + 1] + 3 * x[:, 2 : h + 2] + x[:, 3:]) / 8
    return (x[:, :, :w] + 3 * x[:, :, 1 : w + 1] + 3 * x[:, :, 2 : w + 2] + x[:, :, 3:]) / 8
