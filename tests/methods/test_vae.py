"""VAEs: the ELBO and its parts, likelihoods, samplers, and a short training."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny import SHAPE, compiled, state_of, tiny_batch

from jimgen import data
from jimgen.data.batches import scale_batch
from jimgen.methods.latents import interpolate
from jimgen.methods.likelihoods import bernoulli, gaussian
from jimgen.methods.vae import vae
from jimgen.nets.vae import MLPDecoder, MLPEncoder
from jimgen.train_step import make_train_step

LABELS = jnp.asarray([0, 1, 2, 0, 1], jnp.int32)
LIKELIHOODS = {
    "bernoulli": bernoulli(),
    "cross_entropy": bernoulli(binarise=False),
    "gaussian": gaussian(0.3),
    "learned_gaussian": gaussian(),
}
KEY = 3


def tiny_vae(*args, **options):
    return compiled(tiny.tiny_vae(*args, **options))


@pytest.fixture(scope="module")
def variables():
    """Variables with biases that are not all zero, and a learned standard deviation if the likelihood has one."""
    variables = state_of(tiny_vae(likelihood=gaussian()), tiny_batch()).variables
    return jax.tree.map(lambda x: x * 1.2 + 0.02, variables)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_the_elbo_is_the_sum_of_its_parts(name, variables):
    """Per example: reconstruction + KL; the objective is their mean at the same key; bits only for discrete x."""
    method, batch, key = tiny_vae(likelihood=LIKELIHOODS[name]), tiny_batch(), jax.random.key(KEY)
    metrics = method.evaluate(variables, batch, key)
    assert all(values.shape == (8,) for values in metrics.values())
    parts = metrics["reconstruction_nats"] + metrics["kl_nats"]
    total = "nats_given_label[binarised,ELBO]" if name == "bernoulli" else "neg_elbo_nats"
    np.testing.assert_allclose(metrics[total], parts, rtol=1e-6)
    assert (metrics["kl_nats"] > 0).all()
    loss, aux = method.phases[0].objective(variables, batch, key)
    assert float(loss) == pytest.approx(float(parts.mean()), rel=1e-6)
    for metric, value in aux.metrics.items():
        assert float(value) == pytest.approx(float((metrics | {"neg_elbo_nats": parts})[metric].mean()), rel=1e-6)
    assert any("bits_per_dim" in figure for figure in metrics) == (name == "bernoulli")
    if name == "bernoulli":
        bits = parts / (math.log(2) * math.prod(SHAPE))
        np.testing.assert_allclose(metrics["bits_per_dim_given_label[binarised,ELBO]"], bits, rtol=1e-6)


def test_the_kl_weight_enters_linearly(variables):
    """The loss increases by the KL per unit of weight; the reported metrics do not change."""
    batch, key, losses = tiny_batch(), jax.random.key(KEY), {}
    for weight in (0.0, 1.0, 4.0):
        loss, aux = tiny_vae(kl_weight=weight).phases[0].objective(variables, batch, key)
        losses[weight] = float(loss)
    kl = float(aux.metrics["kl_nats"])
    assert losses[0.0] == pytest.approx(float(aux.metrics["reconstruction_nats"]), rel=1e-6)
    assert losses[1.0] - losses[0.0] == pytest.approx(kl, rel=1e-3)
    assert losses[4.0] - losses[0.0] == pytest.approx(4 * kl, rel=1e-3)


@pytest.mark.parametrize("sigma", [0.1, 0.7])
def test_a_fixed_deviation_is_the_squared_error_plus_lambda_kl(sigma, variables, x64):
    """The gradient is that of ||x - D(E(x))||^2 + 2 sigma^2 KL, over 2 sigma^2."""
    method, key = tiny_vae(jnp.float64, likelihood=gaussian(sigma)), jax.random.key(KEY)
    batch = tiny_batch(dtype=jnp.float64)
    pair = jax.tree.map(lambda x: x.astype(jnp.float64), {net: variables[net] for net in ("encoder", "decoder")})

    def squared_error(pair):
        mean, logvar = method_encoder(jnp.float64).apply(pair["encoder"], batch["image"], batch["label"])
        noise = jax.vmap(lambda i: jax.random.normal(jax.random.fold_in(key, i), (4,)))(batch["index"])
        z = mean + jnp.exp(logvar / 2) * noise
        decoder = method_decoder(jnp.float64).apply(pair["decoder"], z, batch["label"])
        error = jnp.square(batch["image"] - decoder).sum((1, 2, 3))
        kl = 0.5 * (jnp.square(mean) + jnp.exp(logvar) - logvar - 1).sum(1)
        return (error + 2 * sigma**2 * kl).mean() / (2 * sigma**2)

    expected = jax.jit(jax.grad(squared_error))(pair)
    found = jax.jit(jax.grad(lambda pair: method.phases[0].objective(pair, batch, key)[0]))(pair)
    for a, b in zip(jax.tree.leaves(found), jax.tree.leaves(expected), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-6, atol=1e-9)


def method_encoder(dtype):
    from jimgen.nets.vae import ConvEncoder

    return ConvEncoder(4, (4, 8), 16, num_classes=3, dtype=dtype)


def method_decoder(dtype):
    """The decoder of tiny_vae."""
    from jimgen.nets.vae import ConvDecoder

    return ConvDecoder(SHAPE, (8, 4), 16, num_classes=3, dtype=dtype)


def test_a_learnt_deviation_gets_a_gradient_and_finds_the_residuals(variables):
    """It is a parameter of the phase, descends the gradient, and does not exist for a fixed sigma."""
    learned, fixed, batch = tiny_vae(likelihood=gaussian()), tiny_vae(likelihood=gaussian(1.0)), tiny_batch()
    assert learned.phases[0].trains == (*fixed.phases[0].trains, "likelihood") == learned.ema
    start = state_of(learned, batch)
    assert float(start.variables["likelihood"]["params"]["log_sigma"]) == 0.0
    slope = jax.grad(lambda v: learned.phases[0].objective(v, batch, jax.random.key(KEY))[0])
    gradient = jax.jit(slope)(start.variables)
    # Uniform pixels of variance 1/3 and a decoder near zero: d nll / d log sigma = D (1 - E[x^2] / sigma^2) = D 2/3.
    found = float(gradient["likelihood"]["params"]["log_sigma"])
    assert found == pytest.approx(math.prod(SHAPE) * 2 / 3, rel=0.25)
    state, _ = jax.jit(make_train_step(learned.phases))(start, batch, jax.random.key(0))
    assert float(state.variables["likelihood"]["params"]["log_sigma"]) < 0


def test_binarised_pixels_are_coins_with_the_pixels_means():
    """Draws are 0 or 1, with the grey value as the probability of 1, and deterministic at 0 and 1."""
    images = jnp.broadcast_to(jnp.asarray([-1.0, -0.5, 0.0, 0.8, 1.0]), (4000, 5))
    x = bernoulli().observe(jax.random.key(0), jnp.arange(4000), images)
    assert set(np.unique(x)) == {0.0, 1.0}
    np.testing.assert_allclose(x.mean(0), [0, 0.25, 0.5, 0.9, 1], atol=0.03)
    np.testing.assert_array_equal(x[:, [0, 4]], np.broadcast_to([0.0, 1.0], (4000, 2)))
    np.testing.assert_allclose(
        bernoulli(binarise=False).observe(jax.random.key(0), jnp.arange(3), images[:3]), (images[:3] + 1) / 2
    )


def test_binarised_pixels_belong_to_the_example(variables):
    """A permuted batch gives the same binary pixels and latents, and so the same metrics."""
    batch, order, method = tiny_batch(), jnp.asarray([3, 0, 7, 1, 2, 6, 5, 4]), tiny_vae()
    moved = {name: values[order] for name, values in batch.items()}
    observe, key = bernoulli().observe, jax.random.key(KEY)
    coins = observe(key, batch["index"], batch["image"])
    np.testing.assert_array_equal(observe(key, moved["index"], moved["image"]), coins[order])
    assert (coins != observe(jax.random.key(KEY + 1), batch["index"], batch["image"])).any()
    metrics, again = (method.evaluate(variables, b, key) for b in (batch, moved))
    for name, values in metrics.items():
        np.testing.assert_allclose(again[name], values[order], rtol=1e-5)


@pytest.mark.parametrize("name", LIKELIHOODS)
def test_reconstruct_is_encode_then_decode(name, variables):
    """Through the mean of q(z|x); images of the right shape in [-1, 1]."""
    method, batch = tiny_vae(likelihood=LIKELIHOODS[name]), tiny_batch()
    mean, _ = method_encoder(jnp.float32).apply(variables["encoder"], batch["image"], batch["label"])
    images = method.reconstruct(variables, batch["image"], batch["label"])
    assert images.shape == batch["image"].shape and float(jnp.abs(images).max()) <= 1
    likelihood, output = (
        LIKELIHOODS[name],
        method_decoder(jnp.float32).apply(variables["decoder"], mean, batch["label"]),
    )
    expected = likelihood.as_images(likelihood.expectation(output))
    np.testing.assert_allclose(images, jnp.clip(expected, -1, 1), rtol=1e-5, atol=1e-6)
    large = jax.tree.map(lambda x: x * 20, variables)
    assert float(jnp.abs(method.reconstruct(large, batch["image"], batch["label"])).max()) <= 1


def test_samples_are_a_function_of_the_key_and_follow_their_labels(variables):
    method = tiny_vae()
    first, again, other = (method.sample(variables, jax.random.key(seed), LABELS) for seed in (0, 0, 1))
    assert first.shape == (5, *SHAPE) and first.dtype == jnp.float32 and float(jnp.abs(first).max()) <= 1
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    after = method.sample(variables, jax.random.key(0), LABELS.at[0].set(2))
    assert (first[0] != after[0]).any()
    np.testing.assert_allclose(first[1:], after[1:], atol=1e-6)


walks = jax.jit(interpolate, static_argnums=(0, 4))


def test_walks_begin_and_end_where_two_steps_do(variables):
    method, key = tiny_vae(), jax.random.key(2)
    walk, ends = (walks(method.space, variables, key, LABELS[:3], steps) for steps in (5, 2))
    assert walk.shape == (3, 5, *SHAPE)
    np.testing.assert_allclose(walk[:, [0, -1]], ends, atol=1e-5)
    assert len(np.unique(np.asarray(walk).reshape(15, -1), axis=0)) == 15


class LinearEncoder(nn.Module):
    """q(z|x) = N(a x, exp(l)), a and l given, for one pixel and one latent."""

    slope: float
    logvar: float

    def __call__(self, images, labels):
        x = images.reshape(-1, 1)
        return self.slope * x, jnp.full_like(x, self.logvar)


class LinearDecoder(nn.Module):
    """E[x|z] = w z."""

    weight: float

    def __call__(self, z, labels):
        return (self.weight * z).reshape(-1, 1, 1, 1)


@pytest.mark.parametrize("off", [0.0, 0.3])
def test_the_elbo_bounds_a_known_likelihood_from_below(off, x64):
    """x = w z + sigma e: log p(x) = log N(x; 0, w^2 + sigma^2). The gap is the KL from the true posterior N(m, v) of z,
    here with q = N(m + off x, e^off v): (e^off - 1 - off) / 2 + (off x)^2 / 2v; none at off = 0.
    """
    w, sigma, repeats = 0.8, 0.5, 20_000
    variance = w**2 + sigma**2
    encoder = LinearEncoder(w / variance + off, math.log(sigma**2 / variance) + off)
    method = compiled(vae(encoder, LinearDecoder(w), latent_dim=1, tx=optax.sgd(0.0), likelihood=gaussian(sigma)))
    for x in (0.0, 0.9):
        index = jnp.arange(repeats, dtype=jnp.int32)
        batch = {"image": jnp.full((repeats, 1, 1, 1), x), "label": 0 * index, "index": index}
        neg_elbo = method.evaluate({"encoder": {}, "decoder": {}}, batch, jax.random.key(0))["neg_elbo_nats"].mean()
        neg_log_likelihood = 0.5 * math.log(2 * math.pi * variance) + x**2 / (2 * variance)
        gap = float(neg_elbo) - neg_log_likelihood
        expected = (math.exp(off) - 1 - off) / 2 + (off * x) ** 2 / (2 * sigma**2 / variance)
        assert gap == pytest.approx(expected, abs=0.01)


@pytest.mark.parametrize("off", [0.0, 0.6])
def test_importance_samples_tighten_the_bound(off, x64):
    """For the same linear model: every bound is exact for the true posterior; else the gap of IWAE-k falls with k."""
    w, sigma, x = 0.8, 0.5, 0.9
    variance = w**2 + sigma**2
    encoder = LinearEncoder(w / variance + off, math.log(sigma**2 / variance) + off)
    index = jnp.arange(4000, dtype=jnp.int32)
    batch = {"image": jnp.full((4000, 1, 1, 1), x), "label": 0 * index, "index": index}
    gaps = []
    for k in (1, 4, 32):
        method = vae(
            *(encoder, LinearDecoder(w)),
            latent_dim=1,
            tx=optax.sgd(0.0),
            likelihood=gaussian(sigma),
            importance_samples=k,
        )
        metrics = jax.jit(method.evaluate)({"encoder": {}, "decoder": {}}, batch, jax.random.key(0))
        gaps.append(float(metrics[f"neg_iwae-{k}_nats"].mean()))
        gaps[-1] -= 0.5 * math.log(2 * math.pi * variance) + x**2 / (2 * variance)
    if off:
        assert gaps[0] > 3 * gaps[1] > 3 * gaps[2] > -0.01 and gaps[2] < 0.05 * gaps[0]
    else:
        np.testing.assert_allclose(gaps, 0, atol=1e-9)


@pytest.mark.parametrize("logvar", [-400.0, -90.0, -44.0, 44.0, 90.0, 1e4])
def test_importance_samples_never_loosen_the_bound_at_any_log_variance(logvar):
    """z = mean + tiny noise rounds to the mean; log q(z|x) must still contain the noise."""
    encoder = LinearEncoder(1.0, logvar)
    method = vae(
        *(encoder, LinearDecoder(1e-3)),
        latent_dim=1,
        tx=optax.sgd(0.0),
        likelihood=gaussian(0.5),
        importance_samples=16,
    )
    index = jnp.arange(500, dtype=jnp.int32)
    batch = {"image": jnp.full((500, 1, 1, 1), 0.9), "label": 0 * index, "index": index}
    metrics = jax.jit(method.evaluate)({"encoder": {}, "decoder": {}}, batch, jax.random.key(0))
    assert all(np.isfinite(values).all() for values in metrics.values())
    assert float(metrics["neg_iwae-16_nats"].mean()) < float(metrics["neg_elbo_nats"].mean())


def test_importance_samples_are_metrics_of_binarised_images(variables):
    """The name contains k; the mean over many images is at most the ELBO's; a negative k raises an error."""
    metrics = tiny_vae(importance_samples=8).evaluate(variables, tiny_batch(64), jax.random.key(KEY))
    nats, bits = (metrics[f"{name}_given_label[binarised,IWAE-8]"] for name in ("nats", "bits_per_dim"))
    np.testing.assert_allclose(bits, nats / (math.log(2) * math.prod(SHAPE)), rtol=1e-6)
    assert float(nats.mean()) < float(metrics["nats_given_label[binarised,ELBO]"].mean())
    with pytest.raises(ValueError, match="importance_samples -1"):
        tiny_vae(importance_samples=-1)


