"""Spectral normalisation (Miyato et al., arXiv:1802.05957): kernels divided by their largest singular value.

The singular value is estimated by one step of power iteration in each forward pass, from a vector u that the collection
"batch_stats" holds. u depends on the kernel alone, so it is the same on all devices.
"""

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array, lax

from jimgen.conditions import NumClasses
from jimgen.nets.labels import embed, num_rows
from jimgen.nets.layers import Dtype, Initializer, along_last, normal_02, xavier
from jimgen.nets.resampled_convolution import conv3, conv3_halve
from jimgen.precision import at_least_float32


def power_iteration(kernel: Array, u: Array) -> tuple[Array, Array]:
    """One step of power iteration for the matrix W [o, n] of a kernel, with o outputs and n inputs.

        v = W^T u / |W^T u|,   u' = W v / |W v|,   sigma = u'^T W v

    u' and v are constants for differentiation, so the gradient of sigma in W is u' v^T.

    Args:
        kernel: float [..., o]; W is its transpose as [n, o].
        u: float [o].
    Returns: sigma [], which tends to the largest singular value over the steps, and u' [o].
    References: Miyato et al., arXiv:1802.05957, algorithm 1.
    """
    matrix = kernel.reshape(-1, kernel.shape[-1])
    constant = lax.stop_gradient(matrix)
    v = _normalised(constant @ u)
    u = _normalised(v @ constant)
    return v @ matrix @ u, u


def spectrally_normalised(module: nn.Module, kernel: Array, train: bool) -> Array:
    """A kernel divided by its estimated largest singular value.

    Args:
        module: the layer of this kernel; its "batch_stats" hold u, under the name "u".
        kernel: float [..., o].
        train: whether to store the new u. Both cases take one step from the stored u, so they give the same kernel.
    Returns: of the kernel's shape, at least float32.
    """
    kernel = at_least_float32(kernel)
    size = kernel.shape[-1:]
    start = module.variable("batch_stats", "u", lambda: _normalised(jax.random.normal(module.make_rng("params"), size)))
    sigma, u = power_iteration(kernel, lax.stop_gradient(start.value))
    if train and not module.is_initializing():
        start.value = u
    return kernel / sigma


def _normalised(x: Array) -> Array:
    return x * lax.rsqrt(jnp.square(x).sum() + 1e-24)


class SNConv(nn.Module):
    """Spectrally normalised 3x3 convolution that keeps the size, [b, h, w, c] -> [b, h, w, features].

    With `halve`, the result is halved by means over 2x2 pixels: [b, h / 2, w / 2, features].
    The normalised kernel is that of the convolution alone.
    """

    features: int
    train: bool
    halve: bool = False
    kernel_init: Initializer = xavier
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (3, 3, x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        kernel = spectrally_normalised(self, kernel, self.train).astype(self.dtype)
        x = x.astype(self.dtype)
        x = conv3_halve(x, kernel) if self.halve else conv3(x, kernel)
        return x + along_last(bias, x)


class SNDense(nn.Module):
    """Spectrally normalised dense layer, [..., c] -> [..., features]."""

    features: int
    train: bool
    kernel_init: Initializer = xavier
    dtype: Dtype = jnp.float32

    @nn.compact
    def __call__(self, x: Array) -> Array:
        kernel = self.param("kernel", self.kernel_init, (x.shape[-1], self.features))
        bias = self.param("bias", nn.initializers.zeros, (self.features,)).astype(self.dtype)
        x = x.astype(self.dtype) @ spectrally_normalised(self, kernel, self.train).astype(self.dtype)
        return x + along_last(bias, x)


class SNLabelEmbedding(nn.Module):
    """Labels int32 [b] or [b, columns] -> float32 [b, width], from one spectrally normalised table for all columns.

    The value "any" of a column adds nothing.
    """

    num_classes: NumClasses
    width: int
    train: bool

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        table = self.param("embedding", normal_02, (num_rows(self.num_classes, has_any=False), self.width))
        return embed(spectrally_normalised(self, table, self.train), labels, self.num_classes, has_any=False)
