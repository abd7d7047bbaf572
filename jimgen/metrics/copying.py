"""Does a model copy its training set? Tests on features of training, test and generated images.

Frechet distances do not see copies: real training images score as well as test images. These three do.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.nn import logsumexp, softmax
from numpy.typing import ArrayLike

from jimgen.metrics.neighbours import Neighbours, nearest
from jimgen.metrics.pairwise import as_features, blocks, require_same_dims, squared_distances

NEIGHBOURS = 4  # of a fake: so many mostly decide `authenticity` with no second search through the training set


def authenticity(train: ArrayLike, fake: ArrayLike, *, neighbours: Neighbours | None = None) -> float:
    """AuthPct: 100 times the fraction of fakes y with |y - x| > |x - x'|.

    Here x is the training sample nearest to y, and x' the one nearest to x. A fake closer to x than any other training
    sample is taken for a copy.

    Args:
        train: [n, d], n >= 2.
        fake: [m, d].
        neighbours: `nearest(fake, train, k)` of any k, where it is known already. With more of them fewer searches are
            left, as most often one of y's neighbours is close enough to x to show that y is authentic.
    Returns:
        percent, 0 for copies of the training set. A perfect model does *not* score 100, but what test samples score in
        place of the fakes: 60 to 67 on features of pictures, and 35, 58, 79 for Gaussians of 2, 8, 64 dimensions (1000
        training samples). More means fakes that lie away from the data.
    Raises:
        ValueError: for fewer than 2 training samples, NaN, or different dimensions.
    References:
        Alaa et al., How Faithful is your Synthetic Data?, arXiv:2102.08921, section 3.3.
    """
    train = as_features(train, "train", at_least=2)
    if neighbours is None:
        neighbours = nearest(fake, train, min(NEIGHBOURS, len(train)))
    to_fake, x = neighbours.distances[:, 0], neighbours.indices[:, 0]
    authentic = np.zeros(len(x), bool)
    for other in neighbours.indices.T[1:]:
        authentic |= np.linalg.norm(train[x] - train[other], axis=1) < to_fake
    chosen, of_chosen = np.unique(x[~authentic], return_inverse=True)
    if len(chosen):
        to_other = nearest(train[chosen], train, 2).distances[:, 1]
        authentic[~authentic] = to_fake[~authentic] > to_other[of_chosen]
    return float(100 * authentic.mean())


class Cells(NamedTuple):
    """The training set cut into cells, and where the test samples lie: what `c_t` needs to know of real ones."""

    centres: np.ndarray  # float64 [num_cells, d]
    test_cells: np.ndarray  # int [t], the cell of each test sample
    test_distances: np.ndarray  # float64 [t], from each test sample to the nearest training sample


def cut_into_cells(train: ArrayLike, test: ArrayLike, *, num_cells: int = 10, seed: int) -> Cells:
    """Clusters the training set by k-means, the best of ten runs.

    Args:
        train: [n, d], n >= num_cells.
        test: [t, d].
        num_cells: >= 1; 1 for a global test.
        seed: of k-means.
    Raises:
        ValueError: for num_cells < 1, fewer training samples than cells, NaN, or different dimensions.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    if num_cells < 1:
        raise ValueError(f"expected num_cells >= 1, got {num_cells}")
    train, test = as_features(train, "train", at_least=num_cells), as_features(test, "test")
    require_same_dims(train=train, test=test)
    # sklearn takes seeds of 32 bits.
    state = seed if seed < 2**32 else np.random.RandomState([seed % 2**32, seed >> 32])
    # sklearn's defaults mislead the type checker: n_init is a number or "auto".
    kmeans = KMeans(num_cells, n_init=10, random_state=state)  # pyright: ignore[reportArgumentType]
    centres = kmeans.fit(train.astype(np.float32)).cluster_centers_.astype(np.float64)  # half the time of float64
    return Cells(centres, nearest(test, centres).indices[:, 0], nearest(test, train).distances[:, 0])


