"""Markov chains over codes of a linear decoder, whose posterior is Gaussian."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.apps.degradations import masked
from jimgen.sampling.latent_posterior import annealed, begin, langevin_step, potential_of

RNG = np.random.default_rng(0)
WEIGHTS = RNG.normal(size=(3, 4)).astype(np.float32)  # of an image of 2x2 pixels
SIGMA = 0.5
KNOWN = np.array([[True, True], [False, True]])
OBSERVED = np.array([1.0, -0.5, 0.0, 2.0], np.float32)


def decode(z):
    return (z @ WEIGHTS).reshape(len(z), 2, 2, 1)


def potential(n):
    observed = jnp.broadcast_to(jnp.asarray(OBSERVED).reshape(1, 2, 2, 1), (n, 2, 2, 1))
    return potential_of(decode, masked(KNOWN), observed, SIGMA)


def test_the_potential_by_hand():
    seen = WEIGHTS * KNOWN.ravel()
    z = RNG.normal(size=(2, 3)).astype(np.float32)
    expected = (((z @ seen - OBSERVED) / SIGMA) ** 2).sum(1) / 2 + (z**2).sum(1) / 2
    np.testing.assert_allclose(potential(2)(jnp.asarray(z)), expected, rtol=1e-5)


def test_chains_draw_from_the_posterior(optimised):
    n, u = 4000, potential(4000)
    precision = np.eye(3) + WEIGHTS @ np.diag(KNOWN.ravel()) @ WEIGHTS.T / SIGMA**2
    covariance = np.linalg.inv(precision)
    mean = covariance @ WEIGHTS @ (KNOWN.ravel() * OBSERVED) / SIGMA**2

    def move(chain, at):
        number, rate = at
        chain = langevin_step(u, chain, jax.random.fold_in(jax.random.key(0), number), rate)
        return chain, chain.accepted.mean()

    rates = jnp.repeat(jnp.asarray([0.2, 0.0]), 100)
    chain, accepted = jax.lax.scan(move, begin(u, jnp.zeros((n, 3))), (jnp.arange(200), rates))
    assert float(accepted[100:].mean()) == pytest.approx(0.574, abs=0.05)
    np.testing.assert_allclose(chain.z.mean(0), mean, atol=0.04)
    np.testing.assert_allclose(np.cov(chain.z.T), covariance, atol=0.04)


def test_a_code_that_is_not_finite_is_never_accepted():
    def cliff(z):
        return jnp.where(z[:, 0] > 0, jnp.nan, (z**2).sum(1) / 2)

    chain = begin(cliff, -jnp.ones((50, 2)), 0.5)
    for i in range(5):
        chain = langevin_step(cliff, chain, jax.random.key(i), 0.1)
    assert bool(jnp.isfinite(chain.z).all() & jnp.isfinite(chain.step_size).all() & (chain.z[:, 0] <= 0).all())


def test_annealed_deviations_end_at_their_own():
    sigma = jnp.asarray([0.1, 2.0])
    np.testing.assert_allclose(annealed(sigma, 1.0, 0.0), [1, 2], rtol=1e-6)
    np.testing.assert_allclose(annealed(sigma, 1.0, 0.5), [0.1**0.5, 2], rtol=1e-6)
    np.testing.assert_allclose(annealed(sigma, 1.0, 1.0), sigma, rtol=1e-6)
