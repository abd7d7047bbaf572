"""Likelihoods of discrete pixels: probabilities of every level, what they depend on, expectations."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.methods.likelihoods import bernoulli, logistic_mixture

DISCRETE = {
    "bernoulli": (bernoulli(), np.array([0.0, 1.0])),
    "logistic_mixture": (logistic_mixture(2), np.arange(256) / 127.5 - 1),
    "neighbours": (logistic_mixture(2, neighbours=True), np.arange(256) / 127.5 - 1),
}
SHAPE = (2, 3, 4, 2)


@pytest.mark.parametrize("name", DISCRETE)
def test_the_nll_is_that_of_probabilities_that_sum_to_one(name):
    """Of every value of every pixel; pixels that have their turn later have no say in them."""
    likelihood, levels = DISCRETE[name]
    rng = np.random.default_rng(0)
    chosen = rng.integers(0, len(levels), SHAPE)
    x = jnp.asarray(levels[chosen], jnp.float32)
    output = jnp.asarray(rng.normal(size=(*SHAPE[:3], SHAPE[3] * likelihood.outputs)), jnp.float32)
    log_probs, places = jax.jit(likelihood.log_probs), np.arange(SHAPE[1] * SHAPE[2] * SHAPE[3])
    log_p = np.asarray(log_probs(output, x, places))
    np.testing.assert_allclose(jax.nn.logsumexp(log_p, axis=-1), 0, atol=1e-4)
    expected = -np.take_along_axis(log_p, chosen.reshape(SHAPE[0], -1, 1), -1).sum((1, 2))
    np.testing.assert_allclose(likelihood.nll({}, output, x, None), expected, rtol=1e-5)
    turns = likelihood.turns(*SHAPE[1:3])
    for turn in range(turns.max() + 1):
        hidden = jnp.where(turns[None, :, :, None] >= turn, -1.0, x)
        now = np.flatnonzero(np.repeat(turns.ravel(), SHAPE[3]) == turn)[::-1]
        found = np.asarray(log_probs(output, hidden, now))
        np.testing.assert_array_equal(found, log_probs(output, x, now))
        np.testing.assert_allclose(found, log_p[:, now], rtol=1e-6, atol=1e-6)


def test_the_expectation_with_neighbours_goes_from_pixel_to_pixel():
    """Against a loop, from -1 outside of the image on."""
    likelihood, rng = logistic_mixture(1, neighbours=True), np.random.default_rng(1)
    output = rng.normal(size=(*SHAPE[:3], SHAPE[3], 6)) * 0.5
    x = np.full((SHAPE[0], SHAPE[1] + 1, SHAPE[2] + 1, SHAPE[3]), -1.0)
    for i in range(SHAPE[1]):
        for j in range(SHAPE[2]):
            near = x[:, i, j + 1], x[:, i + 1, j], x[:, i, j]
            _, mean, _, *factors = np.moveaxis(output[:, i, j], -1, 0)
            x[:, i + 1, j + 1] = np.clip(mean + sum(a * b for a, b in zip(factors, near, strict=True)), -1, 1)
    flat = jnp.asarray(output.reshape(*SHAPE[:3], -1), jnp.float32)
    np.testing.assert_allclose(jax.jit(likelihood.expectation)(flat), x[:, 1:, 1:], atol=1e-5)


def test_refuses_no_components():
    with pytest.raises(ValueError, match="--components 0"):
        logistic_mixture(0)
