"""Bringing pictures to one size and one number of channels: crop, resize or pad; windows at random places."""

from typing import Literal, NamedTuple, cast

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from jimgen.alpha import BLACK, Colour, colour_of, colour_text, composite
from jimgen.data.images import Reading
from jimgen.errors import UserError
from jimgen.sizes import Sides, size_text

Pixels = NDArray[np.uint8]
Fit = Literal["crop", "resize", "pad"]
Channels = Literal[1, 3, 4]
Resample = Literal["bicubic", "nearest"]
Crop = Literal["centre", "random"]

LUMA = np.array([0.299, 0.587, 0.114], np.float32)  # ITU-R BT.601, what JPEG and Pillow's mode L use
MAX_ENLARGEMENT = 8  # beyond this a picture is little but interpolation: surely a mistake
AT_A_TIME = 2048  # pictures of an array: as floats all would take four times the memory


class Fitting(NamedTuple):
    """The form that pictures are brought to; see `fitting_of` for the fields."""

    size: Sides | None = None
    fit: Fit = "crop"
    channels: Channels | None = None
    background: Colour = BLACK
    resample: Resample = "bicubic"
    bits: int | None = None
    crop: Crop = "centre"
    crop_scale: float = 1.0

    @property
    def reading(self) -> Reading:
        """How files are decoded for it."""
        return Reading(self.background, self.channels == 4, self.bits)

    @property
    def identity(self) -> str:
        """What the pixels depend on, beside the shape, for the hash of data; what is usual is not named."""
        usual = Fitting(fit=self.fit)
        named = [f"{self.bits} bits"] if self.bits else []
        seen = self.background != usual.background and self.channels != 4  # of 4 channels, none is composited
        named += [f"background {colour_text(self.background)}"] if seen else []
        named += [self.resample] if self.resample != usual.resample else []
        return " ".join([self.fit, *named])


class Window(NamedTuple):
    """A part of a picture."""

    top: int
    left: int
    height: int
    width: int

    def of(self, images: Pixels) -> Pixels:
        """The part of each of the images [..., h, w, c]: [..., height, width, c]."""
        return images[..., self.top : self.top + self.height, self.left : self.left + self.width, :]


def fitting_of(
    size: int | Sides | None = None,
    fit: str = "crop",
    channels: int | None = None,
    background: str | Colour = "black",
    resample: str = "bicubic",
    bits: int | None = None,
    crop: str = "centre",
    crop_scale: float = 1.0,
) -> Fitting:
    """A checked Fitting.

    Args:
        size: side of a square, or (height, width); None keeps the stored size.
        fit: "crop" cuts out the largest centred window of the size's aspect ratio and resizes it, "resize" stretches
            the whole picture, "pad" centres it, unscaled, on the background.
        channels: 1 for grey, 3 for RGB, 4 for RGBA; None keeps grey or RGB.
        background: colour under transparent pixels and around padded pictures: black, white or #rrggbb. With 4 channels
            transparency takes its place.
        resample: "bicubic", or "nearest", which keeps the colours of pixel art.
        bits: bits used in 16-bit grey pictures, 8 to 16; None takes it from the header, else 16.
        crop: "random" shows training another window of each picture at each step.
        crop_scale: least size of these windows as a fraction of the largest one, in (0, 1].
    Raises:
        UserError: a value that no picture can be fitted to, or values that contradict each other.
    """
    sides = (size, size) if isinstance(size, int) else size
    if sides is not None and (len(sides) != 2 or min(sides) < 1):
        shown = sides[0] if sides and len(set(sides)) == 1 else sides
        raise UserError(f"size is {shown}: give height and width in pixels, for example 64 or 64x96")
    for name, value, choices in (
        ("fit", fit, {"crop": "", "resize": "", "pad": ""}),
        ("channels", channels, {None: "", 1: " (grey)", 3: " (RGB)", 4: " (RGBA)"}),
        ("resample", resample, {"bicubic": "", "nearest": ""}),
        ("crop", crop, {"centre": "", "random": ""}),
    ):
        if value not in choices:
            listed = [f"{choice!r}{meaning}" for choice, meaning in choices.items() if choice is not None]
            leave = ", or leave it out" if None in choices else ""
            raise UserError(f"{name} is {value!r}: choose {', '.join(listed[:-1])} or {listed[-1]}{leave}")
    if bits is not None and not 8 <= bits <= 16:
        raise UserError(f"bits is {bits}: choose 8 to 16, or leave it out")
    if not 0 < crop_scale <= 1:
        raise UserError(f"crop scale is {crop_scale}: give a fraction of the largest window, above 0 and at most 1")
    if crop_scale < 1 and crop != "random":
        raise UserError(f"crop scale {crop_scale} is that of random crops: add --crop random, or leave it out")
    if crop == "random" and fit != "crop":
        raise UserError(f"crop 'random' cuts windows out of pictures, fit {fit!r} does not: choose fit 'crop'")
    colour = colour_of(background) if isinstance(background, str) else background
    chosen = (cast(Fit, fit), cast("Channels | None", channels), colour, cast(Resample, resample))
    return Fitting(sides, *chosen, bits, cast(Crop, crop), crop_scale)


