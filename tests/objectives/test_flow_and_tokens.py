"""Losses of mean flows and tokenizers: factors that gradients hold constant, and entropies of codes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import normal
from tiny import applied

from jimgen import objectives
from jimgen.nets.vq import LookupFreeQuantiser, perplexity
from jimgen.objectives import entropy, lfq_entropy
from jimgen.parallel import DEVICE_AXIS, mean_over_devices


def test_the_adaptive_loss_by_hand():
    """.99 / (.99 + .01); the gradient is that of the squared error over the same constant."""
    squared = jnp.asarray([0.99, 3.99])
    np.testing.assert_allclose(objectives.adaptive_loss(squared), [0.99, 3.99 / 4], rtol=1e-6)
    np.testing.assert_allclose(objectives.adaptive_loss(squared, power=0.0), squared, rtol=1e-6)
    np.testing.assert_allclose(objectives.adaptive_loss(squared, power=0.5), [0.99, 3.99 / 2], rtol=1e-6)
    np.testing.assert_allclose(jax.grad(lambda s: objectives.adaptive_loss(s).sum())(squared), [1.0, 0.25], rtol=1e-6)
    assert float(objectives.adaptive_loss(jnp.zeros(1))[0]) == 0.0


@pytest.mark.parametrize(
    "power, norms",
    [(1.0, (10, 1.980198, 0.19998, 0.02)), (0.5, (1.414214, 1.990074, 1.9999, 2)), (0.0, (0.2, 2, 20, 200))],
)
def test_at_power_one_large_errors_pull_less(power, norms):
    """Norms of the gradient for errors of .1, 1, 10 and 100: 2 e / (e^2 + .01)^p."""
    errors = jnp.asarray([0.1, 1.0, 10.0, 100.0])
    gradient = jax.grad(lambda e: objectives.adaptive_loss(jnp.square(e), power).sum())(errors)
    np.testing.assert_allclose(gradient, norms, rtol=1e-5)


def test_adaptive_weight_by_hand():
    """Gradients (3, 4) and (0, .5) at .8: 7.9984; clipped where the adversary has no gradient."""
    assert float(0.8 * objectives.adaptive_weight(jnp.asarray(5.0), jnp.asarray(0.5))) == pytest.approx(
        7.9984, rel=1e-6
    )
    assert float(objectives.adaptive_weight(jnp.asarray(5.0), jnp.asarray(0.0))) == 1e4


def test_commitment_moves_vectors_and_the_codebook_loss_moves_codes():
    z, e = jnp.asarray([[1.0, 2.0]]), jnp.asarray([[0.0, 5.0]])
    slopes = lambda loss: jax.grad(lambda z, e: loss(z, e).sum(), (0, 1))(z, e)  # noqa: E731
    np.testing.assert_allclose(slopes(objectives.commitment_loss), ([[2.0, -6.0]], [[0.0, 0.0]]))
    np.testing.assert_allclose(slopes(objectives.codebook_loss), ([[0.0, 0.0]], [[-2.0, 6.0]]))


@pytest.mark.parametrize("dim", [1, 2, 3, 4])
def test_lfq_entropy_against_all_codes(dim, x64):
    """The definition: a softmax over the distances to all 2^d codes, at each place and on average."""
    z, temperature, gamma = normal(0, 3, 2, 2, dim).astype(jnp.float64), 1.7, 0.6
    codes = np.stack(np.meshgrid(*[[-1, 1]] * dim), -1).reshape(-1, dim)
    p = np.exp(-np.square(np.asarray(z)[..., None, :] - codes).sum(-1) / temperature)
    p /= p.sum(-1, keepdims=True)
    entropy = lambda p: -(p * np.log(p)).sum(-1)  # noqa: E731
    expected = entropy(p).sum((1, 2)) - gamma * 4 * entropy(p.mean((0, 1, 2)))
    np.testing.assert_allclose(lfq_entropy(z, temperature, gamma), expected, rtol=1e-10)


def test_lfq_entropy_at_its_ends():
    """Places at z = 0 cost d log 2 each without diversity; confident places on all codes equally cost -n d log 2."""
    np.testing.assert_allclose(lfq_entropy(jnp.zeros((2, 1, 1, 4)), diversity=0.0), [4 * math.log(2)] * 2, rtol=1e-6)
    np.testing.assert_allclose(lfq_entropy(jnp.zeros((2, 1, 1, 4))), [0, 0], atol=1e-5)
    corners = 200 * applied(LookupFreeQuantiser(3), {}, jnp.arange(8).reshape(1, 8), method="lookup")
    np.testing.assert_allclose(lfq_entropy(corners), [-8 * 3 * math.log(2)], rtol=1e-6)
    assert np.isfinite(jax.grad(lambda z: lfq_entropy(z).sum())(corners)).all()


@pytest.mark.parametrize("temperature", [1e-40, 0.01, 1.0])
def test_lfq_entropy_has_finite_gradients_where_probabilities_underflow(temperature):
    """Equal bits: except for z = 0, most of the 2^8 codes have probability 0 at low temperatures."""
    alike = jnp.asarray([0.0, 1e-3, 3.0, -40.0, 1e30])
    loss = jax.value_and_grad(lambda z: lfq_entropy(jnp.full((1, 2, 8), z), temperature).sum())
    for found in jax.jit(jax.vmap(loss))(alike):
        assert np.isfinite(found).all()


def test_lfq_entropy_where_codes_underflow_has_the_gradient_of_float64():
    z = np.asarray([[[3.0, -2, 0.02], [3, 2, 0.01]]])
    slope = lambda z: jax.grad(lambda z: lfq_entropy(z, 0.05, 0.5).sum())(z)  # noqa: E731
    found = slope(jnp.asarray(z, jnp.float32))
    with jax.enable_x64(True):
        expected = slope(jnp.asarray(z, jnp.float64))
    assert float(jnp.abs(found).max()) > 1
    np.testing.assert_allclose(found, expected, rtol=1e-4, atol=1e-6)


def test_lfq_temperature_must_be_positive():
    for wrong in (0.0, -1.0, math.nan):
        with pytest.raises(ValueError, match="expected temperature > 0"):
            lfq_entropy(jnp.ones((1, 2, 3)), wrong)


def test_entropies_have_a_gradient_where_a_probability_is_zero():
    """H(1, 0) = 0, with gradient -1 at p = 1 and 0 at p = 0. Perplexities of empty counts are finite, too."""
    value, slope = jax.value_and_grad(entropy)(jnp.asarray([1.0, 0.0]))
    assert float(value) == pytest.approx(0, abs=1e-30)
    np.testing.assert_allclose(slope, [-1, 0])
    assert np.isfinite(jax.grad(perplexity)(jnp.asarray([3.0, 1.0, 0.0]))).all()
    assert np.isfinite(jax.grad(perplexity)(jnp.zeros(3))).all()


def test_lfq_entropy_sees_all_devices(x64):
    """Value and gradient for a shared scale are the same under pmap and on one device."""
    z = normal(0, 4, 2, 2, 3).astype(jnp.float64)

    def value_and_slope(scale, z):
        loss = lambda scale: mean_over_devices(lfq_entropy(scale * z).mean())  # noqa: E731
        return mean_over_devices(jax.value_and_grad(loss)(scale))

    expected = jax.jit(value_and_slope)(0.7, z)
    parallel = jax.pmap(value_and_slope, DEVICE_AXIS, in_axes=(None, 0), out_axes=None, devices=jax.devices()[:2])
    np.testing.assert_allclose(parallel(0.7, z.reshape(2, 2, 2, 2, 3)), expected, rtol=1e-10)
