"""Layers before and after a transformer: embeddings of patches, tokens and times, and a head for pixels."""

import math

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.core import Tracer

from jimgen.nets.layers import Dtype, at_least_float32, normal_02


def patchify(images: Array, patch: int) -> Array:
    """[b, h, w, c] -> [b, (h / patch)(w / patch), patch^2 c]: patches row by row, each as rows, columns, channels."""
    b, h, w, c = images.shape
    rows, columns = grid_shape((h, w), patch)
    cut = images.reshape(b, rows, patch, columns, patch, c)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(b, rows * columns, patch * patch * c)


def unpatchify(tokens: Array, size: tuple[int, int], patch: int) -> Array:
    """[b, (h / patch)(w / patch), patch^2 c] -> [b, h, w, c], (h, w) = size: the inverse of patchify."""
    rows, columns = grid_shape(size, patch)
    cut = tokens.reshape(tokens.shape[0], rows, columns, patch, patch, tokens.shape[-1] // patch**2)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(tokens.shape[0], *size, cut.shape[-1])


def grid_shape(size: tuple[int, int], patch: int) -> tuple[int, int]:
    """Rows and columns of patches in an image of (h, w) = size. Raises ValueError if they do not divide it."""
    if patch < 1 or size[0] % patch or size[1] % patch:
        fits = [p for p in range(1, min(size) + 1) if not (size[0] % p or size[1] % p)]
        sides = "" if patch < 1 else "x".join(str(max(1, round(side / patch)) * patch) for side in size)
        or_images = f", or {sides} images" if sides else ""
        raise ValueError(f"patches of {patch} do not divide {size[0]}x{size[1]} images: use one of {fits}{or_images}")
    return size[0] // patch, size[1] // patch


class PatchHead(nn.Module):
    """Tokens [b, t, d] -> float32 [b, h, w, features] with (h, w) = size; zero at initialisation.

    Features are the channels of the prediction, or the logits of each pixel.
    """

    size: tuple[int, int]
    patch: int
    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        zeros = nn.initializers.zeros
        out = nn.Dense(self.patch**2 * self.features, kernel_init=zeros, dtype=self.dtype, name="linear")(tokens)
        return unpatchify(at_least_float32(out), self.size, self.patch)


class TokenEmbedding(nn.Module):
    """Tokens int32 [b, t] in [0, vocab_size] -> float32 [b, t, width]; the token vocab_size is MASK, or the start.

    Raises:
        ValueError: if tokens are not integers, or out of range (not checked under jit).
    """

    vocab_size: int
    width: int

    @nn.compact
    def __call__(self, tokens: Array) -> Array:
        if not jnp.issubdtype(tokens.dtype, jnp.integer):
            raise ValueError(f"expected tokens int32, got {tokens.dtype}")
        if not isinstance(tokens, Tracer) and tokens.size:
            values = np.asarray(tokens)  # under jit, JAX would trace what it computes of a constant
            least, most = int(values.min()), int(values.max())
            if least < 0 or most > self.vocab_size:
                raise ValueError(f"expected tokens in [0, {self.vocab_size}], got {least} to {most}")
        return nn.Embed(self.vocab_size + 1, self.width, embedding_init=normal_02, name="table")(tokens)


class TimeEmbedding(nn.Module):
    """Times [b] -> float32 [b, width]: cosines and sines of scale * t at 128 frequencies, then two dense layers.

    Derivatives in t grow with the scale, so mean flows, which use them, need a small one.
    """

    width: int
    scale: float = 1000.0

    @nn.compact
    def __call__(self, t: Array) -> Array:
        t = at_least_float32(t)
        frequencies = jnp.asarray(np.exp(-math.log(10_000) * np.arange(128) / 128), t.dtype)
        angles = self.scale * t[:, None] * frequencies[None]
        features = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
        hidden = nn.silu(nn.Dense(self.width, kernel_init=normal_02, dtype=t.dtype, name="hidden")(features))
        return nn.Dense(self.width, kernel_init=normal_02, dtype=t.dtype, name="output")(hidden)
