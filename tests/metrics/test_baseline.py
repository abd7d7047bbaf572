"""One Gaussian per class: its moments are those of the images."""

import numpy as np
import pytest

from jimgen.metrics.baseline import gaussian_per_class


def test_draws_have_the_mean_and_covariance_of_their_class():
    """Two classes of correlated pixels far from 0 and 255, so that clipping does nothing."""
    rng = np.random.default_rng(0)
    mixing = rng.normal(size=(6, 6)) * 5
    labels = np.repeat([0, 1], 1500)
    centres = np.array([100.0, 150.0])[labels, None]
    images = np.rint(centres + rng.normal(size=(3000, 6)) @ mixing).clip(0, 255).astype(np.uint8).reshape(-1, 2, 3, 1)
    wanted = np.tile([1, 0], 20_000)
    drawn = gaussian_per_class(images, labels, wanted, seed=3).astype(np.float64)
    for label in (0, 1):
        real, fake = (x.reshape(len(x), -1) for x in (images[labels == label].astype(float), drawn[wanted == label]))
        np.testing.assert_allclose(fake.mean(0), real.mean(0), atol=0.5)
        covariance = np.cov(real.T)
        np.testing.assert_allclose(np.cov(fake.T), covariance, atol=0.05 * np.abs(covariance).max())


def test_the_same_seed_draws_the_same_and_a_missing_class_is_named():
    images = np.random.default_rng(0).integers(0, 256, (10, 4, 4, 3), np.uint8)
    labels, wanted = np.arange(10) % 2, np.array([0, 1, 1])
    first, again, other = (gaussian_per_class(images, labels, wanted, seed=seed) for seed in (0, 0, 1))
    assert first.shape == (3, 4, 4, 3) and first.dtype == np.uint8
    np.testing.assert_array_equal(first, again)
    assert (first != other).any()
    with pytest.raises(ValueError, match="class 7 has 0 images"):
        gaussian_per_class(images, labels, np.array([7]), seed=0)
