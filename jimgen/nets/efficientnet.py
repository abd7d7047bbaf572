"""EfficientNet-Lite0 for inference: features of natural images (Tan and Le, EfficientNet, arXiv:1905.11946).

The Lite variant has ReLU6 instead of swish, and no squeeze-and-excitation. Its blocks are inverted residuals (Sandler
et al., MobileNetV2, arXiv:1801.04381, section 3.3). Each BatchNorm (epsilon .001) is folded into the convolution before
it, so that only kernels and biases remain. Layers have the names of PyTorch's weights.
"""

from collections.abc import Sequence
from functools import partial

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

NUM_FEATURES = 1280
NUM_CLASSES = 1000
EPSILON = 1e-3  # of the folded BatchNorms
# (blocks, kernel, stride of the first block, expansion, channels): arXiv:1905.11946, table 1
STAGES = (
    (1, 3, 1, 1, 16),
    (2, 3, 2, 6, 24),
    (2, 5, 2, 6, 40),
    (3, 3, 2, 6, 80),
    (3, 5, 1, 6, 112),
    (4, 5, 2, 6, 192),
    (1, 3, 1, 6, 320),
)


class EfficientNetLite0(nn.Module):
    """Images float32 [n, h, w, 3], (x - 127) / 128 of levels 0..255 -> features [n, 1280], logits [n, 1000].

    The features, in [0, 6], are the mean over the last feature map, whose sides are 1/32 of the image's. The logits are
    those of ImageNet's classes. 4,631,000 parameters.

    With `maps` it returns the outputs of these blocks instead, float32 [n, h', w', c] each, and computes no more: after
    blocks 0, 2, 4, 7, 10 the sides are 1/2, 1/4, 1/8, 1/16, 1/16 of the image's.
    """

    maps: Sequence[int] = ()

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, ...]:
        x = nn.relu6(nn.Conv(32, (3, 3), 2, name="_conv_stem")(images))
        blocks = [
            (kernel, stride if i == 0 else 1, expansion, features)
            for count, kernel, stride, expansion, features in STAGES
            for i in range(count)
        ]
        found = {}
        for i, (kernel, stride, expansion, features) in enumerate(blocks):
            before = x
            if expansion > 1:
                x = nn.relu6(nn.Conv(x.shape[-1] * expansion, (1, 1), name=f"_blocks.{i}._expand_conv")(x))
            x = nn.relu6(DepthwiseConv(kernel, stride, name=f"_blocks.{i}._depthwise_conv")(x))
            x = nn.Conv(features, (1, 1), name=f"_blocks.{i}._project_conv")(x)
            if stride == 1 and x.shape == before.shape:
                x = x + before
            if i in self.maps:
                found[i] = x
            if self.maps and len(found) == len(self.maps):
                return tuple(found[i] for i in self.maps)
        x = nn.relu6(nn.Conv(NUM_FEATURES, (1, 1), name="_conv_head")(x))
        features = jnp.mean(x, axis=(1, 2))
        return features, nn.Dense(NUM_CLASSES, name="_fc")(features)


class DepthwiseConv(nn.Module):
    """One convolution per channel with "SAME" padding: [n, h, w, c] -> [n, ceil(h / stride), ceil(w / stride), c]."""

    kernel_size: int
    stride: int = 1

    @nn.compact
    def __call__(self, x: Array) -> Array:
        channels = x.shape[-1]
        kernel = self.param("kernel", nn.initializers.lecun_normal(), (self.kernel_size, self.kernel_size, 1, channels))
        bias = self.param("bias", nn.initializers.zeros, (channels,))
        # Lowering chooses the form, for the platform of the compiled program, not the default backend.
        y = lax.platform_dependent(
            x, kernel, cpu=partial(_shifted_sums, self.stride), default=partial(_native, self.stride)
        )
        return y + bias[None, None, None]


def _native(stride: int, x: Array, kernel: Array) -> Array:
    return lax.conv_general_dilated(
        x,
        kernel,
        (stride, stride),
        "SAME",
        dimension_numbers=("NHWC", "HWIO", "NHWC"),
        feature_group_count=x.shape[-1],
    )


def _shifted_sums(stride: int, x: Array, kernel: Array) -> Array:
    """The same as one multiply-add per tap, which XLA on CPU fuses into one pass: 5 to 11 times faster there."""
    rows, columns = lax.padtype_to_pads(x.shape[1:3], kernel.shape[:2], (stride, stride), "SAME")
    height, width = -(-x.shape[1] // stride), -(-x.shape[2] // stride)
    x = jnp.pad(x, ((0, 0), rows, columns, (0, 0)))
    y = jnp.zeros((), x.dtype)
    for i, j in np.ndindex(kernel.shape[:2]):
        tap = x[:, i : i + stride * (height - 1) + 1 : stride, j : j + stride * (width - 1) + 1 : stride]
        y = y + tap * kernel[None, i, j : j + 1]
    return y
