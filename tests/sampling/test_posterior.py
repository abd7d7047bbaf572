"""Posterior sampling by flows of Gaussian images, whose posteriors have closed forms."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from gaussian_images import SHAPE, matrix_of, posterior, prior, velocity_of

from jimgen.apps.degradations import box_downsampled, gaussian_blur, identity, masked
from jimgen.apps.tomography import radon
from jimgen.sampling.diffusion import uniform_times
from jimgen.sampling.posterior import flower, pnp_flow, squared_norm
from jimgen.sampling.spread import spread_of

MEAN, COVARIANCE = prior()
OPERATORS = {  # with the standard deviation of the noise
    "mask": (masked(np.arange(16).reshape(4, 4) % 3 != 0), 0.3),
    "blur": (gaussian_blur(0.8), 0.3),
    "downsampling": (box_downsampled(2), 0.3),
    "radon": (radon(np.array([0.0, 90.0])), 1.0),
}


def normal_velocity(mean, variance):
    """E[eps - x | x_t] of independent pixels ~ N(mean, variance)."""

    def velocity(x, t):
        factor = (t - (1 - t) * variance) / ((1 - t) ** 2 * variance + t**2)
        return factor * (x - (1 - t) * mean) - mean

    return velocity


@pytest.mark.parametrize(
    "mean, variance, draws, expected",  # of p(x | y = 1) at sigma = .5
    [
        (0.0, 1.0, True, (0.8, 0.2)),
        (0.5, 0.25, True, (0.75, 0.125)),
        (0.0, 1.0, False, (0.8, 0.095)),  # steps to the mean: no posterior, but known
    ],
)
def test_flower_draws_from_a_normal_posterior(mean, variance, draws, expected, optimised):
    y, times = jnp.ones((40_000, 1, 1, 1)), uniform_times(100)

    def draw(y):
        return flower(
            normal_velocity(mean, variance), identity, y, 0.5, times, jax.random.key(0), (1, 1, 1), draws=draws
        )  # noqa: E501, E731

    x = jax.jit(draw)(y)
    np.testing.assert_allclose((x.mean(), x.var()), expected, rtol=0.025)


@pytest.mark.parametrize("name", OPERATORS)
def test_flower_draws_from_gaussian_posteriors(name, optimised):
    """A full covariance in 16 dimensions, where x given x_t is not isotropic, as flower takes it to be."""
    operator, sigma = OPERATORS[name]
    matrix = matrix_of(operator)
    rng = np.random.default_rng(1)
    observed = matrix @ rng.multivariate_normal(MEAN, COVARIANCE) + sigma * rng.normal(size=len(matrix))
    mean, covariance = posterior(MEAN, COVARIANCE, matrix, observed, sigma)
    shape = operator(jnp.zeros((1, *SHAPE))).shape[1:]
    y = jnp.broadcast_to(jnp.asarray(observed, jnp.float32).reshape(1, *shape), (2000, *shape))
    velocity, times = velocity_of(MEAN.astype(np.float32), COVARIANCE.astype(np.float32)), uniform_times(100)
    x = jax.jit(lambda y: flower(velocity, operator, y, sigma, times, jax.random.key(0), SHAPE))(y)
    x, deviation = np.asarray(x).reshape(len(x), -1), np.sqrt(np.diag(covariance))
    np.testing.assert_allclose((x.mean(0) - mean) / deviation, 0, atol=0.12)
    np.testing.assert_allclose(x.var(0) / deviation**2, 1, atol=0.12)


def test_flower_weighs_observations_by_their_noise():
    """Pixels with little noise are taken over, others are drawn from the prior."""
    y = jnp.ones((2000, 1, 2, 1))
    sigma = jnp.asarray([1e-3, 1e3]).reshape(1, 1, 2, 1)
    times = uniform_times(20)
    x = jax.jit(lambda y: flower(normal_velocity(0, 1), identity, y, sigma, times, jax.random.key(0), (1, 2, 1)))(y)
    np.testing.assert_allclose(x[:, 0, 0, 0], 1, atol=0.01)
    np.testing.assert_allclose((x[:, 0, 1, 0].mean(), x[:, 0, 1, 0].std()), (0, 1), atol=0.08)


def test_draws_with_a_measured_spread_are_exact_for_any_variance():
    """Without it, pixels that are not seen vary a third too much, at this prior's standard deviation of .1."""
    velocity, times, key = normal_velocity(0.0, 0.01), uniform_times(50), jax.random.key(0)
    samples = 0.1 * jax.random.normal(jax.random.key(1), (2000, 2, 2, 1))
    y = jnp.full((20_000, 2, 2, 1), 0.1)

    def variance(spread):
        x = flower(velocity, masked(np.array([[True, False]] * 2)), y, 0.1, times, key, (2, 2, 1), spread=spread)
        return x.var((0, 1, 3))  # of a column that is seen and of one that is not

    expected = (0.005, 0.01)
    measured = jax.jit(lambda: variance(spread_of(velocity, samples, times, jax.random.key(2))))()
    np.testing.assert_allclose(measured, expected, rtol=0.03)
    assert jax.jit(lambda: variance(None))()[1] > 1.2 * expected[1]


