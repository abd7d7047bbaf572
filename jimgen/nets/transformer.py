"""One transformer for every family: tokens in, tokens out. Stems and heads around it are in stems.py.

A family is a stem, a mask and a head around one Backbone. A causal mask makes it autoregressive, no mask and a MASK
token masked prediction, a mask of levels next-scale prediction; no mask and the time as condition, flow matching.
"""

import math
from collections.abc import Callable
from functools import partial
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.core import Tracer

from jimgen.nets.layers import Dtype, at_least_float32, xavier

# (q [b, t, heads, d], k and v [b, s, heads, d], mask bool [b or 1, 1, t, s] or None) -> [b, t, heads, d], as q's dtype.
Attention = Callable[[Array, Array, Array, Array | None], Array]


def einsum_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """softmax(q k^T / sqrt d) v, logits and softmax in float32 at least: the form that is fast on CPU at few tokens.

    Every derivative goes through it, forward mode included. A query that may attend to nothing gets zeros.
    """
    precise = jnp.promote_types(q.dtype, jnp.float32)
    logits = jnp.einsum("bthd,bshd->bhts", q * q.shape[-1] ** -0.5, k, preferred_element_type=precise)
    if mask is None:
        weights = nn.softmax(logits)
    else:
        # Masked twice: before, so that they take no share; after, so that a row without any is zero, not uniform.
        weights = jnp.where(mask, nn.softmax(jnp.where(mask, logits, jnp.finfo(precise).min)), 0)
    return jnp.einsum("bhts,bshd->bthd", weights.astype(v.dtype), v)


def xla_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """The library's attention on XLA: any dtype, and forward mode. Every query must be allowed some key."""
    return jax.nn.dot_product_attention(q, k, v, mask=mask, implementation="xla")


def cudnn_attention(q: Array, k: Array, v: Array, mask: Array | None) -> Array:
    """cuDNN's fused attention, on NVIDIA GPUs only. No forward mode. Every query must be allowed some key.

    Raises:
        ValueError: it takes float16 or bfloat16, and head sizes that are multiples of 8 up to 128.
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
    """Bool [num_queries, num_keys]: query i stands at place start + i and may attend to keys up to that place."""
    place = start + jnp.arange(num_queries, dtype=jnp.int32)
    return place[:, None] >= jnp.arange(num_keys or num_queries, dtype=jnp.int32)[None]


def grid_positions(height: int, width: int) -> Array:
    """Row and column of each token of a grid read row by row: float32 [height * width, 2]."""
    return jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).reshape(-1, 2) * 1.0


def rotary_angles(positions: Array, head_dim: int, base: float) -> tuple[Array, Array]:
    """Cosines and sines of the rotations of each token: positions [..., t, 2] -> [..., t, 1, head_dim / 2] each.

    The first half of the pairs turns with the row, the second with the column: position * base^(-i / n), i < n =
    head_dim / 4 (Su et al., RoFormer, arXiv:2104.09864, eq. 15, on each axis).
    """
    frequencies = base ** (-np.arange(head_dim // 4) / (head_dim // 4))
    angles = positions[..., None] * jnp.asarray(frequencies, positions.dtype).reshape((1,) * positions.ndim + (-1,))
    angles = angles.reshape(*positions.shape[:-1], 1, head_dim // 2)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Turns each pair (x_i, x_(i + d/2)) of x [b, t, heads, d] by its token's angle."""
    cosine, sine = (a if a.ndim == 4 else a[None] for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)


def num_heads(width: int, head_dim: int) -> int:
    """How many attention heads of a given width make up the width of the tokens, exactly.

    Raises:
        ValueError: head_dim is no multiple of 4, which rotary positions need, or does not divide the width.
    """
    if head_dim >= 4 and head_dim % 4 == 0 and width % head_dim == 0:
        return width // head_dim
    fitting = [size for size in range(4, width + 1, 4) if width % size == 0]
    use = f"use {', '.join(map(str, fitting))}" if fitting else "no head does: make the width a multiple of 4"
    raise ValueError(f"--head-dim {head_dim} must be a multiple of 4 that divides --width {width}: {use}")


