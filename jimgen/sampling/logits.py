"""From logits to draws: temperature, top-k and top-p, in this order. Logits are [..., k] float."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class LogitFilter(NamedTuple):
    """What is done to the logits before one draws. The defaults change nothing."""

    temperature: float = 1.0  # divides them; 0 takes the largest, and so in effect does a tiny one
    top_k: int = 0  # keeps the k largest; 0 for all
    top_p: float = 1.0  # keeps the fewest whose probability reaches p


PLAIN = LogitFilter()


def check_filter(options: LogitFilter) -> None:
    """Raises ValueError for options outside their ranges."""
    if not 0 <= options.temperature < math.inf:
        raise ValueError(f"temperature must be finite and not negative, got {options.temperature}")
    _check_top_k(options.top_k)
    _check_top_p(options.top_p)


def _check_top_k(k: int) -> None:
    if k < 0:
        raise ValueError(f"top_k counts tokens, 0 for all; got {k}")


def _check_top_p(p: float) -> None:
    if not 0 < p <= 1:
        raise ValueError(f"top_p is a probability above 0, got {p}")


def keep_top_k(logits: Array, k: int) -> Array:
    """-inf for all but the k largest (and those that equal the k-th): [..., n] -> [..., n]; k = 0 keeps all.

    Raises:
        ValueError: a negative k.
    """
    _check_top_k(k)
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def keep_top_p(logits: Array, p: float) -> Array:
    """-inf for those whose larger ones have probability p or more together: [..., n] -> [..., n]; p = 1 keeps all.

    So the fewest of the largest stay whose probability reaches p, and always one. A sum that is p but for rounding, up
    to 1e-5 of it, reaches p: of (.5, .3, .1, .1), p = .8 keeps two.

    Raises:
        ValueError: p outside (0, 1].
    References:
        Holtzman et al., The Curious Case of Neural Text Degeneration, arXiv:1904.09751, section 3.1.
    """
    _check_top_p(p)
    if p == 1:
        return logits
    order = jnp.argsort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(
        jnp.take_along_axis(logits, order, -1).astype(jnp.promote_types(logits.dtype, jnp.float32))
    )
    before = jnp.cumsum(probabilities, -1) - probabilities
    kept = jnp.take_along_axis(before < p * (1 - 1e-5), jnp.argsort(order, axis=-1), -1)
    return jnp.where(kept, logits, -jnp.inf)


def filter_logits(logits: Array, options: LogitFilter) -> Array:
    """Temperature, then top-k, then top-p: [..., n] -> [..., n], -inf for what is never drawn.

    Raises:
        ValueError: options outside their ranges.
    """
    check_filter(options)
    if options.temperature == 0:
        first = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
        return jnp.where(first, 0.0, -jnp.inf)
    if options.temperature != 1:
        # From the largest down, so that no quotient overflows upwards; what overflows downwards is never drawn.
        smallest = float(jnp.finfo(logits.dtype).tiny)
        logits = (logits - logits.max(-1, keepdims=True)) / max(options.temperature, smallest)
    return keep_top_p(keep_top_k(logits, options.top_k), options.top_p)
