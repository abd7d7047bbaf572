"""Modulated convolution: a kernel of its own for each example, by one shared convolution (Karras et al.,
arXiv:1912.04958, section 2.2)."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array, lax

from jimgen.precision import at_least_float32


def modulated(
    convolve: Callable[[Array, Array], Array], x: Array, kernel: Array, styles: Array, *, demodulate: bool = True
) -> Array:
    """Convolves each example with the kernel k s d, where s scales its inputs and d its outputs:

        d_o = 1 / sqrt(sum_ijc (k_ijco s_c)^2 + 1e-8),

    which gives outputs of variance one for inputs of variance one. A convolution is linear and the same everywhere, so
    scaling its inputs and outputs is equal to scaling its kernel, which would take a grouped convolution.

    Args:
        convolve: (x, kernel) -> [b, h', w', o], linear in x and in the kernel.
        x: float [b, h, w, c]; its dtype is that of the convolution.
        kernel: float [i, j, c, o].
        styles: float [b, c].
        demodulate: whether to multiply by d.
    Returns: [b, h', w', o], in the dtype of x.
    """
    kernel, styles = at_least_float32(kernel), at_least_float32(styles)
    y = convolve(x * styles[:, None, None].astype(x.dtype), kernel.astype(x.dtype))
    if not demodulate:
        return y
    squares = jnp.square(styles) @ jnp.square(kernel).sum((0, 1))
    return y * lax.rsqrt(squares + 1e-8)[:, None, None].astype(y.dtype)
