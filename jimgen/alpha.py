"""Transparency. Within the product, pictures with alpha are premultiplied; files hold straight alpha.

Premultiplied colour is colour times alpha: nothing where the picture is transparent. So averages over pixels (resizing,
convolutions) never mix in the colour that hides under full transparency, and a picture over a background is
colour + (1 - alpha) background.
"""

import re
from collections.abc import Callable

import numpy as np
from numpy.typing import NDArray

from jimgen.errors import UserError

Pixels = NDArray[np.uint8]
Colour = tuple[int, int, int]  # levels in [0, 255]

BLACK: Colour = (0, 0, 0)
WHITE: Colour = (255, 255, 255)
NAMED = {"black": BLACK, "white": WHITE}

AT_A_TIME = 1024  # images


def colour_of(text: str) -> Colour:
    """The colour that `black`, `white` or `#rrggbb` names, in upper or lower case.

    Raises:
        UserError: the text is none of these.
    """
    text = text.lower()
    if text in NAMED:
        return NAMED[text]
    if not re.fullmatch(r"#[0-9a-f]{6}", text):
        raise UserError(f"background {text!r} is no colour: give black, white or #rrggbb, such as '#ff8000' for orange")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


def colour_text(colour: Colour) -> str:
    """The text #rrggbb that `colour_of` reads."""
    return "#" + bytes(colour).hex()


def premultiply(straight: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Straight RGBA uint8 [..., 4] -> premultiplied uint8 [..., 4]: colour times alpha / 255, rounded."""
    if _are_many(straight):
        return _in_parts(premultiply, straight)
    alpha = straight[..., 3:].astype(np.float32) / 255
    return np.concatenate([np.rint(straight[..., :3] * alpha).astype(np.uint8), straight[..., 3:]], axis=-1)


def unpremultiply(premultiplied: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Premultiplied uint8 [..., 4] -> straight RGBA uint8 [..., 4]. Colour above alpha, as a net may draw, is cut."""
    if _are_many(premultiplied):
        return _in_parts(unpremultiply, premultiplied)
    alpha = premultiplied[..., 3:].astype(np.float32)
    colour = premultiplied[..., :3] * (255 / np.maximum(alpha, 1)) * (alpha > 0)
    return np.concatenate([np.rint(np.minimum(colour, 255)).astype(np.uint8), premultiplied[..., 3:]], axis=-1)


def composite(premultiplied: NDArray[np.uint8], background: NDArray[np.uint8] | Colour) -> NDArray[np.uint8]:
    """Premultiplied uint8 [..., h, w, 4] over a colour, or over a picture uint8 [h, w, 3]: uint8 [..., h, w, 3]."""
    if _are_many(premultiplied):
        return _in_parts(lambda part: composite(part, background), premultiplied)
    rest = 1 - premultiplied[..., 3:].astype(np.float32) / 255
    over = premultiplied[..., :3] + rest * np.asarray(background, np.float32)
    return np.rint(np.minimum(over, 255)).astype(np.uint8)


def _are_many(images: NDArray[np.uint8]) -> bool:
    return images.ndim == 4 and len(images) > AT_A_TIME


def _in_parts(function: Callable[[Pixels], Pixels], images: Pixels) -> Pixels:
    """The function of images [n, h, w, 4], some at a time: all as floats would take many times their memory."""
    return np.concatenate([function(images[i : i + AT_A_TIME]) for i in range(0, len(images), AT_A_TIME)])
