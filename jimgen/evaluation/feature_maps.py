"""Feature maps of a fixed net as a loss between images, for methods/reconstruction.py."""

import functools
from collections.abc import Sequence
from typing import Any

import jax
import jax.numpy as jnp
from jax import Array

from jimgen.evaluation.extractors import efficientnet_variables
from jimgen.methods.reconstruction import FeatureMaps
from jimgen.nets.efficientnet import EfficientNetLite0


def efficientnet_maps(resolution: int = 64, blocks: Sequence[int] = (0, 2, 4)) -> FeatureMaps:
    """The outputs of blocks of EfficientNet-Lite0, for images of any size: call it by this name, never LPIPS.

    Args:
        resolution: height and width that images are resized to, without stretching the shorter side: it stays shorter.
        blocks: see `EfficientNetLite0.maps`.
    Returns:
        Images float [b, h, w, c] in [-1, 1], c = 1 or 3 -> maps float32. It reads the weights when it is first traced,
        so that a finished run can be used without them. It raises UserError where they are not installed, and
        ValueError for other channels.
    """
    net = EfficientNetLite0(tuple(blocks))

    def maps(images: Array) -> Sequence[Array]:
        n, height, width, channels = images.shape
        if channels not in (1, 3):
            raise ValueError(f"the feature net takes 1 or 3 channels, not {channels}: use --feature-weight 0")
        scale = resolution / max(height, width)
        if scale != 1:
            size = [max(1, round(side * scale)) for side in (height, width)]
            images = jax.image.resize(images, (n, *size, channels), "cubic")
        levels = (jnp.broadcast_to(images, (*images.shape[:3], 3)) + 1) * 127.5
        return net.apply(_variables(), (levels - 127) / 128)  # pyright: ignore[reportReturnType]

    return maps


@functools.cache
def _variables() -> dict[str, Any]:
    return efficientnet_variables()
