"""R3GAN: residual nets without normalisation (Huang et al., The GAN is dead; long live the GAN!, arXiv:2501.05441).

A block is x + C3(act(C2(act(C1 x)))), with a 1x1 convolution C1 that widens, a grouped 3x3 convolution C2 and a 1x1
convolution C3 that narrows. C3 starts at zero and the others at a scale that depends on the number of blocks L (Fix-up,
arXiv:1901.09321), so that a net starts as a chain of identities. Biases stand before activations only. Resampling is by
[1, 3, 3, 1]; a 1x1 convolution changes the width on the smaller side of it, where widths differ.

Both nets take the same `widths`, `blocks`, `expansion` and `group_size`: the paper's CIFAR-10 nets are the defaults.
`stem_stride` 2 is ours: convolutions 4x4 of stride 2 lead from and to images, in place of the stage of full resolution,
which costs as much as all others together.
"""

import math
from collections.abc import Sequence
from typing import Literal, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses, column_sizes
from jimgen.nets.convolution import wrap
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import Conv, ConvTranspose, Dtype, Initializer, at_least_float32, base_size
from jimgen.nets.resampling import downsample, upsample


def scaled_normal(gain: float = 1.0) -> Initializer:
    """Initialises kernels [..., fan in, out] by N(0, gain^2 / fan in)."""
    return nn.initializers.variance_scaling(gain**2, "fan_in", "normal") if gain else nn.initializers.zeros


def block_gain(num_blocks: int) -> float:
    """Gain of the first two convolutions of each of L blocks: sqrt(2 / (1 + .2^2)) L^(-1/4).

    The first factor keeps the variance through a leaky ReLU of slope .2, the second is Fix-up's for three layers.
    """
    return math.sqrt(2 / (1 + 0.2**2)) * num_blocks**-0.25


class Block(nn.Module):
    """Residual block, [b, h, w, c] -> [b, h, w, c] in `dtype`."""

    expanded: int  # channels between the 1x1 convolutions
    groups: int
    gain: float
    circular: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        init = scaled_normal(self.gain)
        y = Conv(self.expanded, 1, 1, 0, True, init, self.dtype, name="widen")(x)
        y = nn.leaky_relu(y, 0.2)
        y = Conv(self.expanded, 3, 1, 1, True, init, self.dtype, self.groups, self.circular, name="grouped")(y)
        y = nn.leaky_relu(y, 0.2)
        return x + _linear(y, x.shape[-1], "narrow", gain=0.0)


