"""scenery: photographs of landscapes, from the game Endless Sky.

- Content: 273 pictures, 360x720 RGB. Crops serve restoration, compression and stylisation; a model that generates
  would learn the few pictures by heart.
- Labels: the class is the kind in the file's name (beach, canyon, city, ...), "other" where that names a photographer.
- Split: by file, a tenth of each kind.
- Licence: public domain, CC BY-SA 3.0 and 4.0, CC BY 4.0, by file: /usr/share/doc/endless-sky-data/copyright.
- Attribution: the photographers in that file.
"""

import re
from pathlib import Path

import numpy as np
from PIL import Image

from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About, require_installed, require_no_argument
from jimgen.data.recipes.installed import debian
from jimgen.data.recipes.rows import Picture, damaged, tenth_of_each, train_and_test

SHAPE = (360, 720, 3)
FOLDER = "usr/share/games/endless-sky/images/land"
KINDS = (
    *("badlands", "beach", "canyon", "city", "desert", "dune", "fields", "fog", "forest", "hills", "lava", "mountain"),
    *("other", "sea", "sky", "snow", "space", "station", "valley", "water"),
)

ABOUT = About(
    what="273 photographs of landscapes, 360x720 RGB; class = kind (beach, canyon, city, ...)",
    split="by file: a tenth of each kind is test",
    licence="public domain, CC BY-SA 3.0 and 4.0, CC BY 4.0, by file: /usr/share/doc/endless-sky-data/copyright",
    attribution="the photographers named in /usr/share/doc/endless-sky-data/copyright",
    install="apt-get install endless-sky-data",
    is_installed=lambda: any(debian(FOLDER).glob("*.jpg")),
)


def open_scenery(argument: str, size: tuple[int, int] | None) -> Source:
    """The photographs, as stored: `size` is ignored.

    Raises:
        UserError: the package is missing or damaged, or there is an argument.
    """
    require_no_argument("scenery", argument)
    require_installed("scenery", ABOUT)
    files = sorted(debian(FOLDER).glob("*.jpg"))
    groups: dict[str, list[str]] = {}
    for file in files:
        groups.setdefault(kind(file), []).append(file.name)
    kinds = tuple(name for name in KINDS if name in groups)
    pictures = [Picture(_read(file), file.name, kinds.index(kind(file))) for file in files]
    train, test = train_and_test(pictures, (name for _, name in tenth_of_each(groups)))
    return Source(train, test, kinds, SHAPE)


def kind(file: Path) -> str:
    """beach10-sfiera.jpg -> beach."""
    found = re.match("[a-z]*", file.name)
    return found[0] if found and found[0] in KINDS else "other"


def _read(file: Path) -> np.ndarray:
    try:
        with Image.open(file) as image:
            pixels = np.asarray(image.convert("RGB"))
        if pixels.shape != SHAPE:
            raise ValueError(f"its shape is {list(pixels.shape)}, expected {list(SHAPE)}")
    except (OSError, ValueError) as error:
        raise damaged("scenery", file, error, ABOUT.install) from error
    return pixels
