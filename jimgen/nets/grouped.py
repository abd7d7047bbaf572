"""Grouped convolution of stride one, behind one function: the form that is fastest on each platform.

Group n of the output channels sees group n of the input channels only. As in `jimgen.nets.convolution`, the sum over
all indices

    S(x, k, y) = sum x[b, u + i - p, v + j - p, n a + c] k[i, j, c, n m + o] y[b, u, v, n m + o]

is linear in each argument, and its partial gradients form a family closed under differentiation: C = dS/dy is the
convolution, W = dS/dk the gradient of the kernel, and dS/dx is C again, with the kernel flipped and transposed within
each group. `jax.custom_vjp` says so; forward mode (`jax.jvp`) is not supported.

Accelerators use the native convolution. XLA on CPU has no fast path for its gradients (100 times slower than dense);
there, each group is a dense convolution by itself. Small or many groups are merged into larger ones, with zeros between
the groups: they cost less than more convolutions do. docs/benchmarks.md compares other forms.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.nets.convolution import Padding, conv, resolve_padding, wrap

_NHWC = ("NHWC", "HWIO", "NHWC")
_FEWEST_CHANNELS, _MOST_PIECES = 16, 16  # of a dense convolution; of a grouped one


class _Geometry(NamedTuple):
    """The static parameters of S; hashable for jit."""

    groups: int
    kernel: tuple[int, int]
    padding: tuple[tuple[int, int], tuple[int, int]]  # (before, after) of each spatial axis of x


def grouped_conv(x: Array, kernel: Array, groups: int, *, padding: Padding = "SAME", circular: bool = False) -> Array:
    """Grouped convolution of stride one; equal to `lax.conv_general_dilated(..., feature_group_count=groups)`.

    Args:
        x: float [b, h, w, c], any float dtype.
        kernel: float [i, j, c / groups, o], same dtype.
        groups: divides c and o; 1 is `convolution.conv`.
        padding: "SAME", "VALID", one number for all sides, or ((top, bottom), (left, right)).
        circular: the padding continues the image by its opposite side; by default, by zeros.
    Returns: [b, h + top + bottom - i + 1, w + left + right - j + 1, o].
    Raises:
        ValueError: for wrong ranks or channels, or a kernel larger than the padded image.
    """
    if groups == 1:
        return conv(x, kernel, padding=padding, circular=circular)
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != groups * kernel.shape[2] or kernel.shape[3] % groups:
        raise ValueError(
            f"grouped_conv takes x [b, h, w, c] and kernel [i, j, c / groups, o] with o a multiple of the {groups} "
            f"groups, not {x.shape} and {kernel.shape}"
        )
    size = kernel.shape[0], kernel.shape[1]
    pads = resolve_padding(padding, x.shape[1:3], size, (1, 1))
    if circular:
        x, pads = wrap(x, pads), ((0, 0), (0, 0))
    if any(side + sum(pad) < length for side, pad, length in zip(x.shape[1:3], pads, size, strict=True)):
        raise ValueError(f"grouped_conv: a kernel of {size} does not fit into {x.shape[1:3]} padded by {pads}")
    return _c(_Geometry(groups, size, pads), x, kernel)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _c(g: _Geometry, x: Array, k: Array) -> Array:
    return lax.platform_dependent(x, k, cpu=partial(_c_cpu, g), default=partial(_c_native, g))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _w(g: _Geometry, x: Array, y: Array) -> Array:
    return lax.platform_dependent(x, y, cpu=partial(_w_by, _c_cpu, g), default=partial(_w_by, _c_native, g))


def _t(g: _Geometry, y: Array, k: Array) -> Array:
    """dS/dx, the transpose of C in x."""
    pads = tuple((n - 1 - before, n - 1 - after) for n, (before, after) in zip(g.kernel, g.padding, strict=True))
    i, j, a, o = k.shape
    k = k[::-1, ::-1].reshape(i, j, a, g.groups, o // g.groups).transpose(0, 1, 4, 3, 2)
    return _c(g._replace(padding=pads), y, k.reshape(i, j, o // g.groups, g.groups * a))


_c.defvjp(lambda g, x, k: (_c(g, x, k), (x, k)), lambda g, xk, y: (_t(g, y, xk[1]), _w(g, xk[0], y)))
_w.defvjp(lambda g, x, y: (_w(g, x, y), (x, y)), lambda g, xy, k: (_t(g, xy[1], k), _c(g, xy[0], k)))


def _c_native(g: _Geometry, x: Array, k: Array) -> Array:
    return lax.conv_general_dilated(x, k, (1, 1), g.padding, dimension_numbers=_NHWC, feature_group_count=g.groups)


def _c_cpu(g: _Geometry, x: Array, k: Array) -> Array:
    """C as a dense convolution for each piece of some groups."""
    merged = _merged(g.groups, k.shape[2])
    pieces = g.groups // merged
    results = [
        lax.conv_general_dilated(part, _block_diagonal(taps, merged), (1, 1), g.padding, dimension_numbers=_NHWC)
        for part, taps in zip(jnp.split(x, pieces, axis=3), jnp.split(k, pieces, axis=3), strict=True)
    ]
    return jnp.concatenate(results, axis=3)


def _w_by(form, g: _Geometry, x: Array, y: Array) -> Array:
    """W, the transpose in the kernel of a form of C."""
    kernel = jax.ShapeDtypeStruct((*g.kernel, x.shape[3] // g.groups, y.shape[3]), x.dtype)
    return jax.linear_transpose(partial(form, g, x), kernel)(y)[0]


def _merged(groups: int, channels: int) -> int:
    """How many groups of so many input channels make one dense convolution."""
    fits = (n for n in range(1, groups + 1) if groups % n == 0)
    return next(n for n in fits if n == groups or (n * channels >= _FEWEST_CHANNELS and groups // n <= _MOST_PIECES))


def _block_diagonal(k: Array, groups: int) -> Array:
    """The kernel [i, j, groups a, o] of the dense convolution that equals a grouped one, from [i, j, a, o]."""
    if groups == 1:
        return k
    i, j, a, o = k.shape
    same = jnp.asarray(np.eye(groups), k.dtype)[None, None, :, None, :, None]
    return (k.reshape(i, j, 1, a, groups, o // groups) * same).reshape(i, j, groups * a, o)
