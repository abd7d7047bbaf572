"""Data sets over installed packages, or drawn by a formula: `faces:avataaars`, `phantom:ct`, ...

A recipe is a file here with `open_NAME(argument, size)`, which returns a Source of arrays, and `ABOUT`.
"""

import importlib
from typing import NamedTuple

from jimgen.data.dataset import Source
from jimgen.data.recipes.about import About


class Recipe(NamedTuple):
    """Where a recipe is, and how it is called."""

    module: str  # in this folder; has ABOUT and open_MODULE
    usage: str  # name and arguments
    example: str  # a name that opens


RECIPES = {
    name: Recipe(name, usage, example) for name, usage, example in (("faces", "faces:STYLE[:NUM]", "faces:avataaars"),)
}


def about(name: str) -> About:
    """What is known about a recipe without opening it."""
    return importlib.import_module(f"{__name__}.{RECIPES[name].module}").ABOUT


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
    module = RECIPES[name].module
    return getattr(importlib.import_module(f"{__name__}.{module}"), f"open_{module}")(argument, size)
