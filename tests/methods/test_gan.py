"""GANs: samplers, interpolation between latents, and a short training."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
import tiny
from tiny import SHAPE, applied, compiled, in_training, largest_difference, state_of, tiny_batch

from jimgen import data
from jimgen.data.batches import scale_batch
from jimgen.methods.gan import gan
from jimgen.methods.latents import interpolate
from jimgen.nets.dcgan import Discriminator, Generator
from jimgen.train_step import make_train_step

LABELS = jnp.asarray([0, 1, 2, 0, 1], jnp.int32)


def tiny_gan(**options):
    return compiled(tiny.tiny_gan(**options))


@pytest.fixture(scope="module")
def method():
    return tiny_gan()


@pytest.fixture(scope="module")
def variables(method):
    """Large weights, so that images differ clearly, and statistics that differ from their initial values."""
    variables = state_of(method, tiny_batch()).variables
    return jax.tree.map(lambda x: 20 * x if x.ndim > 1 else x + 0.05, variables)


def test_samples_are_a_function_of_the_key(method, variables):
    """Images [n, h, w, c] in [-1, 1]; equal for equal keys, different for other keys and from each other."""
    first, again, other = (method.sample(variables, jax.random.key(seed), LABELS) for seed in (0, 0, 1))
    assert first.shape == (5, *SHAPE) and first.dtype == jnp.float32 and float(jnp.abs(first).max()) <= 1
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    assert len(np.unique(np.asarray(first).reshape(5, -1), axis=0)) == 5


def test_samples_follow_their_labels(method, variables):
    """Changing one label changes only its image, for the same latents."""
    key = jax.random.key(0)
    before, after = (method.sample(variables, key, labels) for labels in (LABELS, LABELS.at[0].set(2)))
    assert (before[0] != after[0]).any()
    np.testing.assert_array_equal(before[1:], after[1:])


walks = jax.jit(interpolate, static_argnums=(0, 4))


def test_walks_begin_and_end_where_two_steps_do(method, variables):
    """[n, steps, h, w, c]: the ends depend only on the key, and the images between them differ."""
    key, labels = jax.random.key(2), LABELS[:3]
    walk, ends = (walks(method.space, variables, key, labels, steps) for steps in (5, 2))
    assert walk.shape == (3, 5, *SHAPE)
    np.testing.assert_allclose(walk[:, [0, -1]], ends, atol=1e-5)
    assert len(np.unique(np.asarray(walk).reshape(15, -1), axis=0)) == 15


def test_penalties_enter_the_discriminator_s_loss_alone(variables):
    """Each penalty is reported, positive and proportional to its weight; the generator's loss does not contain it."""
    batch, key = in_training(tiny_batch()), jax.random.key(0)
    plain = tiny_gan(r1=1e-9)  # a discriminator without BatchNorm, and a negligible penalty
    start = state_of(plain, batch).variables

    def losses(**options):
        discriminator, generator = tiny_gan(**options).phases
        loss, aux = discriminator.objective(start, batch, key)
        return float(loss), float(aux.metrics["penalty"]), float(generator.objective(start, batch, key)[0])

    base, _, generator_loss = losses(r1=1e-9)
    for name in ("r1", "r2", "gradient_penalty"):
        once, penalty, same = losses(**{name: 10.0})
        twice, double, _ = losses(**{name: 20.0})
        assert penalty > 0 and double == pytest.approx(2 * penalty, rel=1e-5)
        assert once == pytest.approx(base + penalty, rel=1e-5) and twice == pytest.approx(base + double, rel=1e-5)
        assert same == generator_loss


def test_statistics_of_the_discriminator_see_real_and_fake_images():
    """Both passes of a step update them, first for real, then for fake images."""
    method, batch = tiny_gan(), tiny_batch()
    start = state_of(method, batch)
    state, _ = jax.jit(make_train_step(method.phases[:1]))(start, batch, jax.random.key(0))
    calls = Discriminator((4, 8), True, 3)
    net = start.variables["discriminator"]
    _, once = applied(calls, net, batch["image"], batch["label"], train=True, mutable=["batch_stats"])
    found = state.variables["discriminator"]["batch_stats"]
    assert largest_difference(found, net["batch_stats"]) > 0 and largest_difference(found, once["batch_stats"]) > 0


def test_a_phase_is_repeated_and_no_step_is_refused():
    assert [phase.name for phase in tiny_gan(discriminator_steps=3).phases] == [*["discriminator"] * 3, "generator"]
    with pytest.raises(ValueError, match="discriminator_steps must be at least 1, got 0"):
        tiny_gan(discriminator_steps=0)


def test_a_gan_learns_digits():
    """A few hundred small steps bring the pixels' means and standard deviations closer to those of the data."""
    images = data.load("digits").train.images
    tx = optax.adam(2e-3, 0.5)
    options = {"latent_dim": 16, "generator_tx": tx, "discriminator_tx": tx}
    method = compiled(gan(Generator((8, 8, 1), (32,)), Discriminator((32,)), **options))
    step = jax.jit(make_train_step(method.phases, prepare=scale_batch, ema_half_life=2000.0), donate_argnums=0)

    def batch(number):
        rows = np.random.default_rng(number).integers(0, len(images), 64)
        labels = jnp.zeros(64, jnp.int32)
        return {"image": jnp.asarray(images[rows]), "label": labels, "index": jnp.arange(64, dtype=jnp.int32)}

    real = images.astype(np.float32) / 127.5 - 1

    def distance(state):
        """Root mean square of the differences of the pixels' means and standard deviations."""
        found = method.sample(state.ema | {}, jax.random.key(9), jnp.zeros(512, jnp.int32))
        means, stds = np.asarray(found).mean(0) - real.mean(0), np.asarray(found).std(0) - real.std(0)
        return float(np.sqrt((means**2 + stds**2).mean()))

    state = state_of(method, scale_batch(batch(0)))
    before = distance(state)
    for number in range(300):
        state, _ = step(state, batch(number), jax.random.key(1))
    assert distance(state) < 0.4 * before
