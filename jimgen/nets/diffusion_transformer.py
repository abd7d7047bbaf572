"""DiT (Peebles and Xie, arXiv:2212.09748): patches of a noisy image through a transformer told time and label."""

import flax.linen as nn
from jax import Array

from jimgen.nets.embeddings import PatchHead, TimeEmbedding, grid_shape, patchify, sincos_embedding
from jimgen.nets.layers import at_least_float32, normal_02, xavier
from jimgen.nets.transformer import Backbone, grid_positions


class DiffusionTransformer(nn.Module):
    """Noisy images [b, h, w, c], times, labels -> a prediction of the same shape, float32, zero at the start.

    Patches of the image with fixed absolute and rotary relative positions; the backbone's condition is time + label
    (DiT; Peebles and Xie, arXiv:2212.09748).

    Args:
        x: [b, h, w, c] float.
        times: [b] float, or [b, num_times], each with an embedding of its own.
        labels: int32 [b] in [0, num_classes]; num_classes stands for no label.
        dropout_keys: as of Backbone.
    Raises:
        ValueError: patches that do not divide the image, and what Backbone refuses.
    """

    patch: int
    num_classes: int
    backbone: Backbone
    num_times: int = 1
    time_scale: float = 1000.0

    @nn.compact
    def __call__(self, x: Array, times: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        b, h, w, c = x.shape
        times = times.reshape(b, self.num_times)
        width, dtype = self.backbone.width, self.backbone.dtype
        positions = grid_positions(*grid_shape((h, w), self.patch))
        tokens = nn.Dense(width, kernel_init=xavier, dtype=dtype, name="stem")(patchify(x, self.patch))
        tokens = at_least_float32(tokens) + sincos_embedding(positions, width)[None]
        cond = nn.Embed(self.num_classes + 1, width, embedding_init=normal_02, name="label")(labels)
        for i in range(self.num_times):
            cond += TimeEmbedding(width, self.time_scale, name=f"time{i}")(times[:, i])
        tokens = self.backbone(tokens, positions=positions, cond=cond, dropout_keys=dropout_keys)
        return PatchHead((h, w), self.patch, c, dtype, name="head")(tokens)
