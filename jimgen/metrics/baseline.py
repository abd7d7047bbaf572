"""A baseline for generative models: one Gaussian per class, in pixels."""

import numpy as np

MOST_ROWS = 2000  # per class, to fit its Gaussian
ROWS_AT_A_TIME = 1000


def gaussian_per_class(images: np.ndarray, labels: np.ndarray, wanted: np.ndarray, *, seed: int) -> np.ndarray:
    """Draws images from a Gaussian fitted to the pixels of each class. They have the right mean and covariance only.

    x = mean + (X - mean)^T w / sqrt(n - 1) with w ~ N(0, I_n) has exactly the mean and covariance of the rows X. It
    needs no covariance matrix, which would be too large for large images.

    Args:
        images: uint8 [n, h, w, c], real images.
        labels: int [n], their classes; only the first 2000 images of a class are used.
        wanted: int [m], the classes to draw.
        seed: random seed of the draws.
    Returns: uint8 [m, h, w, c], rounded and clipped.
    Raises:
        ValueError: if there are fewer than 2 images of a wanted class.
    """
    rng = np.random.default_rng(seed)
    drawn = np.empty((len(wanted), *images.shape[1:]), np.uint8)
    for label in np.unique(wanted):
        rows = images[labels == label][:MOST_ROWS].reshape(-1, images[0].size).astype(np.float32)
        if len(rows) < 2:
            raise ValueError(f"class {label} has {len(rows)} images: a Gaussian needs 2 or more")
        mean = rows.mean(axis=0)
        factors = (rows - mean) / np.sqrt(len(rows) - 1)
        places = np.flatnonzero(wanted == label)
        for start in range(0, len(places), ROWS_AT_A_TIME):
            part = places[start : start + ROWS_AT_A_TIME]
            noise = rng.standard_normal((len(part), len(rows)), np.float32)
            drawn[part] = np.rint(np.clip(mean + noise @ factors, 0, 255)).reshape(-1, *images.shape[1:])
    return drawn
