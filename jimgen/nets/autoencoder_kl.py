"""Encoder and decoder of a KL autoencoder: between images and a small grid of Gaussian latents.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752, without attention.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.layers import Activation, Conv, ConvTranspose, Dtype, Norm, at_least_float32, base_size
from jimgen.nets.tokenizer import ResidualBlock


class Encoder(nn.Module):
    """Images [b, H, W, c] in [-1, 1] -> mean and log variance of q(z|x), float32 [b, H / 2^n, W / 2^n, dim] each.

    At each of the n = len(widths) levels a strided convolution halves both sides, and `depth` residual blocks follow.
    Norms are per place, so that a latent does not depend on statistics of the rest of the image.

    Raises:
        ValueError: if 2^n does not divide the image's sides.
    """

    dim: int
    widths: Sequence[int] = (32, 64)
    depth: int = 1
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        base_size(images.shape[1:], len(self.widths), "the autoencoder's encoder")
        x = images.astype(self.dtype)
        for i, features in enumerate(self.widths):
            x = Conv(features, dtype=self.dtype, name=f"down{i}")(x)
            for j in range(self.depth):
                x = ResidualBlock(self.activation, self.dtype, name=f"block{i}_{j}")(x)
        x = self.activation(Norm(dtype=self.dtype, name="norm")(x))
        x = Conv(2 * self.dim, kernel_size=1, stride=1, padding=0, dtype=self.dtype, name="to_moments")(x)
        mean, logvar = jnp.split(at_least_float32(x), 2, axis=-1)
        return mean, logvar


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
        for i in range(len(self.widths)):
            if i:
                x = ConvTranspose(self.widths[i], dtype=self.dtype, name=f"up{i}")(x)
            for j in range(self.depth):
                x = ResidualBlock(self.activation, self.dtype, name=f"block{i}_{j}")(x)
        x = self.activation(Norm(dtype=self.dtype, name="norm")(x))
        return at_least_float32(ConvTranspose(self.channels, dtype=self.dtype, name="output")(x))
