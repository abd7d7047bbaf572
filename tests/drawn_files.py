"""Reading the files that commands write, and writing masks."""

from pathlib import Path

import numpy as np
from PIL import Image


def arrays_of(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images, and labels or None."""
    with np.load(path) as saved:
        assert {"images"} <= set(saved.files) <= {"images", "labels"} and saved["images"].dtype == np.uint8
        labels = saved.get("labels")
        assert labels is None or labels.dtype == np.int32
        return saved["images"], labels


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(path) as image:
        return image.size


def save_mask(path: Path, rows: list[list[int]]) -> Path:
    """A mask of 8x8: each given value fills a block of its own."""
    values = np.array(rows, np.uint8)
    Image.fromarray(values.repeat(8 // len(values), 0).repeat(8 // len(values[0]), 1)).save(path)
    return path
