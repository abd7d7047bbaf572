"""Tests for copies against plain loops, and on models that copy, generalise or underfit."""

import functools

import numpy as np
import pytest
from scipy import special, stats

from jimgen.metrics.copying import authenticity, c_t, cut_into_cells, feature_likelihood_score
from jimgen.metrics.neighbours import nearest


def normal(seed: int, *shape: int) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=shape)


def column(*values: float) -> np.ndarray:
    return np.array(values, float)[:, None]


TRAIN, TEST, FAKE = normal(0, 300, 6), normal(1, 150, 6), normal(2, 150, 6)
COPIES = TRAIN[:150] + 0.02 * FAKE


def test_authenticity_hand_value():
    """The nearest sample to .4 is 0, 1 from its neighbour; to 5 and 5.5 it is 3, 2 from its own (a tie is a copy)."""
    assert authenticity(column(0, 1, 3), column(0.4, 5, 5.5, -3)) == 50


def test_authenticity_is_its_definition():
    train, fake = TRAIN[:30], FAKE[:20]
    authentic = []
    for y in fake:
        x = np.argmin(np.linalg.norm(train - y, axis=1))
        to_others = np.linalg.norm(np.delete(train, x, axis=0) - train[x], axis=1)
        authentic.append(np.linalg.norm(train[x] - y) > to_others.min())
    np.testing.assert_allclose(authenticity(train, fake), 100 * np.mean(authentic))


@pytest.mark.parametrize("k", [1, 2, 5, 300])
def test_known_neighbours_change_nothing(k):
    """The result does not depend on the number of neighbours that are passed."""
    neighbours = nearest(FAKE, TRAIN, k)
    assert authenticity(TRAIN, FAKE, neighbours=neighbours) == authenticity(TRAIN, FAKE)
    cells = cut_into_cells(TRAIN, TEST, num_cells=3, seed=0)
    assert c_t(cells, TRAIN, FAKE, neighbours=neighbours) == c_t(cells, TRAIN, FAKE)


def test_authenticity_of_copies_and_of_a_perfect_model():
    repeated = np.concatenate([TRAIN, TRAIN])  # nothing lies nearer to a training sample than its double
    assert authenticity(TRAIN, TRAIN[:50]) == authenticity(TRAIN, COPIES) == authenticity(repeated, TRAIN[:50]) == 0
    assert 40 < authenticity(TRAIN, FAKE) < 70
    assert authenticity(TRAIN, FAKE + 100) == 100


def test_c_t_of_one_cell_is_the_mann_whitney_score():
    def to_train(z):
        return np.linalg.norm(z[:, None] - TRAIN[None], axis=-1).min(axis=1)

    u = stats.mannwhitneyu(to_train(FAKE[:100]), to_train(TEST), method="asymptotic").statistic
    m, n = 100, len(TEST)
    expected = (u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12)
    whole = cut_into_cells(TRAIN, TEST, num_cells=1, seed=0)
    np.testing.assert_allclose(c_t(whole, TRAIN, FAKE[:100]), expected, rtol=1e-9)


def test_c_t_hand_value():
    """Two distant cells. Around 0 both fakes are closer than both test samples; around 100 all tie: z = 0."""
    train = column(0, 0, 100, 100)
    test, fake = column(1, -1, 101), column(2, 2, 99, 99)
    z = (4 - 2) / np.sqrt(4 * 5 / 12)
    cells = cut_into_cells(train, test, num_cells=2, seed=0)
    np.testing.assert_allclose(c_t(cells, train, fake, min_fakes=2), (2 * z + 1 * 0) / 3)
    # With one fake fewer than asked for, the second cell is left out.
    np.testing.assert_allclose(c_t(cells, train, fake[:3], min_fakes=2), z)


def test_c_t_finds_copies_and_underfitting():
    cells = cut_into_cells(TRAIN, TEST, num_cells=3, seed=0)
    scores = [c_t(cells, TRAIN, fake) for fake in (COPIES, FAKE, 2 * FAKE)]
    assert scores[0] < -3 and abs(scores[1]) < 2 and scores[2] > 3


def reference_fit(x: np.ndarray, centres: np.ndarray, iterations: int) -> np.ndarray:
    """EM for the variances, one Gaussian after another."""
    n, d = x.shape
    means = [*centres, x.mean(axis=0)]
    weights = [1 / len(centres)] * len(centres) + [1.0]
    variances = [min(np.sum((x - c) ** 2, axis=1)) / d for c in centres] + [np.var(x - x.mean(axis=0), ddof=0)]
    variances = [max(v, 1e-6) for v in variances]
    for _ in range(iterations):
        p = np.array(
            [w * stats.multivariate_normal(m, v).pdf(x) for w, m, v in zip(weights, means, variances, strict=True)]
        )
        shares = p / p.sum(axis=0)
        variances = [
            max((s @ np.sum((x - m) ** 2, axis=1)) / (d * s.sum()), 1e-6) for s, m in zip(shares, means, strict=True)
        ]
    return np.array(variances[:-1])


def reference_nll(x: np.ndarray, centres: np.ndarray, variances: np.ndarray) -> np.ndarray:
    log_p = [stats.multivariate_normal(m, v).logpdf(x) for m, v in zip(centres, variances, strict=True)]
    return -(special.logsumexp(log_p, axis=0) - np.log(len(centres))) / x.shape[1]


