"""The inception score: high for samples that a classifier is confident about, and that cover its classes evenly."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike

from jimgen.metrics.pairwise import as_features


class InceptionScore(NamedTuple):
    """The score over the splits."""

    mean: float
    std: float  # between splits, without Bessel's correction


def inception_score(logits: ArrayLike, *, num_splits: int = 10, seed: int) -> InceptionScore:
    """exp mean_x KL(p(y|x) || p(y)), p(y) the mean of p(y|x) over a split, averaged over splits.

    Samples are shuffled first, because splits of samples sorted by class would contain one class each and score 1. The
    score does not use real images; it only serves to compare with old papers.

    Args:
        logits: float [n, classes], finite. For probabilities pass their logarithms (for 0 that of 1e-300).
        num_splits: 1 to n.
        seed: random seed of the shuffle.
    Returns: Mean and standard deviation over splits, from 1 to the number of classes; higher is better.
    Raises:
        ValueError: for other shapes, NaN or infinity, or more splits than samples.
    References:
        Salimans et al., Improved Techniques for Training GANs, arXiv:1606.03498, section 4.
    """
    checked = as_features(logits, "logits", at_least=max(num_splits, 1))
    if num_splits < 1:
        raise ValueError(f"expected num_splits >= 1, got {num_splits}")
    shuffled = np.random.default_rng(seed).permutation(checked)
    scores = [_score(split) for split in np.array_split(shuffled, num_splits)]
    return InceptionScore(float(np.mean(scores)), float(np.std(scores)))


def _score(logits: np.ndarray) -> float:
    log_p = logits - logits.max(axis=1, keepdims=True)
    log_p -= np.log(np.exp(log_p).sum(axis=1, keepdims=True))
    p = np.exp(log_p)
    # Each row's KL is a sum over y; a class without samples contributes 0 log 0 = 0.
    marginal = p.mean(axis=0)
    negative_entropies = np.sum(p * log_p, axis=1)
    entropy = -np.sum(marginal * np.log(np.where(marginal > 0, marginal, 1)))
    return float(np.exp(negative_entropies.mean() + entropy))
