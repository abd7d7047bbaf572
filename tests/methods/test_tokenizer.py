"""Tokenizers: images to tokens and back, losses, usage, the adversary, agreement of all modes, and a short training."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, in_training, largest_difference, state_of, tiny_batch

from jimgen import data
from jimgen.data.batches import scale_batch
from jimgen.methods.tokenizer import (
    CROSS_ENTROPY,
    L1,
    L2,
    Adversary,
    tokenizer,
    unigram_bits,
)
from jimgen.nets.dcgan import Discriminator
from jimgen.nets.layers import Norm
from jimgen.nets.tokenizer import Decoder, Encoder, ResidualBlock
from jimgen.nets.vq import FiniteScalarQuantiser, LookupFreeQuantiser, VectorQuantiser
from jimgen.objectives import absolute_error, bernoulli_nll, squared_error
from jimgen.parallel import DEVICE_AXIS, mean_over_devices
from jimgen.train_step import compile_step, make_train_step

KEY = 7
QUANTISERS = {
    "ema": VectorQuantiser(12, 3),
    "gradient": VectorQuantiser(12, 3, ema=False),
    "fsq": FiniteScalarQuantiser((4, 3, 2)),
    "lfq": LookupFreeQuantiser(4),
}


def tiny_tokenizer(name="ema", dtype=jnp.float32, **options):
    """Images 8x12 as 4x6 tokens."""
    quantiser = QUANTISERS[name]
    nets = Encoder(quantiser.dim, (4,), 0, dtype=dtype), Decoder(1, (4,), 0, dtype=dtype)
    return tokenizer(*nets, quantiser, image_shape=SHAPE, tx=optax.adam(1e-2), **options)


def tiny_adversary(dtype=jnp.float32, **options):
    return Adversary(Discriminator((4, 8), batch_norm=False, num_classes=3, dtype=dtype), optax.adam(1e-3), **options)


def train(method, steps, mode="jit", num_devices=1, dtype=jnp.float32, state=None, **options):
    """The state and metrics after some steps."""
    batch = tiny_batch(dtype=dtype)
    compiled = compile_step(make_train_step(method.phases, **options), mode, jax.devices()[:num_devices])
    state = jax.device_put(state or state_of(method, batch, dtype), compiled.state_sharding)
    batch = jax.device_put(batch, compiled.batch_sharding)
    key = jax.device_put(jax.random.key(KEY), compiled.replicated)
    metrics = {}
    for _ in range(steps):
        state, metrics = compiled.run(state, batch, key)
    return jax.device_get((state, metrics))


@pytest.fixture(scope="module")
def trained():
    """Variables after a few steps, so that codes and counts differ from their initial values."""
    return train(tiny_tokenizer().method, 5)[0].variables


# Nets.


@pytest.mark.parametrize(("size", "widths", "grid"), [((28, 28), (4, 8), (7, 7)), ((8, 20), (4,), (4, 10))])
def test_nets_halve_and_double(size, widths, grid):
    """28x28 -> 7x7 vectors -> 28x28; float32 under any compute precision."""
    images = jnp.zeros((2, *size, 3))
    for dtype in (jnp.float32, jnp.bfloat16):
        shapes = jax.eval_shape(lambda k: Encoder(5, widths, 1, dtype=dtype).init_with_output(k, images)[0], KEY_ARRAY)  # noqa: B023
        assert shapes.shape == (2, *grid, 5) and shapes.dtype == jnp.float32
        z, decoder = jnp.zeros((2, *grid, 5)), Decoder(3, tuple(reversed(widths)), 1, dtype=dtype)
        shapes = jax.eval_shape(lambda k: decoder.init_with_output(k, z)[0], KEY_ARRAY)  # noqa: B023
        assert shapes.shape == images.shape and shapes.dtype == jnp.float32


KEY_ARRAY = jax.eval_shape(lambda: jax.random.key(0))


def test_sizes_that_the_strides_do_not_divide_are_refused():
    with pytest.raises(ValueError, match="encoder halves images 2 times.*multiples of 4; got 30x28. Use 32x28"):
        tokenizer(Encoder(3, (4, 8)), Decoder(1, (8, 4)), QUANTISERS["ema"], image_shape=(30, 28, 1), tx=optax.sgd(0.1))


def test_norm_and_block_at_the_start():
    """Channels have mean square one at each place; a residual block is the identity at initialisation."""
    x = jnp.asarray(np.random.default_rng(0).standard_normal((2, 3, 3, 6)), jnp.float32)
    y, _ = Norm().init_with_output(jax.random.key(0), x)
    np.testing.assert_allclose(y, x / np.sqrt(np.square(x).mean(-1, keepdims=True)), rtol=1e-4)
    np.testing.assert_array_equal(ResidualBlock().init_with_output(jax.random.key(0), x)[0], x)


# Tokens.


@pytest.mark.parametrize("name", QUANTISERS)
def test_tokens_and_back(name):
    """tokenize: int32 [n, 4, 6] below K; detokenize: images in [-1, 1]; both together are the reconstruction."""
    found, batch = tiny_tokenizer(name), tiny_batch()
    variables = state_of(found.method, batch).variables
    tokens = jax.jit(found.tokenize)(variables, batch["image"])
    assert found.grid == (4, 6) and found.num_codes == QUANTISERS[name].num_codes
    assert tokens.shape == (8, 4, 6) and tokens.dtype == jnp.int32
    assert int(tokens.min()) >= 0 and int(tokens.max()) < found.num_codes
    images = jax.jit(found.detokenize)(variables, tokens)
    assert images.shape == batch["image"].shape and float(jnp.abs(images).max()) <= 1
    again = jax.jit(found.method.reconstruct)(variables, batch["image"], batch["label"])
    np.testing.assert_allclose(images, again, atol=1e-5)
    assert (images != jax.jit(found.detokenize)(variables, (tokens + 1) % found.num_codes)).any()


def test_bad_input_is_refused(trained):
    found, tokens = tiny_tokenizer(), jnp.zeros((2, 4, 6), jnp.int32)
    with pytest.raises(ValueError, match=r"takes images \[8, 12, 1\], got \[12, 8, 1\]"):
        found.tokenize(trained, jnp.zeros((2, 12, 8, 1)))
    with pytest.raises(ValueError, match=r"integer tokens \[n, 4, 6\], got int32 \[2, 6, 4\]"):
        found.detokenize(trained, tokens.swapaxes(1, 2))
    with pytest.raises(ValueError, match=r"integer tokens \[n, 4, 6\], got float32"):
        found.detokenize(trained, tokens.astype(jnp.float32))
    with pytest.raises(ValueError, match="tokens are 0 to 11 here, got 0 to 12"):
        found.detokenize(trained, tokens.at[0, 0, 0].set(12))
    nets = {"image_shape": SHAPE, "tx": optax.sgd(0.1)}
    with pytest.raises(ValueError, match=r"takes \[b, h, w, 3\], the encoder gives \[1, 4, 6, 5\]"):
        tokenizer(Encoder(5, (4,)), Decoder(1, (4,)), QUANTISERS["ema"], **nets)
    with pytest.raises(ValueError, match=r"images are \[8, 12, 1\], the decoder gives \[16, 24, 1\]"):
        tokenizer(Encoder(3, (4,)), Decoder(1, (4, 4)), QUANTISERS["ema"], **nets)


def test_samples_follow_the_codes_frequencies(trained):
    """If only one code was seen, only it is drawn. Images depend on the key, and the first ones not on n."""
    found, labels = tiny_tokenizer(), jnp.zeros(5, jnp.int32)
    only = {**trained, "usage": {**trained["usage"], "counts": jnp.zeros(12).at[7].set(3.0)}}
    sample = jax.jit(found.method.sample)
    expected = found.detokenize(trained, jnp.full((5, 4, 6), 7, jnp.int32))
    np.testing.assert_allclose(sample(only, jax.random.key(0), labels), expected, atol=1e-6)
    first, again, other = (sample(trained, jax.random.key(seed), labels) for seed in (0, 0, 1))
    np.testing.assert_array_equal(first, again)
    assert (first != other).any() and len(np.unique(np.asarray(first).reshape(5, -1), axis=0)) == 5
    np.testing.assert_allclose(sample(trained, jax.random.key(0), labels[:2]), first[:2], atol=1e-6)
    untrained = {**trained, "usage": {**trained["usage"], "counts": jnp.zeros(12)}}
    assert np.isfinite(sample(untrained, jax.random.key(0), labels)).all()


# The objective.


def test_reconstructions_by_hand():
    """Output (.5, -1), image (1, -.5): l1 1, l2 .5, cross-entropy against grey values 1 and .25; two axes of pixels."""
    output, image = (jnp.asarray(x).reshape(1, 1, 2, 1) for x in ([0.5, -1.0], [1.0, -0.5]))
    np.testing.assert_allclose(L1.loss(output, image), [1.0])
    np.testing.assert_allclose(L2.loss(output, image), [0.5])
    nats = math.log(1 + math.exp(-0.5)) + math.log(1 + math.exp(-1)) + 0.25
    np.testing.assert_allclose(CROSS_ENTROPY.loss(output, image), [nats], rtol=1e-6)
    np.testing.assert_allclose(CROSS_ENTROPY.as_images(jnp.zeros((1, 1))), [[0.0]])
    with pytest.raises(ValueError, match=r"x \[2, 1\], reconstruction \[2\]"):
        absolute_error(jnp.zeros((2, 1)), jnp.zeros(2))


@pytest.mark.parametrize(
    ("name", "reconstruction"), [("ema", L1), ("gradient", L2), ("lfq", CROSS_ENTROPY)], ids=["ema", "gradient", "lfq"]
)
def test_the_loss_is_the_sum_of_its_parts(name, reconstruction):
    """Reconstruction + codebook + beta commitment + alpha entropy, computed from the nets by hand."""
    options = {"commitment_weight": 0.7, "entropy_weight": 0.3, "reconstruction": reconstruction}
    method, quantiser, batch = tiny_tokenizer(name, **options).method, QUANTISERS[name], tiny_batch()
    variables = state_of(method, batch).variables
    loss, aux = jax.jit(method.phases[0].objective)(variables, batch, jax.random.key(KEY))

    @jax.jit
    def forward(variables):
        z = Encoder(quantiser.dim, (4,), 0).apply(variables["encoder"], batch["image"])
        found = quantiser.apply(variables["quantiser"], z)
        return found, Decoder(1, (4,), 0).apply(variables["decoder"], found.z_q)

    found, output = forward(variables)
    errors = {
        L1: lambda: jnp.abs(output - batch["image"]).sum((1, 2, 3)),
        L2: lambda: squared_error(output, batch["image"]),
        CROSS_ENTROPY: lambda: bernoulli_nll(output, (batch["image"] + 1) / 2),
    }
    error = errors[reconstruction]()
    expected = error + found.codebook + 0.7 * found.commitment + 0.3 * found.entropy
    assert float(loss) == pytest.approx(float(expected.mean()), rel=1e-5)
    assert float(aux.metrics["reconstruction"]) == pytest.approx(float(error.mean()), rel=1e-5)
    assert float(aux.metrics["commitment"]) == pytest.approx(float(found.commitment.mean()), rel=1e-5, abs=1e-5)
    metrics = jax.jit(method.evaluate)(variables, batch, jax.random.key(0))
    np.testing.assert_allclose(metrics["reconstruction"], error, rtol=1e-5)
    images = np.clip(np.asarray(reconstruction.as_images(output)), -1, 1)
    mse = np.square(images - np.asarray(batch["image"])).mean((1, 2, 3))
    np.testing.assert_allclose(metrics["psnr_db"], 10 * np.log10(4 / mse), rtol=1e-5)
    counts = [np.bincount(row.reshape(-1), minlength=quantiser.num_codes) for row in np.asarray(found.tokens)]
    np.testing.assert_array_equal(metrics["code_counts"], counts)


def test_usage_of_the_codes_over_a_whole_set():
    """Two of four codes, one of them three times as often: perplexity exp(H(3/4, 1/4)) = 4 / 3^(3/4)."""
    found = tiny_tokenizer("ema").method.aggregate({"code_counts": jnp.array([3.0, 0.0, 1.0, 0.0])})
    assert float(found["codebook_usage"]) == 0.5
    assert float(found["codebook_perplexity"]) == pytest.approx(4 / 3**0.75, rel=1e-6)


@pytest.mark.parametrize("name", ["ema", "gradient"])
def test_who_learns(name):
    """Encoder and decoder always; codes by the optimiser or as moving averages; sampling uses averages of all nets."""
    method, batch = tiny_tokenizer(name).method, tiny_batch()
    start = state_of(method, batch)
    state, metrics = train(method, 2, state=jax.tree.map(jnp.copy, start))
    assert method.phases[0].trains == (
        ("encoder", "quantiser", "decoder") if name == "gradient" else ("encoder", "decoder")
    )
    assert set(state.ema) == {"encoder", "quantiser", "decoder"}
    for net in ("encoder", "decoder"):
        assert largest_difference(state.variables[net], start.variables[net]) > 0
    assert largest_difference(state.variables["quantiser"], start.variables["quantiser"]) > 0
    assert all(np.isfinite(value) for value in metrics.values())


def test_usage_decays_with_its_half_life():
    """Eight images of 24 tokens per step, half-life 8: counts n1, then n1 / 2 + n2; the number of images is exact."""
    method = tiny_tokenizer("fsq", usage_half_life=8).method
    state, metrics = train(method, 2)
    np.testing.assert_allclose(state.variables["usage"]["counts"].sum(), 1.5 * 8 * 24, rtol=1e-5)
    assert state.variables["usage"]["images"] == 16
    assert metrics["autoencoder/window_usage"] >= metrics["autoencoder/codebook_usage"]
    assert 1 <= metrics["autoencoder/codebook_perplexity"] <= 24


def test_unigram_bits_by_hand():
    """Counts 3 and 1 of four codes: p = (4, 2, 1, 1) / 8, so 1, 2, 3 and 3 bits."""
    tokens = jnp.asarray([[[0, 1], [2, 3]], [[0, 0], [0, 1]]])
    np.testing.assert_allclose(unigram_bits(jnp.asarray([3.0, 1, 0, 0]), tokens), [2.25, 1.25], rtol=1e-6)


# The adversary.


def test_the_adversary_enters_with_its_weight():
    """The loss is that without it plus weight times the generator's loss; adaptive, the weight balances gradients in
    the kernel of the decoder's last layer.
    """
    batch, key = in_training(tiny_batch()), jax.random.key(KEY)
    fixed, adaptive = (
        tiny_tokenizer("fsq", adversary=tiny_adversary(weight=0.5, adaptive=adaptive)).method
        for adaptive in (False, True)
    )
    assert [phase.name for phase in fixed.phases] == ["discriminator", "autoencoder"]
    variables = state_of(fixed, batch).variables
    alone = tiny_tokenizer("fsq").method.phases[0].objective
    loss, aux = jax.jit(fixed.phases[1].objective)(variables, batch, key)
    expected = jax.jit(alone)(variables, batch, key)[0] + 0.5 * aux.metrics["adversarial"]
    assert float(aux.metrics["adversarial_weight"]) == 0.5 and float(loss) == pytest.approx(float(expected), rel=1e-5)

    def gradient(objective):
        nets = {net: variables[net] for net in ("encoder", "decoder")}
        return jax.jit(jax.grad(lambda nets: objective({**variables, **nets}, batch, key)[0]))(nets)

    def kernel_norm(gradient):
        return float(jnp.linalg.norm(gradient["decoder"]["params"]["output"]["kernel"].reshape(-1)))

    of_reconstruction = gradient(alone)
    of_adversary = gradient(lambda *args: (fixed.phases[1].objective(*args)[1].metrics["adversarial"], None))
    pixels = math.prod(SHAPE)  # the constant 1e-4 is added to a mean over pixels
    expected = 0.5 * pixels * (kernel_norm(of_reconstruction) / pixels) / (kernel_norm(of_adversary) + 1e-4)
    weight = float(jax.jit(adaptive.phases[1].objective)(variables, batch, key)[1].metrics["adversarial_weight"])
    assert weight == pytest.approx(expected, rel=1e-4)
    # The weight is a constant of the loss: it has no gradient.
    parts = jax.tree.map(lambda a, b: a + weight * b, of_reconstruction, of_adversary)
    for a, b in zip(jax.tree.leaves(gradient(adaptive.phases[1].objective)), jax.tree.leaves(parts), strict=True):
        np.testing.assert_allclose(a, b, rtol=1e-3, atol=1e-4)


def test_the_adversary_waits_and_then_rises():
    """Eight images a step, start 16, ramp 16: weight 0, 0, 1/16, 9/16, 1. The discriminator learns from the start."""
    adversary = tiny_adversary(weight=1.0, adaptive=False, start=16, ramp=16)
    method, batch = tiny_tokenizer("fsq", adversary=adversary).method, tiny_batch()
    step, start = jax.jit(make_train_step(method.phases)), state_of(method, batch)
    state, weights = start, []
    for _ in range(5):
        state, metrics = step(state, batch, jax.random.key(KEY))
        weights.append(float(metrics["autoencoder/adversarial_weight"]))
    np.testing.assert_allclose(weights, [0, 0, 1 / 16, 9 / 16, 1])
    state, _ = step(start, batch, jax.random.key(KEY))
    assert largest_difference(state.variables["discriminator"], start.variables["discriminator"]) > 0


# The train step.


def test_every_mode_and_microbatches_compute_the_same_numbers(x64):
    """The codebook, its restarts and usage, which decay once a step by all of its vectors; and all nets; in float64."""
    method = tiny_tokenizer("ema", jnp.float64, usage_half_life=8).method
    expected = train(method, 5, dtype=jnp.float64, ema_half_life=50.0)
    assert np.isfinite(expected[1]["autoencoder/loss"]) and expected[0].variables["usage"]["images"] == 40
    for mode, num_devices, accumulate in (("pmap", 4, 1), ("sharded", 4, 1), ("pmap", 2, 2)):
        options = {"ema_half_life": 50.0, "accumulate": accumulate}
        found = train(method, 5, mode, num_devices, jnp.float64, **options)
        assert largest_difference(found, expected) < 1e-10, (mode, accumulate)


def test_the_adaptive_weight_is_that_of_the_global_batch(x64):
    """The norms under pmap are those of gradients averaged over devices, not averages of norms."""
    method = tiny_tokenizer("fsq", jnp.float64, adversary=tiny_adversary(jnp.float64)).method
    batch = tiny_batch(dtype=jnp.float64)
    variables = state_of(method, batch, jnp.float64).variables

    def metrics(variables, batch, key):
        return mean_over_devices(method.phases[1].objective(variables, in_training(batch), key)[1].metrics)

    expected = jax.jit(metrics)(variables, batch, jax.random.key(KEY))
    spread = jax.tree.map(lambda x: x.reshape(2, -1, *x.shape[1:]), batch)
    parallel = jax.pmap(metrics, DEVICE_AXIS, in_axes=(None, 0, None), out_axes=None, devices=jax.devices()[:2])
    found = parallel(variables, spread, jax.random.key(KEY))
    assert largest_difference(found, expected) < 1e-5  # counts are float32
    weights = [float(x["adversarial_weight"]) for x in (found, expected)]
    assert weights[0] == pytest.approx(weights[1], rel=1e-9)


@pytest.mark.parametrize("name", ["ema", "fsq"])
def test_a_tokenizer_learns_digits(name):
    """Sixty small steps lower the reconstruction error of the test digits, and several codes are in use."""
    dataset, quantiser = data.load("digits"), QUANTISERS[name]
    nets = Encoder(quantiser.dim, (16,), 1), Decoder(1, (16,), 1)
    found = tokenizer(*nets, quantiser, image_shape=(8, 8, 1), tx=optax.adam(1e-2))
    step = jax.jit(make_train_step(found.method.phases, prepare=scale_batch), donate_argnums=0)

    def batch(images):
        index = jnp.arange(len(images), dtype=jnp.int32)
        return {"image": jnp.asarray(images), "label": 0 * index, "index": index}

    test, evaluate = scale_batch(batch(dataset.test.images)), jax.jit(found.method.evaluate)

    def error(state):
        return float(evaluate(state.variables, test, jax.random.key(0))["reconstruction"].mean())

    state = state_of(found.method, scale_batch(batch(dataset.train.images[:2])))
    before, metrics = error(state), {}
    for number in range(60):
        rows = np.random.default_rng(number).integers(0, len(dataset.train.images), 64)
        state, metrics = step(state, batch(dataset.train.images[rows]), jax.random.key(1))
    assert error(state) < 0.6 * before
    assert float(metrics["autoencoder/window_perplexity"]) > 3
