"""Transparency. Within the product, pictures with alpha are premultiplied; files hold straight alpha.

Premultiplied colour is colour times alpha: nothing where the picture is transparent. So averages over pixels (resizing,
convolutions) never mix in the colour that hides under full transparency, and a picture over a background is
colour + (1 - alpha) background.
"""

import numpy as np
from numpy.typing import NDArray

Colour = tuple[int, int, int]  # levels in [0, 255]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
NAMED = {"black": BLACK, "white": WHITE}


def premultiply(straight: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight RGBA uint8 [..., 4] -> premultiplied uint8 [..., 4]: colour times alpha / 255, rounded."""
    alpha = straight[..., 3:].astype(np.float32) / 255
    return np.concatenate([np.rint(straight[..., :3] * alpha).astype(np.uint8), straight[..., 3:]], axis=-1)


def unpremultiply(premultiplied: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied uint8 [..., 4] -> straight RGBA uint8 [..., 4]. Colour above alpha is cut."""
    alpha = premultiplied[..., 3:].astype(np.float32)
    colour = premultiplied[..., :3] * (255 / np.maximum(alpha, 1)) * (alpha > 0)
    return np.concatenate([np.rint(np.minimum(colour, 255)).astype(np.uint8), premultiplied[..., 3:]], axis=-1)


def composite(premultiplied: NDArray[np.uint8], background: NDArray[np.uint8] | Colour) -> NDArray[np.uint8]:
    """Premultiplied uint8 [..., h, w, 4] over a colour, or over a picture uint8 [h, w, 3]: uint8 [..., h, w, 3]."""
    rest = 1 - premultiplied[..., 3:].astype(np.float32) / 255
    over = premultiplied[..., :3] + rest * np.asarray(background, np.float32)
    return np.rint(np.minimum(over, 255)).astype(np.uint8)
