"""The Frechet distance against hand values, closed forms, SciPy's matrix root, public tools, and merged moments."""

import numpy as np
import pytest
from scipy import linalg

from jimgen.metrics.frechet import (
    Moments,
    frechet_distance,
    frechet_distance_infinity,
    frechet_distance_svd,
    merge_moments,
    moments,
)


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def gaussian(mean: list[float], variances: list[float]) -> Moments:
    return Moments(100, np.array(mean, float), np.diag(np.array(variances, float)))


@pytest.mark.parametrize(
    ("a", "b", "expected"),
    [
        (gaussian([0], [1]), gaussian([1], [4]), 2),
        (gaussian([0, 0], [1, 4]), gaussian([3, 4], [9, 1]), 30),
        (gaussian([0, 0], [1, 0]), gaussian([0, 0], [0, 1]), 2),  # singular, and the product of both is 0
        (moments([[0], [2]]), moments([[1], [5]]), 6),
    ],
)
def test_hand_values(a, b, expected):
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-12)


def test_svd_hand_value():
    np.testing.assert_allclose(frechet_distance_svd([[0], [2]], [[1], [5]]), 6, rtol=1e-12)


def test_public_tools_agree():
    """benchmarks/check_metrics.py: torch-fidelity 0.4.0, clean-fid 0.1.35 and pytorch-fid 0.3.0."""
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(200, 16)), 1.2 * rng.normal(size=(180, 16)) + 0.3
    for distance in (frechet_distance(moments(a), moments(b)), frechet_distance_svd(a, b)):
        np.testing.assert_allclose(distance, 3.6732865002892936, rtol=1e-9)


def test_trace_term_is_that_of_the_matrix_root():
    a, b = moments(normal(0, 40, 6) @ normal(1, 6, 6)), moments(normal(2, 30, 6))
    root = np.real(linalg.sqrtm(a.covariance @ b.covariance))
    expected = np.sum((a.mean - b.mean) ** 2) + np.trace(a.covariance + b.covariance - 2 * root)
    np.testing.assert_allclose(frechet_distance(a, b), expected, rtol=1e-10)


def test_commuting_covariances_have_a_closed_form():
    a, b = np.array([1.0, 4, 9, 0.25]), np.array([4.0, 1, 16, 2])
    rotation = np.linalg.qr(normal(0, 4, 4))[0]
    rotated = [Moments(9, np.zeros(4), rotation @ np.diag(v) @ rotation.T) for v in (a, b)]
    np.testing.assert_allclose(frechet_distance(*rotated), np.sum((np.sqrt(a) - np.sqrt(b)) ** 2), rtol=1e-12)


def test_invariances():
    a, b = normal(0, 50, 5), 2 * normal(1, 60, 5) + 1
    distance = frechet_distance(moments(a), moments(b))
    rotation, shift = np.linalg.qr(normal(2, 5, 5))[0], normal(3, 1, 5)
    same = [
        frechet_distance(moments(b), moments(a)),
        frechet_distance(moments(a[::-1]), moments(b)),
        frechet_distance(moments(a @ rotation + shift), moments(b @ rotation + shift)),
        frechet_distance(moments(3 * a), moments(3 * b)) / 9,
    ]
    np.testing.assert_allclose(same, distance, rtol=1e-10)


def test_fewer_samples_than_dimensions():
    a, b = normal(0, 12, 40), normal(1, 15, 40) + 0.5
    np.testing.assert_allclose(frechet_distance(moments(a), moments(b)), frechet_distance_svd(a, b), rtol=1e-6)


def test_identical_sets_are_at_zero():
    features = 100 + normal(0, 30, 64)
    assert abs(frechet_distance_svd(features, features)) < 1e-10
    assert abs(frechet_distance(moments(features), moments(features))) < 1e-4


def test_moments_are_those_of_numpy():
    features = normal(0, 20, 3)
    found = moments(features.astype(np.float32))
    assert found.count == 20 and found.mean.dtype == found.covariance.dtype == np.float64
    np.testing.assert_allclose(found.mean, features.mean(axis=0), atol=1e-7)
    np.testing.assert_allclose(found.covariance, np.cov(features, rowvar=False), atol=1e-6)


def test_merged_moments_are_those_of_the_whole():
    features = 1e4 + normal(0, 23, 4)  # far from 0, where sums of squares would lose digits
    merged = moments(features[:10])
    for batch in (features[10:11], features[11:19], features[19:]):  # one of them is a single row
        merged = merge_moments(merged, moments(batch))
    whole = moments(features)
    assert merged.count == whole.count
    np.testing.assert_allclose(merged.mean, whole.mean, rtol=1e-14)
    np.testing.assert_allclose(merged.covariance, whole.covariance, rtol=1e-9, atol=1e-12)


def test_infinity_removes_the_bias_of_the_sample_size():
    exact = Moments(10**9, np.zeros(8), np.eye(8))
    features = normal(0, 2000, 8)
    plain, extrapolated = (
        frechet_distance(moments(features), exact),
        np.mean([frechet_distance_infinity(normal(seed, 2000, 8), exact, seed=seed) for seed in range(5)]),
    )
    assert plain > 0.01 and abs(extrapolated) < plain / 3
    shifted = frechet_distance_infinity(features + 1, exact, seed=0)
    np.testing.assert_allclose(shifted, 8, rtol=0.1)


def test_infinity_is_the_intercept_of_a_line_in_1_over_n():
    features, reference = normal(0, 100, 3), moments(normal(1, 50, 3))
    found = frechet_distance_infinity(features, reference, num_points=2, seed=7)
    rng = np.random.default_rng(7)
    few, whole = (frechet_distance(reference, moments(features[rng.choice(100, n, replace=False)])) for n in (10, 100))
    np.testing.assert_allclose(found, whole - (few - whole) / (1 / 10 - 1 / 100) / 100, rtol=1e-9)
    assert found != frechet_distance_infinity(features, reference, num_points=2, seed=8)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: frechet_distance(moments([[1.0, 2]]), moments(normal(0, 5, 2))), "at least 2 samples"),
        (lambda: frechet_distance(moments(normal(0, 5, 3)), moments(normal(0, 5, 2))), "same dimension"),
        (lambda: frechet_distance(gaussian([np.nan], [1]), gaussian([0], [1])), "NaN"),
        (lambda: merge_moments(moments(normal(0, 5, 3)), moments(normal(0, 5, 2))), "same dimension"),
        (lambda: moments([[np.nan, 1], [0, 1]]), "1 of the 2 rows in features hold NaN"),
        (lambda: moments([1.0, 2.0]), r"expected features \[n, d\]"),
        (lambda: moments(np.zeros((0, 3))), "at least 1 row"),
        (lambda: frechet_distance_svd(normal(0, 1, 3), normal(0, 5, 3)), "at least 2 rows in features_a"),
        (lambda: frechet_distance_svd(normal(0, 5, 3), normal(0, 5, 2)), "same dimension"),
        (lambda: frechet_distance_infinity(normal(0, 9, 3), moments(normal(0, 5, 3)), seed=0), "at least 20 rows"),
        (
            lambda: frechet_distance_infinity(normal(0, 90, 3), moments(normal(0, 5, 3)), num_points=1, seed=0),
            "at least 2 points",
        ),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()
