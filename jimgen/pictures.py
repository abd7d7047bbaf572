"""Pictures: pixels, grids of them, PNG files."""

import io
import math
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from jimgen.files import write_atomically

Picture = NDArray[np.uint8]  # [H, W, 3]

GAP_COLOUR = 40  # between tiles: neither black nor white, so that pictures with either ground end where they end
MIN_TILE = 48  # pixels: below this a tile is too small to judge by eye


def to_uint8(images: ArrayLike) -> NDArray[np.uint8]:
    """Pixels for files and screens: -1 becomes 0 and 1 becomes 255, rounded; what lies outside is clipped.

    Args:
        images: any shape, usually [n, h, w, c]; floating point in [-1, 1], or uint8, which passes unchanged.

    Returns:
        uint8 in [0, 255], of the same shape.

    Raises:
        ValueError: NaN pixels, or integers other than uint8 (their range would be a guess).
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "iubc":
        raise ValueError(f"images must be floating point in [-1, 1] or uint8, not {images.dtype}")
    images = images.astype(np.float32)  # bfloat16 too, which numpy itself cannot round
    if num_nan := int(np.isnan(images).sum()):
        raise ValueError(f"images hold {num_nan} NaN of {images.size} values: the model that drew them has diverged")
    return np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)


def grid(images: ArrayLike, *, columns: int | None = None, scale: int | None = None, gap: int = 1) -> Picture:
    """Tiles pictures row by row into one sheet.

    Args:
        images: [n, h, w, c] with c of 1 or 3, as `to_uint8` takes them.
        columns: tiles in a row. Default: near square, with full rows where that is possible.
        scale: whole factor of enlargement. Default: the least that makes both sides of a tile 48 pixels or more.
        gap: pixels between tiles, enlarged with them; there is none around the sheet.

    Returns:
        uint8 [(rows * (h + gap) - gap) * scale, (columns * (w + gap) - gap) * scale, 3].

    Raises:
        ValueError: a wrong shape, no images, NaN pixels, or a size that makes no sense.
    """
    tiles = to_uint8(images)
    if tiles.ndim != 4 or tiles.shape[-1] not in (1, 3) or 0 in tiles.shape:
        raise ValueError(f"a grid takes images [n, h, w, 1 or 3] with n of at least 1, not {list(tiles.shape)}")
    n, h, w, _ = tiles.shape
    if columns is None:
        side = math.ceil(math.sqrt(n))
        columns = next((full for full in range(side, side * 3 // 2 + 1) if n % full == 0), side)
    scale = math.ceil(MIN_TILE / min(h, w)) if scale is None else scale
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns and scale must be at least 1 and gap at least 0, not {columns}, {scale} and {gap}")
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), GAP_COLOUR, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = tile  # one channel broadcasts to three
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


def save_png(path: Path, array: ArrayLike) -> None:
    """Writes uint8 [H, W, 3] or [H, W] as PNG, making the folder; a reader sees the old file or the new, no part."""
    write_atomically(path, encode_png(np.asarray(array)))


def encode_png(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        raise ValueError(f"a PNG takes uint8 pixels, not {array.dtype}: see to_uint8")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()
