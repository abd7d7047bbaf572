"""Maximum mean discrepancies between two sets of features, KID and CMMD: no Gaussian assumption, no bias."""

import math
from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

from jimgen.metrics.pairwise import BLOCK_SIZE, as_features, blocks, require_same_dims, squared_distances


class KernelInceptionDistance(NamedTuple):
    """KID over the subsets."""

    mean: float
    # Between subsets, without Bessel's correction. Subsets overlap, so this gives no standard error of the mean. NaN
    # for a single subset, or if the subsets are the complete sets.
    std: float


def kernel_inception_distance(
    features_a: ArrayLike, features_b: ArrayLike, *, num_subsets: int = 100, subset_size: int = 1000, seed: int
) -> KernelInceptionDistance:
    """The squared MMD with kernel (x.y / d + 1)^3, unbiased, averaged over random subsets of both sets.

    Each subset gives sum_{i != j} [k(a_i, a_j) + k(b_i, b_j)] / (n (n - 1)) - 2 sum_{i, j} k(a_i, b_j) / n^2. As in
    public tools, diagonals are omitted only within a set.

    Args:
        features_a, features_b: float [n, d], n >= subset_size.
        num_subsets: >= 1.
        subset_size: >= 2, drawn without replacement. If it is the size of both sets, they are compared once.
        seed: random seed of the subsets.
    Returns:
        Mean and standard deviation over subsets, in units of the kernel. A perfect model scores 0 in expectation, so
        about half of the values are negative. Often reported times 1000.
    Raises:
        ValueError: for too few samples, NaN, or different dimensions.
    References:
        Binkowski et al., Demystifying MMD GANs, arXiv:1801.01401, section 4.
    """
    if num_subsets < 1 or subset_size < 2:
        raise ValueError(f"expected num_subsets >= 1 and subset_size >= 2, got {num_subsets} and {subset_size}")
    a = as_features(features_a, "features_a", at_least=subset_size)
    b = as_features(features_b, "features_b", at_least=subset_size)
    require_same_dims(features_a=a, features_b=b)
    if subset_size == len(a) == len(b):
        return KernelInceptionDistance(_squared_mmd(_cubic, a, b, BLOCK_SIZE), math.nan)
    rng = np.random.default_rng(seed)
    found = [
        _squared_mmd(
            _cubic,
            a[rng.choice(len(a), subset_size, replace=False)],
            b[rng.choice(len(b), subset_size, replace=False)],
            BLOCK_SIZE,
        )
        for _ in range(num_subsets)
    ]
    return KernelInceptionDistance(float(np.mean(found)), float(np.std(found)) if num_subsets > 1 else math.nan)


def cmmd(features_a: ArrayLike, features_b: ArrayLike, sigma: float = 10.0, *, block_size: int = BLOCK_SIZE) -> float:
    """1000 times the unbiased squared MMD with kernel exp(-|x - y|^2 / (2 sigma^2)), in the paper on CLIP embeddings.

    The authors' program includes the diagonals, unlike the paper, which adds about 1000 (1 - mean k) / n for each set.

    Args:
        features_a, features_b: float [n, d], n >= 2; sigma = 10 is for embeddings of length 1.
        sigma: > 0, in units of the features.
        block_size: rows compared at once; limits memory, does not change the value.
    Returns: The discrepancy in thousandths of the kernel; 0 in expectation for a perfect model.
    Raises:
        ValueError: for fewer than 2 samples, NaN, different dimensions or sigma <= 0.
    References:
        Jayasumana et al., Rethinking FID, arXiv:2401.09603, section 4; Gretton et al., A Kernel Two-Sample Test, 2012,
        equation 3.
    """
    if not sigma > 0:
        raise ValueError(f"expected sigma > 0, got {sigma}")
    a, b = as_features(features_a, "features_a", at_least=2), as_features(features_b, "features_b", at_least=2)
    require_same_dims(features_a=a, features_b=b)
    # Scaling features instead of sigma needs only one compiled kernel. Distances are more accurate near the origin.
    origin = a[0]
    return 1000 * _squared_mmd(_gaussian, (a - origin) / sigma, (b - origin) / sigma, block_size)


Kernel = Callable[[Array, Array], Array]  # [m, d], [n, d] -> [m, n]


def _cubic(x: Array, y: Array) -> Array:
    return (x @ y.T / x.shape[1] + 1) ** 3


def _gaussian(x: Array, y: Array) -> Array:
    return jnp.exp(-squared_distances(x, y) / 2)


def _squared_mmd(kernel: Kernel, a: np.ndarray, b: np.ndarray, block_size: int) -> float:
    """Unbiased: means over pairs of different rows within each set, and over all pairs between the sets."""
    with jax.enable_x64(True):
        x, y = blocks(a, block_size), blocks(b, block_size)
        within = sum(
            (_kernel_sum(kernel, z, z) - sum(float(_diagonal_sum(kernel, rows)) for _, rows in z)) / (n * (n - 1))
            for n, z in ((len(a), x), (len(b), y))
        )
        return within - 2 * _kernel_sum(kernel, x, y) / (len(a) * len(b))


def _kernel_sum(kernel: Kernel, x: list[tuple[int, Array]], y: list[tuple[int, Array]]) -> float:
    return float(sum(np.asarray(_block_sum(kernel, p, q)) for _, p in x for _, q in y))


@partial(jax.jit, static_argnums=0)
def _block_sum(kernel: Kernel, x: Array, y: Array) -> Array:
    return jnp.sum(kernel(x, y))


@partial(jax.jit, static_argnums=0)
def _diagonal_sum(kernel: Kernel, x: Array) -> Array:
    return jnp.sum(jax.vmap(lambda row: kernel(row[None, :], row[None, :])[0, 0])(x))
