"""Convolution and its transpose, as one family closed under differentiation, in the forms that are fast on each platform.

Write `S(x, k, y) = sum_{b,u,v,i,j,c,o} x[b, s u + i - p, s v + j - q, c] k[i, j, c, o] y[b, u, v, o]`, with x zero outside the picture.
S is linear in each of its three arguments, so it has three partial gradients, each bilinear in the other two:

    C(x, k) = dS/dy     strided convolution            [b, H, W, c], [i, j, c, o] -> [b, h, w, o]
    T(y, k) = dS/dx     transposed convolution         [b, h, w, o], [i, j, c, o] -> [b, H, W, c]
    W(x, y) = dS/dk     gradient of the kernel         [b, H, W, c], [b, h, w, o] -> [i, j, c, o]

The gradient of each is made of the other two (that of `<C(x, k), g> = S(x, k, g)` is `T(g, k)` and `W(x, g)`, and so on around), so gradients
of every order stay within the family and it is enough to make three operations fast. Automatic differentiation of a library convolution does
not know this: on CPU it meets forms without a fast path (the kernel gradient of a transposed convolution is 30 times slower than W).
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array, lax

Pair = tuple[int, int]
Padding = str | int | tuple[Pair, Pair]
_NHWC = ("NHWC", "HWIO", "NHWC")


class _Geometry(NamedTuple):
    """What S knows besides its arrays; hashable, so static under jit."""

    picture: Pair  # (H, W), the size of x
    kernel: Pair
    stride: Pair
    padding: tuple[Pair, Pair]  # (before, after) of each spatial axis of x


def conv(x: Array, kernel: Array, *, stride: int | Pair = 1, padding: Padding = "SAME") -> Array:
    """Strided convolution (cross-correlation), C above; equal to `lax.conv_general_dilated` in NHWC, HWIO.

    Args:
        x: [b, H, W, c], any float dtype.
        kernel: [i, j, c, o], same dtype.
        stride: of both axes, or of each.
        padding: "SAME" (h = ceil(H / stride)), "VALID", one number for all sides, or ((top, bottom), (left, right)).

    Returns:
        [b, h, w, o] with h = (H + top + bottom - i) // stride + 1.

    Raises:
        ValueError: if the ranks or channels do not fit, or the kernel is larger than the padded picture.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"conv takes x [b, H, W, c] and kernel [i, j, c, o], not {x.shape} and {kernel.shape}")
    picture, size, strides = x.shape[1:3], kernel.shape[:2], _pair(stride)
    geometry = _Geometry(picture, size, strides, _pads(padding, picture, size, strides))
    if min(_output(geometry)) < 1:
        raise ValueError(f"conv: a kernel of {size} does not fit into {picture} padded by {geometry.padding}")
    return _c(geometry, x, kernel)


def conv_transpose(
    y: Array, kernel: Array, *, stride: int | Pair = 1, padding: Padding = "SAME", output_size: Pair | None = None
) -> Array:
    """Transposed convolution, T above: the adjoint in x of `conv` with the same kernel, stride and padding.

    Equal to `lax.conv_transpose(..., transpose_kernel=True)` for "SAME" and "VALID"; numbers mean the padding of that `conv`
    (as in PyTorch), so they crop the result.

    Args:
        y: [b, h, w, o], any float dtype.
        kernel: [i, j, c, o], same dtype: c are the channels of the *result*, o those of y (the kernel of the convolution it transposes).
        stride: how many times larger the result is, on both axes or on each.
        padding: as in `conv`.
        output_size: (H, W), any size that `conv` maps to (h, w). By default h * stride for "SAME" (and "VALID" with a kernel
            smaller than the stride), else (h - 1) * stride + i - top - bottom.

    Returns:
        [b, H, W, c].

    Raises:
        ValueError: if the ranks or channels do not fit, or `conv` does not map the output size to that of y.
    """
    if y.ndim != 4 or kernel.ndim != 4 or y.shape[3] != kernel.shape[3]:
        raise ValueError(
            f"conv_transpose takes y [b, h, w, o] and kernel [i, j, c, o], not {y.shape} and {kernel.shape}"
        )
    size, strides = kernel.shape[:2], _pair(stride)
    if output_size is None:
        output_size = _default_size(y.shape[1:3], size, strides, padding)
    geometry = _Geometry(output_size, size, strides, _pads(padding, output_size, size, strides))
    if min(output_size) < 1 or _output(geometry) != y.shape[1:3]:
        raise ValueError(
            f"conv_transpose: conv maps {output_size} to {_output(geometry)}, not to {y.shape[1:3]}, of {geometry}"
        )
    return _t(geometry, y, kernel)


def _pair(n: int | Pair) -> Pair:
    return (n, n) if isinstance(n, int) else n


