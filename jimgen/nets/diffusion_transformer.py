"""DiT (Peebles and Xie, arXiv:2212.09748): a transformer over patches of a noisy image, with time and label."""

import flax.linen as nn
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.embeddings import PatchHead, TimeEmbedding, grid_shape, patchify
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import at_least_float32, xavier
from jimgen.nets.positions import grid_positions, sincos_embedding
from jimgen.nets.transformer import Backbone


class DiffusionTransformer(nn.Module):
    """Noisy images, times, labels -> a prediction of the shape of the images, float32, zero at initialisation.

    The patches have fixed absolute and rotary relative positions; the backbone's condition is the sum of the embeddings
    of time and label.

    Args:
        x: float [b, h, w, c].
        times: float [b], or [b, num_times], each with its own embedding.
        labels: int32 [b] or [b, columns]; see jimgen/conditions.py.
        dropout_keys: see Backbone.
    Raises:
        ValueError: if patches do not divide the image; see also Backbone.
    """

    patch: int
    num_classes: NumClasses
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
        cond = LabelEmbedding(self.num_classes, width, name="label")(labels)
        for i in range(self.num_times):
            cond += TimeEmbedding(width, self.time_scale, name=f"time{i}")(times[:, i])
        tokens = self.backbone(tokens, positions=positions, cond=cond, dropout_keys=dropout_keys)
        return PatchHead((h, w), self.patch, c, dtype, name="head")(tokens)
