"""Data sets over installed packages, or drawn by a formula: `faces:avataaars`, `phantom:ct`, ...

A recipe NAME is the file NAME.py here, with `open_NAME(argument, size)`, which returns a Source of arrays, and `ABOUT`.
"""

import importlib

from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About

RECIPES = {  # how their names are written
    "faces": "faces:STYLE[:NUM]",
    "heroes": "heroes[:NUM]",
    "phantom": "phantom:ct[:NUM]",
    "sprites": "sprites",
    "stacked_digits": "stacked_digits[:NUM]",
}


def about(name: str, argument: str = "") -> About:
    """What is known about a recipe of `RECIPES` without opening it; with an argument also what depends on that.

    Raises:
        UserError: the argument is wrong, or a package is missing that is needed to tell.
    """
    module = importlib.import_module(f"{__name__}.{name}")
    return module.about_argument(argument) if argument and hasattr(module, "about_argument") else module.ABOUT


def open_recipe(name: str, argument: str, size: tuple[int, int] | None) -> Source:
    """Opens a recipe of `RECIPES`.

    Args:
        name: the recipe.
        argument: what follows the first colon of the data set's name; "" without one.
        size: (height, width) at which drawings are rendered; None is the recipe's own size. Recipes over files of
            pixels ignore it.
    Returns: arrays, premultiplied uint8 [n, h, w, 4] where pictures are transparent.
    Raises:
        UserError: a package is missing, or the argument is wrong.
    """
    return getattr(importlib.import_module(f"{__name__}.{name}"), f"open_{name}")(argument, size)
