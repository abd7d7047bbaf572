"""Nearest neighbours among features, and metrics based on them: precision, recall, density, coverage."""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from jimgen.metrics.pairwise import BLOCK_SIZE, as_features, blocks, require_same_dims, squared_distances


class Neighbours(NamedTuple):
    """The k nearest references of each query, nearest first."""

    distances: np.ndarray  # float64 [m, k], Euclidean, in units of the features
    indices: np.ndarray  # int64 [m, k], rows of the references


def nearest(queries: ArrayLike, references: ArrayLike, k: int = 1, *, block_size: int = BLOCK_SIZE) -> Neighbours:
    """The k nearest references of each query in Euclidean distance, nearest first; the first row wins ties.

    A query that is itself a reference finds itself, at a distance of exactly 0. Use k + 1 to exclude it.

    Args:
        queries: float [m, d].
        references: float [n, d].
        k: 1 to n.
        block_size: rows compared at once; limits memory, does not change the result.
    Raises:
        ValueError: for k outside 1 to n, NaN, or different dimensions.
    """
    found, references = as_features(queries, "queries"), as_features(references, "references")
    require_same_dims(queries=found, references=references)
    _, indices = _k_nearest(found, references, k, block_size, origin=references[0])
    # Rounding in |x|^2 + |y|^2 - 2 x.y gives copies about 1e-8, so the distances of the nearest are recomputed.
    distances = np.stack([np.linalg.norm(found - references[column], axis=1) for column in indices.T], axis=1)
    order = np.argsort(distances, axis=1, kind="stable")
    return Neighbours(np.take_along_axis(distances, order, axis=1), np.take_along_axis(indices, order, axis=1))


class Prdc(NamedTuple):
    """Precision, recall, density and coverage of features with k neighbours."""

    precision: float  # fraction of fakes within the ball of any real sample; 0 to 1
    recall: float  # fraction of real samples within the ball of any fake; 0 to 1
    density: float  # mean number of real balls around a fake, over k; 1 in expectation for a perfect model, or more
    coverage: float  # fraction of real samples whose ball contains any fake; 0 to 1


def prdc(real: ArrayLike, fake: ArrayLike, k: int = 5, *, block_size: int = BLOCK_SIZE) -> Prdc:
    """Precision, recall, density, coverage. The ball of a sample is open, up to its k-th neighbour in its own set.

    With B(x) the ball of x, over n real x_i and m fake y_j: precision = mean_j [y_j in any B(x_i)], recall = mean_i
    [x_i in any B(y_j)], density = sum_ij [y_j in B(x_i)] / (k m), coverage = mean_i [any y_j in B(x_i)].

    A perfect model has precision = recall in expectation, density 1 and, for n = m, coverage
    1 - (n - 1) ... (n - k) / ((2n - 1) ... (2n - k)), about 1 - 2^-k. Copies of a real set without duplicates have
    perfect scores.

    Distances are compared by <, as in the package prdc of Naeem et al. (<= in equation 1 of Kynkaanniemi et al.). So a
    sample that occurs more than k times has a ball of radius 0, which does not even contain a copy of it, and copies of
    a set of such samples score 0. Count duplicates with `num_duplicates`, and report them with the values.

    Args:
        real: float [n, d], n > k.
        fake: float [m, d], m > k.
        k: number of neighbours, >= 1, without the sample itself.
        block_size: rows compared at once; limits memory.
    Returns: Prdc, unitless. Values depend on n and m; compare only values with equal ones.
    Raises:
        ValueError: for k < 1, sets of k samples or fewer, NaN, or different dimensions.
    References:
        Kynkaanniemi et al., Improved Precision and Recall Metric, arXiv:1904.06991, equations 1 and 2; Naeem et al.,
        Reliable Fidelity and Diversity Metrics, arXiv:2002.09797, equations 5 to 8.
    """
    if k < 1:
        raise ValueError(f"expected k >= 1, got {k}")
    real, fake = as_features(real, "real", at_least=k + 1), as_features(fake, "fake", at_least=k + 1)
    require_same_dims(real=real, fake=fake)
    # Radii and distances use the same formula, so that rounding is equal if a fake copies a real sample.
    origin = real[0]
    real_radii = _k_nearest(real, real, k + 1, block_size, origin)[0][:, k]
    fake_radii = _k_nearest(fake, fake, k + 1, block_size, origin)[0][:, k]
    balls = np.zeros(len(fake), np.int64)  # real balls around each fake
    covered, recalled = np.zeros(len(real), bool), np.zeros(len(real), bool)
    with jax.enable_x64(True):
        real_blocks = blocks(real, block_size, origin)
        for j, fakes in blocks(fake, block_size, origin):
            of_fakes = slice(j, j + len(fakes))
            for i, reals in real_blocks:
                of_reals = slice(i, i + len(reals))
                found = _members(reals, fakes, real_radii[of_reals], fake_radii[of_fakes])
                balls[of_fakes] += np.asarray(found[0])
                covered[of_reals] |= np.asarray(found[1])
                recalled[of_reals] |= np.asarray(found[2])
    return Prdc(
        precision=float(np.mean(balls > 0)),
        recall=float(np.mean(recalled)),
        density=float(np.mean(balls) / k),
        coverage=float(np.mean(covered)),
    )


