"""One transformer for all model families: tokens in, tokens out. embeddings.py has the layers before and after it.

The families differ in embedding, mask and head around the same Backbone. A causal mask makes it autoregressive; no mask
and a MASK token give masked prediction, a block-causal mask next-scale prediction; no mask and the time as condition
give flow matching.
"""

import math
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax
from jax.core import Tracer

from jimgen.nets.attention import (
    Attention,
    as_head_mask,
    causal_mask,
    cudnn_attention,
    einsum_attention,
    xla_attention,
)
from jimgen.nets.layers import Dtype, Norm, at_least_float32, xavier
from jimgen.nets.positions import grid_positions, rotary_angles, rotate

# Experiments in the folders of existing runs import these names from here.
__all__ = [
    "Attention",
    "Backbone",
    "Block",
    "Cache",
    "Norm",
    "causal_mask",
    "cudnn_attention",
    "einsum_attention",
    "grid_positions",
    "num_heads",
    "rotary_angles",
    "rotate",
    "xla_attention",
]


def num_heads(width: int, head_dim: int) -> int:
    """The number of attention heads of size head_dim in tokens of the given width.

    Raises:
        ValueError: if head_dim is not a multiple of 4, which rotary positions need, or does not divide the width.
    """
    if head_dim >= 4 and head_dim % 4 == 0 and width % head_dim == 0:
        return width // head_dim
    fitting = [size for size in range(4, width + 1, 4) if width % size == 0]
    use = f"use {', '.join(map(str, fitting))}" if fitting else "no head does: make the width a multiple of 4"
    raise ValueError(f"--head-dim {head_dim} must be a multiple of 4 that divides --width {width}: {use}")


class Cache(NamedTuple):
    """Keys and values of the tokens decoded so far, [b, heads, s, head_dim] per block, in the compute dtype.

    Unrolled blocks have one array each; scanned blocks share one, [depth, b, heads, s, head_dim]. This layout lets XLA
    on CPU multiply without copies: heads come before places, and the arrays are not slices of a larger one.
    """

    k: tuple[Array, ...] | Array
    v: tuple[Array, ...] | Array
    index: Array  # int32 []: number of tokens written

    @property
    def num_places(self) -> int:
        """s, the capacity in tokens."""
        return jax.tree.leaves(self.k)[0].shape[-2]


class Block(nn.Module):
    """x + gate attention(norm x), then x + gate mlp(norm x). Backbone documents the fields."""

    num_heads: int
    hidden: int
    mlp: str
    norm: Literal["rms", "layer"]
    qk_norm: bool
    use_bias: bool
    dropout: float
    attention: Attention
    dtype: Dtype

    @nn.compact
    def __call__(
        self,
        x: Array,
        layer: Array | int,
        cached: tuple[Array, Array] | None,
        index: Array | int,
        cond: Array | None,
        angles: tuple[Array, Array] | None,
        mask: Array | None,
        dropout_keys: Array | None,
    ) -> tuple[Array, tuple[Array, Array] | None]:
        width = x.shape[-1]
        dense = partial(nn.Dense, use_bias=self.use_bias, kernel_init=xavier, dtype=self.dtype)
        if cond is None:
            shift, scale, gate = [None, None], [None, None], [None, None]
        else:
            parts = _modulation(cond, 6, "modulation")
            shift, scale, gate = parts[0::3], parts[1::3], parts[2::3]

        y = _modulate(Norm(self.norm, cond is None, name="norm0")(x), shift[0], scale[0]).astype(self.dtype)
        qkv = dense(3 * width, name="qkv")(y).reshape(*x.shape[:2], 3, self.num_heads, width // self.num_heads)
        q, k, v = qkv[:, :, 0], qkv[:, :, 1], qkv[:, :, 2]
        if self.qk_norm:
            q, k = Norm(name="q_norm")(q), Norm(name="k_norm")(k)
        if angles is not None:
            q, k = rotate(at_least_float32(q), angles), rotate(at_least_float32(k), angles)
        q, k = q.astype(self.dtype), k.astype(self.dtype)
        if cached is not None:
            place = (0, 0, index, 0)
            all_k = lax.dynamic_update_slice(cached[0], k.swapaxes(1, 2), place)
            all_v = lax.dynamic_update_slice(cached[1], v.swapaxes(1, 2), place)
            cached, k, v = (all_k, all_v), all_k.swapaxes(1, 2), all_v.swapaxes(1, 2)
        y = dense(width, name="out")(self.attention(q, k, v, mask).reshape(x.shape))
        x = x + _scaled(self._drop(y, layer, 0, dropout_keys), gate[0])

        y = _modulate(Norm(self.norm, cond is None, name="norm1")(x), shift[1], scale[1]).astype(self.dtype)
        if self.mlp == "swiglu":  # Shazeer, arXiv:2002.05202
            opened, y = jnp.split(dense(2 * self.hidden, name="up")(y), 2, axis=-1)
            y = nn.silu(opened) * y
        else:
            y = nn.gelu(dense(self.hidden, name="up")(y), approximate=True)
        y = dense(width, name="down")(y)
        return x + _scaled(self._drop(y, layer, 1, dropout_keys), gate[1]), cached

    def _drop(self, y: Array, layer: Array | int, part: int, keys: Array | None) -> Array:
        """Dropout with one key per example, so that masks are the same in every mode."""
        if not self.dropout or keys is None:
            return y
        keep = 1 - self.dropout
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 2 * layer + part))(keys)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, y.shape[1:]))(keys)
        return jnp.where(kept, y / keep, 0)


