"""Encoders and decoders of variational autoencoders: a convolutional pair and a pair with dense layers.

An encoder maps images [b, h, w, c] and labels int32 [b] to mean and log variance of q(z|x), float32 [b, latent_dim]
each. A decoder maps z [b, latent_dim] and labels to the parameters of p(x|z), float32 [b, h, w, c], unbounded: logits
or means, depending on the likelihood. With labels, their one-hot vectors are appended to the dense layers' input.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.labels import with_labels
from jimgen.nets.layers import Activation, Conv, ConvTranspose, Dtype, at_least_float32, base_size


class ConvEncoder(nn.Module):
    """Strided convolutions, each halving both sides, then one hidden dense layer.

    Raises:
        ValueError: if 2^len(widths) does not divide the image's sides.
    """

    latent_dim: int = 64
    widths: Sequence[int] = (32, 64, 128)
    hidden: int = 256
    num_classes: NumClasses = 0
    activation: Activation = nn.relu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, labels: Array) -> tuple[Array, Array]:
        base_size(images.shape[1:], len(self.widths), "the convolutional encoder")
        x = images.astype(self.dtype)
        for i, features in enumerate(self.widths):
            x = self.activation(Conv(features, dtype=self.dtype, name=f"down{i}")(x))
        x = with_labels(x.reshape(x.shape[0], math.prod(x.shape[1:])), labels, self.num_classes)
        x = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(x))
        return _posterior(x, self.latent_dim)


class ConvDecoder(nn.Module):
    """The mirror image of ConvEncoder: two dense layers, then transposed convolutions, each doubling both sides.

    Raises:
        ValueError: if 2^len(widths) does not divide the image's sides.
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (128, 64, 32)
    hidden: int = 256
    num_classes: NumClasses = 0
    activation: Activation = nn.relu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array) -> Array:
        height, width = base_size(self.image_shape, len(self.widths), "the convolutional decoder")
        z = with_labels(z.astype(self.dtype), labels, self.num_classes)
        x = self.activation(nn.Dense(self.hidden, dtype=self.dtype, name="hidden")(z))
        x = self.activation(nn.Dense(height * width * self.widths[0], dtype=self.dtype, name="stem")(x))
        x = x.reshape(-1, height, width, self.widths[0])
        for i, features in enumerate(self.widths[1:]):
            x = self.activation(ConvTranspose(features, dtype=self.dtype, name=f"up{i}")(x))
        return at_least_float32(ConvTranspose(self.image_shape[-1], dtype=self.dtype, name="output")(x))


class MLPEncoder(nn.Module):
    """Dense layers over the flattened image."""

    latent_dim: int = 32
    widths: Sequence[int] = (512, 512)
    num_classes: NumClasses = 0
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, labels: Array) -> tuple[Array, Array]:
        x = images.reshape(images.shape[0], math.prod(images.shape[1:])).astype(self.dtype)
        x = with_labels(x, labels, self.num_classes)
        for i, features in enumerate(self.widths):
            x = self.activation(nn.Dense(features, dtype=self.dtype, name=f"hidden{i}")(x))
        return _posterior(x, self.latent_dim)


class MLPDecoder(nn.Module):
    """Dense layers from z to the flattened image."""

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (512, 512)
    num_classes: NumClasses = 0
    activation: Activation = nn.silu
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array) -> Array:
        x = with_labels(z.astype(self.dtype), labels, self.num_classes)
        for i, features in enumerate(self.widths):
            x = self.activation(nn.Dense(features, dtype=self.dtype, name=f"hidden{i}")(x))
        x = nn.Dense(math.prod(self.image_shape), dtype=self.dtype, name="output")(x)
        return at_least_float32(x.reshape(-1, *self.image_shape))


def _posterior(x: Array, latent_dim: int) -> tuple[Array, Array]:
    mean, logvar = jnp.split(at_least_float32(nn.Dense(2 * latent_dim, dtype=x.dtype, name="posterior")(x)), 2, axis=-1)
    return mean, logvar
