"""A small net for flows of latent vectors: residual blocks of dense layers that see the time."""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.embeddings import TimeEmbedding
from jimgen.nets.layers import Dtype, Norm, at_least_float32


class VelocityMLP(nn.Module):
    """z [n, d] and times [n] -> velocity float32 [n, d]; zero at initialisation."""

    width: int = 256
    depth: int = 3
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, t: Array) -> Array:
        x = nn.Dense(self.width, dtype=self.dtype, name="stem")(z)
        embedding = TimeEmbedding(self.width, name="time")(t).astype(x.dtype)
        for i in range(self.depth):
            y = Norm(dtype=self.dtype, name=f"norm{i}")(x) + embedding
            y = nn.silu(nn.Dense(self.width, dtype=self.dtype, name=f"hidden{i}")(nn.silu(y)))
            x += nn.Dense(self.width, kernel_init=nn.initializers.zeros, dtype=self.dtype, name=f"out{i}")(y)
        zeros = nn.initializers.zeros
        return at_least_float32(nn.Dense(z.shape[1], kernel_init=zeros, dtype=self.dtype, name="velocity")(x))
