"""Comparable likelihoods: importance-weighted bounds, and metrics whose names contain data and bound."""

import math
import re
from typing import Literal, NamedTuple

import jax.numpy as jnp
from jax import Array
from jax.nn import logsumexp

DiscreteData = Literal["binarised", "8-bit"]


class LikelihoodProtocol(NamedTuple):
    """Data and bound of a likelihood. Only likelihoods of equal protocols can be compared."""

    data: DiscreteData  # Bernoulli pixels, or the 256 values of a discrete (or dequantised) density
    bound: str  # "exact", "ELBO", or "IWAE-k" such as "IWAE-64"

    def name(self, metric: str) -> str:
        """The metric's name with the protocol: "bits_per_dim" -> "bits_per_dim[8-bit,exact]".

        Raises:
            ValueError: for other data or bounds.
        """
        if self.data not in ("binarised", "8-bit"):
            raise ValueError(f"expected data binarised or 8-bit, got {self.data!r}")
        if not re.fullmatch(r"exact|ELBO|IWAE-[1-9]\d*", self.bound):
            raise ValueError(f"expected bound exact, ELBO or IWAE-k with a number k, got {self.bound!r}")
        return f"{metric}[{self.data},{self.bound}]"


def importance_weighted_bound(log_weights: Array) -> Array:
    """log 1/k sum_i w_i with w = p(x, z_i) / q(z_i | x): a lower bound of log p(x) in expectation over z_i ~ q.

    k = 1 is the ELBO. The bound increases with k and converges to log p(x).

    Args:
        log_weights: log w, float [k, n], k >= 1; k samples of z for each of n images.
    Returns: [n] nats, a bound of log p(x), not of its negative.
    Raises:
        ValueError: for another shape.
    References:
        Burda et al., Importance Weighted Autoencoders, arXiv:1509.00519, equation 8.
    """
    if log_weights.ndim != 2 or log_weights.shape[0] < 1:
        raise ValueError(f"expected log_weights [k, n] with k >= 1, got {list(jnp.shape(log_weights))}")
    return logsumexp(log_weights, axis=0) - math.log(log_weights.shape[0])


def effective_sample_size(log_weights: Array) -> Array:
    """(sum w)^2 / sum w^2 of importance weights: [n], 1 to k; near 1, one sample decides the bound.

    Args:
        log_weights: log w, float [k, n], k >= 1.
    """
    return jnp.exp(2 * logsumexp(log_weights, axis=0) - logsumexp(2 * log_weights, axis=0))
