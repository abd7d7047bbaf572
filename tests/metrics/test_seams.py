"""The ratio of differences across the border of a tiling and inside, by hand."""

import numpy as np
import pytest

from jimgen.metrics.seams import seam_ratio


def test_a_ramp_has_a_seam_and_a_wave_has_none():
    """Columns 0, 1, 2, 3: differences 1 inside and 3 across; rows are equal. A wave continues, at every phase."""
    ramp = np.broadcast_to(np.arange(4.0)[None, None, :, None], (2, 5, 4, 1))
    assert seam_ratio(ramp) == 3
    phase = 2 * np.pi * (np.arange(16)[:, None] + np.arange(16)[None]) / 16  # [images, pixels]
    wave = (np.sin(phase)[:, :, None] + np.sin(phase)[:, None])[..., None]
    assert seam_ratio(wave) == pytest.approx(1)


def test_rolling_a_seamless_image_changes_little_and_cropping_a_noise_nothing():
    noise = np.random.default_rng(0).normal(size=(50, 16, 16, 3))
    assert seam_ratio(noise) == pytest.approx(1, abs=0.03)
    assert seam_ratio(np.roll(noise, (3, 5), (1, 2))) == pytest.approx(seam_ratio(noise), abs=0.03)


def test_images_without_neighbours_or_differences_are_refused():
    with pytest.raises(ValueError, match="at least 2x2 pixels"):
        seam_ratio(np.zeros((1, 1, 4, 1)))
    with pytest.raises(ValueError, match="constant"):
        seam_ratio(np.ones((1, 4, 4, 1)))
