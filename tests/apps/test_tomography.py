"""The Radon transform and filtered back-projection, against scikit-image and by hand."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.apps import tomography
from jimgen.apps.tomography import filtered_back_projection, num_detectors, radon
from jimgen.data.recipes.phantom import phantom

ANGLES = np.linspace(0, 180, 24, endpoint=False)


@pytest.fixture(scope="module")
def image():
    return phantom(0, 1, (32, 32)).image[..., 0].astype(np.float32) / 255


def test_it_agrees_with_scikit_image(image):
    transform = pytest.importorskip("skimage.transform")
    found = jax.jit(radon(ANGLES))(image[None, ..., None])[0, ..., 0]
    np.testing.assert_allclose(found.T, transform.radon(image, ANGLES, circle=False), atol=1e-4)


def test_back_projection_agrees_with_scikit_image(image):
    """Up to interpolation: its rays are spread over pixels where scikit-image's pixels look up their rays."""
    transform = pytest.importorskip("skimage.transform")
    sinogram = radon(ANGLES)(image[None, ..., None])
    found = np.asarray(filtered_back_projection(sinogram, ANGLES, image.shape))[0, ..., 0]
    expected = transform.iradon(np.asarray(sinogram)[0, ..., 0].T, ANGLES, circle=False, output_size=32)
    assert np.sqrt(np.mean((found - expected) ** 2)) < 0.03
    assert np.mean((found - image) ** 2) < 1.05 * np.mean((expected - image) ** 2)


def test_views_from_the_sides_are_sums(image):
    """Of columns at 0 degrees, of rows at 90; every view has the same sum."""
    seen = radon(np.array([0.0, 90.0]))(image[None, ..., None])[0, ..., 0]
    first = num_detectors(32, 32) // 2 - 16
    np.testing.assert_allclose(seen[0, first : first + 32], image.sum(0), atol=1e-4)
    np.testing.assert_allclose(seen[1, first + 1 : first + 33][::-1], image.sum(1), atol=1e-4)
    np.testing.assert_allclose(radon(ANGLES)(image[None, ..., None]).sum((2, 3)), image.sum(), rtol=0.01)


def test_large_transforms_need_no_matrix(image, monkeypatch):
    images = jnp.asarray(np.stack([image, image.T])[..., None][:, :, :24])
    by_matrix = radon(ANGLES)(images)
    monkeypatch.setattr(tomography, "MOST_WEIGHTS", 0)
    np.testing.assert_allclose(radon(ANGLES)(images), by_matrix, atol=1e-4)


@pytest.mark.parametrize("wrong", [[], [[0.0]], [np.nan]])
def test_angles_are_checked(wrong):
    with pytest.raises(ValueError, match="angles in degrees"):
        radon(np.array(wrong))
