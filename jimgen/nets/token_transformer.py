"""A transformer over the tokens of an image, in any order (GPT; with target places as in RAR, arXiv:2411.00776)."""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from jimgen.conditions import NumClasses
from jimgen.nets.attention import causal_mask
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import at_least_float32, normal_02
from jimgen.nets.positions import grid_positions
from jimgen.nets.transformer import Backbone, Cache


class TokenTransformer(nn.Module):
    """Tokens int32 [b, t] in decoding order -> logits [b, t, num_codes], each from the label and the tokens before it.

    The input at i is the embedding of token i - 1, or of the label for i = 0, plus embeddings of its own place and of
    the place of token i. The output layer starts at zero, which gives uniform probabilities.
    """

    num_codes: int
    grid: tuple[int, int]
    num_classes: NumClasses  # 0: labels are ignored
    backbone: Backbone

    @property
    def num_places(self) -> int:
        """t, the number of tokens of an image."""
        return math.prod(self.grid)

    def setup(self) -> None:
        width = self.backbone.width
        self.token = nn.Embed(self.num_codes, width, embedding_init=normal_02)
        self.label = LabelEmbedding(self.num_classes, width)
        self.place = self.param("place", normal_02, (self.num_places, width))
        self.target = self.param("target", normal_02, (self.num_places, width))
        zeros = nn.initializers.zeros
        self.output = nn.Dense(self.num_codes, kernel_init=zeros, dtype=self.backbone.dtype)

    def __call__(self, tokens: Array, labels: Array, order: Array, dropout_keys: Array | None = None) -> Array:
        """Computes the logits of all tokens at once.

        Args:
            tokens: int32 [b, t] in 0..num_codes-1, in decoding order.
            labels: int32 [b] or [b, columns]; see jimgen/conditions.py.
            order: int32 [b, t], the place of each token on the grid, counted row by row.
            dropout_keys: see Backbone.
        Returns: Logits [b, t, num_codes], in float32 or higher.
        Raises:
            ValueError: if tokens or order have another shape.
        """
        shape = (labels.shape[0], self.num_places)
        if tokens.shape != shape or order.shape != shape:
            raise ValueError(f"expected tokens and order {list(shape)}, got {list(tokens.shape)}, {list(order.shape)}")
        before = self.token(tokens[:, :-1]) + self.place[order[:, :-1]]
        x = jnp.concatenate([self._start(labels), before], axis=1) + self.target[order]
        places = grid_positions(*self.grid)[order[:, :-1]]
        positions = jnp.pad(places, ((0, 0), (1, 0), (0, 0)))
        mask = causal_mask(self.num_places)
        y = self.backbone(x, positions=positions, mask=mask, dropout_keys=dropout_keys)
        return at_least_float32(self.output(y))

    def empty(self, batch_size: int) -> Cache:
        """The initial state of decoding."""
        return self.backbone.empty_cache(batch_size, self.num_places)

    def decode(self, cache: Cache, tokens: Array, i: Array, labels: Array, order: Array) -> tuple[Array, Cache]:
        """Computes the logits of the i-th token only; call it for i = 0, 1, .. in turn.

        Args:
            cache: the state from `empty`, or from token i - 1.
            tokens: int32 [b, t] in decoding order; only tokens before i are used.
            i: int32 [].
            labels: int32 [b] or [b, columns].
            order: int32 [b, t].
        Returns: Logits [b, num_codes], and the cache for i + 1.
        """
        place = lax.dynamic_slice_in_dim(order, jnp.maximum(i - 1, 0), 1, axis=1)
        token = lax.dynamic_slice_in_dim(tokens, jnp.maximum(i - 1, 0), 1, axis=1)
        target = self.target[lax.dynamic_slice_in_dim(order, i, 1, axis=1)]
        x = jnp.where(i == 0, self._start(labels), self.token(token) + self.place[place]) + target
        positions = jnp.where(i == 0, 0.0, grid_positions(*self.grid)[place])
        y, cache = self.backbone.decode(x, cache, positions=positions)
        return at_least_float32(self.output(y))[:, 0], cache

    def _start(self, labels: Array) -> Array:
        return self.label(labels if self.num_classes else labels * 0)[:, None]
