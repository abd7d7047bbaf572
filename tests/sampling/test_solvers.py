"""Samplers on a flow with a known solution, x ~ N(2, .25)."""

import math
from functools import partial

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.sampling import posterior, solvers
from jimgen.sampling.diffusion import edm_times, uniform_times

M, S2 = 2.0, 0.25


def velocity(z, t):
    """E[eps - x | x_t = z]."""
    variance = (1 - t) ** 2 * S2 + t**2
    return -M + (t - (1 - t) * S2) / variance * (z - (1 - t) * M)


def error(sampler, num_steps):
    """From z_1 = 1.5, which ends at 2 + .5 1.5 = 2.75."""
    start, times = jnp.full((1, 1), 1.5), uniform_times(num_steps)
    return float(jax.jit(lambda x: sampler(velocity, x, times, jax.random.key(0)))(start)[0, 0]) - (M + S2**0.5 * 1.5)


# By number of steps: 4, 8, 16, 32.
ERRORS = {
    "euler": (solvers.euler, [-0.2392, -0.1278, -0.0665, -0.0340]),
    "heun": (solvers.heun, [0.00725, 0.00366, 0.00115, 0.00031]),
    "dpmpp_2m": (solvers.dpmpp_2m, [-0.194, -0.0255, 0.0085, 0.0051]),
}


@pytest.mark.parametrize("name", ERRORS)
def test_errors_by_hand(name):
    sampler, expected = ERRORS[name]
    found = [error(sampler, num_steps) for num_steps in (4, 8, 16, 32)]
    np.testing.assert_allclose(found, expected, atol=6e-5 if name != "dpmpp_2m" else 6e-4)


@pytest.mark.parametrize("name, order", [("euler", 1), ("heun", 2), ("ddim", 1)])
def test_orders_of_convergence(name, order, x64):
    """Twice the steps, 2^order times less error."""
    sampler = partial(solvers.ancestral, eta=0.0) if name == "ddim" else ERRORS[name][0]
    coarse, fine = error(sampler, 512), error(sampler, 1024)
    assert math.log2(abs(coarse / fine)) == pytest.approx(order, abs=0.1)


def test_the_multistep_solver_is_of_order_two_where_its_steps_are_even(x64):
    """Even in lambda = ln((1 - t) / t). The path is (1 - t) 2 + 1.5 sqrt(V_t)."""
    exact = lambda t: (1 - t) * M + 1.5 * math.sqrt((1 - t) ** 2 * S2 + t**2)  # noqa: E731
    errors = []
    for num_steps in (64, 128):
        times = 1 / (1 + np.exp(np.linspace(-3, 3, num_steps + 1)))
        found = solvers.dpmpp_2m(velocity, jnp.full((1, 1), exact(times[0])), times, jax.random.key(0))
        errors.append(abs(float(found[0, 0]) - exact(times[-1])))
    assert math.log2(errors[0] / errors[1]) == pytest.approx(2, abs=0.15)


def test_deterministic_ancestral_steps_are_eulers():
    """With eta = 0 a step is DDIM's, in this convention a straight line along v."""
    x, key = jax.random.normal(jax.random.key(0), (5, 2)), jax.random.key(1)
    times = uniform_times(6)
    ddim = solvers.ancestral(velocity, x, times, key, eta=0.0)
    np.testing.assert_allclose(ddim, solvers.euler(velocity, x, times, key), atol=1e-5)


@pytest.mark.parametrize("name", ["euler", "heun", "dpmpp_2m", "ancestral"])
def test_moments_of_the_samples(name):
    """Standard normal noise becomes N(2, .25)."""
    sampler = getattr(solvers, name)
    x = jax.random.normal(jax.random.key(0), (20_000, 1))
    found = jax.jit(lambda x: sampler(velocity, x, uniform_times(100), jax.random.key(1)))(x)
    assert float(found.mean()) == pytest.approx(M, abs=0.02)
    assert float(found.std()) == pytest.approx(S2**0.5, rel=0.03)


def test_ancestral_noise_is_fresh_belongs_to_the_example_and_follows_the_key():
    x = jnp.zeros((4, 2))
    draw = lambda x, seed: solvers.ancestral(velocity, x, uniform_times(10), jax.random.key(seed))  # noqa: E731
    found = draw(x, 0)
    assert len(np.unique(found)) == 8
    np.testing.assert_allclose(draw(x[:2], 0), found[:2], atol=1e-5)
    assert (draw(x, 1) != found).any()


def test_an_ancestral_step_is_the_posterior():
    """For one image x, q(x_t' | x_t, x) has the mean and variance of two Gaussians multiplied."""
    x, t, t_next, x_t = 0.7, 0.8, 0.3, 1.1
    sigma, sigma_next = t / (1 - t), t_next / (1 - t_next)
    variance = sigma_next**2 * (sigma**2 - sigma_next**2) / sigma**2
    mean = x + (x_t / (1 - t) - x) * sigma_next**2 / sigma**2
    exact = lambda z, t: (z - x) / t  # noqa: E731
    fresh = jnp.asarray([[0.0], [1.0]])
    found = solvers.ancestral_step(exact, jnp.full((2, 1), x_t), jnp.asarray(t), jnp.asarray(t_next), fresh)
    expected = (1 - t_next) * (mean + math.sqrt(variance) * np.asarray([[0.0], [1.0]]))
    np.testing.assert_allclose(found, expected, rtol=1e-5)


