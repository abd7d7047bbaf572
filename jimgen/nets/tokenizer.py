"""Convolutional encoder and decoder of a tokenizer, between images and a grid of vectors."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.layers import Activation, Conv, ConvTranspose, Dtype, Norm, at_least_float32, base_size


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), both 3x3; the second starts at zero, so the block at the identity."""

    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = {"kernel_size": 3, "stride": 1, "dtype": self.dtype}
        y = self.activation(Norm(dtype=self.dtype, name="norm0")(x))
        y = Conv(x.shape[-1], **options, name="conv0")(y)
        y = self.activation(Norm(dtype=self.dtype, name="norm1")(y))
        return x + Conv(x.shape[-1], **options, kernel_init=nn.initializers.zeros, name="conv1")(y)


class Encoder(nn.Module):
    """Images [b, H, W, c] in [-1, 1] -> z float32 [b, H / 2^n, W / 2^n, dim], n = len(widths).

    Strided convolutions of the given `widths`, each halving both sides, then `depth` residual blocks.

    Norms are per place, so that the vector of a token does not depend on statistics of the rest of the image.

    Raises:
        ValueError: if 2^n does not divide the image's sides.
    """

    dim: int
    widths: Sequence[int] = (32, 64)
    depth: int = 2
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> Array:
        base_size(images.shape[1:], len(self.widths), "the tokenizer's encoder")
        x = images.astype(self.dtype)
        for i, features in enumerate(self.widths):
            x = Conv(features, dtype=self.dtype, name=f"down{i}")(x if i == 0 else self.activation(x))
        for i in range(self.depth):
            x = ResidualBlock(self.activation, self.dtype, name=f"block{i}")(x)
        x = self.activation(Norm(dtype=self.dtype, name="norm")(x))
        return at_least_float32(Conv(self.dim, kernel_size=1, stride=1, padding=0, dtype=self.dtype, name="to_z")(x))


class Decoder(nn.Module):
    """The mirror image of Encoder: z [b, h, w, dim] -> float32 [b, 2^n h, 2^n w, channels], n = len(widths); unbounded.

    `widths` are the channels, starting at the smallest feature maps; the last layer, "output", also doubles both sides.
    """

    channels: int
    widths: Sequence[int] = (64, 32)
    depth: int = 2
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array) -> Array:
        x = Conv(self.widths[0], kernel_size=3, stride=1, dtype=self.dtype, name="from_z")(z)
        for i in range(self.depth):
            x = ResidualBlock(self.activation, self.dtype, name=f"block{i}")(x)
        x = self.activation(Norm(dtype=self.dtype, name="norm")(x))
        for i, features in enumerate(self.widths[1:]):
            x = self.activation(ConvTranspose(features, dtype=self.dtype, name=f"up{i}")(x))
        return at_least_float32(ConvTranspose(self.channels, dtype=self.dtype, name="output")(x))
