"""glyphs: the letters A to Z in 450 display fonts.

- Content: about 11,000 grey pictures, white on black, at any size, 64x64 by default. All letters of a font have one
  scale: its largest letter fills the picture. Fonts with blank or equal letters are left out.
- Labels: the class is the letter.
- Split: by font. Fonts whose names begin with the same four letters, often variants of one face, stay together.
- Licence: free to use, change and distribute with attribution.
- Attribution: Brian Kent, aenigmafonts.com.
"""

import hashlib
import string
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw, ImageFont, features

from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About, require_installed, require_no_argument
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.installed import debian, fingerprint, versions
from jimgen.data.recipes.rows import Picture, train_and_test

VERSION = 1
SIZE = (64, 64)
FOLDER = "usr/share/fonts/truetype/aenigma"
LETTERS = string.ascii_uppercase
FAMILY = 4  # letters of a file's name
MARGIN = 1 / 16  # of the shorter side, around the largest letter

ABOUT = About(
    what="A to Z in 450 display fonts, grey, any size; class = letter",
    split="by font: no font, and no variant of one, is in both",
    licence="free to use, change and distribute with attribution",
    attribution="Brian Kent, aenigmafonts.com",
    install="apt-get install fonts-aenigma",
    is_installed=lambda: any(debian(FOLDER).glob("*.ttf")),
)


def open_glyphs(argument: str, size: tuple[int, int] | None) -> Source:
    """The letters of all fonts.

    Raises:
        UserError: the package is missing, or there is an argument.
    """
    require_no_argument("glyphs", argument)
    require_installed("glyphs", ABOUT)
    size, fonts = size or SIZE, sorted(debian(FOLDER).glob("*.ttf"))
    depends_on = (VERSION, *size, fingerprint(fonts), *versions(), f"freetype {features.version('freetype2')}")
    return cached(f"glyphs-{size[0]}x{size[1]}", depends_on, lambda: _draw(fonts, size))


def family(font: Path) -> str:
    """The unit of the split: the beginning of the file's name."""
    return font.stem.lower()[:FAMILY]


def is_test(name: str) -> bool:
    """Whether a family is test: a tenth are, by the hash of their names."""
    return int(hashlib.sha256(name.encode()).hexdigest(), 16) % 10 == 0


def draw_letters(font: Path, size: tuple[int, int]) -> np.ndarray | None:
    """A to Z: uint8 [26, h, w, 1]; None if the font cannot be read, or has blank or equal letters."""
    height, width = size
    try:
        large = ImageFont.truetype(font, 4 * min(size))
        boxes = [large.getbbox(letter) for letter in LETTERS]
        extent = max(max((x1 - x0) / width, (y1 - y0) / height) for x0, y0, x1, y1 in boxes)
        if extent <= 0:
            return None
        face = ImageFont.truetype(font, 4 * min(size) * (1 - 2 * MARGIN) / extent)
        letters = []
        for letter in LETTERS:
            x0, y0, x1, y1 = face.getbbox(letter)
            image = Image.new("L", (width, height))
            place = ((width - x1 - x0) / 2, (height - y1 - y0) / 2)
            ImageDraw.Draw(image).text(place, letter, font=face, fill=255)
            letters.append(np.asarray(image)[..., None])
    except OSError:  # a font that FreeType cannot read
        return None
    ink = [letter.mean() for letter in letters]
    if min(ink) < 2 or len({letter.tobytes() for letter in letters}) < len(LETTERS):
        return None
    return np.stack(letters)


def _draw(fonts: list[Path], size: tuple[int, int]) -> Source:
    def pictures() -> Iterator[Picture]:
        for font in progress("glyphs", fonts, len(fonts)):
            letters = draw_letters(font, size)
            for label, image in enumerate([] if letters is None else letters):
                yield Picture(image, family(font), label)

    names = {family(font) for font in fonts}
    train, test = train_and_test(pictures(), filter(is_test, names))
    return Source(train, test, tuple(LETTERS), (*size, 1))
