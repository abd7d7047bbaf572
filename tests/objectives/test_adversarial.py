"""Adversarial losses against closed forms and known optima, and the signs of their gradients."""

import math
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numeric import close, normal, numerical_gradient, value_and_slopes
from objective_rows import ADVERSARIAL, PLAYERS, AdversarialRow, Reference
from scipy import stats

from jimgen import objectives
from jimgen.objectives import AdversarialLoss

adversarial = pytest.mark.parametrize("row", ADVERSARIAL.values(), ids=ADVERSARIAL)
players = pytest.mark.parametrize(("loss", "reference"), PLAYERS.values(), ids=PLAYERS)


@adversarial
def test_adversarial_hand_values(row: AdversarialRow) -> None:
    real, fake = jnp.array([1.0, -1.0]), jnp.array([0.0, 2.0])
    close(row.loss.discriminator(real, fake).mean(), row.values[0])
    close(row.loss.generator(real, fake).mean(), row.values[1])


@players
def test_adversarial_matches_the_closed_form_and_its_gradient(loss: Callable, reference: Reference) -> None:
    real, fake = normal(0, 5, scale=3), normal(1, 5, scale=3)
    losses, (by_real, by_fake) = value_and_slopes(loss, real, fake)
    assert losses.shape == (5,) and losses.dtype == jnp.float32
    r, f = np.asarray(real, np.float64), np.asarray(fake, np.float64)
    close(losses, reference(r, f), rtol=1e-5)
    close(by_real, numerical_gradient(lambda r: reference(r, f).sum(), r), atol=1e-5)
    close(by_fake, numerical_gradient(lambda f: reference(r, f).sum(), f), atol=1e-5)


@players
def test_adversarial_is_finite_at_extreme_logits(loss: Callable, reference: Reference) -> None:
    del reference  # the closed form in probabilities would overflow
    real, fake = jnp.array([200.0, 200.0, -200.0, -200.0, 0.0]), jnp.array([200.0, -200.0, 200.0, -200.0, 0.0])
    for leaf in jax.tree.leaves(value_and_slopes(loss, real, fake)):
        assert np.isfinite(leaf).all()


@players
def test_adversarial_under_jit_and_vmap(loss: Callable, reference: Reference) -> None:
    del reference
    real, fake = normal(2, 3, 5), normal(3, 3, 5)
    eager = np.stack([loss(r, f) for r, f in zip(real, fake, strict=True)])
    close(value_and_slopes(loss, real[0], fake[0])[0], eager[0])
    close(jax.vmap(loss)(real, fake), eager)


@players
def test_adversarial_refuses_shapes_that_would_broadcast(loss: Callable, reference: Reference) -> None:
    del reference
    with pytest.raises(ValueError, match=r"real_logits \[4, 1\], fake_logits \[4\]"):
        loss(jnp.zeros((4, 1)), jnp.zeros(4))
    with pytest.raises(ValueError, match=r"real_logits \[4\], fake_logits \[1\]"):
        loss(jnp.zeros(4), jnp.zeros(1))
    assert loss(jnp.zeros((4, 2, 2)), jnp.zeros((4, 2, 2))).shape == (4, 2, 2)


@adversarial
def test_adversarial_signs(row: AdversarialRow) -> None:
    """Descent makes D raise real logits and lower fake ones, and G raise fake ones."""
    logits = jnp.full(5, 0.25, jnp.float32)
    _, (by_real, by_fake) = value_and_slopes(row.loss.discriminator, logits, logits)
    assert np.all(np.asarray(by_real) < 0) and np.all(np.asarray(by_fake) > 0)
    _, (_, by_fake) = value_and_slopes(row.loss.generator, logits, logits)
    assert np.all(np.asarray(by_fake) < 0)


def test_minimax_optimum_is_the_log_ratio_and_measures_jensen_shannon() -> None:
    data, model = np.array([[0.5, 0.3, 0.2], [0.1, 0.3, 0.6]], np.float32)

    def expected(logits: Array) -> Array:
        zeros = jnp.zeros_like(logits)
        only_real = objectives.minimax_discriminator(logits, zeros) - math.log(2)
        only_fake = objectives.minimax_discriminator(zeros, logits) - math.log(2)
        return data * only_real + model * only_fake

    terms, (slopes,) = value_and_slopes(expected, jnp.asarray(np.log(data / model)))
    middle = (data + model) / 2
    jensen_shannon = (stats.entropy(data, middle) + stats.entropy(model, middle)) / 2
    close(np.sum(terms), math.log(4) - 2 * jensen_shannon)
    close(slopes, np.zeros(3))


def test_non_saturating_at_equilibrium_costs_log_4() -> None:
    close(objectives.non_saturating_discriminator(jnp.zeros(3), jnp.zeros(3)), jnp.full(3, math.log(4)))


def test_least_squares_optimum_is_the_posterior() -> None:
    data, model = np.array([[0.5, 0.3], [0.1, 0.6]], np.float32)

    def expected(scores: Array) -> Array:
        only_real = objectives.least_squares_discriminator(scores, jnp.zeros(2))
        only_fake = objectives.least_squares_discriminator(jnp.ones(2), scores)
        return data * only_real + model * only_fake

    _, (slopes,) = value_and_slopes(expected, jnp.asarray(data / (data + model)))
    close(slopes, np.zeros(2))


def test_hinge_stops_at_the_margin() -> None:
    won = jnp.array([1.5, 200.0])
    for leaf in jax.tree.leaves(value_and_slopes(objectives.hinge_discriminator, won, -won)):
        close(leaf, np.zeros(2))


def test_only_the_saturating_generator_saturates() -> None:
    real, rejected = jnp.zeros(1), jnp.array([-200.0])
    close(value_and_slopes(objectives.minimax_generator, real, rejected)[1], [[0.0], [0.0]])
    close(value_and_slopes(objectives.non_saturating_generator, real, rejected)[1], [[0.0], [-1.0]])


@pytest.mark.parametrize("loss", [objectives.RELATIVISTIC, objectives.RELATIVISTIC_AVERAGE, objectives.WASSERSTEIN])
def test_a_drift_of_the_logits_costs_nothing(loss: AdversarialLoss) -> None:
    real, fake = normal(4, 6), normal(5, 6)
    close(loss.discriminator(real + 3, fake + 3), loss.discriminator(real, fake), rtol=1e-5, atol=1e-5)


def test_relativistic_pairs_by_index() -> None:
    real, fake = normal(6, 4), normal(7, 4)
    order = jnp.array([2, 0, 3, 1])
    losses = objectives.relativistic_discriminator(real, fake)
    close(objectives.relativistic_discriminator(real[order], fake[order]), losses[order])
    assert not np.allclose(objectives.relativistic_discriminator(real, fake[order]).mean(), losses.mean())
