"""Mean flows: the identity that they learn, on flows with known average velocities, and a short training."""

import math

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, largest_difference, state_of, tiny_batch

from jimgen.methods.meanflow import mean_flow
from jimgen.nets.diffusion_transformer import DiffusionTransformer
from jimgen.nets.transformer import Backbone
from jimgen.train_step import compile_step, make_train_step

KEY = 3
M, S2 = 2.0, 0.25


def tiny_mean_flow(dtype=jnp.float32, num_classes=3, **options):
    net = DiffusionTransformer(4, num_classes, Backbone(width=8, depth=1, num_heads=2, dtype=dtype), num_times=2)
    return mean_flow(net, image_shape=SHAPE, num_classes=num_classes, tx=optax.adam(1e-3), **options)


def average_velocity(z, t, r):
    """Of x ~ N(2, .25): (z_t - z_r) / (t - r), with z_r on the path through z at t."""
    std = lambda t: jnp.sqrt((1 - t) ** 2 * S2 + t**2)  # noqa: E731
    z_r = (1 - r) * M + std(r) / std(t) * (z - (1 - t) * M)
    return (z - z_r) / (t - r)


def velocity(z, t):
    return -M + (t - (1 - t) * S2) / ((1 - t) ** 2 * S2 + t**2) * (z - (1 - t) * M)


def test_the_identity_on_a_known_flow(x64):
    """u by hand, and u = v - (t - r) du/dt with du/dt along the path (v, 1, 0)."""
    z, t, r = jnp.asarray(0.7), jnp.asarray(0.9), jnp.asarray(0.1)
    assert float(average_velocity(z, t, r)) == pytest.approx(-1.694630, abs=1e-6)
    v = velocity(z, t)
    u, du = jax.jvp(average_velocity, (z, t, r), (v, jnp.ones(()), jnp.zeros(())))
    assert float(u) == pytest.approx(float(v - (t - r) * du), abs=1e-10)


class StraightFlow(nn.Module):
    """All images are .3: u = v = (z - .3) / t; and `off` (t - r) more."""

    off: float = 0.0

    @nn.compact
    def __call__(self, z, times, labels, dropout_keys=None):
        t, span = (times[:, i].reshape(-1, 1, 1, 1) for i in range(2))
        return (z - 0.3) / t + self.off * span


@pytest.mark.parametrize("off", [0.0, 0.5])
@pytest.mark.parametrize("r_equals_t", [0.0, 1.0])
def test_errors_of_a_straight_flow(off, r_equals_t, x64):
    """The error is 0 for the exact u. u + a (t - r) has derivative a, target v - a (t - r) and error 2 a (t - r)."""
    options = {"image_shape": SHAPE, "num_classes": 0, "tx": optax.sgd(0.0), "r_equals_t": r_equals_t}
    method = mean_flow(StraightFlow(off), **options)
    index = jnp.arange(2000, dtype=jnp.int32)
    batch = {"image": jnp.full((2000, *SHAPE), 0.3), "label": 0 * index, "index": index}
    errors = jax.jit(method.evaluate)({"net": {}}, batch, jax.random.key(KEY))["squared_error"]
    if off == 0 or r_equals_t == 1:
        np.testing.assert_allclose(errors, 0, atol=1e-20)
    else:
        draws = jax.nn.sigmoid(-0.4 + jax.random.normal(jax.random.key(5), (200_000, 2)))
        expected = 4 * off**2 * float(jnp.square(draws[:, 0] - draws[:, 1]).mean())
        assert float(errors.mean()) == pytest.approx(expected, rel=0.1)


