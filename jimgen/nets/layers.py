"""Layers that several nets share."""

from collections.abc import Callable, Sequence
from typing import Any, Literal

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from jimgen.nets.convolution import conv, conv_transpose
from jimgen.nets.grouped import grouped_conv
from jimgen.parallel import mean_over_devices
from jimgen.precision import at_least_float32

Activation = Callable[[Array], Array]
Initializer = Callable[..., Array]
Dtype = Any

xavier = nn.initializers.xavier_uniform()
normal_02 = nn.initializers.normal(0.02)


class Conv(nn.Module):
    """Convolution of NHWC images, [b, h, w, c] -> [b, (h + 2 padding - kernel) // stride + 1, ..., features].

    More than one group requires stride 1. With `circular`, the padding continues the image by its opposite side.
    """

    features: int
    kernel_size: int = 4
    stride: int = 2
    padding: int = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Dtype = jnp.float32
    groups: int = 1
    circular: bool = False

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1] // self.groups, self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        x, kernel = x.astype(self.dtype), kernel.astype(self.dtype)
        if self.groups == 1:
            y = conv(x, kernel, stride=self.stride, padding=self.padding, circular=self.circular)
        elif self.stride == 1:
            y = grouped_conv(x, kernel, self.groups, padding=self.padding, circular=self.circular)
        else:
            raise ValueError(f"a convolution of {self.groups} groups requires stride 1, not {self.stride}")
        return _add_bias(self, y)


class ConvTranspose(nn.Module):
    """Transposed convolution, [b, h, w, c] -> [b, stride (h - 1) + kernel - 2 padding, ..., features].

    With kernel 4, stride 2 and padding 1 it doubles height and width.
    """

    features: int
    kernel_size: int = 4
    stride: int = 2
    padding: int = 1
    use_bias: bool = True
    # The kernel has the layout of the convolution that is transposed: [kernel, kernel, out, in].
    kernel_init: Initializer = nn.initializers.lecun_normal(in_axis=-1, out_axis=-2)
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, self.features, x.shape[-1])
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv_transpose(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=self.padding)
        return _add_bias(self, y)


def _add_bias(layer: Conv | ConvTranspose, y: Array) -> Array:
    if not layer.use_bias:
        return y
    bias = layer.param("bias", nn.initializers.zeros, (layer.features,))
    return y + along_last(bias.astype(y.dtype), y)


def along_last(vector: Array, x: Array) -> Array:
    """Reshapes a vector [c] to broadcast along the last axis of x [..., c]."""
    return vector.reshape((1,) * (x.ndim - 1) + (-1,))


class Norm(nn.Module):
    """RMS normalisation x / rms(x) (Zhang and Sennrich, arXiv:1910.07467), or layer normalisation, over the last axis.

    The statistics are those of one place, computed in float32 or higher. The result is in `dtype`; None keeps the
    precision of the computation.
    """

    kind: Literal["rms", "layer"] = "rms"
    affine: bool = True  # learned scale, and bias for layer normalisation
    epsilon: float = 1e-6
    dtype: Dtype | None = None

    @nn.compact
    def __call__(self, x: Array) -> Array:
        x = at_least_float32(x)
        if self.kind == "layer":
            x -= x.mean(-1, keepdims=True)
        x *= lax.rsqrt(jnp.square(x).mean(-1, keepdims=True) + self.epsilon)
        if self.affine:
            x *= along_last(self.param("scale", nn.initializers.ones, x.shape[-1:]), x)
        if self.affine and self.kind == "layer":
            x += along_last(self.param("bias", nn.initializers.zeros, x.shape[-1:]), x)
        return x if self.dtype is None else x.astype(self.dtype)


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, arXiv:1502.03167) of [b, ..., c] over all axes but the last.

    The statistics are those of the global batch in every mode. Statistics, scale and bias are float32, and the mean is
    subtracted before any multiplication; only the result is in `dtype`. The layer before needs no bias: the gradient of
    such a bias is rounding noise, which Adam amplifies. This is faster than flax's BatchNorm, and XLA recognises that
    two phases share one forward pass.
    """

    train: bool
    scale_init: Initializer = nn.initializers.ones
    dtype: Dtype = jnp.float32
    momentum: float = 0.9
    epsilon: float = 1e-5

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (x.shape[-1],)
        scale = self.param("scale", self.scale_init, shape)
        bias = self.param("bias", nn.initializers.zeros, shape)
        running_mean = self.variable("batch_stats", "mean", jnp.zeros, shape)
        running_var = self.variable("batch_stats", "var", jnp.ones, shape)
        x = at_least_float32(x)
        if self.train:
            mean, var = batch_moments(x)
            if not self.is_initializing():
                running_mean.value = self.momentum * running_mean.value + (1 - self.momentum) * mean
                running_var.value = self.momentum * running_var.value + (1 - self.momentum) * var
        else:
            mean, var = running_mean.value, running_var.value
        factor = scale * lax.rsqrt(var + self.epsilon)
        mean, factor, bias = (along_last(part, x) for part in (mean, factor, bias))
        return ((x - mean) * factor + bias).astype(self.dtype)


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance [c] of [b, ..., c] over all axes but the last, and over devices under pmap.

    Both are computed in one pass, as means of x - s and its square. The shift s is the mean of one example, close
    enough to the mean to avoid cancellation (Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance,
    1983). Mean and variance do not depend on s, so it gets no gradient.
    """
    axes = tuple(range(x.ndim - 1))
    shift = lax.stop_gradient(mean_over_devices(x[:1].mean(axes)))
    moved = x - along_last(shift, x)
    mean, square = mean_over_devices((moved.mean(axes), jnp.square(moved).mean(axes)))
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0.0)


def num_halvings(height: int, width: int, smallest: int = 4) -> int:
    """How often both sides can be halved without remainder, down to `smallest`: 32 -> 3, 28 -> 2, 8 -> 1, 30 -> 1."""
    halvings = 0
    while not (height % 2 or width % 2 or min(height, width) // 2 < smallest):
        height, width, halvings = height // 2, width // 2, halvings + 1
    return halvings


def stage_widths(width: int, most: int, num_stages: int) -> tuple[int, ...]:
    """Channels of the stages of a net, the smallest images first: `width` in the last, doubled before, at most `most`.

    Raises:
        ValueError: if width is larger than most.
    """
    if width > most:
        raise ValueError(f"the largest feature maps have {width} channels, more than the most, {most}")
    return tuple(min(width * 2**i, most) for i in reversed(range(num_stages)))


def base_size(image_shape: Sequence[int], num_stages: int, net: str) -> tuple[int, int]:
    """Height and width after `num_stages` halvings.

    Raises:
        ValueError: if 2^num_stages does not divide both; the message suggests sizes.
    """
    height, width = image_shape[:2]
    factor = 2**num_stages
    if height % factor or width % factor or min(height, width) < factor:
        fits = [max(factor, round(side / factor) * factor) for side in (height, width)]
        raise ValueError(
            f"{net} halves images {num_stages} times, so height and width must be multiples of {factor}; got "
            f"{height}x{width}. Use {fits[0]}x{fits[1]} images, or fewer stages."
        )
    return height // factor, width // factor
