"""furniture: renders of furniture, from the libraries of Sweet Home 3D.

- Content: about 820 pictures, 128x128 RGBA. They are few: augment them.
- Labels: the class is the category (kitchen, living_room, vehicles, ...).
- Split: by name, a tenth of each category, so that two pictures of a "Washbasin" are on one side.
- Licence: CC BY 3.0 (Scopia, Kator Legaz, Reallusion, Blend Swap), CC0 (Blend Swap CC-0).
- Attribution: Scopia, Andrew Kator and Jennifer Legaz, Reallusion, the contributors of Blend Swap.
"""

import io
import re
import zipfile
from collections.abc import Iterator
from pathlib import Path

import numpy as np
from PIL import Image

from jimgen.alpha import premultiply
from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About, require_installed, require_no_argument
from jimgen.data.recipes.installed import debian
from jimgen.data.recipes.rows import Picture, damaged, tenth_of_each, train_and_test
from jimgen.data.recipes.svg import centred

SIZE = (128, 128)
FOLDER = "usr/share/sweethome3d/furniture"
CATALOGUE = "PluginFurnitureCatalog.properties"
LEAST = 10  # pictures of a category; smaller ones are left out

ABOUT = About(
    what="820 renders of furniture, 128x128 RGBA; class = category (kitchen, living_room, ...)",
    split="by name: a tenth of the names of each category is test",
    licence="CC BY 3.0 and CC0, by library: /usr/share/doc/sweethome3d-furniture/copyright",
    attribution="Scopia, Andrew Kator and Jennifer Legaz, Reallusion, the contributors of Blend Swap; Sweet Home 3D",
    install="apt-get install sweethome3d-furniture",
    is_installed=lambda: any(debian(FOLDER).glob("*.sh3f")),
    transparent=True,
)


def open_furniture(argument: str, size: tuple[int, int] | None) -> Source:
    """The renders, as stored: `size` is ignored.

    Raises:
        UserError: the package is missing or damaged, or there is an argument.
    """
    require_no_argument("furniture", argument)
    require_installed("furniture", ABOUT)
    found = [row for library in sorted(debian(FOLDER).glob("*.sh3f")) for row in read_library(library)]
    categories = sorted({category for _, category, _ in found})
    kept = tuple(name for name in categories if sum(category == name for _, category, _ in found) >= LEAST)
    groups = {category: [name for name, other, _ in found if other == category] for category in kept}
    units = {name for _, name in tenth_of_each(groups)}  # a name that two categories share is test in both
    pictures = [Picture(image, name, kept.index(category)) for name, category, image in found if category in kept]
    train, test = train_and_test(pictures, units)
    return Source(train, test, kept, (*SIZE, 4))


def read_library(library: Path) -> Iterator[tuple[str, str, np.ndarray]]:
    """Name, category and premultiplied picture uint8 [128, 128, 4] of each piece of furniture in a library.

    Raises:
        UserError: the file is damaged.
    """
    try:
        with zipfile.ZipFile(library) as archive:
            pieces: dict[int, dict[str, str]] = {}
            for line in archive.read(CATALOGUE).decode("latin1").splitlines():
                if found := re.match(r"(\w+)#(\d+)=(.*)", line):
                    pieces.setdefault(int(found[2]), {})[found[1]] = found[3]
            for _, piece in sorted(pieces.items()):
                if "icon" in piece:
                    with Image.open(io.BytesIO(archive.read(piece["icon"].lstrip("/")))) as icon:
                        icon.thumbnail(SIZE)  # only shrinks
                        image = centred(premultiply(np.asarray(icon.convert("RGBA"))), SIZE)
                    yield piece["name"].lower(), piece["category"].lower().replace(" ", "_"), image
    except (OSError, KeyError, ValueError, zipfile.BadZipFile) as error:
        raise damaged("furniture", library, error, ABOUT.install) from error