def test_one_step_is_enough_for_a_perfect_net():
    """One step and four steps are exact for the exact u; one step is z - u(z, 1, 0)."""
    for num_steps in (1, 4):
        method = mean_flow(StraightFlow(), image_shape=SHAPE, num_classes=0, tx=optax.sgd(0.0), num_steps=num_steps)
        images = method.sample({"net": {}}, jax.random.key(0), jnp.zeros(2, jnp.int32))
        np.testing.assert_allclose(images, np.full((2, *SHAPE), 0.3), atol=1e-6)
    method = mean_flow(StraightFlow(0.25), image_shape=SHAPE, num_classes=0, tx=optax.sgd(0.0))
    images = method.sample({"net": {}}, jax.random.key(0), jnp.zeros(2, jnp.int32))
    np.testing.assert_allclose(images, np.full((2, *SHAPE), 0.05), atol=1e-6)


def test_the_error_of_a_net_that_says_zero():
    """1 + E[x^2] per dimension, for every fraction of equal times."""
    batch = tiny_batch(256)
    for r_equals_t in (0.0, 0.75):
        method = tiny_mean_flow(r_equals_t=r_equals_t)
        variables = state_of(method, batch).variables
        errors = jax.jit(method.evaluate)(variables, batch, jax.random.key(KEY))["squared_error"]
        assert errors.shape == (256,)
        assert float(errors.mean()) == pytest.approx(1 + float(jnp.square(batch["image"]).mean()), rel=0.03)


class Constant(nn.Module):
    """A net whose output is the label."""

    @nn.compact
    def __call__(self, z, times, labels, dropout_keys=None):
        return jnp.broadcast_to(labels.astype(z.dtype).reshape(-1, 1, 1, 1), z.shape)


def test_guidance_is_learned_as_a_mixed_velocity(x64):
    """The output is the label: u(0) = 0, u(none) = 1. The target is w v + (1 - w) 1, and so is the error."""
    batch = tiny_batch(64, dtype=jnp.float64) | {"label": jnp.zeros(64, jnp.int32)}
    errors = {}
    for guidance in (1.0, 3.0):
        method = mean_flow(
            Constant(), image_shape=SHAPE, num_classes=1, tx=optax.sgd(0.0), guidance=guidance, norm_power=0.0
        )
        errors[guidance] = method.evaluate({"net": {}}, batch, jax.random.key(KEY))["squared_error"]
    # v = eps - x has about zero mean: |3 v - 2|^2 = 9 |v|^2 - 12 mean v + 4.
    expected = 9 * errors[1.0].mean() + 4
    assert float(errors[3.0].mean()) == pytest.approx(float(expected), rel=0.05)


def test_every_mode_computes_the_same_numbers(x64):
    method, batch, found = tiny_mean_flow(jnp.float64, guidance=1.5), tiny_batch(dtype=jnp.float64), {}
    for mode, num_devices in (("jit", 1), ("sharded", 4)):
        compiled = compile_step(make_train_step(method.phases), mode, jax.devices()[:num_devices])
        state = jax.device_put(state_of(method, batch, jnp.float64), compiled.state_sharding)
        key = jax.device_put(jax.random.key(KEY), compiled.replicated)
        placed = jax.device_put(batch, compiled.batch_sharding)
        for _ in range(2):
            state, metrics = compiled.run(state, placed, key)
        found[mode] = jax.device_get((state, metrics))
    assert np.isfinite(found["jit"][1]["mean_flow/loss"])
    assert largest_difference(found["jit"], found["sharded"]) < 1e-10


def test_samples_follow_their_labels():
    method, labels = tiny_mean_flow(), jnp.asarray([0, 1, 2], jnp.int32)
    variables = jax.tree.map(lambda x: x + 0.05, state_of(method, tiny_batch()).variables)
    sample = jax.jit(method.sample)
    images = sample(variables, jax.random.key(0), labels)
    assert images.shape == (3, *SHAPE) and float(jnp.abs(images).max()) <= 1
    after = sample(variables, jax.random.key(0), labels.at[0].set(2))
    assert (images[0] != after[0]).any()
    np.testing.assert_allclose(images[1:], after[1:], atol=1e-6)


