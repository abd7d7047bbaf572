"""conv and conv_transpose against the library's own convolutions: values, gradients, gradients of gradients."""

from functools import partial
from itertools import product

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from jimgen.nets import convolution, winograd
from jimgen.nets.convolution import conv, conv_transpose

KERNELS = [(1, 1), (2, 2), (3, 3), (4, 4), (5, 2)]
GEOMETRIES = [*product([1, 2, 3], ["SAME", "VALID", 1]), ((2, 1), ((0, 2), (1, 0)))]


@pytest.fixture(autouse=True)
def float64(x64):
    """Every test here runs in float64, unless it names another precision."""


def native(x: Array, kernel: Array, *, stride=1, padding="SAME") -> Array:
    strides = (stride, stride) if isinstance(stride, int) else stride
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    return lax.conv_general_dilated(x, kernel, strides, pads, dimension_numbers=("NHWC", "HWIO", "NHWC"))


def native_transpose(y: Array, kernel: Array, *, output_size, **kwargs) -> Array:
    """The adjoint of the native convolution, from automatic differentiation."""
    x = jnp.zeros((len(y), *output_size, kernel.shape[2]), y.dtype)
    return jax.vjp(lambda x: native(x, kernel, **kwargs), x)[1](y)[0]


def by_definition(x, k, y, stride, padding):
    """C(x, k), T(y, k) and W(x, y) tap by tap in numpy, from the sum S."""
    (s, t), (h, w) = (stride, stride) if isinstance(stride, int) else stride, y.shape[1:3]
    if isinstance(padding, str):
        padding = lax.padtype_to_pads(x.shape[1:3], k.shape[:2], (s, t), padding)
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    x, k, y = np.pad(x, ((0, 0), *pads, (0, 0))), np.asarray(k), np.asarray(y)
    c, t_, w_ = np.zeros(y.shape), np.zeros(x.shape), np.zeros(k.shape)
    for i, j in np.ndindex(k.shape[:2]):
        tap = np.s_[:, i : i + s * h : s, j : j + t * w : t]
        c += x[tap] @ k[i, j]
        t_[tap] += y @ k[i, j].T
        w_[i, j] = np.tensordot(x[tap], y, ((0, 1, 2), (0, 1, 2)))
    (top, bottom), (left, right) = pads
    return c, t_[:, top : t_.shape[1] - bottom, left : t_.shape[2] - right], w_


def arrays(*shapes, dtype=np.float64, seed=0) -> list[Array]:
    random = np.random.default_rng(seed)
    return [jnp.asarray(random.normal(size=shape), dtype) for shape in shapes]


