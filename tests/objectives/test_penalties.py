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


def test_finite_differences_along_all_axes_add_up_to_the_squared_norm() -> None:
    """Of a plane they are exact, and their mean over normal directions is the squared norm."""
    images, slope, directions = normal(16, 1, 3), jnp.array([1.0, -2.0, 0.5]), normal(17, 4000, 3)
    logits, moved = images @ slope, (images + 0.5 * directions) @ slope
    squared = objectives.finite_difference_penalty(jnp.broadcast_to(logits, (4000,)), moved, 0.5)
    close(squared, jnp.square(directions @ slope), rtol=1e-3, atol=1e-4)
    close(squared.mean(), jnp.square(slope).sum(), rtol=0.1)


def test_path_length_of_a_sum_by_hand() -> None:
    """Images w0 + 2 w1 of one pixel, and y = 1."""
    w, weights = normal(18, 2, 2), jnp.array([1.0, 2.0])
    images, lengths = objectives.path_lengths(lambda w: (w @ weights).reshape(2, 1, 1, 1), w, jnp.ones((2, 1, 1, 1)))
    close(images[:, 0, 0, 0], w @ weights)
    close(lengths, [2.236068, 2.236068])
    mean = objectives.running_mean(0.0, lengths)
    close(mean, 0.0223607)
    close(objectives.path_length(lengths, mean), [9.801, 9.801])


def test_path_lengths_are_means_over_layers_and_free_of_the_size() -> None:
    w = normal(19, 2, 3, 4)  # three layers
    scale = jnp.array([1.0, 2.0, 3.0])

    def lengths(size: int) -> Array:
        spread = lambda w: jnp.tile((w.sum(2) @ scale).reshape(2, 1, 1, 1), (1, size, size, 1))  # noqa: E731
        return objectives.path_lengths(spread, w, jnp.ones((2, size, size, 1)))[1] / size

    # The gradient of layer l is scale_l for each of its four numbers.
    close(lengths(1), jnp.full(2, math.sqrt((1 + 4 + 9) * 4 / 3)))
    close(lengths(4), lengths(1))
    with pytest.raises(ValueError, match=r"noise \[2, 1, 1, 1\], as the images, got \[2, 1, 1\]"):
        objectives.path_lengths(lambda w: w.sum((1, 2)).reshape(2, 1, 1, 1), w, jnp.ones((2, 1, 1)))


def test_path_length_gradient_is_the_slope_in_float64(x64: None) -> None:
    w, noise = normal(20, 2, 3).astype(jnp.float64), normal(21, 2, 2, 2, 1).astype(jnp.float64)
    weights = normal(22, 3, 4).astype(jnp.float64)

    @jax.jit
    def penalty(theta: Array) -> Array:
        generate = lambda w: jnp.tanh(theta * w @ weights).reshape(2, 2, 2, 1)  # noqa: E731
        return objectives.path_length(objectives.path_lengths(generate, w, noise)[1], 0.3).mean()

    theta = jnp.asarray(0.7)
    close(jax.jit(jax.grad(penalty))(theta), (penalty(theta + 1e-5) - penalty(theta - 1e-5)) / 2e-5, rtol=1e-8)


def test_path_length_of_a_constant_generator_has_a_finite_gradient() -> None:
    def penalty(theta: Array) -> Array:
        constant = lambda w: jnp.zeros((2, 1, 1, 1)) + 0 * theta * w.sum()  # noqa: E731
        return objectives.path_length(
            objectives.path_lengths(constant, jnp.ones((2, 3)), jnp.ones((2, 1, 1, 1)))[1], 1.0
        ).sum()

    value, (slope,) = value_and_slopes(penalty, jnp.array(3.0))
    close((value, slope), (4.0, 0.0))


def test_top_k_keeps_the_losses_of_the_best_fakes() -> None:
    fake = jnp.array([0.0, 2.0])
    losses = objectives.non_saturating_generator(jnp.zeros(2), fake)
    close((objectives.top_k_weights(fake, 1) * losses).mean(), 0.126928)
    close(objectives.top_k_weights(fake, 2), [1.0, 1.0])


def test_running_mean_follows_and_has_no_gradient() -> None:
    mean, slopes = value_and_slopes(objectives.running_mean, jnp.array(1.0), jnp.array([2.0, 4.0]))
    close(mean, 0.99 + 0.01 * 3)
    close(slopes[0], 0.0)
    close(slopes[1], [0.0, 0.0])