@pytest.mark.parametrize("block_size", [7, 512])
def test_feature_likelihood_score_is_its_definition(block_size):
    train, test, fake = TRAIN[:24, :3], TEST[:10, :3] * [1, 5, 1], FAKE[:8, :3]
    found = feature_likelihood_score(train, test, fake, iterations=3, seed=5, block_size=block_size)
    rng = np.random.default_rng(5)
    x, t, y = ((z - test.mean(axis=0)) / test.std(axis=0, ddof=1) for z in (rng.permutation(train), test, fake))
    variances, baseline = reference_fit(x, y, 3), reference_fit(x[8:], x[:8], 3)
    on_test = reference_nll(t, y, variances).mean()
    np.testing.assert_allclose(found.score, 100 * (on_test - reference_nll(t, x[:8], baseline).mean()), rtol=1e-6)
    gap = 100 * (reference_nll(x, y, variances).mean() - on_test)
    np.testing.assert_allclose(found.generalization_gap, gap, rtol=1e-6)
    fits = [
        special.logsumexp(
            [stats.multivariate_normal(m, v).logpdf(z) for m, v in zip(y, variances, strict=True)], axis=1
        )
        for z in (x[:10], t)
    ]
    np.testing.assert_allclose(found.percent_overfit, 100 * np.mean(fits[0] > fits[1]))


@functools.cache
def score_of(name: str):
    fakes = {"copies": COPIES, "perfect": FAKE, "wide": 2 * FAKE, "shifted": FAKE + 2}
    return feature_likelihood_score(TRAIN, TEST, fakes[name], seed=0)


def test_feature_likelihood_score_ranks_models():
    assert abs(score_of("perfect").score) < 10
    assert score_of("wide").score > 10 < score_of("shifted").score
    assert score_of("copies").score > 1000 and score_of("copies").generalization_gap < -300
    assert score_of("copies").percent_overfit > 65 > score_of("perfect").percent_overfit > 35


def test_feature_likelihood_score_does_not_see_units():
    scale, shift = np.array([1, 10, 0.1, 5, 1, 1]), 3.0
    moved = (z * scale + shift for z in (TRAIN, TEST, FAKE))
    np.testing.assert_allclose(feature_likelihood_score(*moved, seed=0), score_of("perfect"), rtol=1e-6)


@pytest.mark.parametrize(("value", "rounding"), [(0.1, 1e-16), (0.1, 1e-8), (-300.0, 1e-5), (0.0, 1e-16)])
def test_a_feature_that_is_constant_up_to_rounding_counts_as_constant(value, rounding):
    """Real images are constant up to rounding, fakes vary: the score is that of an exactly constant feature."""

    def score(rounding):
        noise = (rounding * normal(3, 300), rounding * normal(4, 150), normal(5, 150))
        sets = zip((TRAIN, TEST, FAKE), noise, strict=True)
        return feature_likelihood_score(*(np.column_stack([z, value + extra]) for z, extra in sets), seed=0)

    np.testing.assert_allclose(score(rounding), score(0.0), rtol=1e-3, atol=1e-3)


def test_exact_copies_and_far_fakes_stay_finite():
    constant = [np.concatenate([z, np.ones((len(z), 1))], axis=1) for z in (TRAIN, TEST, TRAIN[:150])]
    assert np.isfinite(feature_likelihood_score(*constant, seed=0)).all()
    assert np.isfinite(feature_likelihood_score(TRAIN, TEST, FAKE + 1e4, seed=0)).all()


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: authenticity(TRAIN[:1], FAKE), "at least 2 rows in train"),
        (lambda: authenticity(TRAIN, FAKE[:, :2]), "same dimension"),
        (lambda: c_t(cut_into_cells(TRAIN, TEST, seed=0), TRAIN, FAKE[:5]), "no cell holds test samples and 20 fakes"),
        (lambda: c_t(cut_into_cells(TRAIN, TEST, seed=0), TRAIN, FAKE, min_fakes=0), "min_fakes >= 1"),
        (lambda: c_t(cut_into_cells(TRAIN, TEST, seed=0), TRAIN, FAKE[:, :2]), "same dimension"),
        (lambda: cut_into_cells(TRAIN[:5], TEST, seed=0), "at least 10 rows in train"),
        (lambda: cut_into_cells(TRAIN, TEST, num_cells=0, seed=0), "num_cells >= 1"),
        (lambda: cut_into_cells(TRAIN, TEST[:, :2], seed=0), "same dimension"),
        (lambda: feature_likelihood_score(TRAIN[:3], TEST, FAKE, seed=0), "at least 4 rows in train"),
        (lambda: feature_likelihood_score(TRAIN, TEST * np.nan, FAKE, seed=0), "NaN"),
        (lambda: feature_likelihood_score(TRAIN, TEST, FAKE[:, :2], seed=0), "same dimension"),
        (lambda: feature_likelihood_score(TRAIN, TEST, FAKE, iterations=0, seed=0), "iterations >= 1"),
    ],
)
def test_bad_input(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize("seed", [2**32 - 1, 2**32, 2**63 - 1])
def test_cells_take_seeds_of_63_bits(seed):
    """sklearn's k-means only takes 32-bit seeds. Larger seeds still find three distant clusters."""
    train = np.repeat(column(0, 10, 20), 5, axis=0)
    cells = cut_into_cells(train, column(1, 11, 21), num_cells=3, seed=seed)
    np.testing.assert_allclose(np.sort(cells.centres[:, 0]), [0, 10, 20])
