"""Layers with an equalised learning rate (Karras et al., arXiv:1710.10196, section 4.1).

Parameters start at N(0, 1), and their scale is multiplied in at run time. Adam, whose steps do not depend on the scale
of gradients, then changes all layers at the same relative rate.
"""

import math

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.layers import Dtype, along_last
from jimgen.nets.resampled_convolution import conv3


def leaky(x: Array, gain: float = 1.0, limit: float | None = None) -> Array:
    """Leaky ReLU of slope .2 times sqrt(2) gain, which keeps the variance; clipped to +-(limit gain)."""
    x = nn.leaky_relu(x, 0.2) * (math.sqrt(2) * gain)
    return x if limit is None else jnp.clip(x, -limit * gain, limit * gain)


def equalised_kernel(module: nn.Module, *shape: int, multiplier: float = 1.0) -> Array:
    """The parameter "kernel" of a layer, [..., inputs, outputs], with variance 1 / (number of terms of an output).

    Args:
        module: the layer.
        shape: of the kernel.
        multiplier: of the learning rate, for optimisers such as Adam.
    """
    kernel = module.param("kernel", nn.initializers.normal(1 / multiplier), shape)
    return kernel * (multiplier / math.sqrt(math.prod(shape[:-1])))


class EqualDense(nn.Module):
    """Dense layer, [..., c] -> [..., features]; with `activate`, followed by `leaky`."""

    features: int
    multiplier: float = 1.0  # of the learning rate
    bias_init: float = 0.0
    use_bias: bool = True
    activate: bool = False
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = equalised_kernel(self, x.shape[-1], self.features, multiplier=self.multiplier)
        x = x.astype(self.dtype) @ kernel.astype(self.dtype)
        if self.use_bias:
            bias = self.param("bias", nn.initializers.constant(self.bias_init / self.multiplier), (self.features,))
            x += along_last((bias * self.multiplier).astype(x.dtype), x)
        return leaky(x) if self.activate else x


class EqualConv3(nn.Module):
    """3x3 convolution that keeps the size, with bias: [b, h, w, c] -> [b, h, w, features]."""

    features: int
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = equalised_kernel(self, 3, 3, x.shape[-1], self.features)
        x = conv3(x.astype(self.dtype), kernel.astype(self.dtype))
        return x + along_last(self.param("bias", nn.initializers.zeros, (self.features,)).astype(x.dtype), x)
