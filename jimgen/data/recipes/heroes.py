"""heroes[:NUM]: characters of the game Flare, composed from layers of clothes and weapons.

- Content: NUM train pictures (10,000 by default) and a tenth of that for test, 64x64 RGBA, at the game's own scale.
- Labels: no class. Attributes: sex, head, chest, legs, hands, feet, weapon, shield, direction (where the character
  looks) and pose. Bows and staffs take both hands: their shield is none. Armour is dark and subtle at this size.
- Split: by outfit (sex, clothes, weapon, shield). All pictures of an outfit are on one side, by a hash of its names.
- Licence: CC BY-SA 3.0 or later.
- Attribution: Flare (flarerpg.org), by Clint Bellanger and contributors.
"""

import functools
import hashlib
from pathlib import Path
from typing import NamedTuple

import numpy as np
from PIL import Image

from jimgen.alpha import premultiply
from jimgen.data.dataset import UNLABELLED, Attribute, Source
from jimgen.data.recipes.about import About, count, require_installed
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.installed import debian, fingerprint, versions
from jimgen.data.recipes.rows import arrays_of, digest
from jimgen.errors import UserError

VERSION = 1
SIZE = 64
NUM_TRAIN = 10_000
FOLDER = "usr/share/games/flare/mods/fantasycore"
HELD_OUT = 11  # one outfit in so many is test

# What is drawn, by slot; the name of an attribute's value -> the name of its layer, None for nothing.
MAGE = ("mage_{}", "mage_{}_alt1", "mage_{}_alt2")
HAIR = {"male": {"bald": "head_bald", "short_hair": "head_short"}, "female": {"long_hair": "head_long"}}
HEAD = {name: name for name in ("chain_coif", "leather_hood", *(mage.format("hood") for mage in MAGE), "plate_helm")}
BODY = {
    "chest": (
        "chain_cuirass",
        "cloth_shirt",
        "leather_chest",
        *(mage.format("vest") for mage in MAGE),
        "plate_cuirass",
    ),
    "legs": (
        "chain_greaves",
        "cloth_pants",
        "leather_pants",
        *(mage.format("skirt") for mage in MAGE),
        "plate_greaves",
    ),
    "hands": (
        *("chain_gloves", "cloth_gloves", "leather_gloves"),
        *(*(mage.format("sleeves") for mage in MAGE), "plate_gauntlets"),
    ),
    "feet": ("chain_boots", "cloth_sandals", "leather_boots", *(mage.format("boots") for mage in MAGE), "plate_boots"),
}
WEAPONS = ("none", "dagger", "shortsword", "hand_axe", "mace", "war_hammer", "wand", "staff", "shortbow")
SHIELDS = ("none", "buckler", "iron_buckler", "shield")
TWO_HANDED = ("staff", "shortbow")
DIRECTIONS = ("west", "north_west", "north", "north_east", "east", "south_east", "south", "south_west")
# Their frames. In others, and with longer weapons, characters are larger than the picture; a few of these still are.
POSES = {"stance": (0, 1, 2, 3), "run": (0, 1, 3, 5, 7), "block": (0, 1), "hit": (0, 1)}
# The order of layers, from the back, by direction: the game's engine/hero_layers.txt.
_BODY_ORDER = ("feet", "legs", "hands", "chest", "head")
_IN_FRONT = {**dict.fromkeys((0, 1, 6, 7), ("weapon", "shield")), **dict.fromkeys((2, 3, 4), ("shield", "weapon"))}
_ANCHOR = (32, 55)  # (x, y) of the point between the feet

ATTRIBUTES = (
    Attribute("sex", tuple(HAIR)),
    Attribute("head", (*(name for hair in HAIR.values() for name in hair), *HEAD)),
    *(Attribute(slot, ("plain", *names)) for slot, names in BODY.items()),
    Attribute("weapon", WEAPONS),
    Attribute("shield", SHIELDS),
    Attribute("direction", DIRECTIONS),
    Attribute("pose", tuple(POSES)),
)

ABOUT = About(
    what="characters of the game Flare, 64x64 RGBA, any number; sex, clothes, weapon, shield, direction, pose",
    split="by outfit: no outfit (sex, clothes, weapon, shield) is in both",
    licence="CC BY-SA 3.0 or later",
    attribution="Flare (flarerpg.org), by Clint Bellanger and contributors",
    install="apt-get install flare-game",
    is_installed=lambda: (debian(FOLDER) / "animations/avatar").is_dir(),
    transparent=True,
)


class Layer(NamedTuple):
    """The frames of one piece of clothing or one weapon."""

    sheet: Image.Image  # RGBA
    frames: dict[tuple[str, int, int], tuple[int, ...]]  # (pose, frame, direction) -> x, y, width, height, offsets


def open_heroes(argument: str, size: tuple[int, int] | None) -> Source:
    """Characters; `argument` is the number of train pictures, or "". They have one size: `size` is ignored.

    Raises:
        UserError: the package is missing or damaged, or the number is wrong.
    """
    require_installed("heroes", ABOUT)
    num_train, num_test = count("heroes", argument, NUM_TRAIN)
    folder = debian(FOLDER)
    files = sorted((folder / "animations/avatar").rglob("*.txt")) + sorted((folder / "images/avatar").rglob("*.png"))
    depends_on = (VERSION, num_train, fingerprint(files), *versions())
    return cached(f"heroes:{num_train}", depends_on, lambda: _draw(folder, num_train, num_test))


