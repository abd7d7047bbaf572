"""DCGAN: strided convolutions and BatchNorm (Radford, Metz and Chintala, arXiv:1511.06434).

The layers are those of the common 32x32 and 64x64 implementations. There the generator's first layer is a transposed
convolution of a 1x1 image, and the discriminator's last layer a convolution over all of its input: dense layers here.
"""

import math
from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.labels import LabelEmbedding, with_labels
from jimgen.nets.layers import (
    BatchNorm,
    Conv,
    ConvTranspose,
    Dtype,
    at_least_float32,
    base_size,
    normal_02,
)


def scale_init(key: Array, shape: Sequence[int], dtype: Dtype = jnp.float32) -> Array:
    """Initialises BatchNorm scales by N(1, .02^2), as in the authors' code; kernels by N(0, .02^2), section 4."""
    return 1.0 + normal_02(key, shape, dtype)


class Generator(nn.Module):
    """z [b, d], labels int32 [b] -> images float32 [b, *image_shape] in [-1, 1].

    `widths` are the channels of the feature maps, starting at the smallest. Each stage doubles both sides, the last one
    to those of the image. With labels, their one-hot vectors are appended to z.

    Raises:
        ValueError: if 2^len(widths) does not divide the image's sides.
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (256, 128, 64)
    num_classes: NumClasses = 0
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
    example depends only on that example, as gradient penalties require. Labels enter by
    projection: <embedding, pooled features> is added to the logit (Miyato and Koyama, arXiv:1802.05637, equation 3).

    Raises:
        ValueError: if 2^len(widths) does not divide the image's sides.
    """

    widths: Sequence[int] = (64, 128, 256)
    batch_norm: bool = True
    num_classes: NumClasses = 0
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
            embedding = LabelEmbedding(self.num_classes, x.shape[-1], has_any=False, name="projection")(labels)
            logits += (embedding * at_least_float32(x).sum((1, 2))).sum(-1)
        return logits
