"""FID's Inception network with random weights, against pytorch-fid's values, and its differences from the paper."""

import zlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.errors import UserError
from jimgen.evaluation import extractors
from jimgen.evaluation.torch_weights import folded_params
from jimgen.nets import inception

# pytorch-fid 0.3.0 with PyTorch 2.13 on random_pictures(107), where the last feature map is 2x2, with random_state()'s
# weights: features in eight blocks of 256, their means.
FEATURES = [
    [0.775294, 0.729103, 0.604537, 0.620607, 0.482068, 0.454269, 0.448979, 0.936305],
    [1.031350, 0.969831, 0.796354, 0.814185, 0.630053, 0.599159, 0.596931, 1.164576],
    [2.094044, 1.981248, 1.629015, 1.672415, 1.300332, 1.161881, 1.171075, 2.460647],
    [2.306246, 2.186602, 1.784170, 1.845761, 1.440410, 1.283424, 1.289636, 2.742923],
]


def random_pictures(size: int) -> np.ndarray:
    """uint8 [4, size, size, 3]: those of benchmarks/check_extractors.py."""
    rng = np.random.default_rng(size)
    levels = rng.uniform(0, 255, (4, 1, 1, 3)) + rng.uniform(10, 100, (4, 1, 1, 1)) * rng.normal(
        size=(4, size, size, 3)
    )
    return levels.clip(0, 255).astype(np.uint8)


def random_tensor(name: str, shape: tuple[int, ...]) -> np.ndarray:
    """Those of benchmarks/check_extractors.py."""
    rng = np.random.default_rng(zlib.crc32(name.encode()))
    if name.endswith("running_var") or (name.endswith("weight") and len(shape) == 1):
        return rng.uniform(0.5, 1.5, shape).astype(np.float32)
    std = (2 / np.prod(shape[1:])) ** 0.5 if len(shape) > 1 else 0.1
    return (std * rng.standard_normal(shape)).astype(np.float32)


@pytest.fixture(scope="module")
def random_state() -> dict[str, np.ndarray]:
    """A state dict with the names and shapes of PyTorch's, in its order."""
    image = jax.ShapeDtypeStruct((1, 96, 96, 3), jnp.float32)
    wanted = jax.eval_shape(inception.Inception().init, jax.random.key(0), image)["params"]
    shapes = {}
    for layer, leaves in wanted.items():
        kernel = leaves["kernel"].shape
        shapes[f"{layer}.weight"] = (kernel[3], kernel[2], *kernel[:2]) if len(kernel) == 4 else kernel[::-1]
        if len(kernel) == 4:
            norm = layer.removesuffix("conv") + "bn"
            shapes |= {f"{norm}.{leaf}": kernel[3:] for leaf in ("weight", "bias", "running_mean", "running_var")}
    return {name: random_tensor(name, shape) for name, shape in shapes.items()}


def test_features_are_those_of_pytorch_fid(random_state):
    params = folded_params(random_state, epsilon=inception.EPSILON)
    assert sum(x.size for layer in params.values() for x in layer.values()) == 23_832_736
    images = random_pictures(107).astype(np.float32) * 2 / 255 - 1
    features, logits = jax.jit(inception.Inception().apply)({"params": params}, images)
    np.testing.assert_allclose(np.asarray(features).reshape(4, 8, 256).mean(-1), FEATURES, atol=1e-4)
    wanted = np.asarray(features, np.float64) @ random_state["fc.weight"].T.astype(np.float64)  # without bias
    np.testing.assert_allclose(logits, wanted, atol=1e-3)


def test_average_pooling_counts_the_pixels_that_there_are():
    x = jnp.arange(6.0).reshape(1, 2, 3, 1)
    np.testing.assert_allclose(inception._average_pool(x)[0, ..., 0], [[2, 2.5, 3], [2, 2.5, 3]])
    np.testing.assert_allclose(inception._average_pool(jnp.full((1, 4, 5, 2), 7.0)), 7.0)


def test_too_small_images_are_refused():
    with pytest.raises(ValueError, match="75 pixels"):
        inception.Inception().init(jax.random.key(0), jnp.zeros((1, 74, 80, 3)))


@pytest.fixture
def weights_file(monkeypatch, random_state, tmp_path):
    """A reader of weights that returns random_state for every file."""
    path = tmp_path / "inception.pth"
    monkeypatch.setattr(extractors, "read_torch_weights", lambda _: (random_state, "ab" * 32))
    monkeypatch.setenv(extractors.INCEPTION_VARIABLE, str(path))
    return path


@pytest.mark.parametrize("name", ["inception", "inception_pytorch_fid"])
def test_other_weights_are_told_apart_and_levels_are_scaled(name, weights_file, monkeypatch):
    monkeypatch.setattr(extractors, "_variables_for", lambda *_: {})
    monkeypatch.setattr(inception.Inception, "__call__", lambda self, images: (images, images))
    with pytest.warns(UserWarning, match="are not FID"):
        extractor = extractors.load_extractor(name)
    assert extractors.identity(extractor) == {
        "extractor": f"{name}_other_weights",
        "weights_hash": "ab" * 32,
        "resolution": 299,
        "fit": "resize",
        "channels": 3,
    }
    scaled, _ = extractor.forward(jnp.array([0.0, 128.0, 255.0]))
    wanted = [-1, 0, 127 / 128] if name == "inception" else [-1, 256 / 255 - 1, 1]
    np.testing.assert_allclose(scaled, wanted, atol=1e-6)


def test_another_nets_weights_are_refused(weights_file, random_state, monkeypatch):
    lacking = {name: x for name, x in random_state.items() if not name.startswith("fc")}
    other = {**random_state, "fc.weight": np.zeros((1000, 2048), np.float32)}
    for state, message in ((lacking, "fc.*is missing"), (other, "fc is .2048, 1000.")):
        monkeypatch.setattr(extractors, "read_torch_weights", lambda _, state=state: (state, "ab" * 32))
        with pytest.warns(UserWarning), pytest.raises(UserError, match=message):
            extractors.load_extractor("inception", inception_weights=weights_file)


def test_missing_weights_are_asked_for(monkeypatch):
    monkeypatch.delenv(extractors.INCEPTION_VARIABLE, raising=False)
    with pytest.raises(UserError, match="JIMGEN_INCEPTION_WEIGHTS"):
        extractors.load_extractor("inception")
