"""Shared layers: shapes and values of convolutions, batch statistics, labels, sizes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.nets.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    at_least_float32,
    base_size,
    num_halvings,
    stage_widths,
)

SAMPLES = 3.0 + 2.0 * np.random.default_rng(0).standard_normal((16, 4, 6, 3)).astype(np.float32)


@pytest.mark.parametrize(
    ("layer", "shape"),
    [
        (Conv(5), (2, 4, 6, 5)),
        (Conv(5, kernel_size=3, stride=1), (2, 8, 12, 5)),
        (Conv(5, kernel_size=4, stride=1, padding=0), (2, 5, 9, 5)),
        (ConvTranspose(5), (2, 16, 24, 5)),
        (ConvTranspose(5, kernel_size=3, stride=1), (2, 8, 12, 5)),
    ],
)
def test_convolutions_have_the_shapes_they_promise(layer, shape):
    x = jnp.ones((2, 8, 12, 3))
    y, variables = layer.init_with_output(jax.random.key(0), x)
    assert y.shape == shape and y.dtype == jnp.float32
    bare = layer.clone(use_bias=False).init(jax.random.key(0), x)
    assert set(variables["params"]) == {"kernel", "bias"} and set(bare["params"]) == {"kernel"}
    assert variables["params"]["kernel"].size == layer.kernel_size**2 * 3 * 5


def test_a_bias_is_added_to_every_place():
    layer, x = Conv(2), jnp.ones((1, 4, 4, 1))
    variables = layer.init(jax.random.key(0), x)
    moved = {"params": {**variables["params"], "bias": jnp.asarray([1.0, -2.0])}}
    difference = layer.apply(moved, x) - layer.apply(variables, x)
    np.testing.assert_allclose(difference, np.broadcast_to([1.0, -2.0], difference.shape), atol=1e-6)


def test_a_transposed_convolution_is_the_adjoint():
    """<conv(x), y> = <x, conv_transpose(y)> with one kernel."""
    rng = np.random.default_rng(0)
    x, y = jnp.asarray(rng.standard_normal((2, 8, 12, 3))), jnp.asarray(rng.standard_normal((2, 4, 6, 5)))
    down, up = Conv(5, use_bias=False), ConvTranspose(3, use_bias=False)
    variables = down.init(jax.random.key(0), x)
    assert up.init(jax.random.key(0), y)["params"]["kernel"].shape == variables["params"]["kernel"].shape
    left, right = jnp.vdot(down.apply(variables, x), y), jnp.vdot(x, up.apply(variables, y))
    np.testing.assert_allclose(left, right, rtol=1e-4)


@pytest.mark.parametrize("layer", [Conv(64), ConvTranspose(64)])
def test_initialisation_is_scaled_to_the_channels_that_come_in(layer):
    """LeCun: the variance of the weights is one over the terms summed into an output (for stride one)."""
    kernel = layer.init(jax.random.key(0), jnp.ones((1, 4, 4, 32)))["params"]["kernel"]
    assert float(kernel.var()) == pytest.approx(1 / (16 * 32), rel=0.05)


def test_batch_norm_in_training_gives_mean_zero_and_variance_one():
    layer = BatchNorm(train=True)
    y, _ = layer.init_with_output(jax.random.key(0), jnp.asarray(SAMPLES))
    np.testing.assert_allclose(y.mean((0, 1, 2)), np.zeros(3), atol=1e-5)
    np.testing.assert_allclose(y.var((0, 1, 2)), np.ones(3), atol=1e-3)


def test_batch_norm_statistics_converge_to_the_data_s_and_are_used_in_evaluation():
    """Each step gives 0.9 of the old plus 0.1 of the new statistics; evaluation uses them for every batch."""
    x, layer = jnp.asarray(SAMPLES), BatchNorm(train=True)
    variables = layer.init(jax.random.key(0), x)
    start = variables["batch_stats"]
    np.testing.assert_array_equal(start["mean"], np.zeros(3))
    np.testing.assert_array_equal(start["var"], np.ones(3))
    mean, var = SAMPLES.mean((0, 1, 2)), SAMPLES.var((0, 1, 2))
    for steps in range(1, 101):
        _, changed = layer.apply(variables, x, mutable=["batch_stats"])
        variables = {**variables, **changed}
        if steps in (1, 2, 100):
            found = variables["batch_stats"]
            np.testing.assert_allclose(found["mean"], mean * (1 - 0.9**steps), rtol=1e-3)
            np.testing.assert_allclose(found["var"], var + 0.9**steps * (1 - var), rtol=1e-3)
    evaluate = BatchNorm(train=False)
    few = evaluate.apply(variables, x[:2])
    np.testing.assert_allclose(few, (SAMPLES[:2] - mean) / np.sqrt(var + 1e-5), atol=2e-3)
    np.testing.assert_allclose(few, evaluate.apply(variables, x)[:2], atol=1e-6)


def test_batch_norm_keeps_its_statistics_in_float32():
    layer = BatchNorm(train=True, dtype=jnp.bfloat16)
    y, variables = layer.init_with_output(jax.random.key(0), jnp.asarray(SAMPLES))
    assert y.dtype == jnp.bfloat16
    assert {x.dtype for x in jax.tree.leaves(variables)} == {jnp.dtype("float32")}


@pytest.mark.parametrize("train", [True, False])
@pytest.mark.parametrize("dtype, mean, std", [("bfloat16", 10, 1), ("bfloat16", 100, 1), ("float32", 100, 0.01)])
def test_batch_norm_is_exact_far_from_the_origin(train, dtype, mean, std):
    """Agreement with float64 up to the rounding of the result; scale and bias are not powers of two."""
    x = jnp.asarray(mean + std * np.random.default_rng(0).standard_normal((16, 4, 4, 3)), dtype)
    layer = BatchNorm(train=train, dtype=dtype)
    exact = np.asarray(x, np.float64)
    moments = {"mean": exact.mean((0, 1, 2)), "var": exact.var((0, 1, 2))}
    params = {"scale": jnp.asarray([1.3, 0.7, 1.1]), "bias": jnp.asarray([0.1, -0.3, 0.7])}
    variables = {"params": params, "batch_stats": jax.tree.map(lambda a: jnp.asarray(a, jnp.float32), moments)}
    found, changed = layer.apply(variables, x, mutable=["batch_stats"])
    expected = (exact - moments["mean"]) / np.sqrt(moments["var"] + 1e-5) * [1.3, 0.7, 1.1] + [0.1, -0.3, 0.7]
    np.testing.assert_allclose(
        np.asarray(found, np.float64), expected, rtol=2.0**-8 if dtype == "bfloat16" else 2e-3, atol=2e-3
    )
    for name, value in moments.items():  # as the running ones are the batch's, they stay
        np.testing.assert_allclose(changed["batch_stats"][name], value, rtol=1e-3)


def test_batch_norm_s_gradient_is_that_of_the_formula(x64):
    x, weights = (jnp.asarray(np.random.default_rng(seed).standard_normal((6, 2, 2, 3))) for seed in (0, 1))
    layer = BatchNorm(train=True)
    variables = layer.init(jax.random.key(0), x)
    ours = lambda x: (weights * layer.apply(variables, x, mutable=["batch_stats"])[0]).sum()  # noqa: E731

    def formula(x):
        moved = x - x.mean((0, 1, 2), keepdims=True)
        return (weights * moved / jnp.sqrt(jnp.square(moved).mean((0, 1, 2), keepdims=True) + 1e-5)).sum()

    np.testing.assert_allclose(jax.grad(ours)(x), jax.grad(formula)(x), rtol=1e-4, atol=1e-6)


def test_outputs_have_at_least_float32(x64):
    for dtype, expected in ((jnp.bfloat16, jnp.float32), (jnp.float32, jnp.float32), (jnp.float64, jnp.float64)):
        assert at_least_float32(jnp.ones(1, dtype)).dtype == expected


@pytest.mark.parametrize(
    ("height", "width", "halvings"),
    [(32, 32, 3), (28, 28, 2), (8, 8, 1), (30, 30, 1), (64, 64, 4), (7, 8, 0), (4, 4, 0), (16, 8, 1), (24, 48, 2)],
)
def test_sides_are_halved_while_they_are_even_and_large_enough(height, width, halvings):
    assert num_halvings(height, width) == halvings
    assert num_halvings(width, height) == halvings


def test_halving_goes_as_far_as_it_is_asked():
    assert [num_halvings(32, 32, smallest) for smallest in (1, 2, 4, 16, 32)] == [5, 4, 3, 1, 0]


def test_sizes_that_stages_do_not_divide_are_refused_with_sizes_that_fit():
    assert base_size((24, 16, 3), 3, "a net") == (3, 2)
    with pytest.raises(ValueError, match="a net halves images 3 times.*multiples of 8; got 30x28. Use 32x32"):
        base_size((30, 28, 1), 3, "a net")
    with pytest.raises(ValueError, match="got 1x1. Use 4x4"):
        base_size((1, 1, 1), 2, "a net")


def test_widths_double_at_every_halving_up_to_the_most():
    assert stage_widths(64, 192, 4) == (192, 192, 128, 64) and stage_widths(8, 8, 1) == (8,)
    with pytest.raises(ValueError, match="9 channels, more than the most, 8"):
        stage_widths(9, 8, 2)
