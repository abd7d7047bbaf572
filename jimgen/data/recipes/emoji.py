"""emoji: the same signs drawn in four styles (Noto, Twemoji, OpenMoji, Fluent).

- Content: about 1,600 code points without skin tones, each in all four styles, RGBA at any size, 64x64 by default.
- Labels: the class is the category (smileys, food, flags, ...); the attribute style is the hand. `pairs` gives the
  four pictures of one sign side by side: the ground truth of style transfer. A few signs differ in content.
- Split: by code point, a tenth of each category. A sign of test that equals one of train in a style is left out.
- Licence: noto Apache-2.0, twemoji CC BY 4.0, openmoji CC BY-SA 4.0, fluent MIT.
- Attribution: Google (Noto), Twitter and jdecked (Twemoji), HfG Schwäbisch Gmünd (OpenMoji), Microsoft (Fluent Emoji);
  through Iconify.
"""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen.data.dataset import Attribute, Source
from jimgen.data.recipes import svg
from jimgen.data.recipes.about import About, require_installed, require_no_argument
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.installed import fingerprint, has_modules, npm, versions
from jimgen.data.recipes.rows import arrays_of, digest, tenth_of_each
from jimgen.errors import UserError

VERSION = 1
SIZE = (64, 64)
PACKAGES = {"noto": "noto", "twemoji": "twemoji", "openmoji": "openmoji", "fluent": "fluent-emoji-flat"}  # by style
SKIN_TONES = {"1f3fb", "1f3fc", "1f3fd", "1f3fe", "1f3ff"}

ABOUT = About(
    what="1,600 emoji, each in four styles, RGBA, any size; class = category, attribute style",
    split="by code point: a tenth of each category is test, in all styles",
    licence="noto Apache-2.0, twemoji CC BY 4.0, openmoji CC BY-SA 4.0, fluent MIT",
    attribution="Google (Noto), Twitter and jdecked (Twemoji), OpenMoji, Microsoft (Fluent Emoji); through Iconify",
    install=f"pip install {svg.PACKAGE} && npm install "
    + " ".join(f"@iconify-json/{package}" for package in PACKAGES.values()),
    is_installed=lambda: has_modules(svg.MODULE) and all(_folder(style) for style in PACKAGES),
    transparent=True,
)


class Sign(NamedTuple):
    """One sign: its drawings."""

    code: str  # "1f600", or several joined by "-"
    category: str
    drawings: tuple[str, ...]  # SVG, in the order of PACKAGES


class Pairs(NamedTuple):
    """Signs in all styles."""

    codes: tuple[str, ...]
    images: np.ndarray  # premultiplied uint8 [n, styles, h, w, 4]
    is_test: np.ndarray  # bool [n]


def open_emoji(argument: str, size: tuple[int, int] | None) -> Source:
    """All signs in all styles; rows of one sign follow each other.

    Raises:
        UserError: a package is missing or damaged, or there is an argument.
    """
    require_no_argument("emoji", argument)
    require_installed("emoji", ABOUT)
    size = size or SIZE
    depends_on = (VERSION, *size, fingerprint(map(_icons, PACKAGES)), *versions(svg.PACKAGE))
    return cached(f"emoji-{size[0]}x{size[1]}", depends_on, lambda: _draw(size))


def pairs(size: tuple[int, int] = SIZE) -> Pairs:
    """The signs with their pictures in all styles, in the order of `PACKAGES`, and which are test.

    Raises:
        UserError: as `open_emoji`.
    """
    require_installed("emoji", ABOUT)
    signs = read_signs()
    images = np.stack(
        [
            np.stack([svg.render(drawing, size) for drawing in sign.drawings])
            for sign in progress("emoji", signs, len(signs))
        ]
    )
    return Pairs(tuple(sign.code for sign in signs), images, _is_test(signs))


def read_signs() -> list[Sign]:
    """The signs that all styles have, without skin tones, in the order of their code points."""
    icons = {style: _read(_icons(style)) for style in PACKAGES}
    codes = {
        style: {code.replace("-fe0f", ""): name for code, name in _read(_icons(style).with_name("chars.json")).items()}
        for style in PACKAGES
    }
    metadata = _read(_icons("noto").with_name("metadata.json"))
    categories = {name: _plain(category) for category, names in metadata["categories"].items() for name in names}
    common = set.intersection(*(set(names) for names in codes.values()))
    signs = []
    for code in sorted(common, key=lambda code: [int(part, 16) for part in code.split("-")]):
        category = categories.get(codes["noto"][code])
        if category and not SKIN_TONES & set(code.split("-")):
            drawings = tuple(_drawing(icons[style], codes[style][code]) for style in PACKAGES)
            signs.append(Sign(code, category, drawings))
    return signs


def _draw(size: tuple[int, int]) -> Source:
    signs, drawn = read_signs(), pairs(size)
    categories = tuple(sorted({sign.category for sign in signs}))

    def rows(is_test: bool) -> Iterator[tuple[np.ndarray, tuple[int, int]]]:
        for sign, images, held_out in zip(signs, drawn.images, drawn.is_test, strict=True):
            if held_out == is_test:
                for style, image in enumerate(images):
                    yield image, (categories.index(sign.category), style)

    train = arrays_of(rows(False))
    seen = {digest(image) for image in train.images}
    test = [(image, label) for image, label in rows(True) if digest(image) not in seen]
    styles = (Attribute("style", tuple(PACKAGES)),)
    return Source(train, arrays_of(test), categories, (*size, 4), attributes=styles)


def _is_test(signs: list[Sign]) -> np.ndarray:
    groups: dict[str, list[str]] = {}
    for sign in signs:
        groups.setdefault(sign.category, []).append(sign.code)
    chosen = tenth_of_each(groups)
    return np.array([(sign.category, sign.code) in chosen for sign in signs])


def _folder(style: str) -> Path | None:
    return npm(f"@iconify-json/{PACKAGES[style]}")


def _icons(style: str) -> Path:
    folder = _folder(style)
    assert folder is not None
    return folder / "icons.json"


def _read(path: Path) -> dict[str, Any]:
    try:
        return json.loads(path.read_text("utf-8"))
    except (OSError, ValueError) as error:
        raise UserError(f"emoji: {path} cannot be read ({error}); install it again: {ABOUT.install}") from error


def _drawing(collection: dict[str, Any], name: str) -> str:
    icon = collection["icons"][name]
    left, top = icon.get("left", 0), icon.get("top", 0)
    width, height = (icon.get(side, collection.get(side, 16)) for side in ("width", "height"))
    return (
        '<svg xmlns="http://www.w3.org/2000/svg" xmlns:xlink="http://www.w3.org/1999/xlink" '
        f'viewBox="{left} {top} {width} {height}">{icon["body"]}</svg>'
    )


def _plain(category: str) -> str:
    """ "Animals & Nature" -> animals_nature."""
    return "_".join(word for word in category.lower().split() if word != "&")
