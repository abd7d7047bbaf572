"""The Frechet distance between Gaussians fitted to two sets of features; FID for features of Inception.

Its value depends on the sample size (the bias falls as 1/n) and on the extractor; compare only values with equal ones.
It does not detect copies of the training set. Linear algebra is NumPy's in float64; in float32 a distance of 0 was 3.
"""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jimgen.metrics.pairwise import as_features, require_same_dims


class Moments(NamedTuple):
    """The statistics of a set of features. For a single row the covariance is 0, and no distance is defined."""

    count: int
    mean: np.ndarray  # float64 [d]
    covariance: np.ndarray  # float64 [d, d], divided by count - 1


def moments(features: ArrayLike) -> Moments:
    """Count, mean and unbiased covariance of the features, in float64.

    Args:
        features: float [n, d], n >= 1, finite.
    Raises:
        ValueError: for other shapes, NaN or infinity.
    """
    checked = as_features(features, "features")
    mean = checked.mean(axis=0)
    centred = checked - mean
    return Moments(len(checked), mean, centred.T @ centred / max(len(checked) - 1, 1))


def merge_moments(a: Moments, b: Moments) -> Moments:
    """The moments of the union of both sets, to accumulate statistics over batches and shards.

    With n = n_a + n_b and delta = mean_b - mean_a: mean = mean_a + delta n_b / n, and the scatter matrix is the sum of
    both plus delta delta^T n_a n_b / n. Unlike sums of squares, this does not cancel.

    Raises:
        ValueError: if the dimensions of a and b differ.
    References:
        Chan, Golub and LeVeque, Updating Formulae and a Pairwise Algorithm for Computing Sample Variances, 1979,
        equation 2.1.
    """
    require_same_dims(a=a.mean, b=b.mean)
    count, delta = a.count + b.count, b.mean - a.mean
    scatter = a.covariance * (a.count - 1) + b.covariance * (b.count - 1)
    scatter += np.outer(delta, delta) * (a.count * b.count / count)
    return Moments(count, a.mean + delta * (b.count / count), scatter / (count - 1))


def frechet_distance(a: Moments, b: Moments) -> float:
    """|m_a - m_b|^2 + tr(S_a + S_b) - 2 tr (S_a^1/2 S_b S_a^1/2)^1/2, by symmetric eigenvalues.

    The matrix is symmetric and positive semidefinite up to rounding, so the result is never NaN. Up to rounding, the
    distance is symmetric, and 0 for equal moments. With fewer samples than dimensions the covariances are singular, and
    `frechet_distance_svd` is more accurate.

    Args:
        a, b: Moments of at least 2 samples each.
    Returns:
        The *squared* distance, as usual for FID, in squared units of the features. Rounding may make a 0 slightly
        negative.
    Raises:
        ValueError: for fewer than 2 samples, NaN, or different dimensions.
    References:
        Dowson and Landau, The Frechet Distance between Multivariate Normal Distributions, 1982; Heusel et al., GANs
        Trained by a Two Time-Scale Update Rule, arXiv:1706.08500, equation 6.
    """
    _require_distance_exists(a, b)
    return _distance(a, b, _square_root(a.covariance))


def frechet_distance_svd(features_a: ArrayLike, features_b: ArrayLike) -> float:
    """`frechet_distance` computed from features: the trace of the root is a nuclear norm, the sum of singular values.

    With A and B the centred features over sqrt(n - 1), S_a = A^T A and tr (S_a S_b)^1/2 = ||A B^T||_*. This needs no
    covariances and no roots of rounding errors: identical sets give 1e-13 times the features' variance. The matrix is
    [n_a, n_b], so use it for at most a few thousand samples.

    Args:
        features_a: float [n_a, d], n_a >= 2.
        features_b: float [n_b, d], n_b >= 2.
    Raises:
        ValueError: for fewer than 2 samples, NaN, or different dimensions.
    """
    a = as_features(features_a, "features_a", at_least=2)
    b = as_features(features_b, "features_b", at_least=2)
    require_same_dims(features_a=a, features_b=b)
    mean_a, mean_b = a.mean(axis=0), b.mean(axis=0)
    a, b = (a - mean_a) / np.sqrt(len(a) - 1), (b - mean_b) / np.sqrt(len(b) - 1)
    traces = np.sum(a * a) + np.sum(b * b)
    return float(np.sum((mean_a - mean_b) ** 2) + traces - 2 * np.linalg.svd(a @ b.T, compute_uv=False).sum())


def frechet_distance_infinity(features: ArrayLike, reference: Moments, *, num_points: int = 15, seed: int) -> float:
    """The distance extrapolated to infinitely many samples: FD at n samples is about FD_inf + c / n.

    FD is measured on `num_points` random subsets, whose sizes are evenly spaced from n / 10 to n, and fitted by least
    squares in 1/n. The bias due to the size of the reference remains.

    Args:
        features: float [n, d], n >= 20; n / 10 should exceed d.
        reference: Moments of at least 2 samples.
        num_points: number of subset sizes, >= 2.
        seed: random seed of the subsets.
    Returns: FD_inf in squared units of the features. For a perfect model it is the bias of the reference, with noise.
    Raises:
        ValueError: for fewer than 20 samples, fewer than 2 points, NaN, or different dimensions.
    References:
        Chong and Forsyth, Effectively Unbiased FID and Inception Score, arXiv:1911.07023, section 4, with random
        subsets of a given pool of samples.
    """
    if num_points < 2:
        raise ValueError(f"a line needs at least 2 points, got num_points = {num_points}")
    checked = as_features(features, "features", at_least=20)
    require_same_dims(features=checked, reference=reference.mean)
    rng, root = np.random.default_rng(seed), _square_root(reference.covariance)
    sizes = np.linspace(len(checked) // 10, len(checked), num_points).astype(int)
    distances = []
    for size in sizes:
        subset = moments(checked[rng.choice(len(checked), size, replace=False)])
        _require_distance_exists(reference, subset)
        distances.append(_distance(reference, subset, root))
    slope_and_intercept = np.polyfit(1 / sizes, distances, deg=1)
    return float(slope_and_intercept[1])


def _distance(a: Moments, b: Moments, root_a: np.ndarray) -> float:
    product = root_a @ b.covariance @ root_a
    eigenvalues = np.linalg.eigvalsh((product + product.T) / 2)
    trace_of_root = np.sqrt(np.maximum(eigenvalues, 0)).sum()
    traces = np.trace(a.covariance) + np.trace(b.covariance)
    return float(np.sum((a.mean - b.mean) ** 2) + traces - 2 * trace_of_root)


def _square_root(covariance: np.ndarray) -> np.ndarray:
    eigenvalues, vectors = np.linalg.eigh(covariance)
    return (vectors * np.sqrt(np.maximum(eigenvalues, 0))) @ vectors.T


def _require_distance_exists(a: Moments, b: Moments) -> None:
    require_same_dims(a=a.mean, b=b.mean)
    for name, found in (("first", a), ("second", b)):
        if found.count < 2:
            raise ValueError(f"expected at least 2 samples, the {name} moments are of {found.count}")
        if not (np.isfinite(found.mean).all() and np.isfinite(found.covariance).all()):
            raise ValueError(f"the {name} moments hold NaN or infinity")
