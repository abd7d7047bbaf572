"""95% intervals of means over seeds, by Student's t, and what a difference shows."""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import numpy as np

Verdict = Literal["helps", "hurts", "no difference shown", "no interval"]


class Interval(NamedTuple):
    """Mean of n values and half the width of its 95% confidence interval, which is nan for one value."""

    mean: float
    half_width: float
    n: int


def confidence_interval(values: Sequence[float]) -> Interval:
    """mean +- t_{.975, n-1} s / sqrt(n), Student's interval for the mean of independent normal values.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a confidence interval takes at least one value")
    from scipy.stats import t  # slow to import: a second

    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Interval(mean, math.nan, 1)
    return Interval(mean, float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)), n)


def paired_interval(values: Sequence[float], baseline: Sequence[float]) -> Interval:
    """The interval of the mean of values - baseline, pair by pair: what the pairs have in common drops out.

    Args:
        values, baseline: float [n] each; entry i of both belongs to the same seed.
    Raises:
        ValueError: the lengths differ, or there are no pairs.
    """
    if len(values) != len(baseline):
        raise ValueError(f"expected as many values as baselines, got {len(values)} and {len(baseline)}")
    return confidence_interval([float(a - b) for a, b in zip(values, baseline, strict=True)])


def verdict(difference: Interval) -> Verdict:
    """What the interval of a difference shows, where more is better: nothing, unless it excludes 0."""
    mean, half_width, _ = difference
    if math.isnan(half_width):
        return "no interval"
    if abs(mean) <= half_width:
        return "no difference shown"
    return "helps" if mean > 0 else "hurts"
