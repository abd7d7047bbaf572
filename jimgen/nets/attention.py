"""Attention in three forms with one signature, and masks for it."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

# (q [b, t, heads, d], k and v [b, s, heads, d], mask bool [b or 1, 1, t, s] or None) -> [b, t, heads, d], q's dtype.
Attention = Callable[[Array, Array, Array, Array | None], Array]


def einsum_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """softmax(q k^T / sqrt d) v, with logits and softmax in float32 or higher: fast on CPU for few tokens.

    It supports every kind of differentiation, forward mode included. Queries with no allowed key return zeros.
    """
    precise = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bthd,bshd->bhts", q * q.shape[-1] ** -0.5, k, preferred_element_type=precise)
    if mask is None:
        weights = nn.softmax(logits)
    else:
        # Masked before the softmax, so that masked keys get no weight, and after it, so that empty rows are zero.
        weights = jnp.where(mask, nn.softmax(jnp.where(mask, logits, jnp.finfo(precise).min)), 0)
    return jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v)


def xla_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """JAX's attention on XLA: any dtype, and forward mode. Every query must have an allowed key."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def cudnn_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """cuDNN's fused attention, only on NVIDIA GPUs and without forward mode. Every query must have an allowed key.

    Raises:
        ValueError: unless the dtype is float16 or bfloat16, and the head size a multiple of 8 up to 128.
    """
    if q.dtype.itemsize != 2 or q.shape[-1] % 8 or q.shape[-1] > 128:
        raise ValueError(
            "cuDNN attention takes float16 or bfloat16 and heads of a multiple of 8 up to 128, got "
            f"{q.dtype} and {q.shape[-1]}: use xla_attention"
        )
    if mask is not None:
        mask = jnp.broadcast_to(mask, (mask.shape[0], 1, q.shape[1], k.shape[1]))
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="cudnn")


def causal_mask(num_queries: int, num_keys: int | None = None, start: Array | int = 0) -> Array:
    """Bool [num_queries, num_keys]: query i is at place start + i and may attend to keys up to that place."""
    place = start + jnp.arange(num_queries, dtype=jnp.int32)
    return place[:, None] >= jnp.arange(num_keys or num_queries, dtype=jnp.int32)[None]


def as_head_mask(mask: Array | None, b: int, t: int, s: int) -> Array | None:
    """Reshapes a mask bool [t, s] or [b, t, s] to [1 or b, 1, t, s]. Raises ValueError for another dtype or shape."""
    if mask is None:
        return None
    if mask.dtype != bool or mask.shape not in ((t, s), (b, t, s)):
        raise ValueError(f"expected mask bool [{t}, {s}] or [{b}, {t}, {s}], got {mask.dtype} {list(mask.shape)}")
    return mask.reshape(-1, 1, t, s)
