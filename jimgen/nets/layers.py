"""Layers that several nets share."""

from collections.abc import Callable, Sequence
from typing import Any

import flax.linen as nn
import jax.numpy as jnp
from jax import Array, lax

from jimgen.nets.convolution import conv, conv_transpose
from jimgen.parallel import mean_over_devices

Initializer = Callable[..., Array]
Dtype = Any

xavier = nn.initializers.xavier_uniform()
normal_02 = nn.initializers.normal(0.02)


class Conv(nn.Module):
    """Convolution of NHWC images, [b, h, w, c] -> [b, (h + 2 padding - kernel) // stride + 1, ..., features]."""

    features: int
    kernel_size: int = 4
    stride: int = 2
    padding: int = 1
    use_bias: bool = True
    kernel_init: Initializer = nn.initializers.lecun_normal()
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        shape = (self.kernel_size, self.kernel_size, x.shape[-1], self.features)
        kernel = self.param("kernel", self.kernel_init, shape)
        y = conv(x.astype(self.dtype), kernel.astype(self.dtype), stride=self.stride, padding=self.padding)
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
    # The kernel is that of the convolution it transposes: [kernel, kernel, out, in].
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
    return y + bias.astype(y.dtype).reshape((1,) * (y.ndim - 1) + (-1,))


class BatchNorm(nn.Module):
    """Batch normalisation (Ioffe and Szegedy, arXiv:1502.03167) of [b, ..., c] over all axes but the last.

    The statistics are those of the whole global batch in every mode. They, scale and bias stay in float32, and the mean
    is subtracted before anything is multiplied; only the result is in `dtype`. No bias belongs before it: its gradient
    is zero but for rounding, which Adam amplifies. Written out, rather than flax's: it is faster, and XLA sees that the
    forward passes of two phases are one.
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
        mean, factor, bias = (part.reshape((1,) * (x.ndim - 1) + shape) for part in (mean, factor, bias))
        return ((x - mean) * factor + bias).astype(self.dtype)


def batch_moments(x: Array) -> tuple[Array, Array]:
    """Mean and variance [c] of [b, ..., c] over all axes but the last, and over devices under pmap.

    Both by one pass, as means of x - s and its square, where s is the mean of one example: near enough to the mean for
    the difference of squares to keep its digits (Chan, Golub and LeVeque, Algorithms for Computing the Sample Variance,
    1983). Neither depends on s, so its gradient is none.
    """
    axes = tuple(range(x.ndim - 1))
    shift = lax.stop_gradient(mean_over_devices(x[:1].mean(axes)))
    moved = x - shift.reshape((1,) * len(axes) + (-1,))
    mean, square = mean_over_devices((moved.mean(axes), jnp.square(moved).mean(axes)))
    return shift + mean, jnp.maximum(square - jnp.square(mean), 0.0)


def at_least_float32(x: Array) -> Array:
    """x in float32, or in its own precision if that is higher: what nets return under any compute dtype."""
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))


def with_labels(x: Array, labels: Array, num_classes: int) -> Array:
    """x [b, d] with the one-hot labels [b, num_classes] beside it; x itself where num_classes is 0."""
    if not num_classes:
        return x
    return jnp.concatenate([x, nn.one_hot(labels, num_classes, dtype=x.dtype)], axis=-1)


def num_halvings(height: int, width: int, smallest: int = 4) -> int:
    """How often both sides can be halved evenly without falling below `smallest`: 32 -> 3, 28 -> 2, 8 -> 1, 30 -> 1."""
    halvings = 0
    while not (height % 2 or width % 2 or min(height, width) // 2 < smallest):
        height, width, halvings = height // 2, width // 2, halvings + 1
    return halvings


def base_size(image_shape: Sequence[int], num_stages: int, net: str) -> tuple[int, int]:
    """Height and width after `num_stages` halvings.

    Raises:
        ValueError: they do not divide evenly; names sizes that do.
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
