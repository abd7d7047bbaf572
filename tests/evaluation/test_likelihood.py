"""Bounds by importance sampling, against a model whose likelihood is known."""

import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats

from jimgen import noise
from jimgen.data.dataset import Arrays
from jimgen.errors import UserError
from jimgen.evaluation.likelihood import importance_bounds, named_bounds
from jimgen.methods.method import ImportanceSampler

SPLIT = Arrays(np.array([0, 100, 255, 200, 30], np.uint8).reshape(5, 1, 1, 1), np.zeros(5, np.int32))
SIGMA = 1.3


def log_weight(variables, x, batch, key):
    """p = N(0, 1), x|z ~ N(z, 1), q = N(x / 2 + offset, sigma^2); the exact posterior is N(x / 2, 1 / 2)."""
    z = x / 2 + variables["offset"] + SIGMA * noise.normal(key, batch["index"], ())
    log_q = -jnp.square((z - x / 2 - variables["offset"]) / SIGMA) / 2 - jnp.log(SIGMA)
    return -jnp.square(z) / 2 - jnp.square(x - z) / 2 - jnp.log(2 * jnp.pi) / 2 - log_q


SAMPLER = ImportanceSampler("binarised", lambda variables, batch, key: batch["image"][:, 0, 0, 0], log_weight)


def bounds_of(samples, offset=0.3, **options):
    return importance_bounds(SAMPLER, {"offset": offset}, SPLIT, **{"samples": samples, "num": 5, "seed": 1} | options)


def test_bounds_are_those_of_a_model_in_closed_form():
    """IWAE-k goes to log N(x; 0, 2); the ELBO is below it by the KL to the true posterior."""
    x = SPLIT.images.ravel() / 127.5 - 1
    truth = -stats.norm.logpdf(x, 0, np.sqrt(2))
    kl = np.log(np.sqrt(0.5) / SIGMA) + (SIGMA**2 + 0.3**2) / (2 * 0.5) - 0.5
    found = bounds_of(1000)
    np.testing.assert_allclose(found.neg_iwae, truth, atol=0.1)
    np.testing.assert_allclose(found.neg_elbo, truth + kl, atol=0.3)
    assert (found.effective > 100).all() and (found.effective < 1000).all()
    one = bounds_of(1)
    np.testing.assert_allclose(one.neg_iwae, one.neg_elbo, rtol=1e-6)
    np.testing.assert_allclose(one.effective, 1.0, rtol=1e-6)


def test_bounds_do_not_depend_on_chunks():
    """Also with a last chunk that is not full, and for the first images alone."""
    whole = bounds_of(7, chunk=5)
    for options in ({"chunk": 2}, {"chunk": 8}, {"num": 3, "chunk": 2}):
        found = bounds_of(7, **options)
        n = options.get("num", 5)
        for a, b in zip(found, whole, strict=True):
            assert a.shape == (n,)
            np.testing.assert_allclose(a, b[:n], rtol=1e-5)


def test_names_tell_data_and_bound():
    named = named_bounds(bounds_of(7), "binarised", 7, False, (1, 1, 1))
    assert {"nats[binarised,ELBO]", "nats[binarised,IWAE-7]", "effective_samples"} < set(named)
    mean, error = named["nats[binarised,IWAE-7]"]
    assert mean == pytest.approx(bounds_of(7).neg_iwae.mean(), rel=1e-6)
    assert error == pytest.approx(bounds_of(7).neg_iwae.std(ddof=1) / np.sqrt(5), rel=1e-5)


def test_refuses_weights_that_are_not_numbers_and_images_that_are_not_there():
    with pytest.raises(UserError, match="not a number"):
        bounds_of(3, offset=np.nan)
    with pytest.raises(UserError, match="--num 6: there are 5 images"):
        bounds_of(3, num=6)
