"""What autoencoders of images share: how to compare a decoder's output with images, in pixels and in features."""

import math
from collections.abc import Callable, Sequence
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jimgen.objectives import absolute_error, bernoulli_nll, feature_distance, squared_error

# The maps of a fixed net: images [b, h, w, c] in [-1, 1] -> float [b, h', w', c'] each.
FeatureMaps = Callable[[Array], Sequence[Array]]


class Reconstruction(NamedTuple):
    """How to convert a decoder's output to images, and to compare the two. Arrays [b, h, w, c], images in [-1, 1]."""

    loss: Callable[[Array, Array], Array]  # (decoder output, images) -> [b], summed over pixels
    as_images: Callable[[Array], Array]  # decoder output -> images, not clipped


L1 = Reconstruction(lambda output, images: absolute_error(images, output), lambda output: output)
L2 = Reconstruction(lambda output, images: squared_error(images, output), lambda output: output)
# The output is logits of grey values in [0, 1]: for images that are nearly binary.
CROSS_ENTROPY = Reconstruction(
    lambda logits, images: bernoulli_nll(logits, jnp.clip((images + 1) / 2, 0.0, 1.0)),
    lambda logits: 2 * jax.nn.sigmoid(logits) - 1,
)


def with_features(reconstruction: Reconstruction, maps: FeatureMaps, weight: float) -> Reconstruction:
    """Adds the distance of a fixed net's feature maps: loss + weight D `feature_distance`, for D numbers in an image.

    Distances of several maps are summed. The factor D gives means over places the scale of a sum over pixels, as in
    latent diffusion (Rombach et al., arXiv:2112.10752), whose authors add the distance to the error of each pixel.
    """

    def loss(output: Array, images: Array) -> Array:
        pairs = zip(maps(images), maps(reconstruction.as_images(output)), strict=True)
        distance = sum(feature_distance(*pair) for pair in pairs)
        return reconstruction.loss(output, images) + weight * math.prod(images.shape[1:]) * distance

    return reconstruction._replace(loss=loss)


def psnr(images: Array, reconstructions: Array) -> Array:
    """10 log10(4 / mean squared error) of images in [-1, 1], which span 2: [b, h, w, c] twice -> [b] dB, up to 106."""
    squares = squared_error(images, reconstructions) / images[0].size
    return 10 * jnp.log10(4 / jnp.maximum(squares, 1e-10))
