"""Importance-weighted bounds against a model whose likelihood is known, and the names of metrics."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jimgen.metrics.likelihood import LikelihoodProtocol, effective_sample_size, importance_weighted_bound
from jimgen.objectives import bits_per_dim


def test_hand_values():
    log_weights = jnp.log(jnp.array([[1.0, 2, 1], [3.0, 2, 1]]))
    np.testing.assert_allclose(importance_weighted_bound(log_weights), np.log([2, 2, 1]), rtol=1e-6, atol=1e-7)


def test_one_sample_is_the_elbo_and_huge_weights_stay_finite():
    log_weights = jnp.array([[-5000.0, 400, 0]])
    np.testing.assert_array_equal(importance_weighted_bound(log_weights), log_weights[0])
    np.testing.assert_allclose(importance_weighted_bound(jnp.full((8, 2), -5000.0)), [-5000, -5000], rtol=1e-6)


def test_uniform_pixels_are_8_bits():
    nats = -importance_weighted_bound(jnp.full((4, 1), -784 * np.log(256)))
    np.testing.assert_allclose(nats, [4347.42], rtol=1e-6)
    np.testing.assert_allclose(bits_per_dim(nats, 784), [8.0], rtol=1e-6)


def test_the_bound_tightens_to_the_likelihood():
    """z ~ N(0, 1), x | z ~ N(z, 1), so x ~ N(0, 2); a posterior that is too wide, N(x / 2, 1) for N(x / 2, 1/2)."""
    x, num_examples = 1.3, 4000
    z = x / 2 + jax.random.normal(jax.random.key(0), (64, num_examples))

    def log_normal(value, mean):
        return -jnp.square(value - mean) / 2 - jnp.log(2 * jnp.pi) / 2

    log_weights = log_normal(z, 0) + log_normal(x, z) - log_normal(z, x / 2)
    bounds = [float(importance_weighted_bound(log_weights[:k]).mean()) for k in (1, 4, 16, 64)]
    assert bounds == sorted(bounds) and bounds[0] < bounds[-1] - 0.1
    np.testing.assert_allclose(bounds[-1], stats.norm(0, np.sqrt(2)).logpdf(x), atol=0.01)


def test_an_exact_posterior_is_tight_at_one_sample():
    x, z = 1.3, np.linspace(-1, 2, 7)
    log_weights = stats.norm(0, 1).logpdf(z) + stats.norm(z, 1).logpdf(x) - stats.norm(x / 2, 0.5**0.5).logpdf(z)
    expected = np.full(7, stats.norm(0, 2**0.5).logpdf(x))
    np.testing.assert_allclose(importance_weighted_bound(jnp.asarray(log_weights)[None, :]), expected, rtol=1e-5)


def test_names():
    assert LikelihoodProtocol("8-bit", "exact").name("bits_per_dim") == "bits_per_dim[8-bit,exact]"
    assert LikelihoodProtocol("binarised", "ELBO").name("nats") == "nats[binarised,ELBO]"
    assert LikelihoodProtocol("binarised", "IWAE-5000").name("nats") == "nats[binarised,IWAE-5000]"


@pytest.mark.parametrize("bound", ["IWAE", "IWAE-k", "IWAE-0", "elbo", "", "exact "])
def test_unknown_bound(bound):
    with pytest.raises(ValueError, match="expected bound exact, ELBO or IWAE-k"):
        LikelihoodProtocol("8-bit", bound).name("nats")


def test_bad_input():
    with pytest.raises(ValueError, match="expected data binarised or 8-bit"):
        LikelihoodProtocol("grey", "ELBO").name("nats")  # pyright: ignore[reportArgumentType]
    for shape in ((3,), (0, 3), (2, 3, 1)):
        with pytest.raises(ValueError, match=r"log_weights \[k, n\]"):
            importance_weighted_bound(jnp.zeros(shape))


def test_effective_samples_by_hand():
    """Of unequal weights, of equal ones, and of one that outweighs all others."""
    log_weights = jnp.array([[-3.0, 5.0, 900.0], [-1.0, 5.0, -900.0], [-2.0, 5.0, 0.0]])
    np.testing.assert_allclose(effective_sample_size(log_weights), [1.9587, 3.0, 1.0], rtol=1e-4)
    np.testing.assert_allclose(importance_weighted_bound(log_weights)[0], -1.691006, rtol=1e-6)
