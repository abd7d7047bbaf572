"""SNGAN: residual nets with spectral normalisation in the discriminator (Miyato et al., arXiv:1802.05957, appendix B).

Labels enter as in cGANs with a projection discriminator (Miyato and Koyama, arXiv:1802.05637): the generator's
BatchNorm has a scale and a bias for each label, and the discriminator adds <embedding, features> to its logit. The
defaults are those of the paper for 32x32 images.

Resampling commutes with 1x1 convolutions, so shortcuts are convolved at the lower resolution.
"""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import BatchNorm, Dtype, along_last, at_least_float32, base_size, xavier
from jimgen.nets.resampled_convolution import conv3, double_conv3, mean_pool, nearest
from jimgen.nets.spectral import SNConv, SNDense, SNLabelEmbedding

_within = nn.initializers.variance_scaling(2.0, "fan_avg", "uniform")  # Glorot with gain sqrt 2, for residual branches


class Generator(nn.Module):
    """z [b, d], labels int32 [b] or [b, columns] -> images float32 [b, *image_shape] in [-1, 1].

    `widths` are the channels of the feature maps, starting at the smallest: those of the first layer, and those of each
    residual block. Each block doubles both sides, the last one to those of the image. With `circular`, convolutions
    continue the image beyond its edges by its opposite side, so that images tile without seams.

    Raises:
        ValueError: if 2^(len(widths) - 1) does not divide the image's sides.
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (256, 256, 256, 256)
    num_classes: NumClasses = 0
    circular: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, z: Array, labels: Array, *, train: bool) -> Array:
        stem, *widths = self.widths
        height, width = base_size(self.image_shape, len(widths), "SNGAN's generator")
        x = nn.Dense(height * width * stem, kernel_init=xavier, dtype=self.dtype, name="stem")(z)
        x = x.reshape(-1, height, width, stem)
        for i, features in enumerate(widths):
            block = UpBlock(features, train, self.num_classes, self.circular, self.dtype, name=f"block{i}")
            x = block(x, labels)
        x = nn.relu(BatchNorm(train, dtype=self.dtype, name="norm")(x))
        x = Conv3(self.image_shape[-1], circular=self.circular, kernel_init=xavier, dtype=self.dtype, name="to_image")(
            x
        )
        bias = self.param("image_bias", nn.initializers.zeros, self.image_shape[-1:])
        return jnp.tanh(at_least_float32(x) + along_last(bias, x))


class UpBlock(nn.Module):
    """Residual block that doubles both sides: [b, h, w, c] -> [b, 2h, 2w, features].

    Its convolutions have no biases, as every path from them goes through a BatchNorm that subtracts the mean.
    """

    features: int
    train: bool
    num_classes: NumClasses = 0
    circular: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array, labels: Array) -> Array:
        def norm(x: Array, name: str) -> Array:
            x = BatchNorm(self.train, dtype=self.dtype, name=name)(x)
            return _modulated(x, labels, self.num_classes, f"{name}_labels") if self.num_classes else x

        shared = {"circular": self.circular, "dtype": self.dtype}
        h = Conv3(self.features, double=True, name="conv0", **shared)(nn.relu(norm(x, "norm0")))
        h = Conv3(self.features, name="conv1", **shared)(nn.relu(norm(h, "norm1")))
        shortcut = nn.Dense(self.features, use_bias=False, kernel_init=xavier, dtype=self.dtype, name="shortcut")(x)
        return h + nearest(shortcut)


def _modulated(x: Array, labels: Array, num_classes: NumClasses, name: str) -> Array:
    """x (1 + scale) + bias, with a scale and a bias of each label: class-conditional BatchNorm, after BatchNorm."""
    both = LabelEmbedding(num_classes, 2 * x.shape[-1], name=name)(labels).astype(x.dtype)
    scale, bias = jnp.split(both[:, None, None], 2, axis=-1)
    return x * (1 + scale) + bias


class Conv3(nn.Module):
    """3x3 convolution that keeps the size; with `double`, of the image doubled by repeated pixels."""

    features: int
    double: bool = False
    circular: bool = False
    use_bias: bool = False
    kernel_init: nn.initializers.Initializer = _within
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        form = double_conv3 if self.double else conv3
        x = form(x.astype(self.dtype), kernel.astype(self.dtype), circular=self.circular)
        if not self.use_bias:
            return x
        return x + along_last(self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype), x)


class Discriminator(nn.Module):
    """Images [b, h, w, c], labels int32 [b] or [b, columns] -> logits float32 [b].

    `widths` are the channels of the residual blocks, of which the first `halvings` halve both sides. All kernels are
    spectrally normalised. The logit of an example depends only on that example, as gradient penalties require.

    Raises:
        ValueError: if 2^halvings does not divide the image's sides, or there are fewer blocks than halvings.
    """

    widths: Sequence[int] = (128, 128, 128, 128)
    halvings: int = 2
    num_classes: NumClasses = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, labels: Array, *, train: bool) -> Array:
        base_size(images.shape[1:], self.halvings, "SNGAN's discriminator")
        if self.halvings > len(self.widths):
            raise ValueError(
                f"SNGAN's discriminator halves images once a block: {self.halvings} halvings need as many widths, "
                f"not {len(self.widths)}"
            )
        x = images.astype(self.dtype)
        for i, features in enumerate(self.widths):
            x = DownBlock(features, train, i < self.halvings, first=i == 0, dtype=self.dtype, name=f"block{i}")(x)
        features = at_least_float32(nn.relu(x)).sum((1, 2))
        logits = SNDense(1, train, dtype=features.dtype, name="logit")(features)[:, 0]
        if self.num_classes:
            embedding = SNLabelEmbedding(self.num_classes, self.widths[-1], train, name="projection")(labels)
            logits += (embedding * features).sum(-1)
        return logits


class DownBlock(nn.Module):
    """Residual block: [b, h, w, c] -> [b, h, w, features], or [b, h / 2, w / 2, features] with `halve`.

    The first block of a net applies no activation to the image. The shortcut is the identity where the shapes agree.
    """

    features: int
    train: bool
    halve: bool
    first: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        within = {"kernel_init": _within, "dtype": self.dtype}
        h = SNConv(self.features, self.train, name="conv0", **within)(x if self.first else nn.relu(x))
        h = SNConv(self.features, self.train, halve=self.halve, name="conv1", **within)(nn.relu(h))
        if not self.halve and x.shape[-1] == self.features:
            return h + x
        shortcut = mean_pool(x) if self.halve else x
        return h + SNDense(self.features, self.train, dtype=self.dtype, name="shortcut")(shortcut)
