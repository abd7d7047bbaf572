"""A small convolutional classifier, whose features and predictions serve to evaluate samples of its data set."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.layers import BatchNorm, Conv, base_size

he_normal = nn.initializers.he_normal()  # preserves the variance under ReLU (He et al., arXiv:1502.01852, equation 10)


class Classifier(nn.Module):
    """Images float32 [b, h, w, c] in [-1, 1] -> features float32 [b, widths[-1]] >= 0, logits float32 [b, num_classes].

    3x3 convolutions, each with BatchNorm (Ioffe and Szegedy, arXiv:1502.03167) and ReLU. Every width except the first
    starts with a stride of 2. The features are the mean over the last feature map. The defaults have 427,000
    parameters.

    Raises:
        ValueError: if 2^(len(widths) - 1) does not divide the image's sides.
    """

    num_classes: int
    widths: Sequence[int] = (32, 64, 128, 128)

    @nn.compact
    def __call__(self, images: Array, *, train: bool) -> tuple[Array, Array]:
        base_size(images.shape[1:], len(self.widths) - 1, "the classifier")

        def block(x: Array, features: int, stride: int, name: str) -> Array:
            x = Conv(features, 3, stride, use_bias=False, kernel_init=he_normal, name=name)(x)
            return nn.relu(BatchNorm(train, name=f"{name}_norm")(x))

        x = block(images, self.widths[0], 1, "stem")
        for i, features in enumerate(self.widths[1:]):
            x = block(x, features, 2, f"down{i}")
            if i < len(self.widths) - 2:
                x = block(x, features, 1, f"conv{i}")
        features = jnp.mean(x, axis=(1, 2))
        return features, nn.Dense(self.num_classes, name="logits")(features)
