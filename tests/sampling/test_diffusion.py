"""The maths of diffusion: hand values, identities between predictions, EDM's table."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.sampling import diffusion

PREDICTIONS = ("velocity", "data", "noise")


def pair(shape=(5, 2, 3)):
    return (jax.random.normal(jax.random.key(seed), shape) for seed in range(2))


def test_one_point_by_hand():
    """x = 2, eps = -1, t = .25."""
    x, eps, t = jnp.full((1, 1), 2.0), jnp.full((1, 1), -1.0), jnp.asarray([0.25])
    x_t, v = diffusion.interpolate(x, eps, t), diffusion.velocity_of(x, eps)
    assert float(x_t[0, 0]) == 1.25 and float(v[0, 0]) == -3.0
    assert float(diffusion.data_of(x_t, v, t)[0, 0]) == 2.0
    assert float(diffusion.noise_of(x_t, v, t)[0, 0]) == -1.0
    assert float(diffusion.score_of(x_t, v, t)[0, 0]) == 4.0


def test_the_score_is_that_of_a_gaussian():
    """For one image x, p_t = N((1 - t) x, t^2): the gradient of its log density at x_t."""
    x, eps = pair((4, 1))
    t = jnp.asarray([0.1, 0.4, 0.7, 1.0])
    x_t = diffusion.interpolate(x, eps, t)
    log_density = lambda x_t, x, t: (-jnp.square(x_t - (1 - t) * x) / (2 * t**2)).sum()  # noqa: E731
    expected = jax.vmap(jax.grad(log_density))(x_t, x, t)
    np.testing.assert_allclose(diffusion.score_of(x_t, diffusion.velocity_of(x, eps), t), expected, rtol=1e-4)


@pytest.mark.parametrize("prediction", PREDICTIONS)
def test_true_predictions_imply_the_true_velocity(prediction):
    x, eps = pair()
    t = jnp.asarray([0.06, 0.3, 0.5, 0.7, 0.94])
    x_t, target = diffusion.interpolate(x, eps, t), diffusion.target_of(prediction, x, eps)
    found = diffusion.velocity_from(prediction, target, x_t, t)
    np.testing.assert_allclose(found, diffusion.velocity_of(x, eps), atol=2e-5)
    one = diffusion.velocity_from(prediction, target, diffusion.interpolate(x, eps, 0.3), 0.3)
    np.testing.assert_allclose(one, diffusion.velocity_of(x, eps), atol=2e-5)


@pytest.mark.parametrize("prediction", PREDICTIONS)
@pytest.mark.parametrize("loss", PREDICTIONS)
def test_nine_pairings(prediction, loss):
    """The weighted error of the prediction is the error of what it implies in the space of the loss."""
    x, eps = pair()
    t = jnp.asarray([0.06, 0.3, 0.5, 0.7, 0.94])
    x_t, output = diffusion.interpolate(x, eps, t), 0.5 * x + eps**2
    velocity = diffusion.velocity_from(prediction, output, x_t, t)
    implied = {
        "velocity": velocity,
        "data": diffusion.data_of(x_t, velocity, t),
        "noise": diffusion.noise_of(x_t, velocity, t),
    }[loss]
    expected = jnp.square(implied - diffusion.target_of(loss, x, eps)).sum((1, 2))
    error = jnp.square(output - diffusion.target_of(prediction, x, eps)).sum((1, 2))
    np.testing.assert_allclose(diffusion.loss_weight(prediction, loss, t) * error, expected, rtol=1e-3)


def test_weights_at_the_ends():
    """Divisors are at least .05, so the weight of a velocity loss for image predictions is at most 400."""
    t = jnp.asarray([0.0, 0.05, 0.5, 1.0])
    np.testing.assert_allclose(diffusion.loss_weight("data", "velocity", t), [400, 400, 4, 1], rtol=1e-5)
    np.testing.assert_allclose(diffusion.loss_weight("noise", "velocity", t), [1, 1 / 0.95**2, 4, 400], rtol=1e-5)
    np.testing.assert_allclose(diffusion.loss_weight("velocity", "data", t), t**2, rtol=1e-6)
    for prediction in PREDICTIONS:
        np.testing.assert_array_equal(diffusion.loss_weight(prediction, prediction, t), np.ones(4))


def test_velocities_divide_by_the_time_itself_and_are_finite_at_the_ends():
    """x = .5, eps = -1.5: v = -2 at any distance from the ends; at an end itself the other end is replaced by 0."""
    x, eps = jnp.full((4, 1), 0.5, jnp.float32), jnp.full((4, 1), -1.5)
    t = jnp.asarray([0.0, 2**-9, 1 - 2**-9, 1.0])
    x_t = diffusion.interpolate(x, eps, t)
    from_data = jax.jit(lambda output: diffusion.velocity_from("data", output, x_t, t))
    from_noise = jax.jit(lambda output: diffusion.velocity_from("noise", output, x_t, t))
    np.testing.assert_allclose(from_data(x)[:, 0], [-0.5, -2, -2, -2], rtol=1e-4)
    np.testing.assert_allclose(from_noise(eps)[:, 0], [-2, -2, -2, -1.5], rtol=1e-4)
    for function, output in ((from_data, x), (from_noise, eps)):
        assert np.isfinite(jax.grad(lambda o, f=function: f(o).sum())(output)).all()


def test_logit_normal_times():
    """sigmoid(mu + s z); their density at the median, by the change of variables, is 1 / (s sqrt(2 pi) t (1 - t))."""
    z = jnp.asarray([-2.0, 0.0, 1.0])
    np.testing.assert_allclose(diffusion.logit_normal(z, -0.4, 1.0), jax.nn.sigmoid(z - 0.4), rtol=1e-6)
    t = diffusion.logit_normal(jax.random.normal(jax.random.key(0), (100_000,)), 0.5, 0.7)
    median = 1 / (1 + math.exp(-0.5))
    assert float((t < median).mean()) == pytest.approx(0.5, abs=0.01)
    density = 1 / (0.7 * math.sqrt(2 * math.pi) * median * (1 - median))
    assert float((jnp.abs(t - median) < 0.01).mean()) / 0.02 == pytest.approx(density, rel=0.05)
    sigma = diffusion.sigma_of(diffusion.logit_normal(z, -1.2, 1.2))
    np.testing.assert_allclose(jnp.log(sigma), -1.2 + 1.2 * z, rtol=1e-5)
    np.testing.assert_allclose(diffusion.time_of(sigma), diffusion.logit_normal(z, -1.2, 1.2), rtol=1e-6)


def test_edm_coefficients_by_hand():
    """sigma = sigma_data = .5."""
    c = diffusion.edm_coefficients(jnp.asarray(0.5))
    np.testing.assert_allclose(jnp.stack(c), [0.5, 0.353553, 1.414214, -0.173287, 8.0], rtol=1e-5)
    for sigma in (0.002, 0.3, 80.0):
        c = diffusion.edm_coefficients(jnp.asarray(sigma), 0.7)
        assert float(c.weight * c.out**2) == pytest.approx(1.0, rel=1e-5)


def test_edm_scales_input_and_target_to_unit_variance():
    """For data of standard deviation sigma_data, at every noise level."""
    x, eps = (0.5 * a if i == 0 else a for i, a in enumerate(pair((40_000, 1))))
    for t in (0.05, 0.4, 0.95):
        times, seen = jnp.full(40_000, t), []
        net = lambda scaled, c_noise, seen=seen: seen.append((scaled, c_noise)) or jnp.zeros_like(scaled)  # noqa: E731
        denoised, weight = diffusion.edm_denoise(net, diffusion.interpolate(x, eps, times), times)
        sigma = t / (1 - t)
        assert float(seen[0][0].std()) == pytest.approx(1.0, rel=0.02)
        assert float(seen[0][1][0]) == pytest.approx(math.log(sigma) / 4, rel=1e-5)
        target = (x - denoised) / diffusion.edm_coefficients(jnp.asarray(sigma)).out  # F's, as its output was zero
        assert float(target.std()) == pytest.approx(1.0, rel=0.02)
        assert float((weight[0] * jnp.square(x - denoised)).mean()) == pytest.approx(1.0, rel=0.04)


def test_edm_noise_levels_by_hand():
    np.testing.assert_allclose(diffusion.edm_sigmas(5), [80, 17.5278, 2.51522, 0.169753, 0.002, 0], rtol=1e-5)
    np.testing.assert_allclose(diffusion.uniform_times(4), [1, 0.75, 0.5, 0.25, 0])
    with pytest.raises(ValueError, match="at least one step, got 0"):
        diffusion.uniform_times(0)
    with pytest.raises(ValueError, match="at least two steps, got 1"):
        diffusion.edm_sigmas(1)


def test_bad_input_is_named():
    x = jnp.zeros((3, 2))
    with pytest.raises(ValueError, match=r"expected times \[\] or \[3\], one per example, got \[2\]"):
        diffusion.interpolate(x, x, jnp.zeros(2))
    for bad in (
        lambda: diffusion.interpolate(x, x[:, :1], 0.5),
        lambda: diffusion.velocity_from("data", x[:1], x, 0.5),
    ):
        with pytest.raises(ValueError, match="expected equal shapes"):  # they would broadcast
            bad()
    with pytest.raises(ValueError, match="unknown prediction 'x': use one of velocity, data, noise"):
        diffusion.target_of("x", x, x)
    with pytest.raises(ValueError, match="unknown prediction 'edm'"):
        diffusion.loss_weight("edm", "velocity", jnp.zeros(3))
