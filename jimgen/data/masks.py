"""Masks of pictures: which pixels are known, and which are filled in."""

import contextlib
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageOps

from jimgen.alpha import BLACK
from jimgen.data.fitting import Fitting, fit_images
from jimgen.data.images import decode
from jimgen.errors import UserError
from jimgen.sizes import size_text

FULL = (1, 255, 65535)  # possible values of white


def read_mask(path: Path) -> NDArray[np.bool_]:
    """Reads a mask file as bool [h, w], True where the pixel is known.

    White is known and black is missing. In between, as at the soft edges of a painted mask, a pixel is known if it is
    brighter than half the range. The range is the smallest of 0 to 1, 255 and 65535 that contains all values, so masks
    of 0 and 1 work at any bit depth. Colours count by their luma, palettes by their colours; transparent is missing.

    Raises:
        UserError: the file is not a picture, has values outside those ranges, or marks all pixels as known, or none.
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


def fit_mask(known: NDArray[np.bool_], fitting: Fitting) -> NDArray[np.bool_]:
    """Fits a mask bool [h, w] as `fit_images` fits its picture: bool [*fitting.size].

    A pixel is known if all pixels that it was computed from are. Background that `pad` adds is known.

    Raises:
        UserError: no known or no missing pixel is left; or see `fit_images`.
    """
    levels = (~known)[..., None] * np.uint8(255)
    missing = fit_images(levels, fitting._replace(channels=1, background=BLACK))[..., 0]
    fitted = missing == 0
    if fitted.all() or not fitted.any():
        what, at = "missing" if fitted.all() else "known", size_text(fitting.size or (known.shape[0], known.shape[1]))
        raise UserError(f"--mask: no {what} pixel is left at size {at}; {what} parts must be larger")
    return fitted


def _levels(path: Path) -> NDArray[np.number]:
    """The grey levels [h, w] of a picture, as stored if that takes more than 8 bits."""
    # A damaged file can raise nearly anything; `decode` then raises the right error.
    with contextlib.suppress(Exception), Image.open(path) as image:
        if image.mode in ("I", "F") or image.mode.startswith("I;16"):
            return np.asarray(ImageOps.exif_transpose(image))
    return fit_images(decode(path), Fitting(channels=1))[..., 0]
