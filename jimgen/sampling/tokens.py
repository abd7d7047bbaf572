"""Decoding of tokens: one at a time (autoregressive models), or many at a time (MaskGIT)."""

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen import noise
from jimgen.conditions import NumClasses
from jimgen.sampling.guidance import guide, with_and_without
from jimgen.sampling.logits import LogitFilter, filter_logits

Step = Callable[[Any, Array, Array], tuple[Array, Any]]  # (decoding, tokens [n, t], i) -> logits [n, k], decoding


def guided_step(
    step: Callable[[Any, Array, Array, Array], tuple[Array, Any]], labels: Array, num_classes: NumClasses, weight: float
) -> tuple[Step, int]:
    """A decoding step for given labels with guidance, and the number of copies of each example that it decodes."""
    if weight == 1:
        return lambda decoding, tokens, i: step(decoding, tokens, i, labels), 1
    both = with_and_without(labels, num_classes)

    def run(decoding: Any, tokens: Array, i: Array) -> tuple[Array, Any]:
        logits, decoding = step(decoding, jnp.concatenate([tokens, tokens]), i, both)
        conditional, unconditional = jnp.split(logits, 2)
        return guide(conditional, unconditional, weight), decoding

    return run, 2


def decode_one_by_one(
    step: Step, decoding: Any, tokens: Array, known: Array, key: Array, options: LogitFilter
) -> Array:
    """Draws the unknown tokens one by one: tokens int32 [n, t], known bool [n, t] -> int32 [n, t]."""
    index = jnp.arange(tokens.shape[0])

    def body(carry: tuple[Array, Any], i: Array) -> tuple[tuple[Array, Any], None]:
        tokens, decoding = carry
        logits, decoding = step(decoding, tokens, i)
        keys = noise.example_keys(jax.random.fold_in(key, i), index)
        drawn = jax.vmap(jax.random.categorical)(keys, filter_logits(logits, options)).astype(tokens.dtype)
        return (tokens.at[:, i].set(jnp.where(known[:, i], tokens[:, i], drawn)), decoding), None

    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    return lax.scan(body, (tokens, decoding), places)[0][0]


def lowest(values: Array, count: Array) -> Array:
    """True for the `count` [n] lowest values of each row of [n, t]: bool [n, t]. Earlier ones win ties."""
    ranks = jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)
    return ranks < count[:, None]


def num_masked(num_unknown: np.ndarray | Array, num_steps: int, most: int) -> Array:
    """The number of masked tokens after each step, from `num_unknown` int [n] <= most at the start: [num_steps, n].

    floor(N cos(pi (s + 1) / (2 T))) for s = 0 .. T - 1: 16 in 4 steps leave 14, 11, 6, 0. `decode_in_parallel` clips
    it to at most the number of unknown tokens less 1, and to at least 1. Chang et al., arXiv:2202.04200, section 3.3.
    """
    # In float64, because floor of 11.999999 instead of 12 would be wrong.
    ratios = np.cos(np.pi * np.arange(1, num_steps + 1) / (2 * num_steps))
    table = np.floor(ratios[:, None] * np.arange(most + 1)[None] + 1e-9).astype(np.int32)
    return jnp.asarray(table)[:, num_unknown]


def decode_in_parallel(
    logits_of: Callable[[Array], Array],
    tokens: Array,
    key: Array,
    num_codes: int,
    num_steps: int,
    choice_temperature: float,
) -> Array:
    """MaskGIT's decoding as one scan: each step draws all unknown tokens and keeps the most confident ones.

    Confidence is log p(token) + tau (1 - (s + 1) / T) g with Gumbel noise g, and infinite for known tokens. The clipped
    schedule leaves one token masked after the last step, so the result is taken before that step masks again.

    Args:
        logits_of: tokens int32 [n, t] -> logits [n, t, num_codes].
        tokens: int32 [n, t], num_codes where unknown.
        key: a PRNG key.
        num_codes: K, also the MASK token.
        num_steps: T.
        choice_temperature: tau.
    Returns: int32 [n, t] in [0, num_codes); known tokens unchanged.
    """
    n, t = tokens.shape
    keys = noise.example_keys(key, jnp.arange(n))
    schedule = num_masked((tokens == num_codes).sum(-1), num_steps, t)

    def gumbel(step: Array, part: int, shape: tuple[int, ...]) -> Array:
        def draw(key: Array) -> Array:
            return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(key, step), part), shape)

        return jax.vmap(draw)(keys)

    def one(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        tokens, _ = carry
        step, still = at
        unknown = tokens == num_codes
        log_p = jax.nn.log_softmax(logits_of(tokens))
        drawn = jnp.argmax(log_p + gumbel(step, 0, log_p.shape[1:]), axis=-1).astype(jnp.int32)
        drawn = jnp.where(unknown, drawn, tokens)
        heat = choice_temperature * (1 - (step + 1) / num_steps)
        confidence = jnp.take_along_axis(log_p, drawn[..., None], axis=-1)[..., 0] + heat * gumbel(step, 1, (t,))
        confidence = jnp.where(unknown, confidence, jnp.inf)
        count = jnp.maximum(1, jnp.minimum(unknown.sum(-1) - 1, still))
        again = lowest(confidence, count) & unknown
        return (jnp.where(again, num_codes, drawn), drawn), None

    (_, drawn), _ = lax.scan(one, (tokens, tokens), (jnp.arange(num_steps), schedule))
    return drawn
