"""Pictures as arrays: decoding every mode of a file to uint8, and fitting to a size and a number of channels."""

from pathlib import Path
from typing import BinaryIO, Literal

import numpy as np
from PIL import Image, ImageOps

from jimgen.errors import UserError

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})
LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, what JPEG and Pillow's mode L use
MAX_ENLARGEMENT = 8  # beyond this a picture holds next to nothing but interpolation: surely a mistake

_EXIF_ORIENTATION = 0x0112
_EXIF_TURNED = (5, 6, 7, 8)  # the orientations that swap height and width


class UnreadableImage(UserError):
    """A file that is not a picture, is cut off, or is of a kind that cannot be had in 8 bits. The message names it."""


def read_shape(path: Path) -> tuple[int, int, int]:
    """(height, width, channels) that `decode` will give, from the file's header alone.

    Raises:
      UnreadableImage: not a picture.
    """
    try:
        with Image.open(path) as image:
            width, height = image.size
            if image.getexif().get(_EXIF_ORIENTATION) in _EXIF_TURNED:
                width, height = height, width
            return height, width, 1 if image.mode in GREY_MODES else 3
    except Exception as error:  # a broken file can raise nearly anything out of a decoder
        raise UnreadableImage(f"{path}: {_reason(error)}") from error


def decode(file: Path | BinaryIO, *, name: str | None = None, background: int = 0) -> np.ndarray:
    """A picture file as uint8 [h, w, 1] if its mode is grey, else uint8 [h, w, 3].

    The picture is turned as its EXIF orientation says. Transparent pixels are composited over `background`, a grey
    level in [0, 255], here and thus before any resizing: the colour under full transparency must never bleed in. 16
    bits become 8 by v / 257, rounded; a 32-bit integer picture must hold 16-bit values, a float picture [0, 1]. (16-bit
    RGB and 16-bit transparent files are reduced by Pillow itself, which drops the low byte.) Of an animation, the first
    frame.

    Raises:
      UnreadableImage: not a picture, cut off, or values outside those ranges. The message opens with `name`, by default
        the path.
    """
    try:
        with Image.open(file) as image:
            return _pixels(ImageOps.exif_transpose(image), background)
    except Exception as error:  # a broken file can raise nearly anything out of a decoder
        raise UnreadableImage(f"{name or file}: {_reason(error)}") from error


def fit_images(
    images: np.ndarray, *, size: int | None, fit: Literal["resize", "pad"] = "resize", channels: int
) -> np.ndarray:
    """Fits uint8 [..., h, w, 1 or 3] to uint8 [..., size, size, channels]; size None keeps h and w.

    Raises:
      UserError: see `resize` and `pad`.
    """
    if channels == 1 and images.shape[-1] == 3:
        images = np.rint(images @ LUMA).astype(np.uint8)[..., None]
    if size is not None and images.shape[-3:-1] != (size, size):
        images = pad(images, size) if fit == "pad" else resize(images, size)
    if channels == 3 and images.shape[-1] == 1:
        images = np.repeat(images, 3, axis=-1)
    return images


def resize(images: np.ndarray, size: int) -> np.ndarray:
    """Stretches uint8 [..., h, w, c] to uint8 [..., size, size, c]; the aspect ratio is not kept.

    Pillow's bicubic filter (which averages when it shrinks), per channel in float32, then clipped to [0, 255] and
    rounded to the nearest: what clean-fid does. Pillow on 8-bit pictures rounds between its two passes.

    Raises:
      UserError: a picture would be enlarged more than 8 times.
    """
    height, width = images.shape[-3:-1]
    if size > MAX_ENLARGEMENT * min(height, width):
        raise UserError(
            f"a picture of {height}x{width} is too small for size {size}: choose a smaller size, or fit 'pad'"
        )
    planes = np.moveaxis(images, -1, -3).astype(np.float32)  # [..., c, h, w]
    planes = _stretch_rows(planes, size).swapaxes(-1, -2)
    planes = _stretch_rows(planes, size).swapaxes(-1, -2)
    return np.moveaxis(np.rint(planes.clip(0, 255)).astype(np.uint8), -3, -1)


def pad(images: np.ndarray, size: int, background: int = 0) -> np.ndarray:
    """Centres uint8 [..., h, w, c] on uint8 [..., size, size, c] of `background`; an odd pixel goes below and right.

    Raises:
      UserError: a picture is larger than `size`.
    """
    height, width = images.shape[-3:-1]
    if max(height, width) > size:
        raise UserError(
            f"a picture of {height}x{width} does not fit into size {size}: choose a larger size, or fit 'resize'"
        )
    top, left = (size - height) // 2, (size - width) // 2
    out = np.full((*images.shape[:-3], size, size, images.shape[-1]), background, np.uint8)
    out[..., top : top + height, left : left + width, :] = images
    return out


def _stretch_rows(values: np.ndarray, width: int) -> np.ndarray:
    """float32 [..., h, w] -> [..., h, width]. Rows are independent, so all of them go through Pillow as one picture."""
    rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    stretched = Image.fromarray(rows).resize((width, len(rows)), Image.Resampling.BICUBIC)
    return np.asarray(stretched).reshape(*values.shape[:-1], width)


def _pixels(image: Image.Image, background: int) -> np.ndarray:
    if image.mode == "F":
        return _to_uint8(np.asarray(image), largest=1)
    if image.mode == "I" or image.mode.startswith("I;16"):
        return _to_uint8(np.asarray(image), largest=65535)

    grey = image.mode in GREY_MODES
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        if image.mode == "La":  # premultiplied; Pillow undoes that only on the way to LA
            image = image.convert("LA")
        rgba = np.asarray(image.convert("RGBA"), np.float32)
        alpha = rgba[..., 3:] / 255
        rgb = np.rint(rgba[..., :3] * alpha + background * (1 - alpha)).astype(np.uint8)
        return rgb[..., :1] if grey else rgb
    return np.asarray(image.convert("L"))[..., None] if grey else np.asarray(image.convert("RGB"))


def _to_uint8(values: np.ndarray, largest: int) -> np.ndarray:
    if not (values.min() >= 0 and values.max() <= largest):  # so written, NaN fails too
        raise ValueError(f"values from {values.min()} to {values.max()}, expected 0 to {largest}; save it with 8 bits")
    return np.rint(values.astype(np.float64) * (255 / largest)).astype(np.uint8)[..., None]


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
