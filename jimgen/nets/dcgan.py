"""DCGAN: strided convolutions and BatchNorm (Radford, Metz and Chintala, arXiv:1511.06434).

The layers are those of the common 32x32 and 64x64 implementations: the generator's first layer is a transposed
convolution on a 1x1 image, which is a dense layer; the discriminator's last is a convolution over all of its input.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.layers import BatchNorm, Conv, ConvTranspose, Dtype, at_least_float32, base_size, with_labels

normal_02 = nn.initializers.normal(0.02)  # the paper's initialisation, section 4


def scale_init(key: Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Array:
    """BatchNorm scales around one, N(1, .02^2), as in the authors' code."""
    return 1.0 + normal_02(key, shape, dtype)


class Generator(nn.Module):
    """z [b, d], labels int32 [b] -> images float32 [b, *image_shape] in [-1, 1].

    `widths` are the channels of the feature maps from the smallest on; each stage but the last doubles both sides, and
    the last doubles them into the image. Where num_classes > 0 the one-hot label joins z.

    Raises:
        ValueError: the image's sides are not divisible by 2^len(widths).
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (256, 128, 64)
    num_classes: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array, *, train: bool) -> Array:
        height, width = base_size(self.image_shape, len(self.widths), "DCGAN's generator")
        z = with_labels(z.astype(self.dtype), labels, self.num_classes)
        features = height * width * self.widths[0]
        x = nn.Dense(features, use_bias=False, kernel_init=normal_02, dtype=self.dtype, name="stem")(z)
        x = x.reshape(-1, height, width, self.widths[0])
        x = nn.relu(BatchNorm(train, scale_init, self.dtype, name="stem_norm")(x))
        for i, features in enumerate(self.widths[1:]):
            x = ConvTranspose(features, use_bias=False, kernel_init=normal_02, dtype=self.dtype, name=f"up{i}")(x)
            x = nn.relu(BatchNorm(train, scale_init, self.dtype, name=f"norm{i}")(x))
        x = ConvTranspose(
            self.image_shape[-1], use_bias=False, kernel_init=normal_02, dtype=self.dtype, name="to_image"
        )(x)
        return jnp.tanh(at_least_float32(x))


class Discriminator(nn.Module):
    """Images [b, h, w, c], labels int32 [b] -> logits float32 [b].

    `widths` are the channels after each halving. Without BatchNorm the convolutions have biases, and the logit of an
    example depends on that example alone: what gradient penalties ask for. Where num_classes > 0 the label enters by
    projection, <embedding, pooled features> added to the logit (Miyato and Koyama, arXiv:1802.05637, eq. 3).

    Raises:
        ValueError: the image's sides are not divisible by 2^len(widths).
    """

    widths: Sequence[int] = (64, 128, 256)
    batch_norm: bool = True
    num_classes: int = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, labels: Array, *, train: bool) -> Array:
        base_size(images.shape[1:], len(self.widths), "DCGAN's discriminator")
        x = images.astype(self.dtype)
        for i, features in enumerate(self.widths):
            use_bias = not self.batch_norm
            x = Conv(features, use_bias=use_bias, kernel_init=normal_02, dtype=self.dtype, name=f"down{i}")(x)
            if self.batch_norm and i > 0:  # not on the first layer, as in the paper's section 3
                x = BatchNorm(train, scale_init, self.dtype, name=f"norm{i}")(x)
            x = nn.leaky_relu(x, 0.2)
        flat = x.reshape(x.shape[0], math.prod(x.shape[1:]))
        logits = nn.Dense(1, use_bias=not self.batch_norm, kernel_init=normal_02, dtype=self.dtype, name="logit")(flat)
        logits = at_least_float32(logits[:, 0])
        if self.num_classes:
            embedding = nn.Embed(self.num_classes, x.shape[-1], embedding_init=normal_02, name="projection")(labels)
            logits += (embedding * at_least_float32(x).sum((1, 2))).sum(-1)
        return logits