def test_draws_of_an_image_do_not_depend_on_its_neighbours():
    y = jnp.arange(6, dtype=jnp.float32).reshape(3, 1, 2, 1)
    draw = lambda y: flower(normal_velocity(0, 1), identity, y, 0.5, uniform_times(5), jax.random.key(0), (1, 2, 1))  # noqa: E731
    np.testing.assert_allclose(draw(y)[:2], draw(y[:2]), atol=1e-6)


def test_pnp_flow_takes_the_steps_of_its_formula():
    """All steps are affine for a normal prior, so means over many images obey the recursion without noise."""
    m, s2, y, n = 0.5, 0.25, 1.0, 20_000
    times, expected = uniform_times(10), y
    for t in times[1:-1]:
        z = expected - t * (expected - y)
        gain = (1 - t) * s2 / ((1 - t) ** 2 * s2 + t**2)
        expected = m + gain * ((1 - t) * z - (1 - t) * m)
    find = lambda y: pnp_flow(normal_velocity(m, s2), identity, y, times, jax.random.key(0), (1, 1, 1))  # noqa: E731
    found = jax.jit(find)(jnp.full((n, 1, 1, 1), y))
    assert float(found.mean()) == pytest.approx(expected, abs=4 * float(found.std()) / n**0.5 + 1e-5)


def test_squared_norms_of_operators_with_known_ones():
    assert float(squared_norm(identity, SHAPE, jnp.float32)) == pytest.approx(1)
    assert float(squared_norm(box_downsampled(2), SHAPE, jnp.float32)) == pytest.approx(1 / 4)
    operator = OPERATORS["radon"][0]
    largest = np.linalg.norm(matrix_of(operator), 2) ** 2
    assert float(squared_norm(operator, SHAPE, jnp.float32)) == pytest.approx(largest, rel=1e-3)


def test_pnp_flow_needs_a_draw():
    with pytest.raises(ValueError, match="at least one draw"):
        pnp_flow(
            normal_velocity(0, 1),
            identity,
            jnp.ones((1, 1, 1, 1)),
            uniform_times(2),
            jax.random.key(0),
            (1, 1, 1),
            averaged=0,
        )  # noqa: E501


@pytest.mark.parametrize("platform", ["cuda", "tpu"])
def test_both_lower_for_accelerators(platform):
    operator, times = OPERATORS["radon"][0], uniform_times(2)
    y = jnp.zeros((2, *operator(jnp.zeros((1, *SHAPE))).shape[1:]))

    def both(y):
        drawn = flower(normal_velocity(0, 1), operator, y, 0.1, times, jax.random.key(0), SHAPE)
        return drawn, pnp_flow(normal_velocity(0, 1), operator, y, times, jax.random.key(0), SHAPE)

    assert jax.jit(both).trace(y).lower(lowering_platforms=(platform,)).as_text()