class Norm(nn.Module):
    """x / rms(x) (Zhang and Sennrich, arXiv:1910.07467), or layer normalisation, over the last axis; in float32."""

    kind: Literal["rms", "layer"] = "rms"
    affine: bool = True  # learnt scale, and bias for layer normalisation
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = at_least_float32(x)
        if self.kind == "layer":
            x -= x.mean(-1, keepdims=True)
        x *= lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        shape = (1,) * (x.ndim - 1) + (-1,)
        if self.affine:
            x *= self.param("scale", nn.initializers.ones, x.shape[-1:]).reshape(shape)
        if self.affine and self.kind == "layer":
            x += self.param("bias", nn.initializers.zeros, x.shape[-1:]).reshape(shape)
        return x


class Cache(NamedTuple):
    """Keys and values of the tokens that a decoder has seen, each [b, heads, s, head_dim] a block, in compute dtype.

    Unrolled blocks have an array each; scanned ones share one, [depth, b, heads, s, head_dim]. Both choices are for XLA
    on CPU: heads before places are multiplied without a copy, and so are arrays that are no slice of another.
    """

    k: tuple[Array, ...] | Array
    v: tuple[Array, ...] | Array
    index: Array  # int32 []: tokens written

    @property
    def num_places(self) -> int:
        """s, the tokens that there is room for."""
        return jax.tree.leaves(self.k)[0].shape[-2]


class Block(nn.Module):
    """x + gate attention(norm x), then x + gate mlp(norm x). Fields as of Backbone."""

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
        """Dropout whose mask belongs to the example, as all noise here does: the same in every mode."""
        if not self.dropout or keys is None:
            return y
        keep = 1 - self.dropout
        keys = jax.vmap(lambda key: jax.random.fold_in(key, 2 * layer + part))(keys)
        kept = jax.vmap(lambda key: jax.random.bernoulli(key, keep, y.shape[1:]))(keys)
        return jnp.where(kept, y / keep, 0)


def _modulation(cond: Array, count: int, name: str) -> list[Array]:
    """`count` vectors for each token, [b, t or 1, d] each, that start at zero (adaLN-zero); in float32."""
    layer = nn.Dense(count * cond.shape[-1], kernel_init=nn.initializers.zeros, dtype=cond.dtype, name=name)
    parts = layer(cond)
    return jnp.split(parts if parts.ndim == 3 else parts[:, None], count, axis=-1)


def _modulate(x: Array, shift: Array | None, scale: Array | None) -> Array:
    return x if shift is None or scale is None else x * (1 + scale) + shift


def _scaled(x: Array, gate: Array | None) -> Array:
    return x if gate is None else x * gate


