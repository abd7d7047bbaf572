"""Filters of logits: hand values, order, ranges."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.sampling.logits import LogitFilter, check_filter, filter_logits, keep_top_k, keep_top_p

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
    "p, probabilities, count",
    [
        (0.8, [0.5, 0.3, 0.1, 0.1], 2),
        (0.9, [0.5, 0.3, 0.1, 0.1], 3),
        (0.5, [0.5, 0.3, 0.1, 0.1], 1),
        (0.8001, [0.5, 0.3, 0.1, 0.1], 3),
        (0.7, [0.1] * 10, 7),
        (1 / 3, [1 / 3] * 3, 1),
        (2 / 3, [1 / 3] * 3, 2),
        (0.3, [1e-3] * 1000, 300),
        (0.75, [2.0**-12] * 4096, 3072),
        (1e-7, [0.6, 0.4], 1),
    ],
)
def test_top_p_that_a_sum_meets_exactly_is_reached(p, probabilities, count):
    """For every rounding of logarithms, softmax and sums."""
    assert len(kept(keep_top_p(jnp.log(jnp.asarray(probabilities, jnp.float32)), p))) == count


def test_top_p_meets_every_exact_sum():
    """Of n equal probabilities, p = j / n keeps j."""
    for n in (3, 7, 10, 49):
        logits = jnp.zeros(n)
        assert [len(kept(keep_top_p(logits, j / n))) for j in range(1, n + 1)] == list(range(1, n + 1))


@pytest.mark.parametrize(
    "k, expected", [(1, [1]), (2, [1, 3]), (4, [0, 1, 2, 3]), (9, [0, 1, 2, 3]), (0, [0, 1, 2, 3])]
)
def test_top_k_keeps_the_largest(k, expected):
    assert kept(keep_top_k(LOGITS, k)) == expected


def test_temperature_comes_before_top_p():
    """At temperature 1/2 probabilities are squared: the largest has .25 / .365 = .68, and alone reaches .6."""
    found = jax.nn.softmax(filter_logits(LOGITS, LogitFilter(temperature=0.5)))
    np.testing.assert_allclose(found, P**2 / (P**2).sum(), rtol=1e-5)
    assert kept(filter_logits(LOGITS, LogitFilter(0.5, 0, 0.6))) == [1]
    assert kept(filter_logits(LOGITS, LogitFilter(1.0, 0, 0.6))) == [1, 3]


def test_top_k_comes_before_top_p():
    """Of the two remaining ones the larger has .5 / .8 = .625."""
    assert kept(filter_logits(LOGITS, LogitFilter(1.0, 2, 0.6))) == [1]


def test_temperature_zero_takes_the_largest():
    both = jnp.stack([LOGITS, -LOGITS])
    np.testing.assert_array_equal(np.isfinite(filter_logits(both, LogitFilter(0.0))), [[0, 1, 0, 0], [0, 0, 1, 0]])


@pytest.mark.parametrize("temperature", [1e-3, 1e-30, 1e-38, 1e-39, 1e-45, 5e-324])
@pytest.mark.parametrize("scale", [1.0, 100.0])
def test_tiny_temperatures_take_the_largest_too(temperature, scale):
    """Also for temperatures that underflow in float32 or make quotients overflow; ties are equal, and none is NaN."""
    logits = scale * jnp.asarray([[0.5, 3.0, -jnp.inf, 2.0], [-5.0, -9.0, -5.0, -7.0]])
    found = jax.nn.softmax(filter_logits(logits, LogitFilter(temperature, 3, 0.9)))
    np.testing.assert_allclose(found, [[0, 1, 0, 0], [0.5, 0, 0.5, 0]], atol=1e-6)


def test_the_defaults_change_nothing():
    np.testing.assert_array_equal(filter_logits(LOGITS, LogitFilter()), LOGITS)


@pytest.mark.parametrize(
    "options, message",
    [
        (LogitFilter(temperature=-1.0), "temperature"),
        (LogitFilter(top_k=-1), "top_k"),
        (LogitFilter(top_p=0.0), "top_p"),
        (LogitFilter(top_p=1.1), "top_p"),
        (LogitFilter(temperature=math.nan), "temperature"),
        (LogitFilter(temperature=math.inf), "temperature"),
        (LogitFilter(top_p=math.nan), "top_p"),
    ],
)
def test_options_outside_their_ranges(options, message):
    for check in (check_filter, lambda options: filter_logits(LOGITS, options)):
        with pytest.raises(ValueError, match=message):
            check(options)


def test_filters_alone_refuse_what_would_keep_nothing():
    for p in (0.0, -0.1, 1.5, math.nan):
        with pytest.raises(ValueError, match="top_p must be in .0, 1."):
            keep_top_p(LOGITS, p)
    with pytest.raises(ValueError, match="top_k must not be negative"):
        keep_top_k(LOGITS, -1)