def assert_close(got, want, tolerance=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


@pytest.mark.parametrize(("stride", "padding"), GEOMETRIES)
@pytest.mark.parametrize("kernel", KERNELS)
def test_values_and_gradients_equal_the_definition(kernel, stride, padding):
    picture = (7, 6) if kernel[0] % 2 else (8, 9)
    x, k = arrays((2, *picture, 3), (*kernel, 3, 2))
    (y,) = arrays(jax.eval_shape(lambda: native(x, k, stride=stride, padding=padding)).shape, seed=1)

    @jax.jit
    def run(x, k, y):
        down, pull_down = jax.vjp(partial(conv, stride=stride, padding=padding), x, k)
        up, pull_up = jax.vjp(partial(conv_transpose, stride=stride, padding=padding, output_size=picture), y, k)
        return down, up, pull_down(y), pull_up(x)

    c, t, w = by_definition(x, k, y, stride, padding)
    assert_close(run(x, k, y), (c, t, (t, w), (c, w)))


@pytest.mark.parametrize(("size", "stride", "padding"), [(4, 2, 1), (3, 1, "SAME"), (3, 2, "VALID"), (1, 1, 0)])
def test_conv_equals_the_native_one_and_its_gradients(size, stride, padding):
    x, k = arrays((2, 8, 7, 3), (size, size, 3, 2))

    def run(conv):
        y, pull = jax.vjp(lambda x, k: conv(x, k, stride=stride, padding=padding), x, k)
        return y, pull(jnp.cos(y))

    assert_close(run(conv), run(native))


@pytest.mark.parametrize("padding", ["SAME", "VALID"])
@pytest.mark.parametrize(("size", "stride"), list(product([1, 2, 3, 4, 5], [1, 2, 3])))
def test_default_output_size_is_that_of_lax_conv_transpose(size, stride, padding):
    y, k = arrays((2, 3, 4, 2), (size, size, 3, 2))
    want = lax.conv_transpose(y, k, (stride, stride), padding, transpose_kernel=True)
    assert_close(conv_transpose(y, k, stride=stride, padding=padding), want)


def test_one_pixel_stamps_the_kernel():
    (k,) = arrays((4, 4, 3, 1))
    stamp = conv_transpose(jnp.ones((1, 1, 1, 1), k.dtype), k, stride=2, padding=0)
    assert_close(stamp[0], k[..., 0])


@pytest.mark.parametrize(
    ("size", "stride", "padding"), [(4, 2, 1), (3, 1, "SAME"), (3, 2, "SAME"), (4, 1, 0), (1, 1, 0)]
)
def test_second_order_equals_the_native_second_order(size, stride, padding):
    """The gradients of R1, |dD/dx|^2, for a critic with a convolution and a transposed one."""
    kwargs = {"stride": stride, "padding": padding}
    x, k, m = arrays((2, 8, 7, 2), (size, size, 2, 3), (size, size, 2, 3))

    def penalty(conv, transpose, x, k, m):
        def score(x):
            y = jnp.tanh(conv(x, k, **kwargs))
            return jnp.sum(jnp.tanh(transpose(y, m, output_size=x.shape[1:3], **kwargs)) ** 2)

        return jnp.sum(jax.grad(score)(x) ** 2)

    second = jax.jit(jax.grad(penalty, argnums=(2, 3, 4)), static_argnums=(0, 1))
    assert_close(second(conv, conv_transpose, x, k, m), second(native, native_transpose, x, k, m))


def test_third_order_is_consistent_with_finite_differences():
    x, k = arrays((1, 4, 4, 1), (3, 3, 1, 2))

    def second(t: Array) -> Array:
        def score(x):
            return jnp.sum(jnp.tanh(conv_transpose(jnp.tanh(conv(x, t * k, stride=2)), k, stride=2)) ** 2)

        return jnp.sum(jax.grad(lambda x: jnp.sum(jax.grad(score)(x) ** 2))(x) ** 2)

    second, t, step = jax.jit(second), jnp.float64(0.7), 1e-5
    assert_close(jax.grad(second)(t), (second(t + step) - second(t - step)) / (2 * step), 1e-5)


@pytest.mark.parametrize("axes", [(0, 0), (0, None), (None, 0)])
@pytest.mark.parametrize(("function", "shape"), [(conv, (3, 2, 6, 6, 2)), (conv_transpose, (3, 2, 3, 3, 3))])
def test_vmap_of_the_gradient_equals_one_by_one(function, shape, axes):
    x, k = (v if axis == 0 else v[0] for v, axis in zip(arrays(shape, (3, 4, 4, 2, 3)), axes, strict=True))
    gradient = jax.jit(jax.grad(lambda x, k: jnp.sum(jnp.sin(function(x, k, stride=2, padding=1))), argnums=(0, 1)))
    each = [gradient(x if axes[0] is None else x[i], k if axes[1] is None else k[i]) for i in range(3)]
    assert_close(jax.vmap(gradient, axes)(x, k), jax.tree.map(lambda *a: jnp.stack(a), *each))


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 4e-2)])
def test_other_precisions_keep_their_dtype(dtype, tolerance):
    x, k, y = arrays((2, 8, 8, 4), (4, 4, 4, 6), (2, 4, 4, 6), dtype=dtype)
    down = jax.value_and_grad(lambda x, k: jnp.sum(conv(x, k, stride=2) * y), argnums=(0, 1))(x, k)
    up = jax.value_and_grad(lambda y, k: jnp.sum(conv_transpose(y, k, stride=2) * x), argnums=(0, 1))(y, k)
    assert {a.dtype for a in jax.tree.leaves((down, up))} == {jnp.dtype(dtype)}
    exact = [a.astype(jnp.float64) for a in (x, k, y)]
    got = conv(x, k, stride=2), conv_transpose(y, k, stride=2), up[1][1]
    want = conv(*exact[:2], stride=2), conv_transpose(exact[2], exact[1], stride=2), down_kernel_gradient(*exact)
    for a, b in zip(got, want, strict=True):
        np.testing.assert_allclose(a.astype(jnp.float64), b, rtol=0, atol=tolerance * float(jnp.max(jnp.abs(b))))


def down_kernel_gradient(x: Array, k: Array, y: Array) -> Array:
    """S is trilinear: conv and conv_transpose have the same kernel gradient."""
    return jax.grad(lambda k: jnp.sum(native(x, k, stride=2) * y))(k)


@pytest.mark.parametrize("size", [1, 2, 3, 4, 5])
def test_all_forms_of_the_transpose_agree(size):
    """Sizes with and without remainder or gaps. XLA on CPU aborts for some of these in the form for accelerators."""
    for stride, pads, picture in [(2, 1, (8, 6)), (2, 0, (7, 9)), (3, 2, (9, 8)), (3, 0, (6, 9))]:
        g = convolution._Geometry(picture, (size, size), (stride, stride), ((pads, pads), (pads, pads)))
        y, k = arrays((2, *convolution._output(g), 3), (size, size, 2, 3))
        assert_close(convolution._t_phases(g, y, k), convolution._t_matmul(g, y, k))
        if size in (3, 4) and stride == 2:
            assert_close(convolution._t_phases(g, y, k), convolution._t_native(g, y, k))


