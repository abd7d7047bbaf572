"""A bidirectional transformer over tokens, some of them masked (MaskGIT; Chang et al., arXiv:2202.04200)."""

import math

import flax.linen as nn
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.embeddings import TokenEmbedding
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import at_least_float32
from jimgen.nets.positions import grid_positions, sincos_embedding
from jimgen.nets.transformer import Backbone


class MaskedTransformer(nn.Module):
    """Tokens in raster order, num_codes for MASK -> logits float32 [b, t, num_codes], zero at initialisation.

    Every token attends to every other; the label is the backbone's condition.

    Args:
        tokens: int32 [b, t] in [0, num_codes].
        labels: int32 [b] or [b, columns]; see jimgen/conditions.py.
        dropout_keys: see Backbone.
    Raises:
        ValueError: if tokens do not fill the grid, or are out of range.
    """

    num_codes: int
    grid: tuple[int, int]
    num_classes: NumClasses
    backbone: Backbone

    @nn.compact
    def __call__(self, tokens: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        if tokens.shape[1:] != (math.prod(self.grid),):
            raise ValueError(f"expected tokens [b, {math.prod(self.grid)}] of a grid {self.grid}, got {tokens.shape}")
        width, positions = self.backbone.width, grid_positions(*self.grid)
        x = TokenEmbedding(self.num_codes, width, name="token")(tokens) + sincos_embedding(positions, width)[None]
        cond = LabelEmbedding(self.num_classes, width, name="label")(labels)
        x = self.backbone(x, positions=positions, cond=cond, dropout_keys=dropout_keys)
        zeros = nn.initializers.zeros
        return at_least_float32(
            nn.Dense(self.num_codes, kernel_init=zeros, dtype=self.backbone.dtype, name="output")(x)
        )
