"""Slices of medical volumes: window, square pixels, air, and the split of neighbours."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from PIL import Image

BLOCK, EVERY, GAP = 12, 6, 2  # slices in a block; every sixth block is test; slices left out beside it

PERCENTILES = (0.5, 99.5)  # of a volume without a window become black and white
AIR = 20  # grey level; a slice is kept if more than LEAST of its pixels are brighter
LEAST = 0.02
SQUARE = 1.01  # spacings that differ by less count as equal
MOST_STRETCHED = 32  # beyond this a spacing is surely wrong


class Levels(NamedTuple):
    """The values that become black and white."""

    black: float
    white: float


class Plane(NamedTuple):
    """A slice before its window, in the orientation in which it is shown."""

    values: np.ndarray  # float32 [h, w]; not finite where nothing was measured
    spacing: tuple[float, float] = (1.0, 1.0)  # distance of rows, and of columns
    levels: Levels | None = None  # as its file says
    inverted: bool = False  # low values are white


def split_of_slice(place: int, count: int) -> str:
    """The split of slice `place` of `count` neighbours of one body: "train", "test", or "" beside a block of test.

    Blocks have 12 slices, of fewer than 72 slices a sixth. The fourth block of six is test, and the two slices beside
    it are in neither.
    """
    block = min(BLOCK, max(1, count // EVERY))

    def is_test(place: int) -> bool:
        return place // block % EVERY == EVERY // 2

    if is_test(place):
        return "test"
    return "" if any(is_test(place + step) for step in range(-GAP, GAP + 1)) else "train"


def grey_slices(planes: Sequence[Plane], levels: Levels | None = None) -> list[np.ndarray]:
    """The slices of one volume as uint8 [h, w, 1] with square pixels, without those that show nearly nothing.

    Args:
        planes: all slices of the volume.
        levels: values that become black and white. None takes those of each plane, and where it has none the 0.5 and
            99.5 percentiles of the volume.
    Returns: slices, of which more than 2% of the pixels are above grey level 20.
    Raises:
        ValueError: the spacings of rows and columns differ more than 32 times, or a slice has too many pixels.
    """
    usual = None if levels else _percentiles([plane for plane in planes if plane.levels is None])
    windowed = (_grey(plane, levels or plane.levels or usual) for plane in planes)
    return [image[..., None] for image in windowed if (image > AIR).mean() > LEAST]


def _percentiles(planes: Sequence[Plane]) -> Levels | None:
    """Of the finite values; None if there are none."""
    values = np.concatenate([plane.values[np.isfinite(plane.values)] for plane in planes]) if planes else np.zeros(0)
    return Levels(*np.percentile(values, PERCENTILES).tolist()) if values.size else None


def _grey(plane: Plane, levels: Levels | None) -> np.ndarray:
    """A slice by its window, uint8 [h, w]; black where nothing was measured."""
    if levels is None:
        return np.zeros(plane.values.shape, np.uint8)
    width = max(levels.white - levels.black, np.finfo(np.float32).tiny)
    with np.errstate(all="ignore"):
        share = ((plane.values.astype(np.float64) - levels.black) / width).clip(0, 1)
    share = np.where(np.isfinite(plane.values), 1 - share if plane.inverted else share, 0)
    return np.rint(_square((share * 255).astype(np.float32), plane.spacing).clip(0, 255)).astype(np.uint8)


def _square(values: np.ndarray, spacing: tuple[float, float]) -> np.ndarray:
    """float32 [h, w] with square pixels: the coarser direction is enlarged. An unknown spacing counts as square."""
    height, width = values.shape
    if not all(np.isfinite(spacing)) or min(spacing) <= 0:
        return values
    ratio = spacing[0] / spacing[1]
    if max(ratio, 1 / ratio) > MOST_STRETCHED:
        raise ValueError("its rows and columns differ too much in spacing")
    if max(ratio, 1 / ratio) < SQUARE:
        return values
    height, width = (round(height * ratio), width) if ratio > 1 else (height, round(width / ratio))
    if height * width > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise ValueError("with square pixels it is too large")
    return np.asarray(Image.fromarray(values).resize((width, height), Image.Resampling.BICUBIC))
