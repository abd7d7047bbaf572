"""Pictures as arrays: decoding files of any mode to uint8."""

import contextlib
import errno
import functools
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np
from PIL import Image, ImageOps

from jimgen.alpha import BLACK, Colour, premultiply, unpremultiply
from jimgen.errors import UserError
from jimgen.files import read_errors, shown

GREY_MODES = frozenset({"1", "L", "LA", "La", "I", "F", "I;16", "I;16L", "I;16B", "I;16N"})
ALPHA_MODES = frozenset({"LA", "La", "PA", "RGBA", "RGBa"})

# Formats that Pillow opens but that are not pictures: documents (EPS would even run another program), films, containers
# of data. They are never decoded, whatever a file's name is.
NOT_PICTURES = frozenset({"EPS", "PDF", "WMF", "MPEG", "HDF5", "GRIB", "BUFR", "FITS", "IPTC"})
# Pictures that Pillow does not read, or only with a plugin: they are reported instead of ignored.
FOREIGN_SUFFIXES = frozenset(
    (
        *(".heic", ".heif", ".hif", ".avif", ".webp", ".jp2", ".jxl", ".jxr", ".wdp"),
        *(".svg", ".svgz", ".eps", ".wmf", ".emf", ".xcf", ".exr", ".hdr", ".fit", ".fits", ".dcm"),
        *(".raw", ".dng", ".cr2", ".cr3", ".nef", ".nrw", ".arw", ".orf", ".rw2", ".raf", ".pef", ".srw", ".3fr"),
    )
)

_EXIF_ORIENTATION = 0x0112
_EXIF_TURNED = (5, 6, 7, 8)  # the orientations that swap height and width
_TIFF_PHOTOMETRIC, _TIFF_WHITE_IS_ZERO = 262, 0
# Errors of the system, which do not depend on the content of a file.
_SYSTEM_FAULTS = (
    *(errno.EACCES, errno.EPERM, errno.EIO, errno.ESTALE, errno.ENOMEM, errno.EMFILE, errno.ENFILE, errno.ENODEV),
    *(errno.ETIMEDOUT, errno.ENOTCONN),
)


class UnreadableImage(UserError):
    """A file that is not a picture, is truncated, or cannot be converted to 8 bits. The message names it."""


class Reading(NamedTuple):
    """How files become pixels: the options of `decode`."""

    background: Colour = BLACK
    alpha: bool = False
    bits: int | None = None


PLAIN = Reading()


class Stored(NamedTuple):
    """What a file's header says about its pixels."""

    is_grey: bool
    bits: int  # used bits of a 16-bit grey picture
    inverted: bool  # 0 is white, and Pillow does not invert it
    transparent: Any  # transparent level, colour or palette entries, in the range of Pillow's pixels; or None


@functools.cache
def picture_suffixes() -> frozenset[str]:
    """The suffixes of the pictures that Pillow opens here, in lower case: .bmp, .jfif, .jpg, .png, .tiff, ...

    Some, such as .avif and .heic, depend on its build and on plugins imported before.
    """
    endings = Image.registered_extensions().items()
    return frozenset(suffix for suffix, kind in endings if kind in Image.OPEN and kind not in NOT_PICTURES)


def read_shape(file: Path | BinaryIO | Callable[[], BinaryIO], *, name: str | None = None) -> tuple[int, int, int]:
    """Returns the (height, width, channels) of `decode` over a grey background, from the file's header alone.

    Raises:
        UnreadableImage: the file is not a picture.
        UserError: as `decode`.
    """
    with _opened(file, name) as image:
        width, height = image.size
        channels = 1 if _stored(image).is_grey else 3  # first, as reading EXIF decodes some files
        if image.getexif().get(_EXIF_ORIENTATION) in _EXIF_TURNED and not _is_turned_by_pillow(image):
            width, height = height, width
        return height, width, channels


