"""Modes of a distribution: how many of them samples cover, and how evenly."""

from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike


class ModeCoverage(NamedTuple):
    covered: int  # number of modes with at least one sample
    kl: float  # nats, from the histogram of the samples to that of the data


def mode_coverage(counts: ArrayLike, data_counts: ArrayLike) -> ModeCoverage:
    """The number of modes k with q_k > 0, and KL(q || p) = sum_k q_k log(q_k / p_k), for K modes.

    q_k = n_k / n of the samples. p_k = (m_k + 1/2) / (m + K/2) of m data: the half keeps the sum finite where data lack
    a mode. Samples of the data's own distribution have a sum of about (K - 1) (1 / n + 1 / m) / 2, not 0: compare only
    equal numbers, beside real samples.

    Args:
        counts, data_counts: whole numbers n_k and m_k >= 0 [K], not all 0.
    Raises:
        ValueError: for other shapes or numbers.
    References:
        Metz et al., Unrolled Generative Adversarial Networks, arXiv:1611.02163, section 3.3.2; Lin et al., PacGAN,
        arXiv:1712.04086.
    """
    samples, data = np.asarray(counts), np.asarray(data_counts)
    if samples.ndim != 1 or samples.shape != data.shape:
        raise ValueError(f"expected counts and data_counts [K], got {list(samples.shape)}, {list(data.shape)}")
    for name, numbers in (("counts", samples), ("data_counts", data)):
        if numbers.dtype.kind not in "iu" or not numbers.sum() or numbers.min() < 0:
            raise ValueError(f"expected {name} whole numbers >= 0, not all 0, got {numbers.dtype} {numbers}")
    q, p = samples / samples.sum(), (data + 0.5) / (data.sum() + len(data) / 2)
    found = q > 0
    return ModeCoverage(int(found.sum()), float(np.sum(q[found] * np.log(q[found] / p[found]))))
