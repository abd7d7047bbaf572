"""Filters of logits before sampling: temperature, top-k and top-p, in this order. Logits are float [..., n]."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jimgen.precision import at_least_float32


class LogitFilter(NamedTuple):
    """Options of `filter_logits`. The defaults change nothing."""

    temperature: float = 1.0  # divides the logits; 0 keeps only the largest
    top_k: int = 0  # keeps the k largest; 0 for all
    top_p: float = 1.0  # keeps the smallest set of the largest whose probability reaches p


PLAIN = LogitFilter()


def check_filter(options: LogitFilter) -> None:
    """Raises ValueError for options outside their ranges."""
    if not 0 <= options.temperature < math.inf:
        raise ValueError(f"temperature must be finite and not negative, got {options.temperature}")
    _check_top_k(options.top_k)
    _check_top_p(options.top_p)


def _check_top_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"top_k must not be negative (0 keeps all), got {k}")


def _check_top_p(p: float) -> None:
    if not 0 < p <= 1:
        raise ValueError(f"top_p must be in (0, 1], got {p}")


def keep_top_k(logits: Array, k: int) -> Array:
    """Keeps the k largest logits and ties of the k-th, -inf elsewhere: [..., n] -> [..., n]; k = 0 keeps all.

    Raises:
        ValueError: if k is negative.
    """
    _check_top_k(k)
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def keep_top_p(logits: Array, p: float) -> Array:
    """Keeps the smallest set of the largest logits whose probability reaches p, -inf elsewhere: [..., n] -> [..., n].

    At least one logit is kept, and p = 1 keeps all. Sums within a relative 1e-5 of p count as p, because of rounding:
    of (.5, .3, .1, .1), p = .8 keeps two.

    Raises:
        ValueError: if p is outside (0, 1].
    References:
        Holtzman et al., The Curious Case of Neural Text Degeneration, arXiv:1904.09751, section 3.1.
    """
    _check_top_p(p)
    if p == 1:
        return logits
    order = jnp.argsort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(at_least_float32(jnp.take_along_axis(logits, order, -1)))
    before = jnp.cumsum(probabilities, -1) - probabilities
    kept = jnp.take_along_axis(before < p * (1 - 1e-5), jnp.argsort(order, axis=-1), -1)
    return jnp.where(kept, logits, -jnp.inf)


def filter_logits(logits: Array, options: LogitFilter) -> Array:
    """Temperature, then top-k, then top-p: [..., n] -> [..., n], -inf where the probability is 0.

    Raises:
        ValueError: if an option is outside its range.
    """
    check_filter(options)
    if options.temperature == 0:
        first = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
        return jnp.where(first, 0.0, -jnp.inf)
    if options.temperature != 1:
        # Relative to the largest logit, quotients can only overflow to -inf, the logit of probability 0.
        smallest = float(jnp.finfo(logits.dtype).tiny)
        logits = (logits - logits.max(-1, keepdims=True)) / max(options.temperature, smallest)
    return keep_top_p(keep_top_k(logits, options.top_k), options.top_p)
