"""Spectral normalisation: values by hand, its state, its gradient, and labels."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from numeric import numerical_gradient

from jimgen.nets.resampled_convolution import conv3, conv3_halve
from jimgen.nets.spectral import SNConv, SNDense, SNLabelEmbedding, power_iteration


def test_power_iteration_tends_to_the_largest_singular_value():
    """Of diag(3, 1), from u = (1, 1) / sqrt 2."""
    kernel, u = jnp.diag(jnp.asarray([3.0, 1.0])), jnp.full(2, 0.5**0.5)
    found = []
    for _ in range(3):
        sigma, u = power_iteration(kernel, u)
        found.append(float(sigma))
    np.testing.assert_allclose(found, [2.863564, 2.998173, 2.999977], rtol=1e-6)


def test_sigma_has_a_gradient_and_the_vectors_have_none(x64):
    """The gradient of u'^T W v in W is the outer product of the vectors, with which sigma is again the product."""
    kernel, u = (jnp.asarray(np.random.default_rng(seed).standard_normal(s)) for seed, s in ((0, (2, 3, 4)), (1, (4,))))
    (sigma, after), slope = jax.value_and_grad(lambda k: power_iteration(k, u), has_aux=True)(kernel)
    matrix = np.asarray(kernel).reshape(6, 4)
    v = matrix @ np.asarray(u)
    v /= np.linalg.norm(v)
    np.testing.assert_allclose(slope, np.outer(v, after).reshape(2, 3, 4), rtol=1e-10)
    np.testing.assert_allclose(sigma, v @ matrix @ np.asarray(after), rtol=1e-10)
    np.testing.assert_allclose(np.linalg.norm(after), 1.0, rtol=1e-10)


@pytest.mark.parametrize("layer", [SNConv(4, True), SNConv(4, True, halve=True), SNDense(4, True)])
def test_a_kernel_reaches_spectral_norm_one_and_only_training_moves_u(layer):
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 4, 6, 3)), jnp.float32)
    variables = layer.init(jax.random.key(0), x)
    assert variables["batch_stats"]["u"].shape == (4,)
    y, kept = layer.clone(train=False).apply(variables, x, mutable=["batch_stats"])
    np.testing.assert_array_equal(kept["batch_stats"]["u"], variables["batch_stats"]["u"])
    step = jax.jit(lambda v: layer.apply(v, x, mutable=["batch_stats"]))
    np.testing.assert_allclose(step(variables)[0], y, atol=1e-5)  # the same kernel in both
    assert float(jnp.abs(step(variables)[1]["batch_stats"]["u"] - variables["batch_stats"]["u"]).max()) > 1e-3
    for _ in range(200):
        variables = {**variables, **step(variables)[1]}
    kernel = np.asarray(variables["params"]["kernel"])
    normalised = kernel / np.linalg.norm(kernel.reshape(-1, 4), 2)
    if isinstance(layer, SNDense):
        expected = x @ normalised
    else:
        expected = (conv3_halve if layer.halve else conv3)(x, jnp.asarray(normalised))
    np.testing.assert_allclose(layer.apply(variables, x, mutable=["batch_stats"])[0], expected, atol=1e-4)


def test_an_embedding_is_normalised_as_one_table_and_any_adds_nothing():
    net = SNLabelEmbedding((2, 3), 5, train=True)
    labels = jnp.asarray([[0, 0], [1, 2], [2, 2], [2, 3]], jnp.int32)
    variables = net.init(jax.random.key(0), labels)
    assert variables["params"]["embedding"].shape == (5, 5)
    for _ in range(100):
        found, changed = net.apply(variables, labels, mutable=["batch_stats"])
        variables = {**variables, **changed}
    table = np.asarray(variables["params"]["embedding"])
    table = table / np.linalg.norm(table, 2)
    expected = [table[0] + table[2], table[1] + table[4], table[4], np.zeros(5)]
    np.testing.assert_allclose(found, expected, atol=1e-3)


def test_the_gradient_through_a_normalised_kernel_is_that_of_finite_differences(x64):
    """With the vectors at their fixed point, where their own derivatives vanish to first order."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((3, 4)))
    net = SNDense(3, train=False, dtype=jnp.float64)
    variables = net.init(jax.random.key(0), x)
    kernel = np.asarray(variables["params"]["kernel"], np.float64)
    u = jnp.asarray(np.linalg.svd(kernel)[2][0])

    def loss(flat):
        params = {**variables["params"], "kernel": flat.reshape(4, 3)}
        return jnp.square(net.apply({"params": params, "batch_stats": {"u": u}}, x)).sum()

    flat = kernel.ravel()
    expected = numerical_gradient(lambda a: float(loss(jnp.asarray(a))), flat)
    np.testing.assert_allclose(jax.grad(loss)(jnp.asarray(flat)), expected, rtol=1e-6, atol=1e-8)
