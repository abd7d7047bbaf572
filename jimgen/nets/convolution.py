"""Convolution and its transpose, as a family closed under differentiation, in forms that are fast on each platform.

Consider the sum over all indices, for stride s and padding p, with x zero outside the image:

    S(x, k, y) = sum x[b, s u + i - p, s v + j - p, c] k[i, j, c, o] y[b, u, v, o]

S is linear in each of its three arguments, so it has three partial gradients, each bilinear in the other arguments:

    C(x, k) = dS/dy     strided convolution            [b, H, W, c], [i, j, c, o] -> [b, h, w, o]
    T(y, k) = dS/dx     transposed convolution         [b, h, w, o], [i, j, c, o] -> [b, H, W, c]
    W(x, y) = dS/dk     gradient of the kernel         [b, H, W, c], [b, h, w, o] -> [i, j, c, o]

The gradients of each are the other two: <C(x, k), y> = S(x, k, y) has the gradients T(y, k) and W(x, y), and likewise
for T and W. Gradients of every order therefore stay in the family, and three fast operations are enough. JAX's own
rules leave the family: the kernel gradient of a transposed convolution becomes a convolution with both operands
dilated, for which XLA on CPU has no fast path (30 times slower than W). `jax.custom_vjp` defines the rules, so forward
mode (`jax.jvp`) is not supported. Accelerators use the native convolution for all three. On CPU, T has its own forms,
and so has C for grey images. `jimgen.nets.winograd` computes all three if the kernel is two strides long and there are
many channels.
"""

from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.nets import winograd
from jimgen.nets.winograd import Size

Pair = tuple[int, int]
Padding = str | int | tuple[Pair, Pair]
_NHWC = ("NHWC", "HWIO", "NHWC")


class _Geometry(NamedTuple):
    """The static parameters of S; hashable for jit."""

    picture: Size  # (H, W), the size of x
    kernel: Size
    stride: Pair
    padding: tuple[Pair, Pair]  # (before, after) of each spatial axis of x


def conv(
    x: Array, kernel: Array, *, stride: int | Pair = 1, padding: Padding = "SAME", circular: bool = False
) -> Array:
    """Strided convolution (cross-correlation), C above; equal to `lax.conv_general_dilated` in NHWC, HWIO.

    Args:
        x: float [b, H, W, c], any float dtype.
        kernel: float [i, j, c, o], same dtype.
        stride: one for both axes, or one for each.
        padding: "SAME" (h = ceil(H / stride)), "VALID", one number for all sides, or ((top, bottom), (left, right)).
        circular: the padding continues the image by its opposite side; by default, by zeros.
    Returns: [b, h, w, o] with h = (H + top + bottom - i) // stride + 1.
    Raises:
        ValueError: for wrong ranks or channels, or a kernel larger than the padded image.
    """
    if x.ndim != 4 or kernel.ndim != 4 or x.shape[3] != kernel.shape[2]:
        raise ValueError(f"conv takes x [b, H, W, c] and kernel [i, j, c, o], not {x.shape} and {kernel.shape}")
    size, strides = kernel.shape[:2], _pair(stride)
    pads = resolve_padding(padding, x.shape[1:3], size, strides)
    if circular:
        x, pads = wrap(x, pads), ((0, 0), (0, 0))
    picture = x.shape[1:3]
    geometry = _Geometry(picture, size, strides, pads)
    if min(_output(geometry)) < 1:
        raise ValueError(f"conv: a kernel of {size} does not fit into {picture} padded by {geometry.padding}")
    return _c(geometry, x, kernel)


