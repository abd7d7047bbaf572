"""StyleGAN2: a mapping network, modulated convolutions and noise inputs (Karras et al., arXiv:1912.04958).

The discriminator and the handling of labels are those of StyleGAN2-ADA (Karras et al., arXiv:2006.06676).
"""

import math
from collections.abc import Sequence
from functools import partial
from typing import Literal

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.conditions import NumClasses
from jimgen.nets.equalised import EqualConv3, EqualDense, equalised_kernel, leaky
from jimgen.nets.filtered_convolution import down_conv3, up_conv3
from jimgen.nets.labels import embed, num_rows
from jimgen.nets.layers import Dtype, along_last, at_least_float32, base_size
from jimgen.nets.minibatch_std import minibatch_std
from jimgen.nets.modulation import modulated
from jimgen.nets.resampled_convolution import conv3
from jimgen.nets.resampling import downsample, upsample
from jimgen.parallel import mean_over_devices

MEAN_DECAY = 0.998  # per step, of the running mean of w
_CLAMP = 256.0  # of activations in 16 bits
_NOISE, _MIXING = 0, 1  # folded into an example's key
_HALF = math.sqrt(0.5)  # gain of each of two branches, so that their sum keeps the variance


class Generator(nn.Module):
    """z [b, d], labels int32 [b] or [b, columns], PRNG keys [b] -> images float32 [b, *image_shape].

    They are limited to [-1, 1] only if `bounded`.

    An example's key decides its noise inputs and, in training, its style mixing, so an image does not depend on the
    batch it is drawn in. `to_w` and `from_w` are the two halves, for truncation, projection and path lengths. The
    running mean of w over training, float [w_dim], is `variables["batch_stats"]["mean_w"]`.

    `widths` are the channels of the stages, starting at the smallest; each stage after the first doubles both sides.
    With `architecture` "skip", each stage adds to the image; with "resnet", stages have shortcuts, and the last one
    makes the image. `mixing` is the probability with which an example in training takes the styles of the layers after
    a random one from a second z. `circular` makes images that tile without seams. In 16 bits, the last
    `low_precision_stages` stages compute in `dtype`, but the first one in float32.

    Raises:
        ValueError: if 2^(len(widths) - 1) does not divide the image's sides.
    """

    image_shape: tuple[int, int, int]
    widths: Sequence[int] = (512, 512, 512, 512)
    w_dim: int = 512
    mapping_layers: int = 8
    num_classes: NumClasses = 0
    mixing: float = 0.0
    architecture: Literal["skip", "resnet"] = "skip"
    circular: bool = False
    dtype: Dtype = jnp.float32
    low_precision_stages: int = 4
    bounded: bool = False  # tanh keeps images within [-1, 1]; not in the paper

    def setup(self) -> None:
        base = base_size(self.image_shape, len(self.widths) - 1, "StyleGAN2's generator")
        dtypes = stage_dtypes(self.dtype, len(self.widths), self.low_precision_stages)[::-1]
        self.mapping = Mapping(self.w_dim, self.mapping_layers, self.num_classes, _computing(self.dtype))
        self.synthesis = Synthesis(
            base, self.widths, self.image_shape[-1], self.architecture == "skip", self.circular, dtypes
        )
        self.mean_w = self.variable("batch_stats", "mean_w", jnp.zeros, (self.w_dim,))

    def __call__(self, z: Array, labels: Array, keys: Array, *, train: bool) -> Array:
        w = self.to_w(z, labels)
        if train and not self.is_initializing():
            mean = mean_over_devices(lax.stop_gradient(w).mean(0))
            self.mean_w.value = MEAN_DECAY * self.mean_w.value + (1 - MEAN_DECAY) * mean
        if train and self.mixing:
            w = self._mixed(w, labels, keys, z.shape[-1])
        return self.from_w(w, keys, train=train)

    def to_w(self, z: Array, labels: Array) -> Array:
        """Latents float [b, d], labels int32 [b] or [b, columns] -> float32 [b, w_dim], without truncation."""
        return self.mapping(z, labels)

    def from_w(self, w: Array, keys: Array, *, train: bool = False) -> Array:
        """w [b, w_dim], or [b, num_styles, w_dim] for layer by layer, and keys [b] -> images [b, *image_shape].

        Training makes no difference here: the flag is there because all nets have it.
        """
        if w.ndim == 2:
            w = jnp.broadcast_to(w[:, None], (w.shape[0], self.num_styles, w.shape[1]))
        images = self.synthesis(w.astype(_computing(self.dtype)), keys)
        return jnp.tanh(images) if self.bounded else images

    @property
    def num_styles(self) -> int:
        """Number of styles: one for each convolution, and one for the colours of the last stage.

        The colours of the other stages take the style of the convolution that follows.
        """
        return 2 * len(self.widths)

    def _mixed(self, w: Array, labels: Array, keys: Array, latent_dim: int) -> Array:
        """w [b, w_dim] -> [b, num_styles, w_dim], for some examples from a second w after a random layer."""

        def draw(key: Array) -> tuple[Array, Array]:
            of_z, of_start, of_choice = jax.random.split(jax.random.fold_in(key, _MIXING), 3)
            start = jax.random.randint(of_start, (), 1, self.num_styles)
            mixed = jax.random.bernoulli(of_choice, self.mixing)
            return jax.random.normal(of_z, (latent_dim,)), jnp.where(mixed, start, self.num_styles)

        z, start = jax.vmap(draw)(keys)
        second = jnp.arange(self.num_styles)[None] >= start[:, None]
        return jnp.where(second[..., None], self.to_w(z, labels)[:, None], w[:, None])


