"""sprites: units of the game The Battle for Wesnoth.

- Content: about 5,000 different frames, 72x72 RGBA, at the game's own scale. Frames with more than 72x72 drawn pixels
  (large monsters, spells) are left out. The magenta that the game replaces by a team's colour is replaced by red.
- Labels: the class is the group of the unit: drakes, elves-wood, undead, ...
- Split: by unit, as the frames of one unit differ little: of each group's units a tenth, at least one, is test.
- Licence: GPL 2 or later.
- Attribution: The Battle for Wesnoth (wesnoth.org), by David White and contributors.
"""

import re
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jimgen.alpha import premultiply
from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About, require_installed, require_no_argument
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.installed import debian, fingerprint, versions
from jimgen.data.recipes.rows import Picture, damaged, tenth_of_each, train_and_test

VERSION = 1
SIZE = 72
PARENT = "usr/share/games/wesnoth"  # with a folder for each version of the game
UNITS = "data/core/images/units"
LEAST_UNITS = 2  # a group with fewer cannot be split

# The game's palette "magenta" and team colour "red" (data/core/team-colors.cfg); its first colour is the middle one.
MAGENTA = bytes.fromhex(
    "F49AC1 3F0016 55002A 690039 7B0045 8C0051 9E005D B10069 C30074 D6007F EC008C EE3D96 EF5BA1 F172AC F287B6 F6ADCD"
    "F8C1D9 FAD5E5 FDE9F1"
)
RED = np.array([255, 0, 0])
_PACKED = np.array([2**16, 2**8, 1])  # one number for a colour

ABOUT = About(
    what="units of the game Wesnoth, about 5,000 frames 72x72 RGBA; class = group (drakes, undead, ...)",
    split="by unit: of each group's units a tenth is test, with all their frames",
    licence="GPL 2 or later",
    attribution="The Battle for Wesnoth (wesnoth.org), by David White and contributors",
    install="apt-get install wesnoth-1.16-data",
    is_installed=lambda: units_folder() is not None,
    transparent=True,
)


class Sprite(NamedTuple):
    """A file, and the unit that it shows."""

    path: Path
    group: str
    unit: str


def units_folder() -> Path | None:
    """The folder of units of the newest installed version of the game; None if there is none."""
    found = sorted(debian(PARENT).glob(f"*/{UNITS}"), key=lambda path: [len(path.parts[-5]), path.parts[-5]])
    return found[-1] if found else None


def open_sprites(argument: str, size: tuple[int, int] | None) -> Source:
    """The sprites. They have one size: `size` is ignored.

    Raises:
        UserError: the package is missing, a picture is damaged, or there is an argument.
    """
    require_no_argument("sprites", argument)
    require_installed("sprites", ABOUT)
    folder = units_folder()
    assert folder is not None
    sprites = find_sprites(folder)
    depends_on = (VERSION, fingerprint(sprite.path for sprite in sprites), *versions())
    return cached("sprites", depends_on, lambda: _read_all(sprites))


def find_sprites(folder: Path) -> list[Sprite]:
    """All sprites below a folder of units, in the order of their paths.

    A unit is a folder in its group's folder, or the first word of a file's name: archer-bow-1.png shows an archer.
    Units that share this word, such as white-lion and white-bear, count as one, so that none is on both sides.
    """
    sprites = []
    for group in sorted(path for path in folder.iterdir() if path.is_dir()):
        files = sorted(group.rglob("*.png"))
        units = (re.split("[-+.]", file.relative_to(group).parts[0])[0] for file in files)
        found = [Sprite(file, group.name, unit) for file, unit in zip(files, units, strict=True)]
        if len({sprite.unit for sprite in found}) >= LEAST_UNITS:
            sprites += found
    return sprites


def held_out_units(sprites: Iterable[Sprite]) -> set[tuple[str, str]]:
    """The units (group, unit) of the test split: of each group a tenth, at least one, by the hash of their names."""
    units: dict[str, set[str]] = {}
    for sprite in sprites:
        units.setdefault(sprite.group, set()).add(sprite.unit)
    return tenth_of_each(units)


def _read_all(sprites: list[Sprite]) -> Source:
    held_out = held_out_units(sprites)
    groups = tuple(sorted({sprite.group for sprite in sprites}))

    def pictures() -> Iterator[Picture]:
        for sprite in progress("sprites", sprites, len(sprites)):
            if (image := read_sprite(sprite.path)) is not None:
                yield Picture(image, f"{sprite.group}/{sprite.unit}", groups.index(sprite.group))

    train, test = train_and_test(pictures(), (f"{group}/{unit}" for group, unit in held_out))
    return Source(train, test, groups, (SIZE, SIZE, 4))


def read_sprite(path: Path) -> np.ndarray | None:
    """A sprite in the middle of the common frame, moved as little as possible so that nothing is cut.

    Returns: premultiplied uint8 [72, 72, 4]; None if it is empty, or does not fit.
    Raises:
        UserError: the file is damaged.
    """
    try:
        with Image.open(path) as file:
            image = file.convert("RGBA")
    except (OSError, ValueError) as error:
        raise damaged("sprites", path, error, ABOUT.install) from error
    box = image.getchannel("A").getbbox()
    if box is None or max(box[2] - box[0], box[3] - box[1]) > SIZE:
        return None
    x, y = (
        min(max((side - SIZE) // 2, high - SIZE), low)
        for side, low, high in ((image.width, box[0], box[2]), (image.height, box[1], box[3]))
    )
    return premultiply(_in_team_colour(np.asarray(image.crop((x, y, x + SIZE, y + SIZE)))))


def _in_team_colour(pixels: np.ndarray) -> np.ndarray:
    """Straight RGBA with the palette's colours replaced: darker ones towards black, others white."""
    palette = np.frombuffer(MAGENTA, np.uint8).reshape(-1, 3).astype(np.int64)
    level, middle = palette.mean(axis=1, keepdims=True), palette[0].mean()
    part = np.where(level <= middle, level / middle, (255 - level) / (255 - middle))
    replaced = np.rint(part * RED + (1 - part) * np.where(level <= middle, 0, 255)).astype(np.uint8)
    order = np.argsort(palette @ _PACKED)
    known, codes = (palette @ _PACKED)[order], pixels[..., :3] @ _PACKED
    place = np.minimum(np.searchsorted(known, codes), len(known) - 1)
    is_palette = known[place] == codes
    colour = np.where(is_palette[..., None], replaced[order][place], pixels[..., :3])
    return np.concatenate([colour, pixels[..., 3:]], axis=-1)
