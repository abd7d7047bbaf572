"""faces:STYLE[:NUM]: cartoon faces by DiceBear, as many as asked for, with their attributes.

- Content: NUM train pictures (10,000 by default) and a tenth of that for test, RGBA at any size, 64x64 by default.
- Labels: no class. Attributes are what the style draws: for avataaars hair (its colour), skin, eyes, eyebrows, mouth,
  glasses, beard, clothes, top and more. The value "none" means that a face does not have it.
- Split: by seeds. Train has the seeds from 0 on, test those from 1,000,000,000 on; a test seed that draws a picture of
  train is left out.
- Licence: of each style; `jimgen data faces:STYLE` prints it. Most are CC0 or CC BY 4.0. The code is MIT.
- Attribution: DiceBear, and the artist whom `jimgen data faces:STYLE` names.
"""

import functools
from collections.abc import Iterable, Iterator
from typing import Any

import numpy as np

from jimgen.data.dataset import UNLABELLED, Source
from jimgen.data.recipes import svg
from jimgen.data.recipes.about import About, count, require_installed
from jimgen.data.recipes.cache import cached, progress
from jimgen.data.recipes.face_style import FaceStyle, forced, labels_of, read_style
from jimgen.data.recipes.installed import has_modules, versions
from jimgen.data.recipes.rows import arrays_of, digest
from jimgen.errors import UserError

VERSION = 1
SIZE = (64, 64)
NUM_TRAIN = 10_000
FIRST_TEST_SEED = 1_000_000_000
PACKAGES = ("dicebear-core", "dicebear-styles", svg.PACKAGE)

ABOUT = About(
    what="cartoon faces by DiceBear in 59 styles, RGBA, any number and size; hair, skin, eyes, mouth, glasses, ...",
    split="by seeds: train from 0 on, test from 1,000,000,000 on, without pictures of train",
    licence="of each style: CC0 1.0, CC BY 4.0, MIT, or free for personal and commercial use",
    attribution="DiceBear (dicebear.com) and the artist of each style",
    install="pip install 'jimgen[faces]'  # or: pip install dicebear-core dicebear-styles resvg-py",
    is_installed=lambda: has_modules("dicebear", "dicebear_styles", svg.MODULE),
    transparent=True,
)


def open_faces(argument: str, size: tuple[int, int] | None) -> Source:
    """Faces of a style: `argument` is STYLE or STYLE:NUM.

    Raises:
        UserError: a package is missing, there is no such style, or it draws too few different pictures.
    """
    require_installed("faces", ABOUT)
    name, _, num = argument.partition(":")
    style = read_style(name)
    num_train, num_test = count(f"faces:{name}", num, NUM_TRAIN)
    size = size or SIZE
    arguments = (VERSION, name, num_train, *size, *versions(*PACKAGES))
    return cached(f"faces:{argument}-{size[0]}x{size[1]}", arguments, lambda: _draw(style, num_train, num_test, size))


def about_argument(argument: str) -> About:
    """What is known about one style: its licence and its artist.

    Raises:
        UserError: as `open_faces`.
    """
    require_installed("faces", ABOUT)
    meta = read_style(argument.partition(":")[0]).definition["meta"]
    parts = (meta["license"].get("text"), meta.get("creator", {}).get("name"), meta["license"].get("url"))
    return ABOUT._replace(
        licence=f"{meta['license']['name']} ({meta['license'].get('url', 'no address given')})",
        attribution=parts[0] or f"{parts[1]}, by DiceBear",
    )


def faces(
    style: str, seeds: Iterable[int], size: tuple[int, int] = SIZE, **fixed: str
) -> tuple[np.ndarray, np.ndarray]:
    """Draws faces, with some attributes forced: `faces("avataaars", range(100), hair="red", glasses="round")`.

    What is not forced depends on the seed alone. Attributes and values are those of `read_style(style).attributes`.

    Args:
        style: name of the style.
        seeds: a picture each.
        size: (height, width).
        fixed: attributes and their values.
    Returns: premultiplied uint8 [n, h, w, 4], and labels int32 [n, 1 + attributes], column 0 being 0.
    Raises:
        UserError: a package is missing; a style, attribute or value is unknown; or no face has all these values.
    """
    require_installed("faces", ABOUT)
    known = read_style(style)
    options = forced(known, fixed)
    drawn = list(_each(known, seeds, size, options))
    if not drawn:
        raise UserError("faces needs at least one seed")
    images, labels = arrays_of(drawn)
    for column, attribute in enumerate(known.attributes, start=1):
        if attribute.name in fixed and (labels[:, column] != attribute.values.index(fixed[attribute.name])).any():
            raise UserError(f"faces:{style} cannot have {attribute.name}={fixed[attribute.name]} with the other values")
    return images, labels


def _draw(style: FaceStyle, num_train: int, num_test: int, size: tuple[int, int]) -> Source:
    each = functools.partial(_each, style, size=size, options={})
    what, total = f"faces:{style.name}", num_train + num_test
    train = list(progress(what, each(range(num_train)), total))
    seen = {digest(image) for image, _ in train}
    seeds = range(FIRST_TEST_SEED, FIRST_TEST_SEED + 20 * num_test)
    test: list[tuple[np.ndarray, tuple[int, ...]]] = []
    for image, label in each(seeds):
        if digest(image) not in seen:
            test.append((image, label))
        if len(test) == num_test:
            break
    else:
        raise UserError(
            f"{what} at {size[0]}x{size[1]} draws only about {len(seen)} different pictures, too few for a test split "
            f"of {num_test}: ask for fewer, for example {what}:{max(10, len(seen) // 4)}"
        )
    return Source(arrays_of(train), arrays_of(test), UNLABELLED, (*size, 4), attributes=style.attributes)


def _each(
    style: FaceStyle, seeds: Iterable[int], size: tuple[int, int], options: dict[str, Any]
) -> Iterator[tuple[np.ndarray, tuple[int, ...]]]:
    """A picture and its labels for each seed."""
    from dicebear import Avatar

    prepared = _prepared(style.name)
    for seed in seeds:
        avatar = Avatar(prepared, {**options, "seed": str(seed)})
        yield svg.render(avatar.to_string(), size), (0, *labels_of(style, avatar.to_json()["options"]))


@functools.lru_cache(maxsize=4)
def _prepared(name: str) -> Any:
    """DiceBear's own form of a style, which it takes seconds to check."""
    from dicebear import Style

    return Style(dict(read_style(name).definition))
