"""What is done to logits before one draws: hand values, order, ranges."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.sampling_logits import LogitFilter, check_filter, filter_logits, guide_logits, keep_top_k, keep_top_p

P = np.array([0.15, 0.5, 0.05, 0.3], np.float32)
LOGITS = jnp.log(P)


def kept(logits):
    return np.flatnonzero(np.isfinite(logits)).tolist()


@pytest.mark.parametrize(
    "p, expected",
    [(0.79, [1, 3]), (0.81, [0, 1, 3]), (0.3, [1]), (1e-6, [1]), (0.96, [0, 1, 2, 3]), (1.0, [0, 1, 2, 3])],
)
def test_top_p_keeps_the_fewest_that_reach_it(p, expected):
    assert kept(keep_top_p(LOGITS, p)) == expected


@pytest.mark.parametrize(
    "k, expected", [(1, [1]), (2, [1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3]), (0, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_largest(k, expected):
    assert kept(keep_top_k(LOGITS, k)) == expected


def test_guidance_goes_from_without_to_with_label():
    c, u = jnp.asarray([[1.0, 0.0]]), jnp.asarray([[0.0, 1.0]])
    np.testing.assert_allclose(guide_logits(c, u, 3.0), [[3.0, -2.0]])
    np.testing.assert_allclose(guide_logits(c, u, 1.0), c)
    np.testing.assert_allclose(guide_logits(c, u, 0.0), u)
    with pytest.raises(ValueError, match="expected equal shapes"):
        guide_logits(c, u[0], 1.0)


def test_temperature_comes_before_top_p():
    """At temperature 1/2 probabilities are squared: the largest has .25 / .365 = .68, and alone reaches .6."""
    found = jax.nn.softmax(filter_logits(LOGITS, LogitFilter(temperature=0.5)))
    np.testing.assert_allclose(found, P**2 / (P**2).sum(), rtol=1e-5)
    assert kept(filter_logits(LOGITS, LogitFilter(0.5, 0, 0.6))) == [1]
    assert kept(filter_logits(LOGITS, LogitFilter(1.0, 0, 0.6))) == [1, 3]


def test_top_k_comes_before_top_p():
    """Of the two that are left the larger has .5 / .8 = .625."""
    assert kept(filter_logits(LOGITS, LogitFilter(1.0, 2, 0.6))) == [1]


def test_temperature_zero_takes_the_largest():
    both = jnp.stack([LOGITS, -LOGITS])
    np.testing.assert_array_equal(np.isfinite(filter_logits(both, LogitFilter(0.0))), [[0, 1, 0, 0], [0, 0, 1, 0]])


def test_the_defaults_change_nothing():
    np.testing.assert_array_equal(filter_logits(LOGITS, LogitFilter()), LOGITS)


@pytest.mark.parametrize(
    "options, message",
    [
        (LogitFilter(temperature=-1.0), "temperature"),
        (LogitFilter(top_k=-1), "top_k"),
        (LogitFilter(top_p=0.0), "top_p"),
        (LogitFilter(top_p=1.1), "top_p"),
    ],
)
def test_options_outside_their_ranges(options, message):
    with pytest.raises(ValueError, match=message):
        check_filter(options)
