"""Convolution with a kernel two strides long, with 9 products for 16 (Winograd; Lavin and Gray, arXiv:1509.09308).

Cut image and kernel along one axis into blocks of a stride, so that y_u = d_u g_0 + d_{u+1} g_1, where a product sums
over a block's pixels and channels. For two neighbours in y, the sum S of `jimgen.nets.convolution` then needs three
products instead of four:

    S = d0 g0 y0 + d1 g1 y0 + d1 g0 y1 + d2 g1 y1
      = (d0 - d1) g0 y0 + d1 (g0 + g1) (y0 + y1) + (d1 - d2) g1 (-y1)

and along both axes nine instead of sixteen. With the linear maps X, K and Y from image, kernel and result to those
factors, S(x, k, y) = sum_n <X_n(x) K_n(k), Y_n(y)>. One decomposition thus gives all three partial gradients of S, and
the compiler computes a map once if two of them share it. All coefficients are 0 and +-1, so that the only errors are
those of rounding (1e-6 relative in float32).
"""

from functools import partial, reduce
from operator import add

import jax
from jax import Array, lax

Size = tuple[int, ...]  # of length two: (height, width)

# The three factors of each product, as sums over d0 d1 d2, g0 g1 and y0 y1.
_X = ((1, -1, 0), (0, 1, 0), (0, 1, -1))
_K = ((1, 0), (1, 1), (0, 1))
_Y = ((1, 0), (1, 1), (0, -1))


def convolution(x: Array, k: Array, *, stride: Size, before: Size, size: Size) -> Array:
    """C(x, k), the strided convolution.

    Args:
        x: float32 or float64 [b, H, W, c]; 16-bit floats would be too inaccurate, because of the differences.
        k: float [2 s, 2 t, c, o], same dtype.
        stride: (s, t).
        before: padding above x and to its left.
        size: (h, w) of the result, both even.
    Returns:
        [b, h, w, o].
    """
    products = [d @ g for d, g in zip(_of_picture(stride, before, size, x), _of_kernel(stride, k), strict=True)]
    return _adjoint(_of_result, (len(x), *size, k.shape[3]), products)


def transposed(y: Array, k: Array, *, stride: Size, before: Size, size: Size) -> Array:
    """T(y, k), its adjoint in x: y [b, h, w, o] -> [b, H, W, c]; size is (H, W), the rest as in `convolution`."""
    of_picture = partial(_of_picture, stride, before, y.shape[1:3])
    products = [r @ g.T for r, g in zip(_of_result(y), _of_kernel(stride, k), strict=True)]
    return _adjoint(of_picture, (len(y), *size, k.shape[2]), products)


def kernel_gradient(x: Array, y: Array, *, stride: Size, before: Size) -> Array:
    """W(x, y), its adjoint in k: x [b, H, W, c], y [b, h, w, o] -> [2 s, 2 t, c, o]."""
    pictures = _of_picture(stride, before, y.shape[1:3], x)
    products = [d.T @ r for d, r in zip(pictures, _of_result(y), strict=True)]
    shape = (2 * stride[0], 2 * stride[1], x.shape[3], y.shape[3])
    return _adjoint(partial(_of_kernel, stride), shape, products)


def _of_picture(stride: Size, before: Size, size: Size, x: Array) -> list[Array]:
    """X: nine arrays [tiles, s t c], with a tile for every 2 x 2 places of a result of the given size."""
    (b, _, _, c), (s, t), (h, w) = x.shape, stride, size
    after = s * (h + 2) - x.shape[1] - before[0], t * (w + 2) - x.shape[2] - before[1]
    pads = (0, 0, 0), (before[0], after[0], 0), (before[1], after[1], 0), (0, 0, 0)
    x = lax.pad(x, x.dtype.type(0), pads).reshape(b, h // 2 + 1, 2, s, w // 2 + 1, 2, t, c)
    factors = []
    for row in _combined(_X, [x[:, :-1, 0], x[:, :-1, 1], x[:, 1:, 0]]):
        factors += _combined(_X, [row[:, :, :, :-1, 0], row[:, :, :, :-1, 1], row[:, :, :, 1:, 0]])
    return [d.swapaxes(2, 3).reshape(-1, s * t * c) for d in factors]


def _of_kernel(stride: Size, k: Array) -> list[Array]:
    """K: nine arrays [s t c, o]."""
    (_, _, c, o), (s, t) = k.shape, stride
    k = k.reshape(2, s, 2, t, c, o)
    factors = []
    for row in _combined(_K, [k[0], k[1]]):
        factors += _combined(_K, [row[:, 0], row[:, 1]])
    return [g.reshape(s * t * c, o) for g in factors]


def _of_result(y: Array) -> list[Array]:
    """Y: nine arrays [tiles, o]."""
    b, h, w, o = y.shape
    y = y.reshape(b, h // 2, 2, w // 2, 2, o)
    factors = []
    for row in _combined(_Y, [y[:, :, 0], y[:, :, 1]]):
        factors += _combined(_Y, [row[:, :, :, 0], row[:, :, :, 1]])
    return [r.reshape(-1, o) for r in factors]


def _combined(matrix: tuple[tuple[int, ...], ...], parts: list[Array]) -> list[Array]:
    """A matrix of 0 and +-1 times a list of arrays, without the products."""
    signed = ([part if n > 0 else -part for n, part in zip(row, parts, strict=True) if n] for row in matrix)
    return [reduce(add, terms) for terms in signed]


def _adjoint(linear_map, shape: tuple[int, ...], factors: list[Array]) -> Array:
    """The transpose of X, K or Y, which sums the products into an array of the given shape."""
    return jax.linear_transpose(linear_map, jax.ShapeDtypeStruct(shape, factors[0].dtype))(factors)[0]