def conv_transpose(
    y: Array, kernel: Array, *, stride: int | Pair = 1, padding: Padding = "SAME", output_size: Pair | None = None
) -> Array:
    """Transposed convolution, T above: the adjoint in x of `conv` with the same kernel, stride and padding.

    It equals `lax.conv_transpose(..., transpose_kernel=True)` for "SAME" and "VALID". Numbers are the padding of that
    `conv`, as in PyTorch, so they crop the result.

    Args:
        y: float [b, h, w, o], any float dtype.
        kernel: float [i, j, c, o], same dtype, the layout of that `conv`: c channels in the *result*, o in y.
        stride: the upsampling factor, one for both axes, or one for each.
        padding: as in `conv`.
        output_size: (H, W), any size that `conv` maps to (h, w). By default h * stride for "SAME", and for "VALID" with
            a kernel smaller than the stride; else (h - 1) * stride + i - top - bottom.
    Returns: [b, H, W, c].
    Raises:
        ValueError: for wrong ranks or channels, or if `conv` does not map the output size to that of y.
    """
    if y.ndim != 4 or kernel.ndim != 4 or y.shape[3] != kernel.shape[3]:
        raise ValueError(
            f"conv_transpose takes y [b, h, w, o] and kernel [i, j, c, o], not {y.shape} and {kernel.shape}"
        )
    size, strides = kernel.shape[:2], _pair(stride)
    if output_size is None:
        output_size = _default_size(y.shape[1:3], size, strides, padding)
    geometry = _Geometry(output_size, size, strides, resolve_padding(padding, output_size, size, strides))
    if min(output_size) < 1 or _output(geometry) != y.shape[1:3]:
        raise ValueError(
            f"conv_transpose: conv maps {output_size} to {_output(geometry)}, not to {y.shape[1:3]}, of {geometry}"
        )
    return _t(geometry, y, kernel)


def _pair(n: int | Pair) -> Pair:
    return (n, n) if isinstance(n, int) else n


def wrap(x: Array, pads: tuple[Pair, Pair]) -> Array:
    """Continues images [b, H, W, c] by their opposite sides: by (top, bottom) rows and (left, right) columns."""
    return jnp.pad(x, ((0, 0), *pads, (0, 0)), mode="wrap")


def resolve_padding(padding: Padding, picture: Size, kernel: Size, stride: Pair) -> tuple[Pair, Pair]:
    """Padding in any of its forms as ((top, bottom), (left, right)), for a picture of this size."""
    if isinstance(padding, str):
        rows, columns = lax.padtype_to_pads(picture, kernel, stride, padding)
        return (int(rows[0]), int(rows[1])), (int(columns[0]), int(columns[1]))
    return ((padding, padding), (padding, padding)) if isinstance(padding, int) else padding


