"""Grouped convolution against the library's own: values, gradients, gradients of gradients, platforms."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array, lax

from jimgen.nets import grouped
from jimgen.nets.grouped import grouped_conv
from jimgen.nets.layers import Conv

CASES = [  # channels, features, groups, kernel, padding
    (6, 4, 2, (3, 3), "SAME"),
    (6, 9, 3, (3, 2), "VALID"),
    (4, 4, 4, (2, 3), ((1, 0), (0, 2))),  # depthwise
    (4, 8, 4, (1, 1), 0),
    (34, 68, 34, (3, 3), 1),  # more groups than there may be pieces
    (32, 4, 2, (3, 3), 1),  # two pieces
]


@pytest.fixture(autouse=True)
def float64(x64):
    """Every test here runs in float64, unless it names another precision."""


def native(x: Array, kernel: Array, groups: int, *, padding="SAME") -> Array:
    pads = ((padding, padding),) * 2 if isinstance(padding, int) else padding
    numbers = ("NHWC", "HWIO", "NHWC")
    return lax.conv_general_dilated(x, kernel, (1, 1), pads, dimension_numbers=numbers, feature_group_count=groups)


def arrays(channels, features, groups, kernel, dtype=np.float64) -> tuple[Array, Array]:
    random = np.random.default_rng(0)
    shapes = (2, 5, 4, channels), (*kernel, channels // groups, features)
    return tuple(jnp.asarray(random.normal(size=shape), dtype) for shape in shapes)


def derivatives(function, x, k):
    """The value, the gradients of a function of it, and those of R1, |gradient in x|^2."""

    def score(x, k):
        return jnp.sum(jnp.sin(function(x, k)))

    def penalty(x, k):
        return jnp.sum(jax.grad(score)(x, k) ** 2)

    return function(x, k), jax.grad(score, (0, 1))(x, k), jax.grad(penalty, (0, 1))(x, k)


def assert_close(got, want, tolerance=1e-10):
    jax.tree.map(lambda a, b: np.testing.assert_allclose(a, b, rtol=tolerance, atol=tolerance), got, want)


@pytest.mark.parametrize(("channels", "features", "groups", "kernel", "padding"), CASES)
def test_values_and_derivatives_are_those_of_the_native_convolution(channels, features, groups, kernel, padding):
    x, k = arrays(channels, features, groups, kernel)
    found, want = (
        jax.jit(partial(derivatives, partial(function, groups=groups, padding=padding)))(x, k)
        for function in (grouped_conv, native)
    )
    assert_close(found, want)


def test_one_group_is_the_dense_convolution():
    x, k = arrays(4, 6, 1, (3, 3))
    assert_close(grouped_conv(x, k, 1), native(x, k, 1))


def test_groups_do_not_mix():
    """By hand: two groups, each a 1x1 product of its own."""
    x = jnp.asarray([1.0, 2, 3, 4]).reshape(1, 1, 1, 4)
    k = jnp.asarray([[1.0, 10], [2, 20]]).reshape(1, 1, 2, 2)
    np.testing.assert_allclose(grouped_conv(x, k, 2)[0, 0, 0], [1 * 1 + 2 * 2, 3 * 10 + 4 * 20])


@pytest.mark.parametrize(
    ("groups", "channels", "merged"),
    [(8, 16, 1), (8, 64, 1), (8, 4, 4), (128, 1, 16), (96, 16, 6), (6, 1, 6), (7, 3, 7)],
)
def test_small_and_many_groups_are_merged(groups, channels, merged):
    assert grouped._merged(groups, channels) == merged


@pytest.mark.parametrize("groups", [1, 2])
def test_circular_padding_makes_a_convolution_commute_with_rolls(groups):
    x, k = arrays(4, 6, groups, (3, 3))
    convolve = partial(grouped_conv, kernel=k, groups=groups, circular=True)
    assert_close(convolve(jnp.roll(x, (2, 1), (1, 2))), jnp.roll(convolve(x), (2, 1), (1, 2)))
    tiled = grouped_conv(jnp.tile(x, (1, 3, 3, 1)), k, groups)
    assert_close(convolve(x), tiled[:, 5:10, 4:8])


def test_the_layer_takes_groups_and_wraps():
    x, _ = arrays(4, 6, 2, (3, 3))
    layer = Conv(6, 3, 1, groups=2, circular=True)
    y, variables = layer.init_with_output(jax.random.key(0), x.astype(jnp.float32))
    kernel = variables["params"]["kernel"]
    assert kernel.shape == (3, 3, 2, 6)
    assert_close(y, grouped_conv(x, kernel.astype(x.dtype), 2, circular=True), 1e-5)
    with pytest.raises(ValueError, match="2 groups requires stride 1, not 2"):
        Conv(6, groups=2).init(jax.random.key(0), x)


@pytest.mark.parametrize(("dtype", "tolerance"), [(jnp.float32, 1e-5), (jnp.bfloat16, 3e-2)])
def test_other_precisions_keep_their_dtype(dtype, tolerance):
    x, k = arrays(4, 6, 2, (3, 3), dtype)
    found = jax.value_and_grad(lambda x, k: grouped_conv(x, k, 2).sum(), (0, 1))(x, k)
    assert {a.dtype for a in jax.tree.leaves(found)} == {jnp.dtype(dtype)}
    assert_close(
        grouped_conv(x, k, 2).astype(jnp.float64),
        native(x.astype(jnp.float64), k.astype(jnp.float64), 2),
        tolerance * 4,
    )


def test_accelerators_get_one_grouped_convolution_and_cpus_none():
    x, k = arrays(8, 8, 4, (3, 3), jnp.float32)
    traced = jax.jit(partial(derivatives, partial(grouped_conv, groups=4))).trace(x, k)
    for platform in ("cuda", "tpu", "cpu"):
        text = traced.lower(lowering_platforms=(platform,)).as_text()
        assert ("feature_group_count = 4" in text and "batch_group_count = 4" in text) == (platform != "cpu")


def test_wrong_shapes_are_refused():
    x, k = arrays(4, 6, 2, (3, 3))
    with pytest.raises(ValueError, match="multiple of the 3 groups"):
        grouped_conv(x, k, 3)
    with pytest.raises(ValueError, match="multiple of the 2 groups"):
        grouped_conv(x, k[..., :5], 2)
    with pytest.raises(ValueError, match=r"kernel of \(3, 3\) does not fit into \(2, 4\)"):
        grouped_conv(x[:, :2], k, 2, padding="VALID")