def _pads(padding: Padding, picture: Pair, kernel: Pair, stride: Pair) -> tuple[Pair, Pair]:
    if isinstance(padding, str):
        (top, bottom), (left, right) = lax.padtype_to_pads(picture, kernel, stride, padding)
        return (int(top), int(bottom)), (int(left), int(right))
    return ((padding,) * 2,) * 2 if isinstance(padding, int) else padding


def _output(g: _Geometry) -> Pair:
    """(h, w), the size of y."""
    h, w = ((n + sum(p) - k) // s + 1 for n, k, s, p in zip(*g, strict=True))
    return h, w


def _default_size(y: Pair, kernel: Pair, stride: Pair, padding: Padding) -> Pair:
    if isinstance(padding, str):
        extra = [max(k - s, 0) if padding.upper() == "VALID" else 0 for k, s in zip(kernel, stride, strict=True)]
        return y[0] * stride[0] + extra[0], y[1] * stride[1] + extra[1]
    crop = [sum(p) for p in _pads(padding, y, kernel, stride)]
    return (y[0] - 1) * stride[0] + kernel[0] - crop[0], (y[1] - 1) * stride[1] + kernel[1] - crop[1]


# The family. Every rule below is "the other two".


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _c(g: _Geometry, x: Array, k: Array) -> Array:
    return lax.conv_general_dilated(x, k, g.stride, g.padding, dimension_numbers=_NHWC)


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _t(g: _Geometry, y: Array, k: Array) -> Array:
    return lax.platform_dependent(y, k, cpu=partial(_t_matmul, g), default=partial(_t_native, g))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _w(g: _Geometry, x: Array, y: Array) -> Array:
    k = jax.ShapeDtypeStruct((*g.kernel, x.shape[3], y.shape[3]), x.dtype)
    return jax.linear_transpose(
        lambda k: lax.conv_general_dilated(x, k, g.stride, g.padding, dimension_numbers=_NHWC), k
    )(y)[0]


_c.defvjp(lambda g, x, k: (_c(g, x, k), (x, k)), lambda g, xk, y: (_t(g, y, xk[1]), _w(g, xk[0], y)))
_t.defvjp(lambda g, y, k: (_t(g, y, k), (y, k)), lambda g, yk, x: (_c(g, x, yk[1]), _w(g, x, yk[0])))
_w.defvjp(lambda g, x, y: (_w(g, x, y), (x, y)), lambda g, xy, k: (_t(g, xy[1], k), _c(g, xy[0], k)))


def _t_native(g: _Geometry, y: Array, k: Array) -> Array:
    """T as the convolution of y, spread out by the stride, with the mirrored kernel: what accelerators have a kernel for."""
    before = [i - 1 - p for i, (p, _) in zip(g.kernel, g.padding, strict=True)]
    spread = [(n - 1) * s + 1 for n, s in zip(y.shape[1:3], g.stride, strict=True)]
    pads = [(b, n + i - 1 - m - b) for b, n, i, m in zip(before, g.picture, g.kernel, spread, strict=True)]
    mirrored = k[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(y, mirrored, (1, 1), pads, lhs_dilation=g.stride, dimension_numbers=_NHWC)


def _t_matmul(g: _Geometry, y: Array, k: Array) -> Array:
    """T as one matrix product and shifted sums.

    A kernel of q x q blocks, each of stride x stride taps: every y sends each block to another block of pixels, so the product holds all contributions
    and q * q shifted sums collect them. No arithmetic is spent on the zeros that spreading y would put in.
    """
    (b, h, w, o), c, (s, t) = y.shape, k.shape[2], g.stride
    if g.stride == (1, 1):
        return _t_native(g, y, k)
    rows, columns = -(-g.kernel[0] // s), -(-g.kernel[1] // t)  # blocks
    k = jnp.pad(k, ((0, rows * s - g.kernel[0]), (0, columns * t - g.kernel[1]), (0, 0), (0, 0)))
    z = (y.reshape(-1, o) @ k.transpose(3, 0, 1, 2).reshape(o, -1)).reshape(b, h, w, rows, s, columns, t, c)
    z = z.transpose(3, 5, 0, 1, 4, 2, 6, 7).reshape(rows, columns, b, h * s, w * t, c)
    (top, _), (left, _) = g.padding
    full = (h + rows - 1) * s, (w + columns - 1) * t
    end = [max(n + p - f, 0) for n, p, f in zip(g.picture, (top, left), full, strict=True)]
    total = sum(
        jnp.pad(
            z[i, j], ((0, 0), (i * s, (rows - 1 - i) * s + end[0]), (j * t, (columns - 1 - j) * t + end[1]), (0, 0))
        )
        for i in range(rows)
        for j in range(columns)
    )
    assert isinstance(total, Array)
    return total[:, top : top + g.picture[0], left : left + g.picture[1]]
