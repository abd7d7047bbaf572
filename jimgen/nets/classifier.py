"""A small convolutional classifier, whose features and errors judge samples of its data set."""

from collections.abc import Sequence

import flax.linen as nn
import jax.numpy as jnp
from jax import Array

from jimgen.nets.layers import BatchNorm, Conv, base_size

he_normal = nn.initializers.he_normal()  # keeps the variance through ReLU (He et al., arXiv:1502.01852, eq. 10)


class Classifier(nn.Module):
    """Images float32 [b, h, w, c] in [-1, 1] -> features float32 [b, widths[-1]] >= 0, logits float32 [b, num_classes].

    3x3 convolutions, each with BatchNorm (Ioffe and Szegedy, arXiv:1502.03167) and ReLU. Every width but the first
    begins with a stride of 2, so any size that those strides divide will do; the features are the mean over the last
    feature map. 427,000 parameters with these defaults.

    Raises:
        ValueError: the image's sides are not divisible by 2^(len(widths) - 1).
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