def test_a_vae_learns_digits():
    """A few hundred steps of small dense nets: the bound falls far below that of independent pixels."""
    images = data.load("digits").train.images
    pair = MLPEncoder(8, (64,)), MLPDecoder((8, 8, 1), (64,))
    method = compiled(vae(*pair, latent_dim=8, tx=optax.adam(3e-3), likelihood=bernoulli()))
    step = jax.jit(make_train_step(method.phases, prepare=scale_batch), donate_argnums=0)

    def batch(rows):
        index = jnp.arange(len(rows), dtype=jnp.int32)
        return {"image": jnp.asarray(images[rows]), "label": 0 * index, "index": index}

    state = state_of(method, scale_batch(batch(np.arange(2))))
    for number in range(700):
        rows = np.random.default_rng(number).integers(0, len(images), 64)
        state, _ = step(state, batch(rows), jax.random.key(1))
    metrics = method.evaluate(state.variables, scale_batch(batch(np.arange(len(images)))), jax.random.key(2))
    means = np.clip(images.reshape(len(images), -1).mean(0) / 255, 1e-6, 1 - 1e-6)
    independent = -(means * np.log(means) + (1 - means) * np.log(1 - means)).sum()
    assert float(metrics["nats[binarised,ELBO]"].mean()) < 0.9 * independent
    assert float(metrics["kl_nats"].mean()) > 2  # it uses its latents


@pytest.mark.parametrize("sigma", [0, 0.0, -0.1, float("nan"), float("inf")])
def test_a_deviation_that_is_none_is_refused_and_not_learnt(sigma):
    with pytest.raises(ValueError, match=f"--sigma {sigma}: must be above 0"):
        gaussian(sigma)