def stage_dtypes(dtype: Dtype, num_stages: int, num_low: int) -> tuple[Dtype, ...]:
    """The dtype of each stage, starting at the highest resolution: 16 bits in `num_low` stages at most, and never in
    the last one."""
    num_low = min(num_low, num_stages - 1)
    return tuple(dtype if i < num_low else _computing(dtype) for i in range(num_stages))


def _computing(dtype: Dtype) -> Dtype:
    """The dtype of what must not be in 16 bits."""
    return jnp.promote_types(dtype, jnp.float32)


def _limit(dtype: Dtype) -> float | None:
    return _CLAMP if jnp.dtype(dtype).itemsize == 2 else None


def _unit(x: Array) -> Array:
    """x [b, c] with a mean square of one over each row."""
    x = at_least_float32(x)
    return x * lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + 1e-8)


def _label_features(module: nn.Module, labels: Array, num_classes: NumClasses, width: int) -> Array:
    """The normalised embedding [b, width] of labels, "any" among them, from the parameter "embedding" of a module."""
    table = module.param("embedding", nn.initializers.normal(1.0), (num_rows(num_classes), width))
    return _unit(embed(table, labels, num_classes))


class Mapping(nn.Module):
    """z [b, d], labels -> w [b, width]; its learning rate is a hundredth of the other layers'."""

    width: int
    num_layers: int
    num_classes: NumClasses
    dtype: Dtype

    @nn.compact
    def __call__(self, z: Array, labels: Array) -> Array:
        x = _unit(z)
        if self.num_classes:
            x = jnp.concatenate([x, _label_features(self, labels, self.num_classes, self.width)], axis=-1)
        for i in range(self.num_layers):
            x = EqualDense(self.width, multiplier=0.01, activate=True, dtype=self.dtype, name=f"layer{i}")(x)
        return x


class Synthesis(nn.Module):
    """w [b, 2 stages, d], keys [b] -> images float32 [b, h, w, channels], from a learned constant."""

    base: tuple[int, int]
    widths: Sequence[int]
    channels: int
    skip: bool
    circular: bool
    dtypes: Sequence[Dtype]  # of each stage

    @nn.compact
    def __call__(self, w: Array, keys: Array) -> Array:
        constant = self.param("constant", nn.initializers.normal(1.0), (*self.base, self.widths[0]))
        x = jnp.broadcast_to(constant[None], (w.shape[0], *constant.shape))
        image, noise = None, iter(_noise(keys, self.base, len(self.widths)))
        for i, (features, dtype) in enumerate(zip(self.widths, self.dtypes, strict=True)):
            x, gain = x.astype(dtype), 1.0 if self.skip or not i else _HALF
            layer = partial(StyledConv, features, circular=self.circular)
            shortcut = None
            if i:
                if not self.skip:
                    dense = EqualDense(features, use_bias=False, dtype=dtype, name=f"shortcut{i}")
                    shortcut = upsample(dense(x), circular=self.circular) * _HALF
                x = layer(up=True, name=f"stage{i}_up")(x, w[:, 2 * i - 1], next(noise))
            x = layer(gain=gain, name=f"stage{i}")(x, w[:, 2 * i], next(noise))
            x = x if shortcut is None else x + shortcut
            if self.skip or i == len(self.widths) - 1:
                colours = at_least_float32(ToImage(self.channels, name=f"to_image{i}")(x, w[:, 2 * i + 1]))
                image = colours if image is None else upsample(image, circular=self.circular) + colours
        assert image is not None
        return image


def _noise(keys: Array, base: tuple[int, int], num_stages: int) -> list[Array]:
    """Noise ~ N(0, 1) for each convolution of all stages, [b, h, w, 1], from each example's key.

    It is drawn at once, because XLA on CPU compiles each draw for about half a second.
    """
    sides = [(base[0] << i, base[1] << i) for i in range(num_stages)]
    shapes = [shape for i, shape in enumerate(sides) for _ in range(2 if i else 1)]
    sizes = [height * width for height, width in shapes]
    draw = lambda key: jax.random.normal(jax.random.fold_in(key, _NOISE), (sum(sizes),))  # noqa: E731
    parts = jnp.split(jax.vmap(draw)(keys), np.cumsum(sizes)[:-1], axis=1)
    return [part.reshape(-1, *shape, 1) for part, shape in zip(parts, shapes, strict=True)]


