"""A 3x3 convolution after nearest-neighbour doubling, or before halving by means, as one convolution each.

Both are linear and commute with shifts by two pixels, so each is a convolution with a 4x4 kernel and stride two, or the
transpose of one. The 4x4 kernel is the sum of the 3x3 kernel's four shifts by up to one pixel. This takes 16 products
for four pixels in place of 36, and 9 where `jimgen.nets.convolution` uses Winograd's algorithm.
"""

import jax.numpy as jnp
from jax import Array

from jimgen.nets.convolution import conv, conv_transpose


def conv3(x: Array, kernel: Array, *, circular: bool = False) -> Array:
    """3x3 convolution of stride one that keeps the size.

    Args:
        x: float [b, h, w, c].
        kernel: float [3, 3, c, o], same dtype.
        circular: continue the image beyond its edges by its opposite side; by default, by zeros.
    Returns: [b, h, w, o].
    """
    return conv(_wrapped(x), kernel, padding="VALID") if circular else conv(x, kernel, padding=1)


def double_conv3(x: Array, kernel: Array, *, circular: bool = False) -> Array:
    """`conv3(nearest(x), kernel)`: [b, h, w, c] -> [b, 2h, 2w, o]; arguments as of `conv3`."""
    kernel = _spread(kernel[::-1, ::-1].swapaxes(2, 3))
    if circular:  # one pixel more on each side, which makes two pixels of the result that are cut off
        return conv_transpose(_wrapped(x), kernel, stride=2, padding=3)
    return conv_transpose(x, kernel, stride=2, padding=1)


def conv3_halve(x: Array, kernel: Array) -> Array:
    """`mean_pool(conv3(x, kernel))`: [b, h, w, c] -> [b, h / 2, w / 2, o], for even sides."""
    return conv(x, _spread(kernel) / 4, stride=2, padding=1)


def nearest(x: Array) -> Array:
    """Doubles both sides by repeating each pixel: [b, h, w, c] -> [b, 2h, 2w, c]."""
    b, h, w, c = x.shape
    return jnp.broadcast_to(x[:, :, None, :, None], (b, h, 2, w, 2, c)).reshape(b, 2 * h, 2 * w, c)


def mean_pool(x: Array) -> Array:
    """Halves both sides by means of 2x2 pixels: [b, h, w, c] -> [b, h / 2, w / 2, c], for even sides."""
    b, h, w, c = x.shape
    return x.reshape(b, h // 2, 2, w // 2, 2, c).mean((2, 4))


def _spread(kernel: Array) -> Array:
    """The sum of the four shifts of a kernel by zero or one pixel along both axes: [3, 3, ...] -> [4, 4, ...]."""
    for axis in (0, 1):
        pads = [[(0, 0)] * kernel.ndim for _ in range(2)]
        pads[0][axis], pads[1][axis] = (0, 1), (1, 0)
        kernel = jnp.pad(kernel, pads[0]) + jnp.pad(kernel, pads[1])
    return kernel


def _wrapped(x: Array) -> Array:
    """x with one more pixel on each side, from the opposite side."""
    return jnp.pad(x, ((0, 0), (1, 1), (1, 1), (0, 0)), mode="wrap")