def decode(
    file: Path | BinaryIO | Callable[[], BinaryIO],
    *,
    name: str | None = None,
    background: Colour | int = BLACK,
    alpha: bool = False,
    bits: int | None = None,
) -> np.ndarray:
    """Decodes a picture file to uint8 [h, w, 1] if it is grey, else to uint8 [h, w, 3]; with `alpha`, to [h, w, 4].

    The picture is turned by its EXIF orientation. Transparent pixels are composited over `background` here, before any
    resizing, so that the colour under full transparency never bleeds in. With `alpha` the result is premultiplied RGBA
    instead (see jimgen/alpha.py), in which opaque pictures have alpha 255.

    16 bits become 8 by v / 257, rounded; a 32-bit integer picture must have 16-bit values, a float picture values in
    [0, 1]. (Pillow itself reduces 16-bit RGB and 16-bit transparent files, by dropping the low byte.) An animation
    gives its first frame.

    Args:
        file: path, open file, or function that opens one; an exception of the function counts as a fault of the file.
        name: name of the picture in messages; by default the path.
        background: colour, or grey level in [0, 255], under transparent pixels. Grey pictures that are transparent
            become RGB over a background that is not grey.
        alpha: keep transparency.
        bits: number of bits used in a file with 16 bits per pixel, 8 to 16: levels reach 2**bits - 1 (cameras and
            scanners write 10, 12 or 14). None takes it from the header, else 16.
    Raises:
        UnreadableImage: the file is not a picture, is truncated, is larger than Pillow's limit (about 90 million
            pixels), or has values outside those ranges. The message begins with the name.
        UserError: the file may not be read or memory is short, whatever the file's content.
    """
    with _opened(file, name) as image:
        if image.format == "PNG":
            _check_png(image.fp)  # pyright: ignore[reportAttributeAccessIssue]
        stored = _stored(image)
        if bits not in (None, 16) and not stored.is_grey and ";16" in _rawmode(image):
            raise ValueError("16 bits a channel in colour: Pillow reads the upper 8 of them; save it with 8 bits")
        levels, opacity = _pixels(ImageOps.exif_transpose(image), stored, bits)
    if alpha:
        return _with_alpha(levels, opacity)
    below = (background, background, background) if isinstance(background, int) else background
    return levels if opacity is None else _over(levels, opacity, below)


def require_kept(file: Path) -> None:
    """Raises UserError if `decode` with `alpha` loses anything of a picture but colour under full transparency.

    It loses frames after the first, bits after the eighth, and fine shades of what is nearly transparent.
    """
    with _opened(file, None) as image:
        if getattr(image, "n_frames", 1) > 1:
            raise UserError(f"{file} has several frames: only the first would be kept. Give a picture of one")
        if ";16" in _rawmode(image) or image.mode in ("I", "F") or image.mode.startswith("I;16"):
            raise UserError(f"{file} has more than 8 bits a channel, which would not be kept: save it with 8 bits")
        if image.mode in ALPHA_MODES or "transparency" in image.info:
            straight = np.asarray(image.convert("RGBA"))
            straight = straight * (straight[..., 3:] > 0)
            if not np.array_equal(unpremultiply(premultiply(straight)), straight):
                raise UserError(f"{file} has half transparent colours, which would not be kept exactly")


@contextlib.contextmanager
def _opened(file: Path | BinaryIO | Callable[[], BinaryIO], name: str | None) -> Iterator[Image.Image]:
    """Opens a picture file. Within the block, exceptions due to its content become UnreadableImage."""
    with content_faults(shown(name or file), _reason), contextlib.ExitStack() as stack:
        if isinstance(file, Path):  # Pillow maps files that it opens itself, and mixes up rows of turned TIFFs
            file = stack.enter_context(file.open("rb"))
        image = stack.enter_context(Image.open(file() if callable(file) else file))
        if image.format in NOT_PICTURES:  # Pillow goes by content, not by the file's name
            raise ValueError(f"{image.format}, not a picture")
        if image.width * image.height > (Image.MAX_IMAGE_PIXELS or np.inf):
            raise ValueError(f"{image.height}x{image.width} pixels are too many: make it smaller")
        yield image


@contextlib.contextmanager
def content_faults(name: str, reason: Callable[[Exception], str]) -> Iterator[None]:
    """Turns exceptions due to the content of a file into UnreadableImage.

    Args:
        name: name of the file in messages.
        reason: function from an exception to what is wrong with the file.
    Raises:
        UserError: the file may not be read or memory is short; or one that the block raises.
    """
    try:
        yield
    except MemoryError as error:
        raise UserError(f"too little memory to decode {name}: make it smaller, or run where there is more") from error
    except UserError:  # of the folder or archive that holds the file
        raise
    except Exception as error:  # decoders of damaged files can raise nearly anything
        if isinstance(error, OSError) and error.errno in _SYSTEM_FAULTS:
            with read_errors(name):
                raise
        raise UnreadableImage(f"{name}: {reason(error)}") from error


def _stored(image: Image.Image) -> Stored:
    rawmode = _rawmode(image)
    is_grey = image.mode in GREY_MODES or rawmode.startswith("LA")  # 16-bit grey with alpha opens as RGBA
    tags = getattr(image, "tag_v2", {})
    inverted = image.mode.startswith("I;16") and tags.get(_TIFF_PHOTOMETRIC) == _TIFF_WHITE_IS_ZERO
    transparent = image.info.get("transparency")
    if isinstance(transparent, int) and rawmode in ("L;2", "L;4"):  # Pillow scales pixels, but not this level
        transparent = transparent * 255 // (2 ** int(rawmode[2:]) - 1)
    if isinstance(transparent, tuple) and ";16" in rawmode:
        transparent = tuple(level >> 8 for level in transparent)  # as Pillow reduces the pixels
    return Stored(is_grey, 12 if rawmode == "I;12" else 16, inverted, transparent)


