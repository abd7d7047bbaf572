"""Likelihoods, divergences and the losses of a VAE against SciPy, quadrature and known optima."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import Array
from numeric import close, normal, sigmoid, uniform, value_and_slopes
from objective_rows import EXTREME
from scipy import integrate, stats

from jimgen import objectives
from jimgen.metrics.likelihood import importance_weighted_bound

# Likelihoods.


def test_bernoulli_matches_scipy() -> None:
    logits, x = normal(16, 5, 4, 4, 1, scale=3), jnp.round(uniform(17, 5, 4, 4, 1))
    log_pmf = stats.bernoulli.logpmf(np.asarray(x), sigmoid(np.asarray(logits, np.float64)))
    close(jax.jit(objectives.bernoulli_nll)(logits, x), -log_pmf.sum((1, 2, 3)), rtol=1e-5)


def test_bernoulli_is_right_at_extreme_logits() -> None:
    losses = objectives.bernoulli_nll(EXTREME.T, jnp.array([[1.0], [0.0], [0.5], [0.0]]))
    close(losses, [0.0, 200.0, 100.0, 0.0])
    # No cancellation: softplus(30) - 30 is zero in float32, the loss is not.
    close(objectives.bernoulli_nll(jnp.array([[30.0]]), jnp.ones((1, 1))), [math.exp(-30)], rtol=1e-5, atol=0)


def test_bernoulli_is_least_where_the_probability_is_the_pixel() -> None:
    x = jnp.array([[0.1, 0.5, 0.8]])
    _, (by_logits, _) = value_and_slopes(objectives.bernoulli_nll, jnp.log(x / (1 - x)), x)
    close(by_logits, np.zeros((1, 3)))


def test_gaussian_matches_scipy_for_shared_and_for_pixelwise_sigma() -> None:
    x, mean, log_sigma = normal(18, 5, 4, 2), normal(19, 5, 4, 2), normal(20, 5, 4, 2)
    log_pdf = stats.norm.logpdf(np.asarray(x), np.asarray(mean), np.exp(np.asarray(log_sigma)))
    nll = jax.jit(objectives.gaussian_nll)
    close(nll(x, mean, log_sigma), -log_pdf.sum((1, 2)), rtol=1e-5)
    shared = nll(x, mean, -0.5)
    close(shared, -stats.norm.logpdf(np.asarray(x), np.asarray(mean), math.exp(-0.5)).sum((1, 2)), rtol=1e-5)
    close(shared, nll(x, mean, jnp.full_like(x, -0.5)), rtol=1e-5)


def test_the_levels_of_a_discretised_logistic_sum_to_one(x64) -> None:
    """For narrow and wide scales, and means outside of the range; in agreement with SciPy."""
    levels = jnp.arange(256) / 127.5 - 1
    for mean, log_scale in ((0.0, -2.0), (-1.2, -6.9), (0.3, 3.0), (5.0, 0.0)):
        log_p = objectives.discretised_logistic_log_prob(levels, 0 * levels + mean, 0 * levels + log_scale)
        close(jax.scipy.special.logsumexp(log_p), 0.0, atol=1e-12)
        edges = np.concatenate([[-np.inf], np.asarray(levels[1:]) - 1 / 255, [np.inf]])
        close(jnp.exp(log_p), np.diff(stats.logistic.cdf(edges, mean, math.exp(log_scale))), atol=1e-12)


def test_a_mixture_of_one_logistic_is_that_logistic() -> None:
    x = jnp.array([[-1.0, 3 / 127.5 - 1, 1.0]])
    mean, log_scale = normal(30, 1, 3), normal(31, 1, 3)
    nll = objectives.logistic_mixture_nll(x, normal(32, 1, 3)[..., None], mean[..., None], log_scale[..., None])
    close(nll, -objectives.discretised_logistic_log_prob(x, mean, log_scale).sum(1))
    some = objectives.logistic_mixture_nll(
        x, *(a[..., None] for a in (mean, mean, log_scale)), jnp.array([[0, 1, 0]]) > 0
    )
    close(some, -objectives.discretised_logistic_log_prob(x, mean, log_scale)[:, 1])


def test_dreg_is_another_estimate_of_the_gradient_of_iwae() -> None:
    """q = N(m, s^2), p = N(0, 1), x|z ~ N(z, 1): gradients at x = 2, m = log s = 0 for two draws, by hand."""
    eps, x = jnp.array([[0.5], [-1.0]]), 2.0

    def log_weights(q, held):
        z = q[0] + jnp.exp(q[1]) * eps
        of_q = jnp.square((z - held[0]) * jnp.exp(-held[1])) / 2 + held[1]
        return of_q - jnp.square(z) / 2 - jnp.square(x - z) / 2 - math.log(2 * math.pi) / 2

    q = jnp.zeros(2)
    iwae = lambda q: importance_weighted_bound(log_weights(q, q))[0]  # noqa: E731
    dreg = lambda q: -objectives.dreg_loss(log_weights(q, jax.lax.stop_gradient(q)))[0]  # noqa: E731
    close(iwae(q), -2.703440)
    close(jax.grad(iwae)(q), [1.099258, 1.351113])
    close(jax.grad(dreg)(q), [1.405668, 0.697908])


def test_the_kl_to_a_vamp_prior_of_one_component_is_that_between_gaussians() -> None:
    """In expectation over z ~ q, by quadrature; a prior of equal components is one of them."""
    mean, logvar, at, spread = 0.4, -1.0, -0.3, 0.5
    nodes, weights = np.polynomial.hermite_e.hermegauss(30)
    z = jnp.asarray(mean + math.exp(logvar / 2) * nodes, jnp.float32)[:, None]
    log_q = -objectives.gaussian_nll(z, jnp.full_like(z, mean), logvar / 2)
    for k in (1, 3):
        log_p = objectives.mixture_log_prob(z, jnp.full((k, 1), at), jnp.full((k, 1), spread))
        kl = (np.asarray(log_q - log_p) * weights).sum() / weights.sum()
        one = [jnp.array([[value]]) for value in (mean, logvar, at, spread)]
        close(kl, objectives.gaussian_kl_between(*one)[0], rtol=1e-5)


def test_optimal_sigma_is_optimal() -> None:
    x, mean = normal(21, 5, 4, 2), normal(22, 5, 4, 2)
    log_sigma = objectives.optimal_log_sigma(x, mean)
    assert log_sigma.shape == ()
    gradient = jax.jit(jax.grad(lambda log_sigma: objectives.gaussian_nll(x, mean, log_sigma).mean()))
    close(gradient(log_sigma), 0.0, atol=1e-5)
    assert gradient(log_sigma - 0.1) < 0 < gradient(log_sigma + 0.1)


def test_a_perfect_reconstruction_is_finite_under_the_soft_bound() -> None:
    x = uniform(23, 2, 3)

    def loss(reconstruction: Array) -> Array:
        log_sigma = objectives.soft_lower_bound(objectives.optimal_log_sigma(x, reconstruction))
        return objectives.gaussian_nll(x, reconstruction, log_sigma).mean()

    value, (gradient,) = value_and_slopes(loss, x)
    close(value, 3 * (math.log(2 * math.pi) / 2 - 6), rtol=1e-5)
    assert np.isfinite(gradient).all()


def test_soft_lower_bound_moves_with_its_bound_and_keeps_a_gradient() -> None:
    log_sigma = jnp.array([-9.0, -3.0, 0.0])
    for bound in (-6.0, -2.0, 0.5):
        bounded, slopes = value_and_slopes(objectives.soft_lower_bound, log_sigma, jnp.array(bound))
        assert np.all(np.asarray(bounded) > np.maximum(bound, log_sigma))
        assert np.all(np.asarray(slopes[0]) > 0)


# Divergences.


def log_normal(z: float, mean: float, logvar: float) -> float:
    return -((z - mean) ** 2) / (2 * math.exp(logvar)) - logvar / 2 - math.log(2 * math.pi) / 2


def quadrature_kl(mean: float, logvar: float, prior_mean: float, prior_logvar: float) -> float:
    def integrand(z: float) -> float:
        log_q = log_normal(z, mean, logvar)
        return math.exp(log_q) * (log_q - log_normal(z, prior_mean, prior_logvar))

    width = 12 * math.exp(logvar / 2)
    return integrate.quad(integrand, mean - width, mean + width, points=[mean])[0]


@pytest.mark.parametrize("row", [(1.0, 0.0, 0.0, 0.7), (-0.5, 1.4, 1.0, 0.0), (0.3, -3.0, 0.2, 1.0)])
def test_kl_matches_quadrature(row: tuple[float, float, float, float]) -> None:
    mean, logvar, prior_mean, prior_logvar = (jnp.full((1, 1), value) for value in row)
    between = jax.jit(objectives.gaussian_kl_between)(mean, logvar, prior_mean, prior_logvar)
    close(between, [quadrature_kl(*row)], rtol=1e-5)
    close(jax.jit(objectives.gaussian_kl)(mean, logvar), [quadrature_kl(row[0], row[1], 0, 0)], rtol=1e-5)


def test_kl_against_the_standard_normal_is_a_special_case() -> None:
    mean, logvar, zeros = normal(24, 3, 4, 4, 2), normal(25, 3, 4, 4, 2), jnp.zeros((3, 4, 4, 2))
    kl = jax.jit(objectives.gaussian_kl)(mean, logvar)
    close(jax.jit(objectives.gaussian_kl_between)(mean, logvar, zeros, zeros), kl, rtol=1e-5)
    close(np.sum(objectives.gaussian_kl_per_dimension(mean, logvar), (1, 2, 3)), kl, rtol=1e-5)


def test_kl_is_zero_and_flat_where_the_two_are_equal() -> None:
    mean, logvar = normal(26, 3, 4), normal(27, 3, 4)
    value, slopes = value_and_slopes(objectives.gaussian_kl_between, mean, logvar, mean, logvar)
    close(value, np.zeros(3))
    close(slopes, np.zeros((4, 3, 4)))


LOG_VARIANCES = jnp.asarray([-1e4, -200, -90, -44, -30, 0, 30, 44, 90, 200, 1e4], jnp.float32)


def test_gaussian_terms_are_finite_at_every_log_variance() -> None:
    """Gradients are finite as well, for every pair of log variances, even if the means differ strongly."""
    v, w = (x.reshape(-1, 1) for x in jnp.meshgrid(LOG_VARIANCES, LOG_VARIANCES))
    for distance in (0.0, 1e-3, 100.0):
        mean = jnp.full_like(v, distance)
        for function, args in (
            (objectives.gaussian_kl_between, (mean, v, jnp.zeros_like(v), w)),
            (objectives.gaussian_nll, (mean, jnp.zeros_like(v), v)),
            (objectives.gaussian_kl, (mean, v)),
        ):
            for leaf in jax.tree.leaves(value_and_slopes(function, *args)):
                assert np.isfinite(leaf).all(), function


def test_gaussian_terms_are_exact_where_float32_holds_them() -> None:
    """Against float64, for log variances from -60 to 60 and, at equal means, to -1e4."""
    rng = np.random.default_rng(0)
    v, w = rng.uniform(-60, 30, (2, 50, 1))
    w = np.minimum(w + 0 * v, v + 59)
    w = np.maximum(w, v - 59)
    x, y = rng.normal(size=(2, 50, 1))
    kl = (np.exp(v - w) - 1 - (v - w) + (x - y) ** 2 * np.exp(-w)) / 2
    single = [jnp.asarray(a, jnp.float32) for a in (x, v, y, w)]
    close(jax.jit(objectives.gaussian_kl_between)(*single), kl[:, 0], rtol=1e-4)
    nll = ((x - y) * np.exp(-v / 2)) ** 2 / 2 + v / 2 + math.log(2 * math.pi) / 2
    close(jax.jit(objectives.gaussian_nll)(single[0], single[2], single[1] / 2), nll[:, 0], rtol=1e-4)
    low = jnp.asarray([[-60.0], [-200.0], [-1e4]])
    close(objectives.gaussian_nll(low, low, low / 2), low[:, 0] / 2 + math.log(2 * math.pi) / 2, rtol=1e-6)
    close(objectives.gaussian_kl(0 * low, low), (-low[:, 0] - 1) / 2, rtol=1e-6)


def test_a_gaussian_has_no_divergence_from_itself_at_any_log_variance() -> None:
    v = LOG_VARIANCES[:, None]
    mean = jnp.full_like(v, 0.3)
    value, slopes = value_and_slopes(objectives.gaussian_kl_between, mean, v, mean, v)
    np.testing.assert_array_equal(value, np.zeros(len(v)))
    np.testing.assert_array_equal(slopes, np.zeros((4, len(v), 1)))


def test_log_variances_beyond_the_range_still_pull_back() -> None:
    """A standard deviation that is far too small grows, one that is far too large shrinks."""
    ones, zeros = jnp.ones((1, 1)), jnp.zeros((1, 1))
    for far in (70.0, 1e3):
        _, slopes = value_and_slopes(objectives.gaussian_nll, ones, zeros, -far * ones)
        assert float(slopes[2][0, 0]) < -1e26
        _, slopes = value_and_slopes(objectives.gaussian_kl, zeros, far * ones)
        assert float(slopes[1][0, 0]) > 1e25
        _, slopes = value_and_slopes(objectives.bounded_logvar, far * ones)
        assert float(slopes[0][0, 0]) > 0


def test_kl_keeps_its_digits_near_the_prior() -> None:
    logvar = 1e-3
    close(
        objectives.gaussian_kl(jnp.zeros((1, 1)), jnp.full((1, 1), logvar)),
        [(logvar**2 / 2 + logvar**3 / 6) / 2],
        rtol=1e-3,
        atol=0,
    )


def test_free_bits_are_the_clamped_batch_mean_in_value_and_gradient() -> None:
    kl = jnp.asarray(np.square(normal(28, 6, 5)) * np.array([[0.01, 0.1, 1.0, 3.0, 0.2]], np.float32))
    for floor in (0.25, jnp.array([0.0, 1.0, 0.1, 9.0, 0.05])):
        assert jax.eval_shape(objectives.free_bits, kl, floor).shape == (6,)
        ours, our_slopes = value_and_slopes(lambda kl, floor=floor: objectives.free_bits(kl, floor).mean(), kl)
        clamped, clamped_slopes = value_and_slopes(lambda kl, floor=floor: jnp.maximum(kl.mean(0), floor).sum(), kl)
        close(ours, clamped)
        close(our_slopes, clamped_slopes)


def test_free_bits_without_a_floor_are_the_kl() -> None:
    kl = jnp.asarray(np.square(normal(29, 6, 5)))
    close(jax.jit(objectives.free_bits)(kl, 0.0), np.sum(kl, 1))
    with pytest.raises(ValueError, match=r"kl_per_dimension \[b, g\]"):
        objectives.free_bits(kl[:, :, None], 0.0)


# The losses of a variational autoencoder.


def test_kl_weight_is_twice_the_variance() -> None:
    """2 sigma^2 (-ELBO) is the loss plus a constant, with the same gradients up to the factor."""
    num_pixels = 12
    x, noise = normal(30, 4, num_pixels), normal(31, 4, 3)
    params = normal(32, 3, num_pixels), normal(33, 4, 3), normal(34, 4, 3)  # decoder weights, mean, logvar

    def beta_vae(weights: Array, mean: Array, logvar: Array, sigma: Array) -> Array:
        reconstruction = jnp.tanh((mean + jnp.exp(logvar / 2) * noise) @ weights)
        kl_weight = objectives.kl_weight_from_sigma(sigma)
        kl = objectives.gaussian_kl(mean, logvar)
        return objectives.beta_vae_loss(objectives.squared_error(x, reconstruction), kl, kl_weight)

    def elbo(weights: Array, mean: Array, logvar: Array, sigma: Array) -> Array:
        reconstruction = jnp.tanh((mean + jnp.exp(logvar / 2) * noise) @ weights)
        nll = objectives.gaussian_nll(x, reconstruction, jnp.log(sigma))
        return objectives.negative_elbo(nll, objectives.gaussian_kl(mean, logvar))

    for sigma in (0.1, 0.5, 2.0):
        factor = 2 * sigma**2
        constant = num_pixels * sigma**2 * math.log(2 * math.pi * sigma**2)
        ours, our_slopes = value_and_slopes(beta_vae, *params, jnp.array(sigma))
        theirs, their_slopes = value_and_slopes(elbo, *params, jnp.array(sigma))
        close(ours + constant, factor * theirs, rtol=1e-5, atol=1e-5)
        for a, b in zip(our_slopes[:3], their_slopes[:3], strict=True):
            close(a, factor * b, rtol=1e-4, atol=1e-5)
        close(objectives.sigma_from_kl_weight(factor), sigma)


def test_negative_elbo_is_exact_at_the_true_posterior() -> None:
    """z ~ N(0, 1), x | z ~ N(z, 1): q = N(x/2, 1/2) makes the bound tight, -log N(x; 0, 2)."""
    x, logvar = 2.0, math.log(0.5)
    nodes, node_weights = np.polynomial.hermite_e.hermegauss(20)
    z = jnp.asarray(x / 2 + math.sqrt(0.5) * nodes, jnp.float32)[:, None]

    @jax.jit
    def losses(z: Array) -> Array:
        nll = objectives.gaussian_nll(jnp.full_like(z, x), z, 0.0)
        kl = objectives.gaussian_kl(jnp.full_like(z, x / 2), jnp.full_like(z, logvar))
        return objectives.negative_elbo(nll, kl)

    bound = np.sum(np.asarray(losses(z)) * node_weights) / np.sum(node_weights)
    close(bound, -stats.norm.logpdf(x, 0, math.sqrt(2)), rtol=1e-5)


def test_bits_per_dim_of_a_uniform_byte_is_eight() -> None:
    close(objectives.bits_per_dim(jnp.array([784 * math.log(256)]), 784), [8.0])
    with pytest.raises(ValueError, match="num_dims >= 1, got 0"):
        objectives.bits_per_dim(jnp.zeros(1), 0)
