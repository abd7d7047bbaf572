"""Augmented images: the probability by schedule and by signal, kept in the variables."""

from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from tiny import in_training, state_of, tiny_batch, tiny_gan

from jimgen.augment import BGC, augment
from jimgen.methods import augmented
from jimgen.methods.augmented import AS_IS, Augmented
from jimgen.schedules import cosine
from jimgen.train_step import make_train_step


def brighter(images, keys, p):
    return images + p


def test_without_augmentation_nothing_is_kept_and_images_stay():
    images = jnp.ones((2, 4, 4, 1))
    assert augmented.first_variables(AS_IS, tiny_batch(4)) == {}
    assert augmented.seen(AS_IS, {}, images, jnp.zeros(2)) is images
    assert augmented.scheduled(AS_IS, {}) == {} == augmented.adapted(AS_IS, {}, jnp.zeros(()), 4)


def test_an_adaptive_probability_moves_towards_its_target_within_bounds():
    """A batch of 64 of 500,000 images: steps of .000128."""
    found = Augmented(brighter, 0.1, target=0.6)
    variables = augmented.first_variables(found, tiny_batch(4))
    for signal, expected in ((0.7, 0.100128), (0.5, 0.099872), (0.6, 0.1)):
        moved = augmented.adapted(found, variables, jnp.float32(signal), 64)
        np.testing.assert_allclose(moved["augmentation"]["state"]["p"], expected, rtol=1e-5)
    for start, signal in ((0.0, -1.0), (1.0, 1.0)):
        variables = augmented.first_variables(found._replace(probability=start), tiny_batch(4))
        moved = augmented.adapted(found, variables, jnp.float32(signal), 64)
        assert float(moved["augmentation"]["state"]["p"]) == start


def test_images_that_cannot_be_augmented_are_refused_before_training():
    found = Augmented(partial(augment, augmentation=BGC), 0.1)
    with pytest.raises(ValueError, match="at least 2x2 pixels to augment, got 1x1"):
        augmented.first_variables(found, tiny_batch(4) | {"image": jnp.zeros((4, 1, 1, 1))})


def test_a_scheduled_probability_is_that_of_the_next_step():
    found = Augmented(brighter, cosine(0.0, 0.4, 4))
    method = tiny_gan(augmented=found)
    batch = tiny_batch()
    state = state_of(method, batch)
    assert float(state.variables["augmentation"]["state"]["p"]) == 0
    step = jax.jit(make_train_step(method.phases))
    for expected in (0.2 - 0.2 / 2**0.5, 0.2):
        state, _ = step(state, batch, jax.random.key(0))
        np.testing.assert_allclose(state.variables["augmentation"]["state"]["p"], expected, rtol=1e-5)


def test_the_discriminator_sees_augmented_images_in_both_phases():
    batch, key = in_training(tiny_batch()), jax.random.key(0)
    losses = {}
    for p in (0.0, 0.5):
        method = tiny_gan(augmented=Augmented(brighter, p))
        start = state_of(method, batch).variables
        losses[p] = [float(jax.jit(phase.objective)(start, batch, key)[0]) for phase in method.phases]
    assert losses[0.0][0] != losses[0.5][0] and losses[0.0][1] != losses[0.5][1]


def test_an_adaptive_probability_needs_health():
    with pytest.raises(ValueError, match="follows the health"):
        tiny_gan(augmented=Augmented(brighter, target=0.6))
