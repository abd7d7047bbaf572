"""Coverage of modes: by hand, and of samples of the data's own distribution."""

import math

import numpy as np
import pytest

from jimgen.metrics.modes import mode_coverage


def test_coverage_by_hand() -> None:
    """q = (1/2, 1/2, 0, 0); p = (2.5, 2.5, .5, .5) / 6."""
    found = mode_coverage([3, 3, 0, 0], [2, 2, 0, 0])
    assert found.covered == 2
    assert found.kl == pytest.approx(math.log(0.5 / (2.5 / 6)))


def test_a_mode_that_the_data_lack_stays_finite() -> None:
    assert mode_coverage([0, 1], [7, 0]).kl == pytest.approx(math.log(1 / (0.5 / 8)))


def test_samples_of_the_data_have_the_divergence_of_their_numbers() -> None:
    rng = np.random.default_rng(0)
    counts, data = (np.bincount(rng.integers(0, 1000, 10_000), minlength=1000) for _ in range(2))
    found = mode_coverage(counts, data)
    assert found.covered >= 998
    assert found.kl == pytest.approx(999 * 2e-4 / 2, rel=0.15)
    collapsed = mode_coverage(np.where(np.arange(1000) < 100, counts, 0), data)
    assert collapsed.covered <= 100 and collapsed.kl == pytest.approx(math.log(10), abs=0.2)


@pytest.mark.parametrize(
    ("counts", "data", "message"),
    [
        ([1, 2], [1, 2, 3], r"\[2\], \[3\]"),
        ([[1]], [[1]], r"\[1, 1\]"),
        ([0, 0], [1, 1], "counts whole numbers"),
        ([1, 1], [0, 0], "data_counts whole numbers"),
        ([2, -1], [1, 1], ">= 0"),
        ([0.5, 1], [1, 1], "float64"),
    ],
)
def test_refuses_what_are_no_counts(counts, data, message) -> None:
    with pytest.raises(ValueError, match=message):
        mode_coverage(counts, data)