def fit_images(images: Pixels, fitting: Fitting) -> Pixels:
    """Fits uint8 [..., h, w, c] to uint8 [..., *fitting.size, fitting.channels]; None keeps h and w, or c.

    Pictures with 4 channels are premultiplied RGBA, here as everywhere.

    Raises:
        UserError: see `misfit`.
    """
    channels = fitting.channels or images.shape[-1]
    images = _narrowed(images, channels, fitting.background)
    if fitting.fit == "pad" or channels == 4:  # what is added around a picture may be transparent or coloured
        images = _widened(images, channels)
    if fitting.size is not None and images.shape[-3:-1] != fitting.size:
        height, width, _ = images.shape[-3:]
        if reason := misfit(height, width, fitting.size, fitting.fit):
            raise UserError(reason)
        if fitting.fit == "pad":
            images = pad(images, fitting.size, fitting.background)
        else:
            images = centre_window(height, width, fitting.size).of(images) if fitting.fit == "crop" else images
            images = resize(images, fitting.size, fitting.resample)
    return _widened(images, channels)


def fit_window(image: Pixels, window: Window, size: Sides, fitting: Fitting) -> Pixels:
    """A window of a picture uint8 [h, w, c], resized to uint8 [*size, fitting.channels]."""
    part = fit_images(window.of(image), fitting._replace(size=None))
    return resize(part, size, fitting.resample)


def misfit(height: int, width: int, size: Sides | None, fit: Fit) -> str | None:
    """The reason why a picture of height x width cannot be brought to `size`, with the fix; None if it can."""
    if size is None or (height, width) == size:
        return None
    if fit == "pad":
        if height <= size[0] and width <= size[1]:
            return None
        return (
            f"a picture of {height}x{width} does not fit into size {size_text(size)}: choose a larger size, or fit "
            "'crop' or 'resize'"
        )
    window = centre_window(height, width, size) if fit == "crop" else Window(0, 0, height, width)
    if size[0] > MAX_ENLARGEMENT * window.height or size[1] > MAX_ENLARGEMENT * window.width:
        return (
            f"a picture of {height}x{width} is too small for size {size_text(size)}: choose a smaller size, or fit "
            "'pad'"
        )
    return None


