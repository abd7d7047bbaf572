"""Priors of VAEs: densities in closed form, draws, training with each, and what uses codes."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from tiny import SHAPE, compiled, state_of, tiny_batch, tiny_prior_vae

from jimgen.methods.priors import flow_log_prob, vamp_prior
from jimgen.sampling.diffusion import uniform_times
from jimgen.train_step import make_train_step

LABELS = jnp.zeros(3, jnp.int32)


def to_gaussian(mean, sigma):
    """The exact velocity of the path from N(mean, sigma^2) to noise."""

    def velocity(x, t):
        variance = (1 - t) ** 2 * sigma**2 + t**2
        return -mean + (t - (1 - t) * sigma**2) / variance * (x - (1 - t) * mean)

    return velocity


def test_the_density_of_a_flow_is_that_of_its_draws():
    """Of the exact flow between two Gaussians, in two dimensions."""
    z = jnp.array([[0.3, -0.2], [1.5, 0.4], [-0.5, 2.0]])
    found = jax.jit(lambda z: flow_log_prob(to_gaussian(0.4, 0.6), z, uniform_times(100)[::-1]))(z)
    np.testing.assert_allclose(found, stats.norm.logpdf(z, 0.4, 0.6).sum(1), atol=2e-3)


def test_vamp_prior_draws_from_the_posteriors_of_its_images():
    """The last dimension of the noise chooses one; components of class 'any' for nets that know labels."""
    seen = []

    def encode(variables, images, labels):
        seen.append(labels)
        mean = images.reshape(len(images), -1)[:, :2] * 10
        return mean, jnp.full_like(mean, -2.0)

    prior = vamp_prior(2, SHAPE, components=4, num_classes=(3, 5))
    variables = {"prior": prior.init(jax.random.key(0), {})}
    means = np.tanh(np.asarray(variables["prior"]["params"]["images"])).reshape(4, -1)[:, :2] * 10
    noise = jnp.array([[0.0, 0.0, -9.0], [1.0, -1.0, stats.norm.ppf(0.6)], [0.0, 0.0, 9.0]])
    z = prior.draw(variables, encode, noise)
    np.testing.assert_allclose(z, means[[0, 2, 3]] + math.exp(-1) * np.asarray(noise[:, :2]), rtol=1e-4, atol=1e-5)
    np.testing.assert_array_equal(seen[0], [[3, 5]] * 4)
    expected = np.log(np.mean([np.exp(stats.norm.logpdf(z, m, math.exp(-1)).sum(1)) for m in means], axis=0))
    np.testing.assert_allclose(prior.log_prob(variables, encode, z), expected, rtol=1e-4)


@pytest.mark.parametrize("name", ["vamp", "flow"])
def test_a_vae_trains_samples_and_is_evaluated_with_every_prior(name):
    """All nets move but those of a phase that leaves them; samples, reconstructions, codes and bounds are finite."""
    method, batch = tiny_prior_vae(name), tiny_batch(3)
    state = state_of(method, batch)
    step = jax.jit(make_train_step(method.phases))
    for _ in range(2):  # a velocity of zero at first leaves all layers but the last without gradient
        after, metrics = step(state, batch, jax.random.key(0))
        moved = {net: not _equal(state.variables[net], after.variables[net]) for net in after.variables}
        state = after
    assert moved == {"encoder": True, "decoder": True, "prior": True} and set(after.ema) == set(moved)
    if name == "flow":
        assert np.isfinite(metrics["prior/loss"])
        alone = jax.jit(make_train_step(method.phases[1:]))(state, batch, jax.random.key(0))[0]
        assert _equal(alone.variables["encoder"], state.variables["encoder"])
    method = compiled(method)
    metrics = method.evaluate(state.variables, batch, jax.random.key(1))
    assert all(np.isfinite(value).all() for value in metrics.values())
    elbo = metrics["reconstruction_nats"] + metrics["kl_nats"]
    np.testing.assert_allclose(metrics["nats[binarised,ELBO]"], elbo, rtol=1e-5)
    assert method.sample(state.variables, jax.random.key(2), LABELS).shape == (3, *SHAPE)
    assert method.space.latent_dim == 4 + (name == "vamp") and method.space.is_straight
    codes = method.space.encode(state.variables, batch["image"], LABELS)
    decoded = method.space.decode(state.variables, codes, LABELS, jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(method.reconstruct(state.variables, batch["image"], LABELS), decoded, atol=1e-5)
    assert method.space.centre(state.variables, LABELS).shape == (3, 4)


def _equal(a, b) -> bool:
    return all(np.array_equal(x, y) for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True))


def test_refuses_no_components():
    with pytest.raises(ValueError, match="--components 0"):
        vamp_prior(2, SHAPE, 0)