def c_t(
    cells: Cells, train: ArrayLike, fake: ArrayLike, *, min_fakes: int = 20, neighbours: Neighbours | None = None
) -> float:
    """C_T: whether fakes lie nearer to the training set than test samples do, z-scored, averaged over cells.

    In each cell, with distances to the nearest training sample, U counts the pairs whose fake is farther than the test
    sample (a tie counts one half), and z = (U - mn / 2) / sqrt(mn (m + n + 1) / 12) for m fakes and n test samples.
    C_T is the mean of z weighted by n.

    Args:
        cells: of `cut_into_cells(train, test)`.
        train: [n, d], the training set of the cells.
        fake: [m, d].
        min_fakes: cells with fewer fakes are left out; >= 1.
        neighbours: `nearest(fake, train, k)` of any k, where it is known already.
    Returns:
        z-score. 0 in expectation, and mostly within +-1, for a perfect model; far below 0 copies (below -3, say), far
        above 0 underfits.
    Raises:
        ValueError: if no cell holds both test samples and enough fakes, for NaN, or different dimensions.
    References:
        Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models, arXiv:2004.05675, section 4.
        No continuity correction; distances are to the whole training set, not to the cell's.
    """
    from scipy.stats import rankdata  # takes a second to import

    if min_fakes < 1:
        raise ValueError(f"expected min_fakes >= 1, got {min_fakes}")
    fake = as_features(fake, "fake")
    require_same_dims(cells=cells.centres, fake=fake)
    fake_cells = nearest(fake, cells.centres).indices[:, 0]
    if neighbours is None:
        neighbours = nearest(fake, train)
    fake_distances = neighbours.distances[:, 0]
    scores, weights = [], []
    for cell in range(len(cells.centres)):
        of_test, of_fake = cells.test_distances[cells.test_cells == cell], fake_distances[fake_cells == cell]
        n, m = len(of_test), len(of_fake)
        if n == 0 or m < min_fakes:
            continue
        ranks = rankdata(np.concatenate([of_fake, of_test]))
        u = ranks[:m].sum() - m * (m + 1) / 2
        scores.append((u - m * n / 2) / np.sqrt(m * n * (m + n + 1) / 12))
        weights.append(n)
    if not scores:
        raise ValueError(f"no cell holds test samples and {min_fakes} fakes: give more samples or fewer cells")
    return float(np.average(scores, weights=weights))


_MIN_VARIANCE = 1e-6  # of standardised features; without a floor the widths of copies shrink for ever


class FeatureLikelihoodScore(NamedTuple):
    """FLS and what it says of overfitting."""

    score: float  # about 0 for a perfect model; lower is better; copies score thousands or more
    generalization_gap: float  # score on train less score on test: a little below 0; far below, the model has copied
    percent_overfit: float  # of fakes, how many fit train better than as many test samples; perfect: about 50


