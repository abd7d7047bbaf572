"""Nets of a conditional VAE that fills in missing pixels: an encoder, whose features a decoder sees, and the decoder.

Ivanov et al., Variational Autoencoder with Arbitrary Conditioning, arXiv:1806.02382: the features of the prior net
reach the decoder at every resolution. Here the latent is a map at the smallest resolution.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import Activation, Conv, ConvTranspose, Dtype, Norm, at_least_float32, base_size, normal_02
from jimgen.nets.tokenizer import ResidualBlock


class Encoder(nn.Module):
    """Images [b, h, w, c], known bool [b, h, w, 1] and labels -> features of every resolution, mean, logvar.

    Each of the n = len(widths) stages halves both sides and ends with `blocks` residual blocks, the last one with
    `depth` more. The features are the input, [b, h, w, c + 1], and the result of each stage. Mean and logvar are
    float32 [b, h / 2^n, w / 2^n, latent_channels]. Prior and posterior are such nets.

    Raises:
        ValueError: if 2^n does not divide the image's sides.
    """

    latent_channels: int = 8
    widths: Sequence[int] = (32, 64, 64)
    blocks: int = 0
    depth: int = 1
    num_classes: NumClasses = 0
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, known: Array, labels: Array) -> tuple[tuple[Array, ...], Array, Array]:
        base_size(images.shape[1:], len(self.widths), "the encoder of the conditional VAE")
        x = jnp.concatenate([images.astype(self.dtype), known.astype(self.dtype)], axis=-1)
        features = [x]
        for i, width in enumerate(self.widths):
            x = Conv(width, dtype=self.dtype, name=f"down{i}")(self.activation(x) if i else x)
            is_last = i == len(self.widths) - 1
            if is_last:
                x = _with_labels(x, labels, self.num_classes)
            for j in range(self.blocks + self.depth * is_last):
                x = ResidualBlock(self.activation, self.dtype, name=f"block{i}_{j}")(x)
            features.append(x)
        x = self.activation(Norm(dtype=self.dtype, name="norm")(x))
        options = {"kernel_size": 3, "stride": 1, "kernel_init": normal_02, "dtype": self.dtype}
        latent = at_least_float32(Conv(2 * self.latent_channels, **options, name="latent")(x))
        mean, logvar = jnp.split(latent, 2, axis=-1)
        return tuple(features), mean, logvar


class Decoder(nn.Module):
    """z, the features of the prior's Encoder, and labels -> the parameters of p(x|z, known pixels).

    The mirror image of Encoder, with the same `widths`, `blocks` and `depth`; features are added at every resolution.
    The output is float32 [b, h, w, channels], unbounded: logits or means, depending on the likelihood.
    """

    channels: int
    widths: Sequence[int] = (32, 64, 64)
    blocks: int = 0
    depth: int = 1
    num_classes: NumClasses = 0
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, features: Sequence[Array], labels: Array) -> Array:
        options = {"kernel_size": 3, "stride": 1, "dtype": self.dtype}
        x = features[-1] + Conv(self.widths[-1], **options, name="from_z")(z)
        x = _with_labels(x, labels, self.num_classes)
        for i in reversed(range(len(self.widths))):
            for j in range(self.blocks + self.depth * (i == len(self.widths) - 1)):
                x = ResidualBlock(self.activation, self.dtype, name=f"block{i}_{j}")(x)
            width = self.widths[i - 1] if i else -(-self.widths[0] // 2)
            x = ConvTranspose(width, dtype=self.dtype, name=f"up{i}")(self.activation(x))
            kernel = 1 if i else 3  # the last features are the input itself
            x += Conv(width, kernel, stride=1, padding=kernel // 2, dtype=self.dtype, name=f"skip{i}")(features[i])
        x = self.activation(Norm(dtype=self.dtype, name="norm")(x))
        return at_least_float32(Conv(self.channels, **options, name="output")(x))


def _with_labels(x: Array, labels: Array, num_classes: NumClasses) -> Array:
    """Adds an embedding of the labels at every place of x [b, h, w, c]."""
    if not num_classes:
        return x
    embedding = LabelEmbedding(num_classes, x.shape[-1], name="label")(labels)
    return x + embedding.astype(x.dtype)[:, None, None]