class StyledConv(nn.Module):
    """x [b, h, w, c], w [b, d] -> [b, h, w, features], or twice both sides with `up`: a modulated convolution, noise
    [b, h, w, 1], of the size of the result, times a learned strength, a bias and leaky ReLU."""

    features: int
    up: bool = False
    circular: bool = False
    gain: float = 1.0

    @nn.compact
    def __call__(self, x: Array, w: Array, noise: Array) -> Array:
        styles = EqualDense(x.shape[-1], bias_init=1.0, dtype=w.dtype, name="style")(w)
        kernel = equalised_kernel(self, 3, 3, x.shape[-1], self.features)
        x = modulated(partial(up_conv3 if self.up else conv3, circular=self.circular), x, kernel, styles)
        strength = self.param("noise", nn.initializers.zeros, ())
        x += (strength * noise).astype(x.dtype)
        x += along_last(self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype), x)
        return leaky(x, self.gain, _limit(x.dtype))


class ToImage(nn.Module):
    """x [b, h, w, c], w [b, d] -> colours [b, h, w, channels], by a modulated 1x1 convolution."""

    channels: int

    @nn.compact
    def __call__(self, x: Array, w: Array) -> Array:
        styles = EqualDense(x.shape[-1], bias_init=1.0, dtype=w.dtype, name="style")(w)
        kernel = equalised_kernel(self, 1, 1, x.shape[-1], self.channels)
        x = modulated(lambda x, kernel: x @ kernel[0, 0], x, kernel, styles, demodulate=False)
        x += along_last(self.param("bias", nn.initializers.zeros, (self.channels,)).astype(x.dtype), x)
        limit = _limit(x.dtype)
        return x if limit is None else jnp.clip(x, -limit, limit)


class Discriminator(nn.Module):
    """Images [b, h, w, c], labels int32 [b] or [b, columns] -> logits float32 [b].

    `widths` are the channels at each resolution, starting with the image's; each after the first is of half the sides.
    With `architecture` "resnet", blocks have shortcuts; "orig" has none, as for CIFAR-10 in StyleGAN2-ADA. Minibatch
    standard deviation over groups of `group` examples (0: none) couples the batch. Labels enter by projection on a
    normalised embedding. In 16 bits, the first `low_precision_stages` resolutions compute in `dtype`, but the last one
    in float32.

    Raises:
        ValueError: if 2^(len(widths) - 1) does not divide the image's sides, or `group` not the batch.
    """

    widths: Sequence[int] = (512, 512, 512, 512)
    architecture: Literal["orig", "resnet"] = "resnet"
    group: int = 4
    num_classes: NumClasses = 0
    dtype: Dtype = jnp.float32
    low_precision_stages: int = 4

    @nn.compact
    def __call__(self, images: Array, labels: Array, *, train: bool) -> Array:
        base_size(images.shape[1:], len(self.widths) - 1, "StyleGAN2's discriminator")
        high = _computing(self.dtype)
        *dtypes, _ = stage_dtypes(self.dtype, len(self.widths), self.low_precision_stages)
        first = dtypes[0] if dtypes else high
        x = EqualDense(self.widths[0], activate=True, dtype=first, name="from_image")(images)
        for i, (features, dtype) in enumerate(zip(self.widths[1:], dtypes, strict=True)):
            x = DownBlock(features, self.architecture == "resnet", dtype, name=f"block{i}")(x)
        x = x.astype(high)
        if self.group:
            x = minibatch_std(x, self.group)
        x = leaky(EqualConv3(self.widths[-1], high, name="conv")(x))
        x = x.reshape(x.shape[0], -1)
        x = EqualDense(self.widths[-1], activate=True, dtype=high, name="dense")(x)
        if not self.num_classes:
            return EqualDense(1, dtype=high, name="logit")(x)[:, 0]
        x = EqualDense(self.widths[-1], dtype=high, name="features")(x)
        return (x * _label_features(self, labels, self.num_classes, x.shape[-1])).sum(-1) / math.sqrt(x.shape[-1])


class DownBlock(nn.Module):
    """[b, h, w, c] -> [b, h / 2, w / 2, features]: two 3x3 convolutions, with a shortcut beside them if `residual`."""

    features: int
    residual: bool
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x, limit = x.astype(self.dtype), _limit(self.dtype)
        gain = _HALF if self.residual else 1.0
        y = leaky(EqualConv3(x.shape[-1], self.dtype, name="conv")(x), limit=limit)
        y = leaky(EqualDownConv3(self.features, self.dtype, name="down")(y), gain, limit)
        if not self.residual:
            return y
        shortcut = EqualDense(self.features, use_bias=False, dtype=self.dtype, name="shortcut")(downsample(x))
        return y + shortcut * _HALF


class EqualDownConv3(nn.Module):
    """3x3 convolution with bias that halves both sides, of the image filtered by [1, 3, 3, 1]."""

    features: int
    dtype: Dtype

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = equalised_kernel(self, 3, 3, x.shape[-1], self.features)
        x = down_conv3(x, kernel.astype(self.dtype))
        return x + along_last(self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype), x)