def feature_likelihood_score(
    train: ArrayLike,
    test: ArrayLike,
    fake: ArrayLike,
    *,
    iterations: int = 20,
    seed: int,
    block_size: int = 512,
) -> FeatureLikelihoodScore:
    """FLS = 100 / d [NLL(test | fakes) - NLL(test | half of train)]: a likelihood of the test set made from samples.

    p(x) = 1/m sum_j N(x; y_j, s_j^2 I) has a Gaussian on each fake y_j, with the widths s_j that are most likely for
    the training set. A fake that copies a training sample gets a width near 0 and so says nothing of the test set.
    While widths are fitted, the density has one more term, N(x; mean of train, s^2 I), for training samples far from
    every fake. The second NLL is a perfect model's: Gaussians on half of the training set, fitted to the other half.

    Args:
        train, test, fake: [n, d], n >= 4 for train, 2 for test and 1 for fake. Standardised by the test set's mean and
            deviation; a feature that is constant there up to rounding (`_scales`) is only shifted.
        iterations: of expectation maximisation for the widths, >= 1. The likelihood never falls.
        seed: of the halves, and of the subsets of equal size behind percent_overfit.
        block_size: rows compared with all fakes at once; bounds memory.
    Returns:
        FeatureLikelihoodScore; score and gap in hundredths of a nat a dimension. The baseline has as many Gaussians as
        there are fakes, or half of the training samples if that is less. percent_overfit compares equal numbers of
        training and test samples, so copies of other training samples do not count in it.
    Raises:
        ValueError: for too few samples, NaN, or different dimensions.
    References:
        Jiralerspong et al., Feature Likelihood Score, arXiv:2302.04440, section 3; the later versions' sign and scale.
        They climb by Adam; each width here moves to its optimum given the others' shares. Deviations stay above 1e-3 of
        the test set's, so that the scores of copies are large but finite.
    """
    if iterations < 1:
        raise ValueError(f"expected iterations >= 1, got {iterations}")
    train, test = as_features(train, "train", at_least=4), as_features(test, "test", at_least=2)
    fake = as_features(fake, "fake")
    require_same_dims(train=train, test=test, fake=fake)
    mean, scale = test.mean(axis=0), _scales(train, test)
    rng = np.random.default_rng(seed)
    half, size = min(len(fake), len(train) // 2), min(len(train), len(test))
    x, t, y = ((z - mean) / scale for z in (rng.permutation(train), rng.permutation(test), fake))
    with jax.enable_x64(True):
        variances = _fit_variances(x, y, iterations, block_size)
        test_nll = _nll_per_dim(t, y, variances, block_size)
        train_nll = _nll_per_dim(x, y, variances, block_size)
        perfect_nll = _nll_per_dim(t, x[:half], _fit_variances(x[half:], x[:half], iterations, block_size), block_size)
        on_train, on_test = (_likelihood_of_each(z[:size], y, variances, block_size) for z in (x, t))
    return FeatureLikelihoodScore(
        score=100 * (test_nll - perfect_nll),
        generalization_gap=100 * (train_nll - test_nll),
        percent_overfit=float(100 * np.mean(on_train > on_test)),
    )


def _scales(train: np.ndarray, test: np.ndarray) -> np.ndarray:
    """The test set's standard deviations [d]; 1 for a feature that is constant there but for rounding in float32.

    That is less than a millionth of the feature's largest value in either real set, or a billionth of the deviation of
    the feature that varies most: a scale made of rounding would turn each fake into an outlier.
    """
    scale = test.std(axis=0, ddof=1)
    largest = np.maximum(np.abs(test).max(axis=0), np.abs(train).max(axis=0))
    return np.where(scale > np.maximum(1e-6 * largest, 1e-9 * scale.max()), scale, 1)


def _fit_variances(x: np.ndarray, centres: np.ndarray, iterations: int, block_size: int) -> np.ndarray:
    """Variances [m] of the Gaussians on `centres` [m, d] that maximise the likelihood of x [n, d], by EM."""
    x_blocks, d = blocks(x, block_size), x.shape[1]
    closest = np.min([np.asarray(_closest(rows, centres)) for _, rows in x_blocks], axis=0)
    # The last Gaussian is the background.
    mean = x.mean(axis=0)
    means = np.concatenate([centres, mean[None]])
    variances = np.maximum(np.append(closest / d, np.mean((x - mean) ** 2)), _MIN_VARIANCE)
    log_weights = np.append(np.full(len(centres), -np.log(len(centres))), 0)
    for _ in range(iterations):
        sums = [jax.device_get(_expectation(rows, means, variances, log_weights)) for _, rows in x_blocks]
        shares, spreads = np.sum(sums, axis=0)
        # A Gaussian too far from all of x to get a share of any keeps its width.
        optimal = np.maximum(spreads / np.where(shares > 0, shares, 1) / d, _MIN_VARIANCE)
        variances = np.where(shares > 0, optimal, variances)
    return variances[:-1]


@jax.jit
def _closest(x: Array, centres: Array) -> Array:
    """Squared distance of each centre to the nearest row of x: [m]."""
    return jnp.min(squared_distances(x, centres), axis=0)


@jax.jit
def _expectation(x: Array, means: Array, variances: Array, log_weights: Array) -> tuple[Array, Array]:
    """Each Gaussian's share of the rows of x, and the sum of squared distances weighted by it: two of [m]."""
    shares = softmax(_log_densities(x, means, variances) + log_weights[None, :], axis=1)
    return shares.sum(axis=0), (shares * squared_distances(x, means)).sum(axis=0)


def _nll_per_dim(x: np.ndarray, centres: np.ndarray, variances: np.ndarray, block_size: int) -> float:
    """-log p / d in nats, averaged over x."""
    parts = [np.asarray(_log_mixture(rows, centres, variances)) for _, rows in blocks(x, block_size)]
    return float(-np.concatenate(parts).mean() / x.shape[1])


@jax.jit
def _log_mixture(x: Array, means: Array, variances: Array) -> Array:
    return logsumexp(_log_densities(x, means, variances), axis=1) - jnp.log(len(means))


def _likelihood_of_each(x: np.ndarray, centres: np.ndarray, variances: np.ndarray, block_size: int) -> np.ndarray:
    """log sum_i N(x_i; y_j, s_j^2 I), nats, of each Gaussian j: [m]."""
    parts = [np.asarray(_log_sum_over_x(rows, centres, variances)) for _, rows in blocks(x, block_size)]
    return np.logaddexp.reduce(parts, axis=0)


@jax.jit
def _log_sum_over_x(x: Array, means: Array, variances: Array) -> Array:
    return logsumexp(_log_densities(x, means, variances), axis=0)


def _log_densities(x: Array, means: Array, variances: Array) -> Array:
    """log N(x_i; mean_j, variance_j I), nats: [n, m]."""
    exponents = squared_distances(x, means) / variances[None, :]
    return -(exponents + x.shape[1] * jnp.log(2 * jnp.pi * variances)[None, :]) / 2