def test_bad_options_are_named():
    with pytest.raises(ValueError, match="r_equals_t must be in .0, 1., got 2"):
        tiny_mean_flow(r_equals_t=2.0)
    with pytest.raises(ValueError, match="guidance needs num_classes > 0"):
        tiny_mean_flow(num_classes=0, guidance=2.0)


class ScaledFlow(nn.Module):
    """offset + scale u of pixels x ~ N(2, .25), u exact at offset 0 and scale 1."""

    @nn.compact
    def __call__(self, z, times, labels, dropout_keys=None):
        offset, scale = self.param("offset", nn.initializers.zeros, ()), self.param("scale", nn.initializers.ones, ())
        t, span = (times[:, i].reshape(-1, 1, 1, 1) for i in range(2))
        span = jnp.maximum(span, 1e-4)  # (z_t - z_r) / (t - r) at t = r by its limit, near enough in float64
        return offset + scale * average_velocity(z, t, t - span)


def test_the_gradient_vanishes_at_the_average_velocity_of_a_known_flow(x64):
    """Training on conditional velocities has its optimum at the exact u, for every fraction of equal times."""
    index = jnp.arange(4000, dtype=jnp.int32)
    images = M + math.sqrt(S2) * jax.random.normal(jax.random.key(1), (4000, 4, 4, 1))
    batch = {"image": images, "label": 0 * index, "index": index}
    options = {"image_shape": (4, 4, 1), "num_classes": 0, "tx": optax.sgd(0.0), "norm_power": 0.0}
    objective = mean_flow(ScaledFlow(), r_equals_t=0.3, **options).phases[0].objective
    gradient = jax.jit(jax.grad(lambda p: objective({"net": {"params": p}}, batch, jax.random.key(KEY))[0] / 16))
    found = gradient({"offset": jnp.asarray(0.0), "scale": jnp.asarray(1.0)})
    assert float(jnp.abs(found["offset"])) < 0.03 and float(jnp.abs(found["scale"])) < 0.06
    off = gradient({"offset": jnp.asarray(0.0), "scale": jnp.asarray(1.2)})
    assert float(off["scale"]) > 0.5
    off = gradient({"offset": jnp.asarray(0.3), "scale": jnp.asarray(1.0)})
    assert float(off["offset"]) == pytest.approx(0.6, abs=0.03)


class Dense(nn.Module):
    """Two hidden layers over the flattened image and its times."""

    @nn.compact
    def __call__(self, z, times, labels, dropout_keys=None):
        x = jnp.concatenate([z.reshape(z.shape[0], -1), times], axis=-1)
        for _ in range(2):
            x = nn.silu(nn.Dense(64)(x))
        return nn.Dense(4)(x).reshape(z.shape)


def test_a_mean_flow_learns_one_step():
    """Flat images of grey N(.2, .2^2): one step gives varied flat images around the right mean."""
    options = {"image_shape": (2, 2, 1), "num_classes": 0, "tx": optax.adam(3e-3), "norm_power": 0.0}
    method = mean_flow(Dense(), **options)
    step = jax.jit(make_train_step(method.phases), donate_argnums=0)

    def batch(number):
        grey = 0.2 + 0.2 * np.random.default_rng(number).standard_normal((256, 1, 1, 1), np.float32)
        index = jnp.arange(256, dtype=jnp.int32)
        return {"image": jnp.asarray(np.broadcast_to(grey, (256, 2, 2, 1))), "label": 0 * index, "index": index}

    state = state_of(method, batch(0))
    for number in range(500):
        state, _ = step(state, batch(number), jax.random.key(1))
    images = method.sample(state.variables, jax.random.key(2), jnp.zeros(500, jnp.int32))
    assert float(images.mean()) == pytest.approx(0.2, abs=0.07)
    assert float(images.std((1, 2, 3)).mean()) < 0.12
    assert 0.1 < float(images.mean((1, 2, 3)).std()) < 0.3
