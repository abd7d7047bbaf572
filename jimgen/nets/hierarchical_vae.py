"""Nets of a hierarchical VAE: a bottom-up encoder, and a top-down decoder that draws latents at every resolution.

Child, Very Deep VAEs Generalize Autoregressive Models and Can Outperform Them on Images, arXiv:2011.10650. Images are
cut into patches. The n + 1 stages of both nets are n sizes of feature maps, the largest with one place for each patch
and each half of the one before, and a vector at the top. So all work is done by dense layers and by 3x3 convolutions of
small maps with many channels, which are fastest on a CPU.
"""

import math
from collections.abc import Sequence
from typing import NamedTuple

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.conditions import NumClasses
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import Conv, Dtype, along_last, at_least_float32, base_size, normal_02


class Stage(NamedTuple):
    """The feature maps of one size, or the vector."""

    width: int  # channels
    levels: int  # latents that the decoder draws here, one after another
    latent: int  # channels of each latent


Gaussian = tuple[Array, Array]  # mean and log variance of a latent: float32 [b, h', w', d], or [b, d] at the top


def map_size(image_shape: Sequence[int], patch: int, halvings: int) -> tuple[int, int]:
    """Height and width of feature maps with one place for each patch, halved so many times.

    Raises:
        ValueError: if the patch is no power of two, or these maps do not divide the image.
    """
    if patch < 1 or patch & (patch - 1):
        raise ValueError(f"patches of {patch}: their side must be a power of two")
    return base_size(image_shape, patch.bit_length() - 1 + halvings, "the hierarchical VAE")