def _modulation(cond: Array, count: int, name: str) -> list[Array]:
    """`count` vectors per token, [b, t or 1, d] each, zero at initialisation (adaLN-zero); in float32."""
    layer = nn.Dense(count * cond.shape[-1], kernel_init=nn.initializers.zeros, dtype=cond.dtype, name=name)
    parts = layer(cond)
    return jnp.split(parts if parts.ndim == 3 else parts[:, None], count, axis=-1)


def _modulate(x: Array, shift: Array | None, scale: Array | None) -> Array:
    return x if shift is None or scale is None else x * (1 + scale) + shift


def _scaled(x: Array, gate: Array | None) -> Array:
    return x if gate is None else x * gate


class Backbone(nn.Module):
    """A pre-norm transformer: tokens [b, t, width] -> float32 [b, t, width]. It ends in a norm, for a linear head.

    With a condition, shift, scale and gate of each block, and shift and scale of the last norm, are linear in
    silu(cond) and zero at initialisation (adaLN-zero; Peebles and Xie, arXiv:2212.09748), so that each block starts as
    the identity. Only matrix products run in `dtype`; parameters, norms, softmax, modulation and the residual stream
    are float32.
    """

    width: int = 256
    depth: int = 6
    num_heads: int = 4
    hidden: int = 0  # units of the MLP; 0 for 4 width (GELU), or 8/3 width as a multiple of 8 (SwiGLU, as many params)
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    norm: Literal["rms", "layer"] = "rms"
    qk_norm: bool = True  # RMS norm of queries and keys (Henry et al., arXiv:2010.04245)
    use_bias: bool = False
    dropout: float = 0.0  # after attention and MLP
    rotary_base: float = 100.0
    attention: Attention = einsum_attention
    remat: bool = False  # recompute activations in the backward pass: less memory, a third more work
    scan: bool | None = None  # compile one block for all, parameters stacked [depth, ...]; None: if depth >= 12
    dtype: Dtype = jnp.float32

    @nn.compact
    def _run(
        self,
        x: Array,
        positions: Array | None,
        cond: Array | None,
        mask: Array | None,
        dropout_keys: Array | None,
        cache: Cache | None,
    ) -> tuple[Array, Cache | None]:
        self._check(x, positions, cond)
        num_new = x.shape[1]
        num_keys = num_new if cache is None else cache.num_places
        if cache is not None:
            _check_room(cache, num_new)
            if mask is None:  # attend to all tokens written so far
                mask = jnp.broadcast_to(jnp.arange(num_keys)[None] < cache.index + num_new, (num_new, num_keys))
        angles = None if positions is None else rotary_angles(positions, self.width // self.num_heads, self.rotary_base)
        mask = as_head_mask(mask, x.shape[0], num_new, num_keys)
        x = at_least_float32(x)
        cond = None if cond is None else nn.silu(at_least_float32(cond))
        x, written = self._run_blocks(x, cache, cond, angles, mask, dropout_keys)
        x = Norm(self.norm, cond is None, name="norm")(x)
        if cond is not None:
            x = _modulate(x, *_modulation(cond, 2, "modulation"))
        return x, None if cache is None or written is None else Cache(written[0], written[1], cache.index + num_new)

    def _run_blocks(self, x: Array, cache: Cache | None, *shared: Any) -> tuple[Array, Any]:
        """Applies all blocks, scanned or unrolled: the tokens, and the new keys and values if there is a cache."""
        scan = self._scans()
        block: Any = nn.remat(Block, prevent_cse=not scan) if self.remat else Block
        if scan:
            in_axes: Any = (0, 0, *[nn.broadcast] * 5)
            block = nn.scan(
                block, variable_axes={"params": 0}, split_rngs={"params": True}, in_axes=in_axes, length=self.depth
            )
        make = partial(
            block,
            num_heads=self.num_heads,
            hidden=self.hidden or (4 * self.width if self.mlp == "gelu" else math.ceil(self.width / 3) * 8),
            mlp=self.mlp,
            norm=self.norm,
            qk_norm=self.qk_norm,
            use_bias=self.use_bias,
            dropout=self.dropout,
            attention=self.attention,
            dtype=self.dtype,
        )
        shared = (0 if cache is None else cache.index, *shared)
        if scan:
            layers = jnp.arange(self.depth, dtype=jnp.int32)
            return make(name="blocks")(x, layers, None if cache is None else (cache.k, cache.v), *shared)
        each = []
        for layer in range(self.depth):
            cached = None if cache is None else (cache.k[layer], cache.v[layer])
            x, cached = make(name=f"block{layer}")(x, layer, cached, *shared)
            each.append(cached)
        return x, None if cache is None else tuple(zip(*each, strict=True))

    def __call__(
        self,
        x: Array,
        *,
        positions: Array | None = None,
        cond: Array | None = None,
        mask: Array | None = None,
        dropout_keys: Array | None = None,
    ) -> Array:
        """Applies the transformer to all tokens at once.

        Args:
            x: float [b, t, width].
            positions: float [t, 2] or [b, t, 2], row and column of each token, for rotary embedding; None for none.
            cond: float [b, width] or [b, t, width], modulates all tokens or each one; None for plain pre-norm blocks.
            mask: bool [t, t] or [b, t, t], True where a query (first axis) may attend to a key; None for no mask.
            dropout_keys: keys [b], one per example (noise.example_keys); None for no dropout.
        Returns: [b, t, width], in float32 or higher.
        Raises:
            ValueError: for head sizes that do not divide the width or do not suit rotary embedding, or wrong shapes.
        """
        return self._run(x, positions, cond, mask, dropout_keys, None)[0]

    def decode(
        self,
        x: Array,
        cache: Cache,
        *,
        positions: Array | None = None,
        cond: Array | None = None,
        mask: Array | None = None,
    ) -> tuple[Array, Cache]:
        """Applies the transformer to the next n >= 1 tokens, given the cached ones, and adds them to the cache.

        Args:
            x, positions, cond: see `__call__`, for the new tokens only.
            cache: from `empty_cache`, or from the previous call.
            mask: bool [n, s] or [b, n, s] over the cache's s places; None to attend to all tokens, old and new. For
                n > 1 causal tokens pass causal_mask(n, s, cache.index).
        Returns: [b, n, width], and the cache with n more tokens.
        Raises:
            ValueError: for wrong shapes, or a cache without room (not checked under jit).
        """
        y, after = self._run(x, positions, cond, mask, None, cache)
        assert after is not None
        return y, after

    def empty_cache(self, batch_size: int, num_tokens: int) -> Cache:
        """An empty cache with room for num_tokens tokens per example."""
        shape = (batch_size, self.num_heads, num_tokens, self.width // self.num_heads)

        def zeros() -> tuple[Array, ...] | Array:
            if self._scans():
                return jnp.zeros((self.depth, *shape), self.dtype)
            return tuple(jnp.zeros(shape, self.dtype) for _ in range(self.depth))

        return Cache(zeros(), zeros(), jnp.zeros((), jnp.int32))

    def _scans(self) -> bool:
        return self.depth >= 12 if self.scan is None else self.scan

    def _check(self, x: Array, positions: Array | None, cond: Array | None) -> None:
        if self.width % self.num_heads:
            raise ValueError(f"{self.num_heads} heads do not divide a width of {self.width}")
        if positions is not None and self.width // self.num_heads % 4:
            size = self.width // self.num_heads
            raise ValueError(f"rotary positions turn heads of a multiple of 4, got {size}: width / num_heads")
        if x.ndim != 3 or x.shape[-1] != self.width:
            raise ValueError(f"expected tokens [b, t, {self.width}], got {list(x.shape)}")
        b, t, width = x.shape
        if positions is not None and positions.shape not in ((t, 2), (b, t, 2)):
            raise ValueError(f"expected positions [{t}, 2] or [{b}, {t}, 2], got {list(positions.shape)}")
        if cond is not None and cond.shape not in ((b, width), (b, t, width)):
            raise ValueError(f"expected cond [{b}, {width}] or [{b}, {t}, {width}], got {list(cond.shape)}")


def _check_room(cache: Cache, num_new: int) -> None:
    places = cache.num_places
    known = 0 if isinstance(cache.index, Tracer) else int(cache.index)
    if known + num_new > places:
        raise ValueError(f"a cache of {places} places holds {known} tokens and has no room for {num_new} more")
