"""From logits to draws: guidance, temperature, top-k and top-p, in this order. Logits are [..., k] float."""

import math
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array


class LogitFilter(NamedTuple):
    """What is done to the logits before one draws. The defaults change nothing."""

    temperature: float = 1.0  # divides them; 0 takes the largest
    top_k: int = 0  # keeps the k largest; 0 for all
    top_p: float = 1.0  # keeps the fewest whose probability reaches p


PLAIN = LogitFilter()


def check_filter(options: LogitFilter) -> None:
    """Raises ValueError for options outside their ranges."""
    if not 0 <= options.temperature < math.inf:
        raise ValueError(f"temperature must be finite and not negative, got {options.temperature}")
    if options.top_k < 0:
        raise ValueError(f"top_k counts tokens, 0 for all; got {options.top_k}")
    if not 0 < options.top_p <= 1:
        raise ValueError(f"top_p is a probability above 0, got {options.top_p}")


def guide_logits(conditional: Array, unconditional: Array, weight: Array | float) -> Array:
    """u + w (c - u): log-probabilities up to a constant, of p_u^(1 - w) p_c^w; w = 1 is the conditional alone.

    Args:
      conditional, unconditional: [..., k] float.
      weight: w, a scalar.

    Returns:
      [..., k].

    Raises:
      ValueError: shapes that differ.

    References: Ho and Salimans, Classifier-Free Diffusion Guidance, arXiv 2207.12598, equation 6 with w there = w - 1.
    """
    if conditional.shape != unconditional.shape:
        raise ValueError(f"expected equal shapes, got {list(conditional.shape)} and {list(unconditional.shape)}")
    return unconditional + weight * (conditional - unconditional)


def keep_top_k(logits: Array, k: int) -> Array:
    """-inf for all but the k largest (and those that equal the k-th): [..., n] -> [..., n]; k = 0 keeps all."""
    if k == 0 or k >= logits.shape[-1]:
        return logits
    least = jax.lax.top_k(logits, k)[0][..., -1:]
    return jnp.where(logits >= least, logits, -jnp.inf)


def keep_top_p(logits: Array, p: float) -> Array:
    """-inf for those whose larger ones have probability p or more together: [..., n] -> [..., n]; p = 1 keeps all.

    So the fewest of the largest stay whose probability reaches p, and always one. References: Holtzman et al., The
    Curious Case of Neural Text Degeneration, arXiv 1904.09751, section 3.1.
    """
    if p >= 1:
        return logits
    order = jnp.argsort(logits, axis=-1, descending=True)
    probabilities = jax.nn.softmax(jnp.take_along_axis(logits, order, -1))
    before = jnp.cumsum(probabilities, -1) - probabilities
    kept = jnp.take_along_axis(before < p, jnp.argsort(order, axis=-1), -1)
    return jnp.where(kept, logits, -jnp.inf)


def filter_logits(logits: Array, options: LogitFilter) -> Array:
    """Temperature, then top-k, then top-p: [..., n] -> [..., n], -inf for what is never drawn."""
    if options.temperature == 0:
        first = jax.nn.one_hot(jnp.argmax(logits, -1), logits.shape[-1], dtype=bool)
        return jnp.where(first, 0.0, -jnp.inf)
    return keep_top_p(keep_top_k(logits / options.temperature, options.top_k), options.top_p)
