"""Convolutional encoder and decoder of a tokenizer: images to a grid of vectors and back."""

from collections.abc import Callable, Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from jimgen.nets.layers import Conv, ConvTranspose, Dtype, at_least_float32, base_size

Activation = Callable[[Array], Array]


class RMSNorm(nn.Module):
    """x / sqrt(mean x^2) times a learnt scale, over the channels of each place (Zhang and Sennrich, arXiv:1910.07467).

    No sum leaves the place: the vector of a token is normalised alike whatever else is in the image.
    """

    dtype: Dtype = jnp.float32
    epsilon: float = 1e-6

    @nn.compact
    def __call__(self, x: Array) -> Array:
        scale = self.param("scale", nn.initializers.ones, (x.shape[-1],))
        whole = at_least_float32(x)
        whole = whole * lax.rsqrt(jnp.mean(jnp.square(whole), axis=-1, keepdims=True) + self.epsilon)
        return (whole * scale.astype(whole.dtype).reshape((1,) * (x.ndim - 1) + (-1,))).astype(self.dtype)


class ResidualBlock(nn.Module):
    """x + conv(act(norm(conv(act(norm(x)))))), both 3x3; the second begins at zero, so the block at the identity."""

    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        options = {"kernel_size": 3, "stride": 1, "dtype": self.dtype}
        y = self.activation(RMSNorm(self.dtype, name="norm0")(x))
        y = Conv(x.shape[-1], **options, name="conv0")(y)
        y = self.activation(RMSNorm(self.dtype, name="norm1")(y))
        return x + Conv(x.shape[-1], **options, kernel_init=nn.initializers.zeros, name="conv1")(y)


class Encoder(nn.Module):
    """Images [b, H, W, c] in [-1, 1] -> z float32 [b, H / 2^n, W / 2^n, dim], n = len(widths).

    Strided convolutions of the given `widths`, each halving both sides, then `depth` residual blocks.

    Raises:
        ValueError: the image's sides are not divisible by 2^n.
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
        x = self.activation(RMSNorm(self.dtype, name="norm")(x))
        return at_least_float32(Conv(self.dim, kernel_size=1, stride=1, padding=0, dtype=self.dtype, name="to_z")(x))


class Decoder(nn.Module):
    """The mirror image of Encoder: z [b, h, w, dim] -> float32 [b, 2^n h, 2^n w, channels], n = len(widths); unbounded.

    `widths` are the channels from the smallest feature maps on; the last layer, "output", doubles both sides as well.
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
        x = self.activation(RMSNorm(self.dtype, name="norm")(x))
        for i, features in enumerate(self.widths[1:]):
            x = self.activation(ConvTranspose(features, dtype=self.dtype, name=f"up{i}")(x))
        return at_least_float32(ConvTranspose(self.channels, dtype=self.dtype, name="output")(x))
