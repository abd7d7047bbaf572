"""Tests for copies of the training set, on features of training, test and generated images.

Frechet distances do not detect copies: training images score as well as test images. These three metrics do.
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

NEIGHBOURS = 4  # per fake; with these `authenticity` seldom needs a second search through the training set


def authenticity(train: ArrayLike, fake: ArrayLike, *, neighbours: Neighbours | None = None) -> float:
    """AuthPct: 100 times the fraction of fakes y with |y - x| > |x - x'|.

    Here x is the training sample nearest to y, and x' the training sample nearest to x. A fake that is closer to x than
    x' counts as a copy.

    Args:
        train: float [n, d], n >= 2.
        fake: float [m, d].
        neighbours: `nearest(fake, train, k)` for any k, if already computed. With a larger k fewer searches remain,
            because a neighbour of y that is close enough to x shows that y is authentic.
    Returns:
        Percent, 0 for copies of the training set. A perfect model does *not* score 100, but as much as test samples in
        place of the fakes: 60 to 67 on features of images, and 35, 58, 79 for Gaussians of 2, 8, 64 dimensions (1000
        training samples). A higher score means that fakes lie outside the data.
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
    """Cells of the training set, and the cells and distances of the test samples, for `c_t`."""

    centres: np.ndarray  # float64 [num_cells, d]
    test_cells: np.ndarray  # int [t], the cell of each test sample
    test_distances: np.ndarray  # float64 [t], from each test sample to the nearest training sample


def cut_into_cells(train: ArrayLike, test: ArrayLike, *, num_cells: int = 10, seed: int) -> Cells:
    """Clusters the training set by the best of ten runs of k-means.

    Args:
        train: float [n, d], n >= num_cells.
        test: float [t, d].
        num_cells: >= 1; 1 for a global test.
        seed: random seed of k-means.
    Raises:
        ValueError: for num_cells < 1, fewer training samples than cells, NaN, or different dimensions.
    """
    from sklearn.cluster import KMeans  # takes a second to import

    if num_cells < 1:
        raise ValueError(f"expected num_cells >= 1, got {num_cells}")
    train, test = as_features(train, "train", at_least=num_cells), as_features(test, "test")
    require_same_dims(train=train, test=test)
    # sklearn accepts only 32-bit seeds.
    state = seed if seed < 2**32 else np.random.RandomState([seed % 2**32, seed >> 32])
    # The type checker infers the wrong type from sklearn's default: n_init is a number or "auto".
    kmeans = KMeans(num_cells, n_init=10, random_state=state)  # pyright: ignore[reportArgumentType]
    centres = kmeans.fit(train.astype(np.float32)).cluster_centers_.astype(np.float64)  # half the time of float64
    return Cells(centres, nearest(test, centres).indices[:, 0], nearest(test, train).distances[:, 0])


def c_t(
    cells: Cells, train: ArrayLike, fake: ArrayLike, *, min_fakes: int = 20, neighbours: Neighbours | None = None
) -> float:
    """C_T: a z-score of whether fakes are closer to the training set than test samples, averaged over cells.

    Distances are those to the nearest training sample. In each cell U counts the pairs whose fake is farther than the
    test sample (a tie counts 1/2), and z = (U - mn / 2) / sqrt(mn (m + n + 1) / 12) for m fakes and n test samples. C_T
    is the mean of z weighted by n.

    Args:
        cells: the result of `cut_into_cells(train, test)`.
        train: float [n, d], the training set of the cells.
        fake: float [m, d].
        min_fakes: cells with fewer fakes are ignored; >= 1.
        neighbours: `nearest(fake, train, k)` for any k, if already computed.
    Returns:
        A z-score. A perfect model scores 0 in expectation, and mostly within +-1. Scores far below 0 (such as -3) mean
        copying, scores far above 0 underfitting.
    Raises:
        ValueError: if no cell contains test samples and enough fakes, for NaN, or different dimensions.
    References:
        Meehan et al., A Non-Parametric Test to Detect Data-Copying in Generative Models, arXiv:2004.05675, section 4;
        here without continuity correction, and with distances to the whole training set, not only to the cell's.
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
        raise ValueError(f"no cell holds test samples and {min_fakes} fakes: use more samples or fewer cells")
    return float(np.average(scores, weights=weights))


_MIN_VARIANCE = 1e-6  # of standardised features; without it the standard deviations of copies shrink to 0


class FeatureLikelihoodScore(NamedTuple):
    """FLS and its measures of overfitting."""

    score: float  # about 0 for a perfect model; lower is better; copies score thousands or more
    generalization_gap: float  # score on train minus score on test: slightly below 0; far below 0 for copies
    percent_overfit: float  # fakes that fit train better than as many test samples; about 50 for a perfect model


def feature_likelihood_score(
    train: ArrayLike,
    test: ArrayLike,
    fake: ArrayLike,
    *,
    iterations: int = 20,
    seed: int,
    block_size: int = 512,
) -> FeatureLikelihoodScore:
    """FLS = 100 / d [NLL(test | fakes) - NLL(test | half of train)]: a likelihood of the test set from samples.

    p(x) = 1/m sum_j N(x; y_j, s_j^2 I) has a Gaussian on each fake y_j, whose standard deviations s_j maximise the
    likelihood of the training set. A fake that copies a training sample gets s_j near 0, so that it does not contribute
    to the likelihood of the test set. During the fit of s_j the density has one more term, N(x; mean of train, s^2 I),
    for training samples far from every fake. The second NLL is that of a perfect model: Gaussians on half of the
    training set, fitted to the other half.

    Args:
        train, test, fake: float [n, d], n >= 4 for train, 2 for test and 1 for fake. They are standardised by the test
            set's mean and standard deviation; features that are constant there up to rounding (`_scales`) are shifted.
        iterations: iterations of expectation maximisation for s_j, >= 1. The likelihood never decreases.
        seed: random seed of the halves, and of the equally large subsets for percent_overfit.
        block_size: rows compared with all fakes at once; limits memory.
    Returns:
        FeatureLikelihoodScore; score and gap in hundredths of a nat per dimension. The baseline has as many Gaussians
        as there are fakes, but at most half of the training samples. percent_overfit compares equal numbers of training
        and test samples, so it does not detect copies of other training samples.
    Raises:
        ValueError: for too few samples, NaN, or different dimensions.
    References:
        Jiralerspong et al., Feature Likelihood Score, arXiv:2302.04440, section 3, with sign and scale of the later
        versions. The authors use Adam, we use expectation maximisation. Standard deviations stay above 1e-3 of the test
        set's, so that the scores of copies are large but finite.
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
    """The test set's standard deviations [d]; 1 for features that are constant there up to rounding in float32.

    These have a standard deviation of less than 1e-6 of the feature's largest value in either real set, or 1e-9 of the
    largest standard deviation. Dividing by rounding errors would turn each fake into an outlier.
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
        # A Gaussian that is too far from x to get a share keeps its variance.
        optimal = np.maximum(spreads / np.where(shares > 0, shares, 1) / d, _MIN_VARIANCE)
        variances = np.where(shares > 0, optimal, variances)
    return variances[:-1]


@jax.jit
def _closest(x: Array, centres: Array) -> Array:
    """Squared distance of each centre to the nearest row of x: [m]."""
    return jnp.min(squared_distances(x, centres), axis=0)


@jax.jit
def _expectation(x: Array, means: Array, variances: Array, log_weights: Array) -> tuple[Array, Array]:
    """Each Gaussian's share of the rows of x, and the sum of squared distances weighted by it, [m] each."""
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
