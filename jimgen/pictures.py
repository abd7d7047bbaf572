"""Pictures: pixels, grids and PNG files."""

import io
import math
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from jimgen.alpha import composite
from jimgen.files import write_atomically

Picture = NDArray[np.uint8]  # [h, w, 3]

GAP_COLOUR = 40  # between tiles: neither black nor white, so that edges show on both backgrounds
CHECKS = (102, 153)  # two greys behind transparent pictures; neither is that between tiles
CHECK = 8  # pixels of the sheet: side of a check, about
MIN_TILE = 48  # pixels: a smaller tile is hard to judge by eye
MOST_TILES = 1024  # in a sheet that a command writes: more than anyone looks at
MOST_PIXELS = 80_000_000  # of such a sheet: from 89 million on Pillow warns of a decompression bomb


class NotANumber(ValueError):
    """Images hold NaN."""


def to_uint8(images: ArrayLike) -> NDArray[np.uint8]:
    """Converts [-1, 1] to [0, 255], rounded, for files and screens; values outside are clipped.

    Args:
        images: any shape, usually [n, h, w, c]; floating point in [-1, 1], or uint8, which is returned unchanged.
    Returns: uint8 in [0, 255], of the same shape.
    Raises:
        NotANumber: pixels are NaN.
        ValueError: pixels are integers other than uint8 (their range would be a guess).
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "iubc":
        raise ValueError(f"images must be floating point in [-1, 1] or uint8, not {images.dtype}")
    images = images.astype(np.float32)  # also for bfloat16, which numpy cannot round
    if num_nan := int(np.isnan(images).sum()):
        raise NotANumber(f"images hold {num_nan} NaN of {images.size} values: the model that drew them has diverged")
    return np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)


def grid(images: ArrayLike, *, columns: int | None = None, scale: int | None = None, gap: int = 1) -> Picture:
    """Tiles pictures row by row into one sheet.

    Args:
        images: [n, h, w, c] with c = 1, 3 or 4, for `to_uint8`; premultiplied RGBA is drawn over a checkerboard.
        columns: tiles per row, or n if that is less. Default: nearly square, with full rows if possible.
        scale, gap: as in `grid_of_rows`.
    Returns: uint8 [(rows * (h + gap) - gap) * scale, (columns * (w + gap) - gap) * scale, 3].
    Raises:
        ValueError: the shape or a size is wrong, there are no images, or pixels are NaN.
    """
    tiles = np.asarray(images)
    n = len(tiles) if tiles.ndim else 0
    if columns is None:
        side = max(1, math.ceil(math.sqrt(n)))
        columns = next((full for full in range(side, side * 3 // 2 + 1) if n % full == 0), side)
    return grid_of_rows(rows_of(tiles, columns), scale=scale, gap=gap)


def rows_of(images: NDArray[Any], columns: int) -> list[NDArray[Any]]:
    """Splits images [n, ...] into rows of `columns`; the last row may be shorter.

    Raises:
        ValueError: `columns` is less than 1.
    """
    if columns < 1:
        raise ValueError(f"columns must be at least 1, not {columns}")
    return [images[start : start + columns] for start in range(0, len(images) if images.ndim else 0, columns)]


def grid_of_rows(rows: Sequence[ArrayLike], *, scale: int | None = None, gap: int = 1) -> Picture:
    """Tiles rows of pictures, which may differ in length, into one sheet.

    Args:
        rows: [n_i, h, w, c] each, with n_i >= 1 and c = 1, 3 or 4, for `to_uint8`; premultiplied RGBA is drawn over a
            checkerboard.
        scale: integer factor of enlargement. Default: the least that makes both sides of a tile 48 pixels or more.
        gap: pixels between tiles, before enlargement; there is no gap around the sheet.
    Returns: uint8 [(number of rows * (h + gap) - gap) * scale, (longest row * (w + gap) - gap) * scale, 3].
    Raises:
        ValueError: shapes or a size are wrong or differ, there are no images, or pixels are NaN.
    """
    tiles = [to_uint8(row) for row in rows]
    shapes = {row.shape[1:] for row in tiles}
    shape = tiles[0].shape if tiles else (0,)
    if len(shape) != 4 or shape[-1] not in (1, 3, 4) or 0 in shape or len(shapes) > 1:
        wanted = "images [n, h, w, 1, 3 or 4] of one shape with n of at least 1"
        raise ValueError(f"a grid takes {wanted}, not {list(shape)}")
    _, h, w, channels = shape
    scale = _scale(h, w) if scale is None else scale
    if scale < 1 or gap < 0:
        raise ValueError(f"scale must be at least 1 and gap at least 0, not {scale} and {gap}")
    if channels == 4:
        tiles = [composite(row, checkerboard(h, w, max(1, CHECK // scale))) for row in tiles]
    columns = max(len(row) for row in tiles)
    sheet = np.full((len(tiles) * (h + gap) - gap, columns * (w + gap) - gap, 3), GAP_COLOUR, np.uint8)
    for i, row in enumerate(tiles):
        for j, tile in enumerate(row):
            y, x = i * (h + gap), j * (w + gap)
            sheet[y : y + h, x : x + w] = tile  # one channel broadcasts to three
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


def checkerboard(height: int, width: int, check: int = CHECK) -> Picture:
    """Squares of `check` pixels in two greys, uint8 [height, width, 3], the darker one at the top left."""
    rows, columns = np.arange(height) // check, np.arange(width) // check
    grey = np.array(CHECKS, np.uint8)[(rows[:, None] + columns[None]) % 2]
    return np.repeat(grey[..., None], 3, axis=-1)


def most_tiles(height: int, width: int) -> int:
    """The largest number of tiles of this size in a written sheet, by MOST_TILES and MOST_PIXELS."""
    scale = _scale(height, width)
    return max(1, min(MOST_TILES, MOST_PIXELS // ((height + 1) * (width + 1) * scale**2)))


def _scale(height: int, width: int) -> int:
    return math.ceil(MIN_TILE / min(height, width))


def save_png(path: Path, array: ArrayLike) -> None:
    """Writes uint8 [h, w, 3], [h, w, 4] (straight RGBA) or [h, w] as PNG, atomically, and creates the folder."""
    write_atomically(path, encode_png(np.asarray(array)))


def encode_png(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        raise ValueError(f"a PNG takes uint8 pixels, not {array.dtype}: see to_uint8")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
