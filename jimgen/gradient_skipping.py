"""Skipping updates whose gradient is unusually large, without stopping for ever."""

from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array

MEDIAN_STEP = 0.02  # change of the logarithm of the median per update; the first ones are larger, 1, 1/2, 1/3, ...


class SkippingState(NamedTuple):
    """The state of `skip_large_gradients`."""

    inner: Any
    updates: Array  # int32 [], gradients seen
    log_median: Array  # float32 [], running median of log norms
    skipped: Array  # int32 [], in all
    in_a_row: Array  # int32 []


def skip_large_gradients(
    tx: optax.GradientTransformation, least: float = 200.0, factor: float = 10.0, most_in_a_row: int = 10
) -> optax.GradientTransformation:
    """Skips updates where the gradient's norm exceeds max(least, factor times its running median).

    A fixed threshold (Child, arXiv:2011.10650) stops training for ever once every gradient exceeds it. Here large norms
    raise the median too, and after `most_in_a_row` skipped updates the next one is made with its gradient scaled down
    to the threshold. Updates that are not finite are left to the train step.

    Args:
        tx: the optimiser. Its state does not change where an update is skipped.
        least: threshold of the norm that is always allowed, > 0.
        factor: > 1, of the running median.
        most_in_a_row: skipped updates after which one is made, >= 1.
    Raises:
        ValueError: for numbers outside of these ranges.
    """
    if not (least > 0 and factor > 1 and most_in_a_row >= 1):
        raise ValueError(
            f"skipping needs least > 0, factor > 1, most_in_a_row >= 1; got {least}, {factor}, {most_in_a_row}"
        )

    def init(params: Any) -> SkippingState:
        zero = jnp.zeros((), jnp.int32)
        return SkippingState(tx.init(params), zero, jnp.zeros(()), zero, zero)

    def update(updates: Any, state: Any, params: Any = None) -> tuple[Any, SkippingState]:
        norm = optax.tree.norm(updates)
        log_norm = jnp.log(jnp.maximum(norm, 1e-30)).astype(jnp.float32)
        threshold = jnp.maximum(least, factor * jnp.exp(jnp.where(state.updates == 0, log_norm, state.log_median)))
        is_large = norm > threshold
        skips = is_large & (state.in_a_row < most_in_a_row)
        scale = jnp.where(is_large, threshold / jnp.maximum(norm, 1e-30), 1.0)
        scaled = jax.tree.map(lambda g: (scale * g).astype(g.dtype), updates)
        updates, inner = tx.update(scaled, state.inner, params)
        updates = jax.tree.map(lambda u: jnp.where(skips, 0, u), updates)
        inner = jax.tree.map(lambda new, old: jnp.where(skips, old, new), inner, state.inner)
        size = jnp.maximum(MEDIAN_STEP, 1 / jnp.maximum(state.updates, 1))
        moved = state.log_median + size * jnp.sign(log_norm - state.log_median)
        counted = skips.astype(jnp.int32)
        return updates, SkippingState(
            inner,
            state.updates + 1,
            jnp.where(state.updates == 0, log_norm, moved),
            state.skipped + counted,
            jnp.where(skips, state.in_a_row + 1, 0),
        )

    return optax.GradientTransformation(init, update)


def skipping_metrics(state: SkippingState) -> dict[str, Array]:
    """What `skip_large_gradients` has done: large_gradients, the skipped updates in all, and the median of norms."""
    return {
        "large_gradients": state.skipped.astype(jnp.float32),
        "median_grad_norm": jnp.exp(state.log_median),
    }
