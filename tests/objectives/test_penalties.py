"""Gradient penalties of the discriminator: hand values, and gradients of gradients."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numeric import close, normal, value_and_slopes

from jimgen import objectives


def quadratic(theta: Array | float, images: Array) -> Array:
    return theta / 2 * jnp.square(images).sum(1)


def test_r1_of_a_quadratic_by_hand() -> None:
    images = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    logits, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(3.0, x), images)
    close(logits, [7.5, 30.0])
    close(squared_norm, [45.0, 180.0])

    def penalty(theta: Array) -> Array:
        _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(theta, x), images)
        return objectives.zero_centred_penalty(squared_norm, 0.1).mean()

    theta = jnp.array(3.0)
    close(penalty(theta), 5.625)
    first, (second,) = value_and_slopes(jax.grad(penalty), theta)
    close((first, second), (3.75, 1.25))


def test_squared_gradient_norm_matches_a_loop_over_images() -> None:
    images, weights = normal(12, 3, 4, 4, 2), normal(13, 32, 5)

    def discriminator(images: Array) -> Array:
        return jnp.tanh(images.reshape(-1, 32) @ weights).sum(1)

    logits, squared_norm = jax.jit(lambda x: objectives.squared_gradient_norm(discriminator, x))(images)
    close(logits, discriminator(images), rtol=1e-5)
    gradient = jax.jit(jax.grad(lambda x: discriminator(x[None])[0]))
    close(squared_norm, [np.square(gradient(image)).sum() for image in images], rtol=1e-4)


def test_squared_gradient_norm_sees_through_an_augmentation() -> None:
    images = jnp.array([[1.0, 2.0], [2.0, 4.0]])
    _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(3.0, 2 * x), images)
    close(squared_norm, [16 * 45.0, 16 * 180.0])


def test_squared_gradient_norm_refuses_a_column_of_logits() -> None:
    with pytest.raises(ValueError, match=r"logits \[2\], one per image, got \[2, 1\]"):
        objectives.squared_gradient_norm(lambda x: x.sum(1, keepdims=True), jnp.zeros((2, 3)))


def test_wgan_gp_of_a_quadratic_and_of_a_plane_by_hand() -> None:
    real, fake = jnp.array([[1.0, 2.0]]), jnp.zeros((1, 2))
    images = objectives.interpolate_pairs(real, fake, jnp.array([0.5]))

    def penalty(theta: Array) -> Array:
        _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(theta, x), images)
        return objectives.wgan_gp(squared_norm, weight=1.0).mean()

    # (theta c - 1)^2 with c = ||(.5, 1)||, differentiated by hand
    c = math.sqrt(1.25)
    value, (slope,) = value_and_slopes(penalty, jnp.array(3.0))
    close((value, slope), (5.541796, 2 * c * (3 * c - 1)))

    _, squared_norm = objectives.squared_gradient_norm(lambda x: (x * jnp.array([[3.0, 4.0]])).sum(1), images)
    close(objectives.wgan_gp(squared_norm), [160.0])


def test_wgan_gp_is_differentiable_where_the_discriminator_is_flat() -> None:
    def penalty(theta: Array) -> Array:
        _, squared_norm = objectives.squared_gradient_norm(lambda x: quadratic(theta, x), jnp.zeros((2, 3)))
        return objectives.wgan_gp(squared_norm).mean()

    close(penalty(jnp.array(3.0)), 10.0)
    first, (second,) = value_and_slopes(jax.grad(penalty), jnp.array(3.0))
    close((first, second), (0.0, 0.0))


def test_interpolation_runs_from_fake_to_real() -> None:
    real, fake = np.asarray(normal(14, 3, 2, 2, 1)), np.asarray(normal(15, 3, 2, 2, 1))
    mixed = objectives.interpolate_pairs(jnp.asarray(real), jnp.asarray(fake), jnp.array([1.0, 0.0, 0.5]))
    close(mixed, np.stack([real[0], fake[1], (real[2] + fake[2]) / 2]))
    with pytest.raises(ValueError, match=r"real \[3, 2, 2, 1\], fake \[1, 2, 2, 1\]"):
        objectives.interpolate_pairs(jnp.zeros((3, 2, 2, 1)), jnp.zeros((1, 2, 2, 1)), jnp.ones(3))