def num_duplicates(features: ArrayLike) -> int:
    """The number of rows of [n, d] that equal an earlier row. Raises ValueError for NaN, or another shape."""
    rows = as_features(features, "features") + 0.0  # converts -0 to 0
    return len(rows) - len({row.tobytes() for row in rows})


@jax.jit
def _members(real: Array, fake: Array, real_radii: Array, fake_radii: Array) -> tuple[Array, Array, Array]:
    """Real balls around each fake; reals whose ball contains a fake; reals in a fake's ball. Radii are squared."""
    squared = squared_distances(real, fake)
    in_real_ball = squared < real_radii[:, None]
    return in_real_ball.sum(axis=0), in_real_ball.any(axis=1), (squared < fake_radii[None, :]).any(axis=1)


def _k_nearest(
    queries: np.ndarray, references: np.ndarray, k: int, block_size: int, origin: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
    """(squared distances [m, k], indices [m, k]), ascending, with the distances of `squared_distances`."""
    if not 1 <= k <= len(references):
        raise ValueError(f"expected k from 1 to the {len(references)} references, got {k}")
    found = []
    with jax.enable_x64(True):
        reference_blocks = blocks(references, block_size, origin)
        for _, some in blocks(queries, block_size, origin):
            best = jnp.asarray(np.full((len(some), k), np.inf)), jnp.asarray(np.zeros((len(some), k), np.int64))
            for start, others in reference_blocks:
                best = _closer(some, others, start, *best)
            found.append(jax.device_get(best))
    squared, indices = zip(*found, strict=True)
    return np.concatenate(squared), np.concatenate(indices)


@jax.jit
def _closer(queries: Array, references: Array, start: int, best: Array, indices: Array) -> tuple[Array, Array]:
    """The k smallest of `best` [m, k] and of the distances to a block of references, whose first row is `start`."""
    k = best.shape[1]
    squared, places = _smallest(squared_distances(queries, references), k)
    both, indices = jnp.concatenate([best, squared], axis=1), jnp.concatenate([indices, start + places], axis=1)
    best, places = _smallest(both, k)
    return best, jnp.take_along_axis(indices, places, axis=1)


def _smallest(values: Array, k: int) -> tuple[Array, Array]:
    """The k smallest of each row and their places, by repeated minima: XLA on CPU sorts complete rows for a top k."""
    columns = jnp.arange(values.shape[1], dtype=jnp.int32)[None, :]
    found, places = [], []
    for _ in range(k):
        least = jnp.min(values, axis=1, keepdims=True)
        # The first place of the minimum. XLA on CPU vectorises minima, but not argmin.
        place = jnp.min(jnp.where(values == least, columns, values.shape[1]), axis=1, keepdims=True)
        found.append(least)
        places.append(place)
        values = jnp.where(columns == place, jnp.inf, values)
    return jnp.concatenate(found, axis=1), jnp.concatenate(places, axis=1)