def narrow(width: int) -> int:
    """Channels of the smallest maps where they become a vector, and back: fewer, because each place has its own."""
    return -(-width // 4)


class _Residual(nn.Module):
    """Activation, 3x3 convolution (dense for vectors), activation, dense layer: [..., c] -> [..., features]."""

    features: int
    hidden: int
    scale: float = 1.0  # variance of the last layer's initial kernel, relative to one that keeps variances
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = nn.silu(x)
        if x.ndim == 4:
            x = Conv(self.hidden, 3, 1, 1, dtype=self.dtype, name="conv")(x)
        else:
            x = nn.Dense(self.hidden, dtype=self.dtype, name="conv")(x)
        last = nn.initializers.variance_scaling(self.scale, "fan_in", "truncated_normal")
        return nn.Dense(self.features, kernel_init=last, dtype=self.dtype, name="out")(nn.silu(x))


def _cut(x: Array, n: int = 2) -> Array:
    """[b, n h, n w, c] -> [b, h, w, n^2 c]: blocks of n x n places."""
    b, h, w, c = x.shape
    return x.reshape(b, h // n, n, w // n, n, c).transpose(0, 1, 3, 2, 4, 5).reshape(b, h // n, w // n, n * n * c)


def _joined(x: Array, n: int = 2) -> Array:
    """The inverse of `_cut`."""
    b, h, w, c = x.shape
    parts = x.reshape(b, h, w, n, n, c // n**2)
    return parts.transpose(0, 1, 3, 2, 4, 5).reshape(b, n * h, n * w, c // n**2)


class Encoder(nn.Module):
    """Images [b, h, w, c] and labels -> features of each stage, the largest maps first, a vector [b, d] last.

    Each stage has `blocks` residual blocks.

    Raises:
        ValueError: if patch 2^(len(stages) - 2) does not divide the image's sides, or the patch is no power of two.
    """

    stages: Sequence[Stage]
    patch: int = 4
    blocks: int = 1
    num_classes: NumClasses = 0
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, images: Array, labels: Array) -> tuple[Array, ...]:
        num_maps = len(self.stages) - 1
        map_size(images.shape[1:], self.patch, num_maps - 1)
        scale = 1 / (self.blocks * len(self.stages))
        x = images.astype(self.dtype)
        features = []
        for i, stage in enumerate(self.stages):
            if i == 0:
                x = Conv(stage.width, 3, 1, 1, dtype=self.dtype, name="stem")(_cut(x, self.patch))
            elif i < num_maps:
                x = nn.Dense(stage.width, dtype=self.dtype, name=f"down{i}")(_cut(x))
            else:
                x = nn.Dense(narrow(x.shape[-1]), dtype=self.dtype, name="narrow")(nn.silu(x))
                x = nn.Dense(stage.width, dtype=self.dtype, name=f"down{i}")(x.reshape(x.shape[0], -1))
                if self.num_classes:
                    x += LabelEmbedding(self.num_classes, stage.width, name="label")(labels).astype(x.dtype)
            for j in range(self.blocks):
                x += _Residual(stage.width, -(-stage.width // 2), scale, self.dtype, name=f"block{i}_{j}")(x)
            features.append(x)
        return tuple(features)


class _Level(nn.Module):
    """One latent: its prior given the state x, its posterior given x and features too, and the state after it."""

    stage: Stage
    scale: float
    dtype: Dtype

    def setup(self) -> None:
        width, latent = self.stage.width, self.stage.latent
        hidden = -(-width // 2)
        self.prior_net = _Residual(2 * latent + width, hidden, self.scale, self.dtype)
        self.of_features = nn.Dense(width, dtype=self.dtype)
        self.posterior_net = _Residual(2 * latent, hidden, self.scale, self.dtype)
        self.from_z = nn.Dense(width, dtype=self.dtype)
        self.block = _Residual(width, hidden, self.scale, self.dtype)

    def prior(self, x: Array) -> tuple[Array, Gaussian]:
        out = self.prior_net(x)
        latent = self.stage.latent
        return x + out[..., 2 * latent :], _gaussian(out[..., : 2 * latent])

    def posterior(self, x: Array, features: Array) -> Gaussian:
        return _gaussian(self.posterior_net(x + self.of_features(features)))

    def absorb(self, x: Array, z: Array) -> Array:
        x += self.from_z(z.astype(self.dtype))
        return x + self.block(x)


def _gaussian(parameters: Array) -> Gaussian:
    mean, logvar = jnp.split(at_least_float32(parameters), 2, axis=-1)
    return mean, logvar


class Decoder(nn.Module):
    """Draws the latents from the top down. Use its methods by `decoder.apply(variables, ..., method="prior")`.

    The state x begins with `begin`. Each level i then computes its `prior` from x, and its `posterior` from x and the
    encoder's features, and puts the latent z of either into x with `absorb`. `output` ends.

    Levels are numbered from the top. z of a level is float [b, *latent_shapes[i]].

    Raises:
        ValueError: for no stages of maps, or no latents at all.
    """

    image_shape: tuple[int, int, int]
    stages: Sequence[Stage]
    patch: int = 4
    outputs: int = 1  # for each value of an image
    num_classes: NumClasses = 0
    dtype: Dtype = jnp.float32

    @property
    def order(self) -> tuple[int, ...]:
        """The stage of each level, from the top."""
        return tuple(i for i in reversed(range(len(self.stages))) for _ in range(self.stages[i].levels))

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]:
        """The shape of the latent of each level, without the batch."""
        return tuple((*self._size(i), self.stages[i].latent) for i in self.order)

    def _size(self, stage: int) -> tuple[int, ...]:
        """Height and width of a stage's maps; () for the vector."""
        if stage == len(self.stages) - 1:
            return ()
        return map_size(self.image_shape, self.patch, stage)

    def setup(self) -> None:
        if len(self.stages) < 2 or not self.order:
            raise ValueError("a hierarchical VAE needs a stage of maps, a vector, and a latent in one of them")
        scale = 1 / len(self.order)
        self.start = self.param("start", normal_02, (self.stages[-1].width,))
        if self.num_classes:
            self.label = LabelEmbedding(self.num_classes, self.stages[-1].width)
        self.level = [_Level(self.stages[i], scale, self.dtype) for i in self.order]
        narrowed = narrow(self.stages[-2].width) * math.prod(self._size(len(self.stages) - 2))
        self.to_maps = nn.Dense(narrowed, dtype=self.dtype)
        self.widen = nn.Dense(self.stages[-2].width, dtype=self.dtype)
        self.up = [nn.Dense(4 * stage.width, dtype=self.dtype) for stage in self.stages[:-2]]
        self.to_output = nn.Dense(self.patch**2 * self.image_shape[-1] * self.outputs, dtype=self.dtype)

    def __call__(self, features: Sequence[Array], labels: Array, z: Sequence[Array]) -> Array:
        """Runs every method once, to initialise: features, labels, the latents from the top -> the output."""
        x = self.begin(labels)
        for i, latent in enumerate(z):
            x, _ = self.prior(i, x)
            self.posterior(i, x, features)
            x = self.absorb(i, x, latent)
        return self.output(x)

    def begin(self, labels: Array) -> Array:
        """The first state, [b, d]."""
        x = jnp.broadcast_to(along_last(self.start, jnp.zeros((1, 1))), (labels.shape[0], self.stages[-1].width))
        if self.num_classes:
            x += self.label(labels)
        return self._down_to(x.astype(self.dtype), len(self.stages) - 1, self.order[0])

    def prior(self, i: int, x: Array) -> tuple[Array, Gaussian]:
        """The state after the prior of level i, and that prior."""
        return self.level[i].prior(x)

    def posterior(self, i: int, x: Array, features: Sequence[Array]) -> Gaussian:
        """The posterior of level i, given the state after its prior."""
        return self.level[i].posterior(x, features[self.order[i]])

    def absorb(self, i: int, x: Array, z: Array) -> Array:
        """The state after the latent of level i, in the size of the next level."""
        following = self.order[i + 1] if i + 1 < len(self.order) else 0
        return self._down_to(self.level[i].absorb(x, z), self.order[i], following)

    def output(self, x: Array) -> Array:
        """Parameters of p(x|z): float32 [b, h, w, c outputs], unbounded."""
        return at_least_float32(_joined(self.to_output(nn.silu(x)), self.patch))

    def _down_to(self, x: Array, stage: int, target: int) -> Array:
        """The state of a stage in the form of a later one: larger maps."""
        while stage > target:
            stage -= 1
            x = nn.silu(x)
            if x.ndim == 2:
                x = self.widen(self.to_maps(x).reshape(x.shape[0], *self._size(stage), -1))
            else:
                x = _joined(self.up[stage](x))
        return x