def test_renoising_is_the_forward_process():
    """x_t of variance t^2 around (1 - t) x gets that of the later time; equal times change nothing."""
    x, (first, second) = 0.7, jax.random.normal(jax.random.key(0), (2, 100_000, 1))
    at = lambda t: jnp.asarray(t)  # noqa: E731
    later = posterior.renoise((1 - 0.3) * x + 0.3 * first, at(0.3), at(0.8), second)
    assert float(later.mean()) == pytest.approx((1 - 0.8) * x, abs=0.01)
    assert float(later.std()) == pytest.approx(0.8, rel=0.01)
    np.testing.assert_allclose(posterior.renoise(first, at(0.3), at(0.3), second), first, atol=1e-3)
    np.testing.assert_allclose(posterior.renoise(first, at(0.0), at(1.0), second), second, atol=1e-6)


def test_heun_may_end_with_eulers_step():
    """The velocity at t = 0 is then not used."""
    broken = lambda z, t: jnp.where(t > 0, velocity(z, t), jnp.nan)  # noqa: E731
    x, times, key = jnp.ones((1, 1)), uniform_times(4), jax.random.key(0)
    assert np.isnan(solvers.heun(broken, x, times, key)).all()
    found = solvers.heun(broken, x, times, key, correct_last=False)
    before = solvers.heun(velocity, x, times[:-1], key)
    np.testing.assert_allclose(found, before - 0.25 * velocity(before, 0.25), rtol=1e-5)


def test_edms_times():
    """Noise levels of 80 and down: few steps are enough."""
    times = edm_times(18)
    start = times[0] * jnp.full((1, 1), 1.5)
    found = solvers.heun(velocity, start, times, jax.random.key(0), correct_last=False)
    assert float(found[0, 0]) == pytest.approx(2.75, abs=0.02)


@pytest.mark.parametrize("rounds", [1, 3])
def test_inpainting_keeps_the_known_and_matches_it(rounds):
    """Two pixels with correlation .9: where the first is known, the second is drawn from its conditional."""
    mean, covariance = jnp.zeros(2), jnp.asarray([[1.0, 0.9], [0.9, 1.0]])

    def field(z, t):
        """Velocity of x ~ N(mean, covariance): x^ = mean + (1 - t) C V^-1 (z - (1 - t) mean), v = (z - x^) / t."""
        total = (1 - t) ** 2 * covariance + t**2 * jnp.eye(2)
        gain = (1 - t) * covariance @ jnp.linalg.inv(total)
        return (z - mean[None] - (z - (1 - t) * mean[None]) @ gain.T) / t

    n = 4000
    known = jnp.tile(jnp.asarray([[1.5, 99.0]]), (n, 1))
    mask = jnp.asarray([[True, False]])
    draw = jax.jit(lambda key: posterior.inpaint(field, known, mask, uniform_times(60), key, rounds))
    found = draw(jax.random.key(0))
    np.testing.assert_array_equal(found[:, 0], np.full(n, 1.5, np.float32))
    # The conditional is N(1.35, .19). One round is biased, as in the paper; three come close.
    assert float(found[:, 1].mean()) == pytest.approx(0.93 if rounds == 1 else 1.35, abs=0.1 if rounds == 1 else 0.15)
    assert len(np.unique(found[:, 1])) > n / 2


def test_inpainting_starts_at_the_first_time():
    """If times start at .4, the first evaluation gets noise of that level, and known pixels at that level."""
    seen = []

    def field(z, t):
        jax.debug.callback(lambda z, t: seen.append((float(t), np.asarray(z))), z, t)
        return z / t

    known, mask = jnp.full((4000, 2), 5.0), jnp.asarray([[True, False]])
    posterior.inpaint(field, known, mask, np.asarray([0.4, 0.0], np.float32), jax.random.key(0))
    jax.effects_barrier()
    (t, z), *_ = seen
    assert t == pytest.approx(0.4)
    np.testing.assert_allclose(z.std(0), [0.4, 0.4], rtol=0.05)
    np.testing.assert_allclose(z.mean(0), [0.6 * 5.0, 0.0], atol=0.03)


def test_bad_input_is_named():
    x, key = jnp.zeros((1, 1)), jax.random.key(0)
    with pytest.raises(ValueError, match=r"expected times \[steps \+ 1\], at least two, got \[1\]"):
        solvers.euler(velocity, x, jnp.ones(1), key)
    with pytest.raises(ValueError, match="at least one round, got 0"):
        posterior.inpaint(velocity, x, x > 0, uniform_times(2), key, rounds=0)
