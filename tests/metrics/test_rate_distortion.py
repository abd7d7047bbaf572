"""The Bjontegaard difference of two curves."""

import pytest

from jimgen.metrics.rate_distortion import bd_rate

RATES, PSNRS = (26.0, 52.0, 93.0, 135.0), (20.9, 23.2, 26.3, 29.2)


def test_a_constant_saving_of_a_tenth_is_minus_ten():
    assert bd_rate([0.9 * rate for rate in RATES], PSNRS, RATES, PSNRS) == pytest.approx(-10.0, abs=1e-9)


def test_only_psnrs_that_both_reach_count():
    """Twice the rate where both have points; the first curve goes on."""
    assert bd_rate([2.0, 4.0, 8.0], [20, 21, 22], [1.0, 2.0], [20, 21]) == pytest.approx(100.0)


@pytest.mark.parametrize(
    ("rates", "psnrs"),
    [((1.0,), (20.0,)), ((0.0, 1.0), (20, 21)), ((1.0, 2.0), (21, 20)), ((1.0, 2.0), (30, 31)), ((1.0, 2.0), (20, 20))],
)
def test_curves_without_meaning_are_refused(rates, psnrs):
    with pytest.raises(ValueError):
        bd_rate(rates, psnrs, (1.0, 2.0), (20, 21))
