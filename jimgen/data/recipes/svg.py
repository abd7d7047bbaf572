"""Drawings (SVG) as premultiplied pixels, by resvg: no browser, no fonts of the system."""

import io

import numpy as np
from PIL import Image

from jimgen.alpha import premultiply

PACKAGE = "resvg-py"
MODULE = "resvg_py"


def render(drawing: str, size: tuple[int, int]) -> np.ndarray:
    """Renders an SVG as large as fits into (height, width), centred: premultiplied uint8 [h, w, 4]."""
    import resvg_py

    side = min(size)
    png = bytes(resvg_py.svg_to_bytes(svg_string=drawing, width=side, height=side, skip_system_fonts=True))
    with Image.open(io.BytesIO(png)) as image:
        return centred(premultiply(np.asarray(image.convert("RGBA"))), size)


def centred(picture: np.ndarray, size: tuple[int, int]) -> np.ndarray:
    """A picture uint8 [h, w, c] in the middle of an empty one of (height, width), at least as large."""
    (height, width), (most, wide) = picture.shape[:2], size
    top, left = (most - height) // 2, (wide - width) // 2
    out = np.zeros((most, wide, picture.shape[2]), np.uint8)
    out[top : top + height, left : left + width] = picture
    return out
