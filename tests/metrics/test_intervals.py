"""Student's intervals by hand, of values and of paired differences, and the verdicts on them."""

import math

import pytest

from jimgen.metrics.intervals import Interval, confidence_interval, paired_interval, verdict


def test_intervals_by_hand():
    """Student's t: 1, 2, 3 have deviation 1, t_{.975, 2} = 4.302653, so +- 4.302653 / sqrt 3 = 2.484138."""
    found = confidence_interval([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.n == 3 and math.isclose(found.half_width, 2.484138, abs_tol=1e-6)
    assert math.isclose(confidence_interval([0.0, 2.0]).half_width, 12.706205, abs_tol=1e-6)
    alone = confidence_interval([5.0])
    assert alone.mean == 5 and math.isnan(alone.half_width)
    with pytest.raises(ValueError, match="at least one"):
        confidence_interval([])


def test_paired_differences_by_hand():
    """12, 23, 31 less 10, 20, 30 are 2, 3, 1: what the pairs have in common drops out."""
    found = paired_interval([12.0, 23.0, 31.0], [10.0, 20.0, 30.0])
    assert found.mean == 2 and found.n == 3 and math.isclose(found.half_width, 2.484138, abs_tol=1e-6)
    assert paired_interval([4.0, 9.0], [1.0, 6.0]) == (3.0, 0.0, 2)
    assert math.isnan(paired_interval([2.0], [1.0]).half_width)
    for values, baseline in (([1.0, 2.0], [1.0]), ([], [])):
        with pytest.raises(ValueError, match="as many values|at least one"):
            paired_interval(values, baseline)


@pytest.mark.parametrize(
    ("mean", "half_width", "expected"),
    [
        (1.0, 0.9, "helps"),
        (-1.0, 0.9, "hurts"),
        (1.0, 1.0, "no difference shown"),  # the interval touches 0
        (-0.1, 0.5, "no difference shown"),
        (0.0, 0.0, "no difference shown"),
        (0.5, 0.0, "helps"),
        (1.0, math.nan, "no interval"),
    ],
)
def test_only_an_interval_without_0_shows_a_difference(mean, half_width, expected):
    assert verdict(Interval(mean, half_width, 3)) == expected
