"""The Inception network of the Frechet Inception distance, for inference.

This is the network of TensorFlow's file inception-2015-12-05 (Szegedy et al., Rethinking the Inception Architecture for
Computer Vision, arXiv:1512.00567), which Heusel et al. (arXiv:1706.08500) and later papers use. It differs from that of
the paper: average pooling does not count the padding, the last block has max pooling, and there are 1008 logits.
BatchNorm (epsilon .001) is folded into the convolutions. Layers have the names of PyTorch's weights.
"""

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

NUM_FEATURES = 2048
NUM_CLASSES = 1008
EPSILON = 1e-3  # of the folded BatchNorms
SMALLEST = 75  # pixels per side; "VALID" convolutions need as many


class Inception(nn.Module):
    """Images float32 [n, h, w, 3] in about [-1, 1] -> features [n, 2048] >= 0, logits without bias [n, 1008].

    The features are the mean over the last feature map ("pool3"). The inception score is defined on these logits
    without bias (Salimans et al., arXiv:1606.03498, by the authors' code). 23.9 million parameters. Two conventions
    scale the levels 0..255 at 299x299: (x - 128) / 128 in the original graph, 2 x / 255 - 1 in pytorch-fid.

    Raises:
        ValueError: for images of fewer than 75 pixels per side.
    """

    @nn.compact
    def __call__(self, images: Array) -> tuple[Array, Array]:
        if min(images.shape[1:3]) < SMALLEST:
            raise ValueError(f"Inception takes images of {SMALLEST} pixels per side or more, not {images.shape[1:3]}")
        x = _conv(images, "Conv2d_1a_3x3", 32, (3, 3), 2, same=False)
        x = _conv(x, "Conv2d_2a_3x3", 32, (3, 3), same=False)
        x = _max_pool_2(_conv(x, "Conv2d_2b_3x3", 64, (3, 3)))
        x = _conv(x, "Conv2d_3b_1x1", 80, (1, 1))
        x = _max_pool_2(_conv(x, "Conv2d_4a_3x3", 192, (3, 3), same=False))
        for name, pooled in (("Mixed_5b", 32), ("Mixed_5c", 64), ("Mixed_5d", 64)):
            x = _block_a(x, name, pooled)
        x = _block_b(x, "Mixed_6a")
        for name, width in (("Mixed_6b", 128), ("Mixed_6c", 160), ("Mixed_6d", 160), ("Mixed_6e", 192)):
            x = _block_c(x, name, width)
        x = _block_d(x, "Mixed_7a")
        x = _block_e(x, "Mixed_7b", _average_pool(x))
        x = _block_e(x, "Mixed_7c", nn.max_pool(x, (3, 3), padding="SAME"))  # a mistake of 2015 in all published FIDs
        features = jnp.mean(x, axis=(1, 2))
        return features, nn.Dense(NUM_CLASSES, use_bias=False, name="fc")(features)


def _conv(x: Array, name: str, features: int, kernel: tuple[int, int], stride: int = 1, same: bool = True):
    # PyTorch's padding of (kernel - 1) / 2 is "SAME": kernels are odd, and strides of 2 have no padding.
    padding = "SAME" if same else "VALID"
    return nn.relu(nn.Conv(features, kernel, stride, padding, name=f"{name}.conv")(x))


def _chain(x: Array, block: str, *layers: tuple[str, int, tuple[int, int]]) -> Array:
    for name, features, kernel in layers:
        x = _conv(x, f"{block}.{name}", features, kernel)
    return x


def _block_a(x: Array, name: str, pooled: int) -> Array:
    """At 35x35: 1x1, 5x5, two 3x3, and the pooled input."""
    branches = (
        _chain(x, name, ("branch1x1", 64, (1, 1))),
        _chain(x, name, ("branch5x5_1", 48, (1, 1)), ("branch5x5_2", 64, (5, 5))),
        _chain(
            x,
            name,
            ("branch3x3dbl_1", 64, (1, 1)),
            ("branch3x3dbl_2", 96, (3, 3)),
            ("branch3x3dbl_3", 96, (3, 3)),
        ),
        _chain(_average_pool(x), name, ("branch_pool", pooled, (1, 1))),
    )
    return jnp.concatenate(branches, axis=-1)


def _block_b(x: Array, name: str) -> Array:
    """35x35 -> 17x17."""
    double = _chain(x, name, ("branch3x3dbl_1", 64, (1, 1)), ("branch3x3dbl_2", 96, (3, 3)))
    branches = (
        _conv(x, f"{name}.branch3x3", 384, (3, 3), 2, same=False),
        _conv(double, f"{name}.branch3x3dbl_3", 96, (3, 3), 2, same=False),
        _max_pool_2(x),
    )
    return jnp.concatenate(branches, axis=-1)


def _block_c(x: Array, name: str, width: int) -> Array:
    """At 17x17: 7x7 kernels as 1x7 and 7x1."""
    branches = (
        _chain(x, name, ("branch1x1", 192, (1, 1))),
        _chain(
            x,
            name,
            ("branch7x7_1", width, (1, 1)),
            ("branch7x7_2", width, (1, 7)),
            ("branch7x7_3", 192, (7, 1)),
        ),
        _chain(
            x,
            name,
            ("branch7x7dbl_1", width, (1, 1)),
            ("branch7x7dbl_2", width, (7, 1)),
            ("branch7x7dbl_3", width, (1, 7)),
            ("branch7x7dbl_4", width, (7, 1)),
            ("branch7x7dbl_5", 192, (1, 7)),
        ),
        _chain(_average_pool(x), name, ("branch_pool", 192, (1, 1))),
    )
    return jnp.concatenate(branches, axis=-1)


def _block_d(x: Array, name: str) -> Array:
    """17x17 -> 8x8."""
    triple = _chain(
        x,
        name,
        ("branch7x7x3_1", 192, (1, 1)),
        ("branch7x7x3_2", 192, (1, 7)),
        ("branch7x7x3_3", 192, (7, 1)),
    )
    branches = (
        _conv(_chain(x, name, ("branch3x3_1", 192, (1, 1))), f"{name}.branch3x3_2", 320, (3, 3), 2, same=False),
        _conv(triple, f"{name}.branch7x7x3_4", 192, (3, 3), 2, same=False),
        _max_pool_2(x),
    )
    return jnp.concatenate(branches, axis=-1)


def _block_e(x: Array, name: str, pooled: Array) -> Array:
    """At 8x8: 3x3 kernels as 1x3 beside 3x1."""
    single = _chain(x, name, ("branch3x3_1", 384, (1, 1)))
    double = _chain(x, name, ("branch3x3dbl_1", 448, (1, 1)), ("branch3x3dbl_2", 384, (3, 3)))
    branches = (
        _chain(x, name, ("branch1x1", 320, (1, 1))),
        _chain(single, name, ("branch3x3_2a", 384, (1, 3))),
        _chain(single, name, ("branch3x3_2b", 384, (3, 1))),
        _chain(double, name, ("branch3x3dbl_3a", 384, (1, 3))),
        _chain(double, name, ("branch3x3dbl_3b", 384, (3, 1))),
        _chain(pooled, name, ("branch_pool", 192, (1, 1))),
    )
    return jnp.concatenate(branches, axis=-1)


def _average_pool(x: Array) -> Array:
    """Means over 3x3 pixels, at the border over the pixels inside the image."""
    return nn.avg_pool(x, (3, 3), padding="SAME", count_include_pad=False)


def _max_pool_2(x: Array) -> Array:
    return nn.max_pool(x, (3, 3), (2, 2))
