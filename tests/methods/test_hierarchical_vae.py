"""Hierarchical VAEs: the ELBO and its levels, sampling, codes, levels shared with images."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import SHAPE, compiled, in_training, state_of, tiny_batch, tiny_hierarchical_vae

from jimgen.methods.likelihoods import gaussian

LABELS = jnp.asarray([0, 1, 2], jnp.int32)
KEY = 3
LEVELS = ("kl_nats_level0", "kl_nats_level1")


@pytest.fixture(scope="module")
def method():
    return compiled(tiny_hierarchical_vae(likelihood=gaussian(0.3), temperature=0.5))


@pytest.fixture(scope="module")
def variables(method):
    """Variables in which every bias is active."""
    return jax.tree.map(lambda x: x * 1.2 + 0.02, state_of(method, tiny_batch()).variables)


def test_the_elbo_is_the_sum_of_its_levels(method, variables):
    """The objective is its mean at the same key; a warm-up weights the KL, free nats put a floor under each level."""
    batch, key = in_training(tiny_batch(), step=5), jax.random.key(KEY)
    metrics = method.evaluate(variables, batch, key)
    np.testing.assert_allclose(sum(metrics[name] for name in LEVELS), metrics["kl_nats"], rtol=1e-5)
    elbo = metrics["reconstruction_nats"] + metrics["kl_nats"]
    np.testing.assert_allclose(metrics["neg_elbo_nats"], elbo, rtol=1e-6)
    losses = {}
    for name, options in {"plain": {}, "warm-up": {"kl_warmup": 160}, "free": {"free_nats": 50.0}}.items():
        other = tiny_hierarchical_vae(likelihood=gaussian(0.3), **options)
        losses[name] = float(jax.jit(other.phases[0].objective)(variables, batch, key)[0])
    reconstruction, kl = (float(metrics[name].mean()) for name in ("reconstruction_nats", "kl_nats"))
    floored = sum(max(50.0, float(metrics[name].mean())) for name in LEVELS)
    expected = {"plain": reconstruction + kl, "warm-up": reconstruction + kl / 4, "free": reconstruction + floored}
    assert losses == pytest.approx(expected, rel=1e-5)


def test_the_importance_weights_average_to_the_elbo(method, variables):
    """E_q[log w] = ELBO: over draws, within five standard errors; each image by itself."""
    batch = tiny_batch()
    seen = jax.jit(method.importance.encode)(variables, batch, jax.random.key(0))
    keys = jax.random.split(jax.random.key(1), 300)
    log_w = jax.jit(jax.vmap(lambda key: method.importance.log_weight(variables, seen, batch, key)))(keys)
    elbos = jax.jit(jax.vmap(lambda key: method.evaluate(variables, batch, key)["neg_elbo_nats"]))(keys)
    error = np.asarray((log_w + elbos).std(0)) / np.sqrt(len(keys))
    np.testing.assert_array_less(np.abs((log_w + elbos).mean(0)), 5 * error + 1e-3)


def test_codes_are_noise_and_those_of_an_image_reconstruct_it(method, variables):
    images, space = tiny_batch(3)["image"], method.space
    codes = jax.jit(space.encode)(variables, images, LABELS)
    assert codes.shape == (3, space.latent_dim) and space.latent_dim == 3 + 2 * 3
    decoded = jax.jit(space.decode)(variables, codes, LABELS, jax.random.split(jax.random.key(0), 3))
    np.testing.assert_allclose(decoded, method.reconstruct(variables, images, LABELS), atol=1e-4)


def test_samples_are_cooler_at_a_lower_temperature(method, variables):
    """At temperature 0 all images of a class are equal."""
    labels = jnp.zeros(4, jnp.int32)
    spread = {}
    for temperature in (0.0, 0.5, 1.0):
        other = compiled(tiny_hierarchical_vae(likelihood=gaussian(0.3), temperature=temperature))
        images = other.sample(variables, jax.random.key(KEY), labels)
        assert images.shape == (4, *SHAPE)
        spread[temperature] = float(images.std(0).mean())
    assert spread[0.0] < 1e-6 < spread[0.5] < spread[1.0]


def test_images_share_the_levels_that_are_kept(method, variables):
    """With none kept, the image has no say; with the top one kept, it has."""
    draw = jax.jit(method.levels.draw, static_argnums=4)
    key, images = jax.random.key(KEY), tiny_batch(3)["image"]
    assert method.levels.names == ("3", "2x3x1")
    free, of_others = (draw(variables, jax.random.clone(key), x, LABELS, 0) for x in (images, -images))
    np.testing.assert_array_equal(free, of_others)
    kept, of_others = (draw(variables, jax.random.clone(key), x, LABELS, 1) for x in (images, -images))
    assert float(jnp.abs(kept - of_others).max()) > 1e-4 and float(jnp.abs(kept - free).max()) > 1e-4