def centre_window(height: int, width: int, size: Sides) -> Window:
    """The largest window of the aspect ratio of `size`, in whole pixels, in the centre of a picture."""
    tall, wide = _window_sides(height, width, size, 1.0)
    return Window((height - tall) // 2, (width - wide) // 2, tall, wide)


def random_window(height: int, width: int, size: Sides, scale: float, random: np.random.Generator) -> Window:
    """A window of the aspect ratio of `size` at a uniform place; its size is uniform in [scale, 1] times the largest
    one's."""
    tall, wide = _window_sides(height, width, size, random.uniform(scale, 1.0))
    return Window(int(random.integers(height - tall + 1)), int(random.integers(width - wide + 1)), tall, wide)


def _window_sides(height: int, width: int, size: Sides, scale: float) -> Sides:
    zoom = scale * min(height / size[0], width / size[1])
    tall, wide = (max(1, round(side * zoom)) for side in size)
    return min(tall, height), min(wide, width)


def resize(images: Pixels, size: Sides, resample: Resample = "bicubic") -> Pixels:
    """Stretches uint8 [..., h, w, c] to uint8 [..., *size, c]; the aspect ratio is not kept.

    bicubic: as in clean-fid, Pillow's filter (which averages when it shrinks) works per channel in float32; results are
    clipped to [0, 255] and rounded to nearest. Pillow on 8-bit pictures would also round between its two passes.
    Premultiplied colour stays within alpha. nearest: the pixel at the centre of each
    new one, so that every pixel of an enlargement by an integer is a block.
    """
    if images.shape[-3:-1] == size:
        return images
    if resample == "nearest":
        rows, columns = (_nearest(old, new) for old, new in zip(images.shape[-3:-1], size, strict=True))
        return images[..., rows[:, None], columns[None], :]
    planes = np.moveaxis(images, -1, -3).astype(np.float32)  # [..., c, h, w]
    planes = _stretch_rows(planes, size[1]).swapaxes(-1, -2)
    planes = _stretch_rows(planes, size[0]).swapaxes(-1, -2)
    if planes.shape[-3] == 4:  # an overshoot of alpha is one of its colour too: clipping alpha alone would leave a halo
        planes = planes / np.maximum(planes[..., 3:, :, :] / 255, 1)
    stretched = np.moveaxis(np.rint(planes.clip(0, 255)).astype(np.uint8), -3, -1)
    if stretched.shape[-1] == 4:
        stretched[..., :3] = np.minimum(stretched[..., :3], stretched[..., 3:])
    return stretched


def pad(images: Pixels, size: Sides, background: Colour = BLACK) -> Pixels:
    """Centres uint8 [..., h, w, c] on a background uint8 [..., *size, c]; an odd pixel goes below and right.

    The background is the colour for c = 3, its luma for c = 1, and transparency for c = 4.
    """
    height, width, channels = images.shape[-3:]
    colour = {1: [_luma(np.array(background, np.uint8))], 3: background, 4: [0] * 4}[channels]
    top, left = (size[0] - height) // 2, (size[1] - width) // 2
    out = np.empty((*images.shape[:-3], *size, channels), np.uint8)
    out[:] = np.array(colour, np.uint8)
    out[..., top : top + height, left : left + width, :] = images
    return out


def _narrowed(images: Pixels, channels: int, background: Colour) -> Pixels:
    """Drops channels that the result does not have: alpha by compositing, colour by its luma."""
    if images.shape[-1] == 4 and channels < 4:
        images = composite(images, background)
    return _luma(images)[..., None] if images.shape[-1] == 3 and channels == 1 else images


def _widened(images: Pixels, channels: int) -> Pixels:
    """Adds channels that the result has: grey is repeated, and alpha is 255."""
    if images.shape[-1] == 1 and channels > 1:
        images = np.repeat(images, 3, axis=-1)
    if images.shape[-1] == 3 and channels == 4:
        images = np.concatenate([images, np.full_like(images[..., :1], 255)], axis=-1)
    return images


def _luma(colours: Pixels) -> Pixels:
    return np.rint(colours @ LUMA).astype(np.uint8)


def _nearest(old: int, new: int) -> NDArray[np.int64]:
    return ((2 * np.arange(new) + 1) * old) // (2 * new)


def _stretch_rows(values: NDArray[np.float32], width: int) -> NDArray[np.float32]:
    """float32 [..., h, w] -> [..., h, width]. Rows are independent, so Pillow resizes all of them as one picture."""
    rows = np.ascontiguousarray(values).reshape(-1, values.shape[-1])
    stretched = Image.fromarray(rows).resize((width, len(rows)), Image.Resampling.BICUBIC)
    return np.asarray(stretched).reshape(*values.shape[:-1], width)
