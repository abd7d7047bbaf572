"""Whether images tile without seams."""

import numpy as np
from numpy.typing import ArrayLike


def seam_ratio(images: ArrayLike) -> float:
    """Differences of neighbouring pixels across the border of a tiling, over those inside: >= 0, near 1 without seams.

    A tiled image continues at its right edge by its left one, and at its bottom by its top. The ratio is that of the
    mean absolute differences, over all images, both directions and all channels.

    Args:
        images: [n, h, w, c], h, w >= 2.
    Raises:
        ValueError: for another rank, or images without neighbouring pixels or without any difference.
    """
    x = np.asarray(images, np.float64)
    if x.ndim != 4 or min(x.shape[:3]) < 1 or min(x.shape[1:3]) < 2:
        raise ValueError(f"expected images [n, h, w, c] of at least 2x2 pixels, got {list(x.shape)}")
    inside = [np.abs(np.diff(x, axis=axis)).mean() for axis in (1, 2)]
    across = [np.abs(x[:, 0] - x[:, -1]).mean(), np.abs(x[:, :, 0] - x[:, :, -1]).mean()]
    if not sum(inside):
        raise ValueError("the images are constant: there is no difference to compare with")
    return float(sum(across) / sum(inside))
