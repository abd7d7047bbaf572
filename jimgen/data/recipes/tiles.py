"""tiles:minetest, tiles:wesnoth: small textures and terrain of two games.

- Content: minetest: about 340 textures of blocks and things, 16x16 RGBA. wesnoth: about 400 whole hexagons of terrain,
  72x72 RGBA, those whose drawn pixels fill the frame. They are few: augment them. (The tiles of the game Crawl are
  packed in sheets without their places, so they are not here.)
- Labels: minetest: the class is the game's module (default, farming, wool, ...); wesnoth: the kind of terrain.
- Split: by the first two words of the file's name, a tenth of each class.
- Licence: minetest CC BY-SA 3.0, with exceptions by file (/usr/share/doc/minetest-data/copyright); wesnoth GPL 2 or
  later.
- Attribution: Minetest Game, celeron55 and contributors; The Battle for Wesnoth, David White and contributors.
"""

import re
from pathlib import Path

import numpy as np

from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About, choice, require_installed
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.installed import debian, fingerprint, versions
from jimgen.data.recipes.rows import Picture, read_rgba, tenth_of_each, train_and_test
from jimgen.data.recipes.sprites import PARENT

VERSION = 1
SIDES = {"minetest": 16, "wesnoth": 72}
MINETEST = "usr/share/games/minetest/games/minetest_game/mods"
TERRAIN = "data/core/images/terrain"
HEXAGON = 0.75  # of the frame's pixels, what a whole hexagon fills, less what its rough edge may lack
LEAST_TILES, LEAST_UNITS = 4, 3  # of a class; smaller ones are left out
NOT_TERRAIN = ("fog", "void", "off-map")

_MINETEST = About(
    what="340 textures of the game Minetest, 16x16 RGBA; class = module",
    split="by the first two words of the file's name: a tenth of each class is test",
    licence="CC BY-SA 3.0, with exceptions by file: /usr/share/doc/minetest-data/copyright",
    attribution="Minetest Game, by celeron55 and contributors",
    install="apt-get install minetest-data",
    is_installed=lambda: any(_minetest_files()),
    transparent=True,
)
_WESNOTH = About(
    what="400 hexagons of terrain of the game Wesnoth, 72x72 RGBA; class = kind",
    split=_MINETEST.split,
    licence="GPL 2 or later",
    attribution="The Battle for Wesnoth (wesnoth.org), by David White and contributors",
    install="apt-get install wesnoth-1.16-data",
    is_installed=lambda: any(_wesnoth_files()),
    transparent=True,
)
SETS = {"minetest": _MINETEST, "wesnoth": _WESNOTH}
ABOUT = About(
    what="textures 16x16 (tiles:minetest) and terrain 72x72 (tiles:wesnoth) of games, RGBA; class = kind",
    split=_MINETEST.split,
    licence="; ".join(f"{name}: {one.licence}" for name, one in SETS.items()),
    attribution="; ".join(one.attribution for one in SETS.values()),
    install="apt-get install minetest-data wesnoth-1.16-data",
    is_installed=lambda: all(one.is_installed() for one in SETS.values()),
    transparent=True,
)


def about_argument(argument: str) -> About:
    """What is known about one set of tiles.

    Raises:
        UserError: there is no such set.
    """
    return SETS[choice("tiles", "set", argument, SETS)]


def open_tiles(argument: str, size: tuple[int, int] | None) -> Source:
    """The tiles of one game, as stored: `size` is ignored.

    Raises:
        UserError: there is no such set, or the package is missing or damaged.
    """
    known = about_argument(argument)
    require_installed(f"tiles:{argument}", known)
    files = _minetest_files() if argument == "minetest" else _wesnoth_files()
    depends_on = (VERSION, fingerprint(file for file, _ in files), *versions())
    return cached(f"tiles:{argument}", depends_on, lambda: _read_all(argument, files, known))


def _read_all(name: str, files: list[tuple[Path, str]], known: About) -> Source:
    side, found = SIDES[name], []
    for file, kind in progress(f"tiles:{name}", files, len(files)):
        image = read_rgba(file, f"tiles:{name}", known.install)
        whole = name == "minetest" or (image[..., 3] > 127).mean() >= HEXAGON - 0.02
        if image.shape[:2] == (side, side) and np.ptp(image, axis=(0, 1)).any() and whole:  # not of one colour
            found.append(Picture(image, f"{kind}/{unit(file)}", kind))
    units: dict[str, list[str]] = {}
    for picture in found:
        units.setdefault(picture.label, []).append(picture.unit)
    large = [kind for kind, of in units.items() if len(of) >= LEAST_TILES and len(set(of)) >= LEAST_UNITS]
    kept = tuple(sorted(large))
    found = [picture._replace(label=kept.index(picture.label)) for picture in found if picture.label in kept]
    held_out = tenth_of_each({kind: [p.unit for p in found if p.label == i] for i, kind in enumerate(kept)})
    train, test = train_and_test(found, (name for _, name in held_out))
    return Source(train, test, kept, (side, side, 4))


def unit(file: Path) -> str:
    """default_acacia_tree_top.png -> default acacia; castle-wall2.png -> castle wall."""
    return " ".join(re.findall("[a-z]+", file.stem.lower())[:2])


def _minetest_files() -> list[tuple[Path, str]]:
    """Textures, each with the name of its module."""
    return [(file, file.parts[-3]) for file in sorted(debian(MINETEST).glob("*/textures/*.png"))]


def _wesnoth_files() -> list[tuple[Path, str]]:
    """Pictures of terrain in the newest version of the game, each with its kind."""
    folders = sorted(debian(PARENT).glob(f"*/{TERRAIN}"), key=lambda path: [len(path.parts[-5]), path.parts[-5]])
    return [
        (file, file.relative_to(folders[-1]).parts[0])
        for file in (sorted(folders[-1].glob("*/**/*.png")) if folders else [])
        if file.relative_to(folders[-1]).parts[0] not in NOT_TERRAIN and not file.stem.endswith("editor")
    ]
