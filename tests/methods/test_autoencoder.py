"""KL autoencoders: the loss, the statistics of latents, agreement of all modes, and a short training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, in_training, largest_difference, state_of, tiny_autoencoder, tiny_batch

from jimgen import data, noise
from jimgen.data.batches import scale_batch
from jimgen.methods.adversary import Adversary
from jimgen.methods.autoencoder import autoencoder, latent_statistics
from jimgen.nets.autoencoder_kl import Decoder, Encoder
from jimgen.nets.dcgan import Discriminator
from jimgen.train_step import compile_step, make_train_step

KEY = 7


def maps_of(images):
    """A fixed net of two maps: the image in squares of four pixels, and its rows."""
    n, h, w, c = images.shape
    return images.reshape(n, h // 2, 2, w // 2, 2 * c).swapaxes(2, 3).reshape(n, h // 2, w // 2, 4 * c), images[..., 0]


def trained(method, steps=3, mode="jit", num_devices=1, dtype=jnp.float32, **options):
    """The state and metrics after some steps, on another batch in each."""
    compiled = compile_step(make_train_step(method.phases, **options), mode, jax.devices()[:num_devices])
    state = jax.device_put(state_of(method, tiny_batch(dtype=dtype), dtype), compiled.state_sharding)
    key, metrics = jax.device_put(jax.random.key(KEY), compiled.replicated), {}
    for seed in range(steps):
        batch = jax.device_put(tiny_batch(seed=seed, dtype=dtype), compiled.batch_sharding)
        state, metrics = compiled.run(state, batch, key)
    return jax.device_get((state, metrics))


def test_the_loss_is_the_sum_of_its_parts():
    """|x - D(z)|, summed over pixels, + .3 KL, summed over latents, + .1 x 96 pixels x the distance of the maps."""
    made, batch = tiny_autoencoder(kl_weight=0.3, feature_maps=maps_of, feature_weight=0.1), tiny_batch()
    variables, key = state_of(made.method, batch).variables, jax.random.key(KEY)
    variables["encoder"]["params"]["to_moments"]["bias"] = jnp.asarray([0.5, 0, 0, -1, 0.2, 0])
    loss, aux = jax.jit(made.method.phases[0].objective)(variables, in_training(batch), key)

    @jax.jit
    def forward(variables):
        mean, logvar = Encoder(3, (4,), 0).apply(variables["encoder"], batch["image"])
        eps = noise.normal(jax.random.fold_in(key, 1), batch["index"], (4, 6, 3))
        return mean, logvar, Decoder(1, (4,), 0).apply(variables["decoder"], mean + jnp.exp(logvar / 2) * eps)

    mean, logvar, output = (np.asarray(x) for x in forward(variables))
    images = np.asarray(batch["image"])
    error = np.abs(output - images).sum((1, 2, 3))
    kl = (mean**2 + np.exp(logvar) - logvar - 1).sum((1, 2, 3)) / 2
    distance = np.zeros(len(images))
    for f, g in zip(maps_of(images), maps_of(output), strict=True):
        f, g = (x / np.linalg.norm(x, axis=-1, keepdims=True) for x in (f, g))
        distance += np.square(f - g).sum(-1).reshape(len(f), -1).mean(1)
    features = 0.1 * math.prod(SHAPE) * distance
    assert float(loss) == pytest.approx((error + 0.3 * kl + features).mean(), rel=1e-4)
    expected = {"reconstruction": error.mean(), "kl_nats": kl.mean(), "features": features.mean()}
    assert {name: float(value) for name, value in aux.metrics.items()} == pytest.approx(expected, rel=1e-4)


def test_statistics_of_the_latents_are_those_of_numpy():
    """Nets that stay as they are, three batches, a long half-life: mean and standard deviation of all latents seen.

    That of z ~ q(z|x) has the variance of the noise in it.
    """
    made = tiny_autoencoder(tx=optax.sgd(0.0))
    state, _ = trained(made.method)
    images = np.concatenate([tiny_batch(seed=seed)["image"] for seed in range(3)])
    mean, logvar = Encoder(3, (4,), 0).apply(state.variables["encoder"], images)
    mean, var = (np.asarray(x, np.float64).reshape(-1, 3) for x in (mean, jnp.exp(logvar)))
    found = latent_statistics(state.variables)
    np.testing.assert_allclose(found[0], mean.mean(0), rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(found[1], np.sqrt(mean.var(0) + var.mean(0)), rtol=1e-4)
    assert state.variables["latents"]["images"] == 24
    # Half of what came before remains after a batch of eight, for a half-life of eight images.
    state, _ = trained(tiny_autoencoder(tx=optax.sgd(0.0), statistics_half_life=8).method)
    each = mean.reshape(3, -1, 3).mean(1)
    np.testing.assert_allclose(latent_statistics(state.variables)[0], each.T @ [0.25, 0.25, 0.5], rtol=1e-4, atol=1e-6)


def test_latents_are_normalised_and_come_back():
    """Twice the spread and another centre: the same image, in latents of half the size."""
    made, batch = tiny_autoencoder(), tiny_batch()
    variables = state_of(made.method, batch).variables
    mean, std = jax.jit(made.encode)(variables, batch["image"])
    assert made.latent_shape == (4, 6, 3) and mean.shape == std.shape == (8, 4, 6, 3)
    assert mean.dtype == std.dtype == jnp.float32
    moved = {**variables, "latents": {"mean": jnp.ones(3), "square": jnp.full(3, 5.0), "images": jnp.ones(())}}
    again = jax.jit(made.encode)(moved, batch["image"])
    np.testing.assert_allclose(again[0], (mean - 1) / 2, atol=1e-6)
    np.testing.assert_allclose(again[1], std / 2, rtol=1e-6)
    images = jax.jit(made.decode)(moved, again[0])
    np.testing.assert_allclose(images, jax.jit(made.decode)(variables, mean), atol=1e-5)
    reconstructed = jax.jit(made.method.reconstruct)(moved, batch["image"], batch["label"])
    np.testing.assert_allclose(images, reconstructed, atol=1e-6)
    assert float(jnp.abs(images).max()) <= 1
    drawn = jax.jit(made.method.sample)(variables, jax.random.key(0), batch["label"])
    assert drawn.shape == batch["image"].shape and len(np.unique(np.asarray(drawn).reshape(8, -1), axis=0)) == 8


def test_bad_input_is_refused():
    made = tiny_autoencoder()
    variables = state_of(made.method, tiny_batch()).variables
    with pytest.raises(ValueError, match=r"takes images \[8, 12, 1\], got \[12, 8, 1\]"):
        made.encode(variables, jnp.zeros((2, 12, 8, 1)))
    with pytest.raises(ValueError, match=r"takes latents \[4, 6, 3\], got \[6, 4, 3\]"):
        made.decode(variables, jnp.zeros((2, 6, 4, 3)))
    options = {"tx": optax.sgd(0.1)}
    with pytest.raises(ValueError, match="encoder halves images 2 times.*multiples of 4; got 30x28. Use 32x28"):
        autoencoder(Encoder(3, (4, 4)), Decoder(1, (4, 4)), image_shape=(30, 28, 1), **options)
    with pytest.raises(ValueError, match=r"images are \[8, 12, 1\], the decoder gives \[16, 24, 1\]"):
        autoencoder(Encoder(3, (4,)), Decoder(1, (4, 4)), image_shape=SHAPE, **options)


def test_every_mode_and_microbatches_compute_the_same_numbers(x64):
    """Nets, discriminator and statistics, in float64. The adaptive weight is tested with tokenizers, which share it."""
    discriminator = Discriminator((4,), batch_norm=False, dtype=jnp.float64)
    adversary = Adversary(discriminator, optax.sgd(1e-3), adaptive=False)
    method = tiny_autoencoder(jnp.float64, optax.sgd(1e-3), adversary=adversary, statistics_half_life=10).method
    expected, _ = trained(method, 2, dtype=jnp.float64)
    for mode, num_devices, accumulate in (("pmap", 4, 1), ("sharded", 2, 2)):
        found, _ = trained(method, 2, mode, num_devices, jnp.float64, accumulate=accumulate)
        assert largest_difference(found.variables, expected.variables) < 1e-10, mode


def test_an_autoencoder_learns_digits():
    """Forty small steps lower the error of the test digits, and latents have mean 0 and standard deviation 1."""
    dataset = data.load("digits")
    made = autoencoder(Encoder(2, (16,), 1), Decoder(1, (16,), 1), image_shape=(8, 8, 1), tx=optax.adam(1e-2))
    step = jax.jit(make_train_step(made.method.phases, prepare=scale_batch), donate_argnums=0)

    def batch(images):
        index = jnp.arange(len(images), dtype=jnp.int32)
        return {"image": jnp.asarray(images), "label": 0 * index, "index": index}

    test, evaluate = scale_batch(batch(dataset.test.images)), jax.jit(made.method.evaluate)
    state = state_of(made.method, scale_batch(batch(dataset.train.images[:2])))
    before = evaluate(state.variables, test, jax.random.key(0))
    for number in range(40):
        rows = np.random.default_rng(number).integers(0, len(dataset.train.images), 64)
        state, _ = step(state, batch(dataset.train.images[rows]), jax.random.key(KEY))
    after = evaluate(state.variables, test, jax.random.key(0))
    assert float(after["reconstruction"].mean()) < 0.5 * float(before["reconstruction"].mean())
    assert float(after["psnr_db"].mean()) > float(before["psnr_db"].mean()) + 4
    mean, std = jax.jit(made.encode)(state.variables, test["image"])
    spread = np.sqrt(np.asarray(mean).var((0, 1, 2)) + np.square(std).mean((0, 1, 2)))
    np.testing.assert_allclose(mean.mean((0, 1, 2)), 0, atol=0.3)
    np.testing.assert_allclose(spread, 1, atol=0.3)