class Backbone(nn.Module):
    """A pre-norm transformer, tokens [b, t, width] -> [b, t, width] float32, ending in a norm: a head is a linear map.

    With a condition, shift, scale and gate of each block and of the last norm are linear in silu(cond) and start at
    zero (adaLN-zero; Peebles and Xie, arXiv:2212.09748): at the start each block is the identity. Only matrix products
    run in `dtype`; parameters, norms, softmax, modulation and the residual stream are float32. A prefix condition needs
    nothing here: it is more tokens.
    """

    width: int = 256
    depth: int = 6
    num_heads: int = 4
    hidden: int = (
        0  # units of the MLP; 0 for 4 width (GELU), or as many parameters in SwiGLU: 8/3 width, a multiple of 8
    )
    mlp: Literal["swiglu", "gelu"] = "swiglu"
    norm: Literal["rms", "layer"] = "rms"
    qk_norm: bool = True  # RMS norm of queries and keys (Henry et al., arXiv:2010.04245)
    use_bias: bool = False
    dropout: float = 0.0  # after attention and MLP
    rotary_base: float = 100.0
    attention: Attention = einsum_attention
    remat: bool = False  # compute activations again in the backward pass: less memory, a third more work
    scan: bool | None = None  # one compiled block for all, parameters stacked [depth, ...]; None: from depth 12 on
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
        if cache is not None:
            num_keys = cache.num_places
            _check_room(cache, num_new)
            if mask is None:  # all tokens that there are
                mask = jnp.broadcast_to(jnp.arange(num_keys)[None] < cache.index + num_new, (num_new, num_keys))
        else:
            num_keys = num_new
        angles = None if positions is None else rotary_angles(positions, self.width // self.num_heads, self.rotary_base)
        mask = _as_heads(mask, x.shape[0], num_new, num_keys)
        x = at_least_float32(x)
        cond = None if cond is None else nn.silu(at_least_float32(cond))

        hidden = self.hidden or (4 * self.width if self.mlp == "gelu" else math.ceil(self.width / 3) * 8)
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
            hidden=hidden,
            mlp=self.mlp,
            norm=self.norm,
            qk_norm=self.qk_norm,
            use_bias=self.use_bias,
            dropout=self.dropout,
            attention=self.attention,
            dtype=self.dtype,
        )
        shared = 0 if cache is None else cache.index, cond, angles, mask, dropout_keys
        if scan:
            layers = jnp.arange(self.depth, dtype=jnp.int32)
            x, written = make(name="blocks")(x, layers, None if cache is None else (cache.k, cache.v), *shared)
        else:
            each = []
            for layer in range(self.depth):
                cached = None if cache is None else (cache.k[layer], cache.v[layer])
                x, cached = make(name=f"block{layer}")(x, layer, cached, *shared)
                each.append(cached)
            written = None if cache is None else tuple(zip(*each, strict=True))
        x = Norm(self.norm, cond is None, name="norm")(x)
        if cond is not None:
            x = _modulate(x, *_modulation(cond, 2, "modulation"))
        return x, None if cache is None or written is None else Cache(written[0], written[1], cache.index + num_new)

    def __call__(
        self,
        x: Array,
        *,
        positions: Array | None = None,
        cond: Array | None = None,
        mask: Array | None = None,
        dropout_keys: Array | None = None,
    ) -> Array:
        """All tokens at once.

        Args:
            x: [b, t, width] float.
            positions: float [t, 2] or [b, t, 2], row and column of each token, for rotary embedding; None for none.
            cond: [b, width] or [b, t, width] float, what modulates all tokens or each; None for plain pre-norm blocks.
            mask: bool [t, t] or [b, t, t], True where query (first axis) may attend to key; None for everywhere.
            dropout_keys: keys [b], one an example (noise.example_keys); None for no dropout.
        Returns:
            [b, t, width], float32 at least.
        Raises:
            ValueError: heads that do not divide the width or that rotary embedding cannot turn, wrong shapes.
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
        """The next tokens x [b, n, width], n >= 1, after those in the cache; what they are is added to it.

        Args:
            as of a call, for the new tokens alone; but mask: bool [n, s] or [b, n, s] over the cache's s places; None
                for all tokens there are, old and new. For a causal pass of n > 1 give causal_mask(n, s, cache.index).
        Returns:
            [b, n, width], and the cache with n tokens more.
        Raises:
            ValueError: wrong shapes, or a cache that is too short (outside jit; within, the caller sees to it).
        """
        y, after = self._run(x, positions, cond, mask, None, cache)
        assert after is not None
        return y, after

    def empty_cache(self, batch_size: int, num_tokens: int) -> Cache:
        """A cache with room for num_tokens tokens of each example."""
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


def _as_heads(mask: Array | None, b: int, t: int, s: int) -> Array | None:
    """A mask bool [t, s] or [b, t, s] -> [1 or b, 1, t, s]."""
    if mask is None:
        return None
    if mask.dtype != bool or mask.shape not in ((t, s), (b, t, s)):
        raise ValueError(f"expected mask bool [{t}, {s}] or [{b}, {t}, {s}], got {mask.dtype} {list(mask.shape)}")
    return mask.reshape(-1, 1, t, s)


def _check_room(cache: Cache, num_new: int) -> None:
    places = cache.num_places
    known = 0 if isinstance(cache.index, Tracer) else int(cache.index)
    if known + num_new > places:
        raise ValueError(f"a cache of {places} places holds {known} tokens and has no room for {num_new} more")