class Generator(nn.Module):
    """z [b, d], labels int32 [b] or [b, columns] -> images float32 [b, *image_shape], not limited to [-1, 1] unless
    `bounded`.

    `widths` are the channels of the stages, starting at the smallest resolution; each stage but the first doubles both
    sides. The first multiplies a learned basis [h, w, widths[0]] by a linear map of z, to which the embedding of the
    labels is appended. `train` has no effect.

    Raises:
        ValueError: if the strides do not divide the image's sides or `group_size` the channels, if `blocks` has another
            length than `widths`, or if `low_precision_stages` includes the smallest stage.
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (768, 768, 768, 768)
    blocks: int | Sequence[int] = 2  # of each stage
    expansion: int = 2  # channels inside a block, as a multiple of those outside
    group_size: int = 16  # channels of each group of the 3x3 convolutions; 0: dense convolutions
    stem_stride: Literal[1, 2] = 1  # of the convolution that makes images
    num_classes: NumClasses = 0
    embedding_width: int = 64  # of labels
    bounded: bool = False  # tanh keeps images within [-1, 1]; not in the paper
    circular: bool = False  # seamless images, as of textures: they continue at their opposite sides
    dtype: Dtype = jnp.float32
    low_precision_stages: int | None = None  # the largest stages compute in `dtype`; None: all but the smallest

    @nn.compact
    def __call__(self, z: Array, labels: Array, *, train: bool) -> Array:
        stages = _stages(self)
        height, width = base_size(self.image_shape, _num_halvings(self), "R3GAN's generator")
        z = at_least_float32(z)
        if self.num_classes:
            embedding = _embedding(labels, self.num_classes, self.embedding_width, gain=1.0)
            z = jnp.concatenate([z, embedding.astype(z.dtype)], axis=-1)
        x = _dense(z.astype(stages[0].dtype), stages[0].width, "stem")
        basis = self.param("basis", nn.initializers.normal(1.0), (height, width, stages[0].width))
        x = x[:, None, None, :] * basis[None].astype(x.dtype)
        for i, stage in enumerate(stages):
            x = x.astype(stage.dtype)
            if i > 0:
                x = x if x.shape[-1] == stage.width else _linear(x, stage.width, f"change{i}")
                x = upsample(x, circular=self.circular)
            x = _blocks(x, stages, i, self.circular)
        images = at_least_float32(self._images(x))
        return jnp.tanh(images) if self.bounded else images

    def _images(self, x: Array) -> Array:
        if self.stem_stride == 1:
            return _linear(x, self.image_shape[-1], "to_image")
        init = nn.initializers.variance_scaling(4.0, "fan_in", "normal", in_axis=-1, out_axis=-2)  # 4 taps of 16 meet
        if self.circular:
            x = wrap(x, ((1, 1), (1, 1)))
        x = ConvTranspose(self.image_shape[-1], 4, 2, 1, False, init, x.dtype, name="to_image")(x)
        return x[:, 2:-2, 2:-2] if self.circular else x


class Discriminator(nn.Module):
    """Images [b, h, w, c], labels int32 [b] or [b, columns] -> logits float32 [b].

    The stages mirror the generator's: `widths` start at the smallest resolution, which is the last one here. A
    depthwise convolution over all of that and a linear map give the logit, or with labels a vector; then the logit is
    the inner product of the vector and the embedding of the labels. The value "any" has an embedding too: without one,
    the logit of an image of which nothing is said would be zero. The logit of an example depends on that example alone.
    `train` has no effect.

    Raises:
        ValueError: as of `Generator`.
    """

    widths: Sequence[int] = (768, 768, 768, 768)
    blocks: int | Sequence[int] = 2
    expansion: int = 2
    group_size: int = 16
    stem_stride: Literal[1, 2] = 1
    num_classes: NumClasses = 0
    embedding_width: int = 64
    dtype: Dtype = jnp.float32
    low_precision_stages: int | None = None

    @nn.compact
    def __call__(self, images: Array, labels: Array, *, train: bool) -> Array:
        stages = _stages(self)
        height, width = base_size(images.shape[1:], _num_halvings(self), "R3GAN's discriminator")
        x, first = images.astype(stages[-1].dtype), stages[-1].width
        if self.stem_stride == 1:
            x = _linear(x, first, "from_image")
        else:
            x = Conv(first, 4, 2, 1, False, scaled_normal(), x.dtype, name="from_image")(x)
        for i, stage in reversed(list(enumerate(stages))):
            x = _blocks(x.astype(stage.dtype), stages, i)
            if i > 0:
                x, smaller = downsample(x), stages[i - 1].width
                x = x if smaller == stage.width else _linear(x, smaller, f"change{i}")
        basis = self.param("basis", nn.initializers.normal((height * width) ** -0.5), (height, width, stages[0].width))
        x = (x * basis[None].astype(x.dtype)).sum((1, 2))
        if not self.num_classes:
            return at_least_float32(_dense(x, 1, "logit")[:, 0])
        gain = self.embedding_width**-0.5
        embedding = _embedding(labels, self.num_classes, self.embedding_width, gain)
        return (at_least_float32(_dense(x, self.embedding_width, "logit")) * embedding).sum(-1)


class _Stage(NamedTuple):
    """What both nets compute at one resolution."""

    width: int
    blocks: int
    expanded: int
    groups: int
    dtype: Dtype


def _stages(net: Generator | Discriminator) -> list[_Stage]:
    """The stages of a net, starting at the smallest resolution."""
    number = len(net.widths)
    blocks = [net.blocks] * number if isinstance(net.blocks, int) else list(net.blocks)
    if len(blocks) != number:
        raise ValueError(f"blocks {tuple(blocks)} must have one number for each of the {number} widths")
    low = number - 1 if net.low_precision_stages is None else net.low_precision_stages
    if not 0 <= low < number:
        raise ValueError(f"low_precision_stages must be from 0 to {number - 1} for {number} widths, not {low}")
    stages = []
    for i, width in enumerate(net.widths):
        expanded = net.expansion * width
        if net.group_size and expanded % net.group_size:
            raise ValueError(
                f"groups of {net.group_size} channels do not divide the {expanded} channels of a block (expansion "
                f"{net.expansion} times width {width}). Use another width, or group_size 0 for dense convolutions."
            )
        groups = expanded // net.group_size if net.group_size else 1
        dtype = net.dtype if i >= number - low else jnp.promote_types(net.dtype, jnp.float32)
        stages.append(_Stage(width, blocks[i], expanded, groups, dtype))
    return stages


def _num_halvings(net: Generator | Discriminator) -> int:
    """How often the sides of images are halved in all."""
    return len(net.widths) - 1 + (net.stem_stride == 2)


def _blocks(x: Array, stages: list[_Stage], i: int, circular: bool = False) -> Array:
    """The blocks of stage i."""
    gain = block_gain(sum(stage.blocks for stage in stages))
    _, number, expanded, groups, dtype = stages[i]
    for j in range(number):
        x = Block(expanded, groups, gain, circular, dtype, name=f"stage{i}_block{j}")(x)
    return x


def _linear(x: Array, features: int, name: str, gain: float = 1.0) -> Array:
    """A 1x1 convolution without bias, in the dtype of x."""
    return Conv(features, 1, 1, 0, False, scaled_normal(gain), x.dtype, name=name)(x)


def _dense(x: Array, features: int, name: str) -> Array:
    """x [b, c] -> [b, features], without bias, in the dtype of x."""
    return nn.Dense(features, use_bias=False, kernel_init=scaled_normal(), dtype=x.dtype, name=name)(x)


def _embedding(labels: Array, num_classes: NumClasses, width: int, gain: float) -> Array:
    """Embedded labels [b, width]; like a linear map of one-hot vectors, N(0, gain^2 / number of values)."""
    init = nn.initializers.normal(gain * sum(column_sizes(num_classes)) ** -0.5)
    return LabelEmbedding(num_classes, width, embedding_init=init, name="embedding")(labels)