def _rawmode(image: Image.Image) -> str:
    """Pillow's name for the layout of pixels in the file: "RGB;16B", "L;2", ...; known until they are decoded."""
    tiles = getattr(image, "tile", None)
    args = tiles[0].args if tiles else ""
    first = args[0] if isinstance(args, tuple) and args else args
    return first if isinstance(first, str) else ""


def _check_png(file: Any) -> None:
    """Raises ValueError if a chunk of pixels has a wrong checksum: Pillow does not check the last chunk."""
    here = file.tell()
    file.seek(8)
    while len(start := file.read(8)) == 8 and start[4:] != b"IEND":
        length, name = int.from_bytes(start[:4], "big"), start[4:]
        if name != b"IDAT":
            file.seek(length + 4, 1)
        elif zlib.crc32(file.read(length), zlib.crc32(name)) != int.from_bytes(file.read(4), "big"):
            raise ValueError("its pixels are damaged: their checksum is wrong")
    file.seek(here)


def _is_turned_by_pillow(image: Image.Image) -> bool:
    """Whether `size` is that after turning: only for TIFF, by its own tag. Turns by XMP are left to us."""
    return getattr(image, "tag_v2", {}).get(_EXIF_ORIENTATION) in _EXIF_TURNED


def _pixels(image: Image.Image, stored: Stored, bits: int | None) -> tuple[np.ndarray, np.ndarray | None]:
    """Straight levels uint8 [h, w, 1 or 3], and alpha uint8 [h, w, 1] or None for an opaque picture."""
    if image.mode == "F":
        return _float_to_uint8(np.asarray(image)), None
    if image.mode == "I" or image.mode.startswith("I;16"):
        values = np.asarray(image)
        levels = _integers_to_uint8(values, bits or stored.bits)
        levels = (255 - levels if stored.inverted else levels)[..., None]
        if stored.transparent is None:
            return levels, None
        return levels, (values != stored.transparent)[..., None] * np.uint8(255)

    if stored.transparent is not None:
        image.info["transparency"] = stored.transparent
    if image.mode in ALPHA_MODES or "transparency" in image.info:
        if image.mode == "La":  # premultiplied alpha; Pillow converts it only to LA
            image = image.convert("LA")
        rgba = np.asarray(image.convert("RGBA"))
        return rgba[..., : 1 if stored.is_grey else 3], rgba[..., 3:]
    return (np.asarray(image.convert("L"))[..., None] if stored.is_grey else np.asarray(image.convert("RGB"))), None


def _with_alpha(levels: np.ndarray, opacity: np.ndarray | None) -> np.ndarray:
    """Straight levels uint8 [h, w, 1 or 3] and alpha as premultiplied RGBA uint8 [h, w, 4]."""
    pixels = np.full((*levels.shape[:2], 4), 255, np.uint8)
    pixels[..., :3] = levels
    if opacity is not None:
        pixels[..., 3:] = opacity
        for band in _bands(pixels):
            pixels[band] = premultiply(pixels[band])
    return pixels


def _over(levels: np.ndarray, opacity: np.ndarray, background: Colour) -> np.ndarray:
    """Straight levels uint8 [h, w, 1 or 3] over a background: uint8 [h, w, 1 or 3]."""
    is_grey = levels.shape[-1] == 1 and len(set(background)) == 1
    pixels = np.empty((*levels.shape[:2], 1 if is_grey else 3), np.uint8)
    below = np.asarray(background[:1] if is_grey else background, np.float32)
    for band in _bands(pixels):
        share = opacity[band].astype(np.float32) / 255
        pixels[band] = np.rint(levels[band] * share + below * (1 - share))
    return pixels


def _bands(pixels: np.ndarray) -> Iterator[slice]:
    """Rows at a time: all as floats may take gigabytes."""
    step = max(1, 2**20 // max(1, pixels.shape[1]))
    return (slice(start, start + step) for start in range(0, len(pixels), step))


def _integers_to_uint8(values: np.ndarray, bits: int) -> np.ndarray:
    """Integers [h, w] in [0, 2**bits - 1] as uint8 [h, w], in proportion."""
    largest = 2**bits - 1
    if values.min() < 0 or values.max() > largest:
        advice = "give more --bits" if bits < 16 else "save it with 8 bits"
        raise ValueError(f"values from {values.min()} to {values.max()}, expected 0 to {largest}; {advice}")
    return np.rint(np.arange(largest + 1) * (255 / largest)).astype(np.uint8)[values]


def _float_to_uint8(values: np.ndarray) -> np.ndarray:
    """Floats [h, w] in [0, 1] as uint8 [h, w, 1]."""
    if not (values.min() >= 0 and values.max() <= 1):  # in this form NaN fails too
        raise ValueError(f"values from {values.min()} to {values.max()}, expected 0 to 1; save it with 8 bits")
    return np.rint(values * np.float32(255)).astype(np.uint8)[..., None]


def _reason(error: Exception) -> str:
    if isinstance(error, Image.UnidentifiedImageError):
        return "not a picture"
    return (error.strerror if isinstance(error, OSError) else None) or str(error) or type(error).__name__