def _output(g: _Geometry) -> Pair:
    """(h, w), the size of y."""
    h, w = ((g.picture[d] + sum(g.padding[d]) - g.kernel[d]) // g.stride[d] + 1 for d in (0, 1))
    return h, w


def _default_size(y: Size, kernel: Size, stride: Pair, padding: Padding) -> Pair:
    if isinstance(padding, str):
        over = [max(kernel[d] - stride[d], 0) if padding.upper() == "VALID" else 0 for d in (0, 1)]
        return y[0] * stride[0] + over[0], y[1] * stride[1] + over[1]
    crop = [sum(p) for p in resolve_padding(padding, y, kernel, stride)]
    return (y[0] - 1) * stride[0] + kernel[0] - crop[0], (y[1] - 1) * stride[1] + kernel[1] - crop[1]


# The family. The gradients of each member are the other two. Lowering chooses the form, for the platform of the
# compiled program, which may differ from the default backend.


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _c(g: _Geometry, x: Array, k: Array) -> Array:
    return lax.platform_dependent(x, k, cpu=partial(_c_cpu, g), default=partial(_c_native, g))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _t(g: _Geometry, y: Array, k: Array) -> Array:
    return lax.platform_dependent(y, k, cpu=partial(_t_cpu, g), default=partial(_t_native, g))


@partial(jax.custom_vjp, nondiff_argnums=(0,))
def _w(g: _Geometry, x: Array, y: Array) -> Array:
    return lax.platform_dependent(x, y, cpu=partial(_w_cpu, g), default=partial(_w_native, g))


_c.defvjp(lambda g, x, k: (_c(g, x, k), (x, k)), lambda g, xk, y: (_t(g, y, xk[1]), _w(g, xk[0], y)))
_t.defvjp(lambda g, y, k: (_t(g, y, k), (y, k)), lambda g, yk, x: (_c(g, x, yk[1]), _w(g, x, yk[0])))
_w.defvjp(lambda g, x, y: (_w(g, x, y), (x, y)), lambda g, xy, k: (_t(g, xy[1], k), _c(g, xy[0], k)))


def _c_native(g: _Geometry, x: Array, k: Array) -> Array:
    return lax.conv_general_dilated(x, k, g.stride, g.padding, dimension_numbers=_NHWC)


def _t_native(g: _Geometry, y: Array, k: Array) -> Array:
    """T as the convolution of the dilated y with the flipped kernel, the form that accelerators recognise."""
    before = [g.kernel[d] - 1 - g.padding[d][0] for d in (0, 1)]
    spread = [(y.shape[1 + d] - 1) * g.stride[d] + 1 for d in (0, 1)]
    pads = [(before[d], g.picture[d] + g.kernel[d] - 1 - spread[d] - before[d]) for d in (0, 1)]
    mirrored = k[::-1, ::-1].swapaxes(2, 3)
    return lax.conv_general_dilated(y, mirrored, (1, 1), pads, lhs_dilation=g.stride, dimension_numbers=_NHWC)


def _w_native(g: _Geometry, x: Array, y: Array) -> Array:
    kernel = jax.ShapeDtypeStruct((*g.kernel, x.shape[3], y.shape[3]), x.dtype)
    return jax.linear_transpose(partial(_c_native, g, x), kernel)(y)[0]


def _c_cpu(g: _Geometry, x: Array, k: Array) -> Array:
    if _is_matrix_product(g):
        return jnp.tensordot(x, k[0, 0], 1)
    if _suits_winograd(g, x, k.shape[2:]):
        return winograd.convolution(x, k, stride=g.stride, before=_before(g), size=_output(g))
    few_terms = g.kernel[0] * g.kernel[1] * x.shape[3] <= 32  # a library spends more time on gathering than multiplying
    return _c_sums(g, x, k) if few_terms and _sums_are_exact(x) else _c_native(g, x, k)


def _w_cpu(g: _Geometry, x: Array, y: Array) -> Array:
    if _is_matrix_product(g):
        return jnp.tensordot(x, y, ((0, 1, 2), (0, 1, 2)))[None, None]
    if _suits_winograd(g, x, (x.shape[3], y.shape[3])):
        return winograd.kernel_gradient(x, y, stride=g.stride, before=_before(g))
    return _w_native(g, x, y)


def _t_cpu(g: _Geometry, y: Array, k: Array) -> Array:
    """T on all cores, without the multiplications by zeros of a dilated y."""
    if _is_matrix_product(g):
        return jnp.tensordot(y, k[0, 0], ((3,), (1,)))
    if g.stride == (1, 1):
        return _t_native(g, y, k)
    if _suits_winograd(g, y, k.shape[2:]):
        return winograd.transposed(y, k, stride=g.stride, before=_before(g), size=g.picture)
    # With few channels a library's convolution is inefficient, and the sums are cheap.
    return _t_phases(g, y, k) if k.shape[2] >= 8 else _t_matmul(g, y, k)


def _is_matrix_product(g: _Geometry) -> bool:
    """Whether every pixel is multiplied by one matrix; a product of matrices is faster than a 1x1 convolution."""
    return g.kernel == g.stride == (1, 1) and g.padding == ((0, 0), (0, 0))


def _suits_winograd(g: _Geometry, x: Array, channels: Size) -> bool:
    """Whether Winograd's form is defined, accurate enough, and faster."""
    two_strides = g.kernel == (2 * g.stride[0], 2 * g.stride[1])
    whole_tiles = not any(n % 2 for n in _output(g))
    return two_strides and whole_tiles and min(channels) >= 64 and _sums_are_exact(x)


def _sums_are_exact(x: Array) -> bool:
    """Whether sums in the dtype of x are accurate enough; a library sums 16-bit floats in float32."""
    return x.dtype in (jnp.float32, jnp.float64)


def _before(g: _Geometry) -> Pair:
    return g.padding[0][0], g.padding[1][0]


def _c_sums(g: _Geometry, x: Array, k: Array) -> Array:
    """C as one multiply-add per tap and channel, which XLA on CPU fuses into one pass."""
    (h, w), (s, t) = _output(g), g.stride
    x = lax.pad(x, x.dtype.type(0), ((0, 0, 0), *((*pads, 0) for pads in g.padding), (0, 0, 0)))
    y = jnp.zeros((), x.dtype)
    for i, j, c in np.ndindex(k.shape[:3]):
        tap = x[:, i : i + s * (h - 1) + 1 : s, j : j + t * (w - 1) + 1 : t, c : c + 1]
        y = y + tap * k[None, i, j : j + 1, c : c + 1]
    return y


def _t_phases(g: _Geometry, y: Array, k: Array) -> Array:
    """T as one small convolution of y for each offset r within a stride, with interleaved results.

    Only the taps s j + r + p contribute to pixel s m + r of the result, from pixels m - j of y: a convolution of
    stride one for each r.
    """
    sizes = [-(-n // s) for n, s in zip(g.picture, g.stride, strict=True)]
    rows = []
    for r in range(g.stride[0]):
        i, pad_i = _taps(r, g.stride[0], g.padding[0][0], g.kernel[0], y.shape[1], sizes[0])
        columns = []
        for q in range(g.stride[1]):
            j, pad_j = _taps(q, g.stride[1], g.padding[1][0], g.kernel[1], y.shape[2], sizes[1])
            if i and j:
                taps = k[np.ix_(i, j)].swapaxes(2, 3)
                x = lax.conv_general_dilated(y, taps, (1, 1), (pad_i, pad_j), dimension_numbers=_NHWC)
            else:  # a kernel smaller than the stride leaves gaps
                x = jnp.zeros((y.shape[0], *sizes, k.shape[2]), y.dtype)
            columns.append(x)
        rows.append(jnp.stack(columns, axis=3))
    x = jnp.stack(rows, axis=2)
    x = x.reshape(y.shape[0], sizes[0] * g.stride[0], sizes[1] * g.stride[1], k.shape[2])
    return x[:, : g.picture[0], : g.picture[1]]


def _taps(r: int, stride: int, padding: int, kernel: int, length: int, size: int) -> tuple[list[int], Pair]:
    """The taps that contribute to pixels s m + r, in the order of y's pixels, and the padding of y that aligns them."""
    first, last = -((r + padding) // stride), (kernel - 1 - r - padding) // stride  # j with 0 <= s j + r + p < kernel
    return [stride * j + r + padding for j in range(last, first - 1, -1)], (last, size - first - length)


def _t_matmul(g: _Geometry, y: Array, k: Array) -> Array:
    """T as one matrix product and shifted sums.

    The kernel is cut into blocks of stride x stride taps. Each pixel of y times each block contributes to one block of
    pixels of the result. One product computes all contributions, and one shifted sum per block adds them up.
    """
    (b, h, w, o), c, (s, t) = y.shape, k.shape[2], g.stride
    rows, columns = -(-g.kernel[0] // s), -(-g.kernel[1] // t)  # blocks of the kernel
    k = jnp.pad(k, ((0, rows * s - g.kernel[0]), (0, columns * t - g.kernel[1]), (0, 0), (0, 0)))
    z = (y.reshape(-1, o) @ k.transpose(3, 0, 1, 2).reshape(o, -1)).reshape(b, h, w, rows, s, columns, t, c)
    z = z.transpose(3, 5, 0, 1, 4, 2, 6, 7).reshape(rows, columns, b, h * s, w * t, c)
    top, left = g.padding[0][0], g.padding[1][0]
    below = max(g.picture[0] + top - (h + rows - 1) * s, 0)  # pixels outside of every window
    right = max(g.picture[1] + left - (w + columns - 1) * t, 0)
    x = jnp.zeros((), y.dtype)
    for i, j in np.ndindex(rows, columns):
        shift = (i * s, (rows - 1 - i) * s + below), (j * t, (columns - 1 - j) * t + right)
        x = jnp.pad(z[i, j], ((0, 0), *shift, (0, 0))) + x
    return x[:, top : top + g.picture[0], left : left + g.picture[1]]
