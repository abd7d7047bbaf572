"""KID and CMMD against hand values, double loops, public tools and other block sizes."""

import math

import numpy as np
import pytest

from jimgen.metrics.mmd import cmmd, kernel_inception_distance


def features() -> tuple[np.ndarray, np.ndarray]:
    """As in benchmarks/check_metrics.py, both of 180 rows."""
    rng = np.random.default_rng(0)
    a = rng.normal(size=(200, 16))
    return a[:180], 1.2 * rng.normal(size=(180, 16)) + 0.3


def brute_force(kernel, a, b) -> float:
    """Unbiased squared MMD, pair by pair."""

    def within(z):
        return np.mean([kernel(x, y) for i, x in enumerate(z) for j, y in enumerate(z) if i != j])

    return within(a) + within(b) - 2 * np.mean([kernel(x, y) for x in a for y in b])


def kid_of_all(a, b) -> float:
    return kernel_inception_distance(a, b, num_subsets=1, subset_size=len(a), seed=0).mean


def test_kid_hand_value():
    found = kernel_inception_distance([[0], [1]], [[2], [3]], num_subsets=3, subset_size=2, seed=0)
    np.testing.assert_allclose(found.mean, 297.5, rtol=1e-12)


def test_kid_has_no_standard_deviation_where_subsets_cannot_differ():
    """Subsets of all rows of both sets are equal, so the result is NaN; if one set is larger they differ."""
    a, b = features()
    whole = kernel_inception_distance(a, b, num_subsets=5, subset_size=180, seed=0)
    assert math.isnan(whole.std) and whole.mean == kid_of_all(a, b)
    assert math.isnan(kernel_inception_distance(a, b, num_subsets=1, subset_size=50, seed=0).std)
    assert kernel_inception_distance(a, b[:50], num_subsets=5, subset_size=50, seed=0).std > 1e-3


def test_cmmd_hand_value():
    """Pairs at distance 1 within the sets, at distances 2, 3, 1, 2 between them; sigma = 1."""
    k = [math.exp(-(distance**2) / 2) for distance in range(4)]
    expected = 1000 * (2 * k[1] - 2 * (k[2] + k[3] + k[1] + k[2]) / 4)
    np.testing.assert_allclose(cmmd([[0], [1]], [[2], [3]], sigma=1), expected, rtol=1e-12)


def test_public_tools_agree():
    """benchmarks/check_metrics.py: torch-fidelity 0.4.0 and clean-fid 0.1.35."""
    a, b = features()
    np.testing.assert_allclose(kid_of_all(a, b), 0.5374985740409253, rtol=1e-9)
    np.testing.assert_allclose(cmmd(a, b), 1000 * 0.01819807875130075, rtol=1e-9)


def test_double_loops_agree():
    a, b = features()
    a, b = a[:9, :3], b[:7, :3]
    np.testing.assert_allclose(kid_of_all(a[:7], b), brute_force(lambda x, y: (x @ y / 3 + 1) ** 3, a[:7], b))
    expected = 1000 * brute_force(lambda x, y: math.exp(-np.sum((x - y) ** 2) / 8), a, b)
    np.testing.assert_allclose(cmmd(a, b, sigma=2), expected)


@pytest.mark.parametrize("block_size", [7, 1000])
def test_blocks_change_nothing(block_size):
    a, b = (z[:20] for z in features())
    np.testing.assert_allclose(cmmd(a, b, block_size=block_size), cmmd(a, b), rtol=1e-10)


def test_invariances():
    a, b = features()
    rotation = np.linalg.qr(np.random.default_rng(1).normal(size=(16, 16)))[0]
    np.testing.assert_allclose(kid_of_all(a @ rotation, b @ rotation), kid_of_all(a, b), rtol=1e-9)
    np.testing.assert_allclose(kid_of_all(a[::-1], b), kid_of_all(a, b), rtol=1e-9)
    np.testing.assert_allclose(kid_of_all(b, a), kid_of_all(a, b), rtol=1e-9)
    np.testing.assert_allclose(cmmd(a @ rotation + 5, b @ rotation + 5), cmmd(a, b), rtol=1e-9)
    np.testing.assert_allclose(cmmd(3 * a, 3 * b, sigma=30), cmmd(a, b), rtol=1e-9)


def test_no_bias_between_draws_of_one_distribution():
    rng = np.random.default_rng(2)
    found = [cmmd(rng.normal(size=(20, 4)), rng.normal(size=(20, 4)), sigma=2) for _ in range(60)]
    assert min(found) < 0 < max(found)
    assert abs(np.mean(found)) < 3 * np.std(found) / math.sqrt(len(found))


def test_subsets_follow_the_seed():
    a, b = features()
    first, again, other = (
        kernel_inception_distance(a, b, num_subsets=10, subset_size=50, seed=seed) for seed in (3, 3, 4)
    )
    assert first == again and first != other and first.std > 0
    np.testing.assert_allclose([first.mean, other.mean], kid_of_all(a, b), rtol=0.2)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda a, b: kernel_inception_distance(a, b, seed=0), "at least 1000 rows in features_a"),
        (lambda a, b: kernel_inception_distance(a, b, num_subsets=0, seed=0), "num_subsets >= 1"),
        (lambda a, b: kernel_inception_distance(a, b, subset_size=1, seed=0), "subset_size >= 2"),
        (lambda a, b: kernel_inception_distance(a, b[:, :3], subset_size=9, seed=0), "same dimension"),
        (lambda a, b: cmmd(a, b[:, :3]), "same dimension"),
        (lambda a, b: cmmd(a, b * np.nan), "NaN"),
        (lambda a, b: cmmd(a, b, sigma=0), "sigma > 0"),
        (lambda a, b: cmmd(a, b[:1]), "at least 2 rows"),
        (lambda a, b: cmmd(a, b, block_size=0), "block size"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call(*features())
