"""Masks of pictures: which pixels are known, and which are to be filled in."""

import contextlib
from pathlib import Path
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jimgen.data.images import decode, fit_images
from jimgen.errors import UserError

FULL = (1, 255, 65535)  # what white may be stored as


def read_mask(path: Path) -> NDArray[np.bool_]:
    """A mask file as bool [h, w], True where the pixel is known.

    White is known and black is missing; in between, a pixel is known if it is brighter than half the range, so that the
    soft edges of a painted mask fall on one side or the other. The range is the smallest of 0 to 1, 255 and 65535 that
    holds all values: masks of 0 and 1 are understood at any depth. Colours count by their luma, a palette by its
    colours; what is transparent is missing.

    Raises:
        UserError: not a picture, values outside those ranges, or a mask that marks all pixels as known, or none.
    """
    levels = _levels(path)
    lowest, highest = levels.min(), levels.max()
    full = next((full for full in FULL if lowest >= 0 and highest <= full), None)
    if full is None:
        raise UserError(f"--mask {path}: values from {lowest} to {highest}; expected 0 to 1, 255 or 65535")
    known = levels > full / 2
    if known.all() or not known.any():
        wanted = "black (missing)" if known.all() else "white (known)"
        found = f"its values lie within {lowest:g} and {highest:g}"
        raise UserError(f"--mask {path} has no {wanted} pixel: {found}. White is known, black is filled in.")
    return known


def fit_mask(known: NDArray[np.bool_], *, size: int | None, fit: Literal["resize", "pad"]) -> NDArray[np.bool_]:
    """A mask bool [h, w] brought to the size of its picture, as `fit_images` brings that one: bool [size, size].

    A pixel is known if all that it was made of is. What `pad` adds around the picture is known.

    Raises:
        UserError: no known or no missing pixel is left; or see `fit_images`.
    """
    missing = fit_images((~known)[..., None] * np.uint8(255), size=size, fit=fit, channels=1)[..., 0]
    fitted = missing == 0
    if fitted.all() or not fitted.any():
        what = "missing" if fitted.all() else "known"
        raise UserError(f"--mask: no {what} pixel is left at size {size}; {what} parts must be larger")
    return fitted


def _levels(path: Path) -> NDArray[np.number]:
    """The grey levels of a picture [h, w], as stored where that is in more than 8 bits."""
    # A broken file can raise nearly anything; `decode` says what is wrong with it.
    with contextlib.suppress(Exception), Image.open(path) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return np.asarray(ImageOps.exif_transpose(image))
    return fit_images(decode(path), size=None, channels=1)[..., 0]