def draw_hero(folder: Path, values: dict[str, str], frame: int) -> np.ndarray | None:
    """One character: premultiplied uint8 [64, 64, 4], or None if it is larger than the picture.

    Args:
        folder: of the game's mod fantasycore.
        values: a value for each of `ATTRIBUTES`.
        frame: number of the frame of the pose, from 0.
    Raises:
        UserError: a file is missing or damaged.
    """
    direction = DIRECTIONS.index(values["direction"])
    layers = {slot: _layer_name(slot, value) for slot, value in values.items() if slot in ("head", *BODY)}
    layers |= {slot: None if values[slot] == "none" else values[slot] for slot in ("weapon", "shield")}
    if direction == 5:
        order = (*_BODY_ORDER, "shield", "weapon")
    else:
        back, front = _IN_FRONT[direction]
        order = (back, *_BODY_ORDER, front)
    canvas = Image.new("RGBA", (3 * SIZE, 3 * SIZE))
    for slot in order:
        if name := layers[slot]:
            layer = _read_layer(folder, values["sex"], name)
            if found := layer.frames.get((values["pose"], frame, direction)):
                x, y, width, height, left, top = found
                piece = layer.sheet.crop((x, y, x + width, y + height))
                canvas.alpha_composite(piece, (SIZE + _ANCHOR[0] - left, SIZE + _ANCHOR[1] - top))
    window = _window(canvas)
    return premultiply(np.asarray(canvas)[window]) if window else None


def _window(canvas: Image.Image) -> tuple[slice, slice] | None:
    """The part in the middle of the canvas, moved as little as possible so that nothing is cut; None if it must be."""
    x0, y0, x1, y1 = canvas.getbbox() or (SIZE, SIZE, SIZE, SIZE)
    if x1 - x0 > SIZE or y1 - y0 > SIZE:
        return None
    x, y = (min(max(SIZE, high - SIZE), low) for low, high in ((x0, x1), (y0, y1)))
    return slice(y, y + SIZE), slice(x, x + SIZE)


def _layer_name(slot: str, value: str) -> str:
    if slot == "head":
        return {**HAIR["male"], **HAIR["female"], **HEAD}[value]
    return f"default_{slot}" if value == "plain" else value


def _draw(folder: Path, num_train: int, num_test: int) -> Source:
    wanted = {"train": num_train, "test": num_test}
    rows: dict[str, list[tuple[np.ndarray, tuple[int, ...]]]] = {"train": [], "test": []}
    seen: set[bytes] = set()
    total, index = num_train + num_test, 0

    def left():
        while any(len(rows[split]) < wanted[split] for split in rows):
            yield None

    for _ in progress("heroes", left(), total):
        rng = np.random.default_rng([VERSION, index])
        index += 1
        values, frame = _sample(rng)
        outfit = "\t".join(values[attribute.name] for attribute in ATTRIBUTES[:-2])
        split = "train" if int(hashlib.sha256(outfit.encode()).hexdigest(), 16) % HELD_OUT else "test"
        if len(rows[split]) == wanted[split]:
            continue
        image = draw_hero(folder, values, frame)
        if image is None or (key := digest(image)) in seen:  # clothes may hide others: no picture twice
            continue
        seen.add(key)
        rows[split].append((image, (0, *(attribute.values.index(values[attribute.name]) for attribute in ATTRIBUTES))))
    train, test = arrays_of(rows["train"]), arrays_of(rows["test"])
    return Source(train, test, UNLABELLED, (SIZE, SIZE, 4), attributes=ATTRIBUTES)


def _sample(rng: np.random.Generator) -> tuple[dict[str, str], int]:
    """Values of all attributes, and a frame of the pose."""

    def pick(values: tuple[str, ...]) -> str:
        return values[int(rng.integers(len(values)))]

    values = {attribute.name: pick(attribute.values) for attribute in ATTRIBUTES}
    values["head"] = pick((*HEAD, "hair", "hair"))
    if values["head"] == "hair":
        values["head"] = pick(tuple(HAIR[values["sex"]]))
    if values["weapon"] in TWO_HANDED:
        values["shield"] = "none"
    return values, int(rng.choice(POSES[values["pose"]]))


@functools.lru_cache(maxsize=256)
def _read_layer(folder: Path, sex: str, name: str) -> Layer:
    try:
        text = (folder / f"animations/avatar/{sex}/{name}.txt").read_text("utf-8")
        image, pose, frames = None, None, {}
        for line in map(str.strip, text.splitlines()):
            key, _, value = line.partition("=")
            if key == "image":
                image = value.split(",")[0]
            elif line.startswith("["):
                pose = line[1:-1]
            elif key == "frame" and pose:
                frame, direction, *box = (int(number) for number in value.split(",")[:8])
                frames[pose, frame, direction] = tuple(box)
        with Image.open(folder / str(image)) as sheet:
            return Layer(sheet.convert("RGBA"), frames)
    except (OSError, ValueError) as error:
        raise UserError(
            f"heroes: {folder} is damaged at {sex}/{name} ({error}); install it again: {ABOUT.install}"
        ) from error