@pytest.mark.parametrize(
    ("shape", "dtype", "taken"),
    [
        ((4, 4, 1, 6), np.float64, True),
        ((3, 3, 3, 6), np.float32, True),
        ((4, 4, 3, 6), np.float32, False),
        ((4, 4, 1, 6), jnp.bfloat16, False),  # a sum of 16 terms would lose its last digits
    ],
)
@pytest.mark.parametrize("padding", [1, ((2, 0), (-1, 1))])
def test_sums_of_few_terms_are_the_native_convolution(shape, dtype, taken, padding, monkeypatch):
    calls, form = [], convolution._c_sums
    monkeypatch.setattr(convolution, "_c_sums", lambda *args: calls.append(1) or form(*args))
    x, k = arrays((2, 9, 8, shape[2]), shape, dtype=dtype)
    found = jax.jit(partial(conv, stride=2, padding=padding))(x, k)
    assert bool(calls) == taken
    assert_close(found, native(x, k, stride=2, padding=padding), {np.float64: 1e-10, np.float32: 1e-5}.get(dtype, 0))


# Winograd's form


@pytest.mark.parametrize(
    ("stride", "picture", "padding"),
    [
        ((2, 2), (8, 12), ((1, 1), (1, 1))),
        ((2, 2), (10, 6), ((0, 0), (0, 0))),
        ((2, 2), (9, 11), ((2, 0), (0, 0))),  # the last row and column have no effect
        ((1, 3), (5, 12), ((0, 0), (2, 1))),
        ((2, 1), (8, 7), ((1, 1), (-1, -1))),  # a negative padding crops
    ],
)
def test_winograd_equals_the_definition(stride, picture, padding):
    kernel = (2 * stride[0], 2 * stride[1])
    g = convolution._Geometry(picture, kernel, stride, padding)
    size, at = convolution._output(g), {"stride": stride, "before": (padding[0][0], padding[1][0])}
    x, k, y = arrays((3, *picture, 2), (*kernel, 2, 4), (3, *size, 4))
    want = native(x, k, stride=stride, padding=padding)
    assert_close(winograd.convolution(x, k, size=size, **at), want)
    adjoint = jax.vjp(partial(native, stride=stride, padding=padding), x, k)[1](y)
    assert_close((winograd.transposed(y, k, size=picture, **at), winograd.kernel_gradient(x, y, **at)), adjoint)


@pytest.mark.parametrize(
    ("channels", "kernel", "picture", "dtype", "taken"),
    [
        ((64, 64), 4, (8, 12), np.float64, True),
        ((64, 72), 4, (8, 12), np.float32, True),
        ((64, 64), 4, (8, 12), jnp.bfloat16, False),
        ((64, 64), 4, (8, 10), np.float64, False),  # 5 columns do not divide into tiles
        ((63, 64), 4, (8, 12), np.float64, False),
        ((64, 63), 4, (8, 12), np.float64, False),
        ((64, 64), 3, (8, 12), np.float64, False),
    ],
)
def test_where_winograd_is_taken_first_and_second_gradients_are_the_native_ones(
    channels, kernel, picture, dtype, taken, monkeypatch
):
    calls = []
    for name in ("convolution", "transposed", "kernel_gradient"):
        form = getattr(winograd, name)

        def spy(*args, name=name, form=form, **kwargs):
            calls.append(name)
            return form(*args, **kwargs)

        monkeypatch.setattr(winograd, name, spy)

    def gradients(conv, x, k):
        """Of the function's square and of its gradient's, as in R1."""

        def score(x, k):
            return jnp.sum(jnp.sin(conv(x, k, stride=2, padding=1)))

        def penalty(x, k):
            return jnp.sum(jax.grad(score)(x, k) ** 2)

        return jax.grad(score, (0, 1))(x, k), jax.grad(penalty, (0, 1))(x, k)

    x, k = arrays((2, *picture, channels[0]), (kernel, kernel, *channels), dtype=dtype)
    found = jax.jit(partial(gradients, conv))(x, k / kernel)
    assert set(calls) == ({"convolution", "transposed", "kernel_gradient"} if taken else set())
    if dtype != jnp.bfloat16:
        want = jax.jit(partial(gradients, native))(x, k / kernel)
        for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(want), strict=True):
            np.testing.assert_allclose(a, b, rtol=0, atol=(1e-10 if dtype == np.float64 else 1e-4) * np.abs(b).max())


@pytest.mark.parametrize(
    ("function", "shapes", "kwargs", "message"),
    [
        (conv, [(8, 8, 3), (3, 3, 3, 4)], {}, r"x \[b, H, W, c\]"),
        (conv, [(2, 8, 8, 3), (3, 3, 4, 4)], {}, r"x \[b, H, W, c\]"),
        (conv, [(2, 2, 2, 3), (3, 3, 3, 4)], {"padding": "VALID"}, "does not fit"),
        (conv_transpose, [(2, 4, 4, 3), (3, 3, 3, 4)], {}, r"y \[b, h, w, o\]"),
        (conv_transpose, [(2, 4, 4, 4), (4, 4, 3, 4)], {"stride": 2, "padding": 1, "output_size": (9, 10)}, "maps"),
        (conv_transpose, [(2, 1, 1, 4), (4, 4, 3, 4)], {"stride": 2, "padding": 2}, "maps"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(function, shapes, kwargs, message):
    with pytest.raises(ValueError, match=message):
        function(*arrays(*shapes), **kwargs)
