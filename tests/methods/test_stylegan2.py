"""StyleGAN2 as a method: the space of w, the penalty on path lengths, and training steps."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from tiny import SHAPE, in_training, state_of, tiny_batch

from jimgen import noise
from jimgen.methods.gan import gan
from jimgen.methods.latents import draw_codes, draw_latents, interpolate, noise_keys
from jimgen.methods.stylegan2 import PIXEL_NOISE, path_length_penalty, w_space
from jimgen.nets.stylegan2 import Discriminator, Generator
from jimgen.train_step import due_at, make_train_step

GENERATOR = Generator(SHAPE, (6, 4), w_dim=5, mapping_layers=1, mixing=0.5)
LABELS = jnp.zeros(4, jnp.int32)


def method_of(**options):
    return gan(
        GENERATOR,
        Discriminator((4, 6), group=4),
        latent_dim=5,
        generator_tx=optax.adam(1e-3),
        discriminator_tx=optax.adam(1e-3),
        takes_noise=True,
        space=w_space(GENERATOR, 5),
        **options,
    )


@pytest.fixture(scope="module")
def trained():
    """A method with path lengths in every second step, and its state after three steps."""
    method = method_of(generator_penalty=path_length_penalty(GENERATOR, 5, period=2))
    batch = tiny_batch()
    state, step = state_of(method, batch), jax.jit(make_train_step(method.phases), static_argnums=3)
    rows = []
    for number in range(3):
        state, metrics = step(state, batch, jax.random.key(0), due_at(method.phases, number))
        rows.append(metrics)
    return method, state, rows


def test_path_lengths_are_penalised_in_their_turn_and_followed(trained):
    """Their running mean moves by a hundredth of each mean length, in the first and the third step."""
    _, state, rows = trained
    assert ["generator/path_length" in row for row in rows] == [True, False, True]
    first, last = (float(rows[i]["generator/path_length"]) for i in (0, 2))
    np.testing.assert_allclose(
        state.variables["path_length"]["state"]["mean"], 0.99 * 0.01 * first + 0.01 * last, rtol=1e-4
    )


def test_the_penalty_counts_as_often_as_its_period_is_long():
    batch, key = in_training(tiny_batch()), jax.random.key(0)
    plain, lengths = method_of(), path_length_penalty(GENERATOR, 5, period=3)
    full = method_of(generator_penalty=lengths)
    variables = state_of(full, batch).variables
    base, with_penalty = (
        float(jax.jit(objective)(variables, batch, key)[0])
        for objective in (plain.phases[1].objective, full.phases[1].periodic)
    )
    term = float(jax.jit(lengths.term)(variables, batch, key, batch["label"])[0])
    assert term > 0 and with_penalty == pytest.approx(base + 3 * term, rel=1e-5)


def test_squared_path_lengths_are_means_over_the_layers():
    batch, key = in_training(tiny_batch()), jax.random.key(0)
    net = state_of(method_of(), batch).variables["generator"]
    penalty = path_length_penalty(GENERATOR, 5)
    variables = {"generator": net, "path_length": {"state": penalty.first_state}}
    found = jax.jit(penalty.term)(variables, batch, key, batch["label"])[1].metrics["path_length"]

    def expected():
        w = GENERATOR.apply(net, draw_latents(key, batch["index"], 5), batch["label"], method="to_w")
        y = noise.normal(jax.random.fold_in(key, PIXEL_NOISE), batch["index"], SHAPE) / math.sqrt(SHAPE[0] * SHAPE[1])
        keys = noise_keys(key, batch["index"])
        score = lambda layers: (GENERATOR.apply(net, layers, keys, method="from_w") * y).sum()  # noqa: E731
        gradient = jax.grad(score)(jnp.repeat(w[:, None], GENERATOR.num_styles, axis=1))
        return jnp.sqrt(jnp.square(gradient).sum(2).mean(1)).mean()

    np.testing.assert_allclose(found, jax.jit(expected)(), rtol=1e-5)


def test_paths_in_w_are_straight_and_their_noise_stays(trained):
    method, state, _ = trained
    space, variables, key = method.space, state.variables, jax.random.key(1)

    def middles(variables):
        start, end = (draw_codes(space, variables, key, 2 * jnp.arange(4) + i, LABELS) for i in (0, 1))
        walk = interpolate(space, variables, key, LABELS, 3)
        return walk[:, 1], space.decode(variables, (start + end) / 2, LABELS, noise_keys(key, jnp.arange(4)))

    np.testing.assert_allclose(*jax.jit(middles)(variables), atol=1e-5)


def test_truncation_moves_samples_to_the_mean_code(trained):
    _, state, _ = trained
    key, methods = jax.random.key(2), [method_of(truncation=psi) for psi in (1.0, 0.0)]
    plain, typical = jax.jit(lambda variables: [each.sample(variables, key, LABELS) for each in methods])(
        state.variables
    )
    assert float(jnp.abs(methods[0].space.centre(state.variables, LABELS)).max()) > 0
    assert np.ptp(typical, axis=0).max() < np.ptp(plain, axis=0).max()  # what is left is the noise
