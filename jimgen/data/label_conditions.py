"""Conditions on labels: hair=red, glasses!=none, mouth=smile,twinkle."""

import difflib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jimgen.data.dataset import Attribute
from jimgen.errors import UserError
from jimgen.files import shown


class Condition(NamedTuple):
    """Values of one column of the labels."""

    column: int
    values: tuple[int, ...]


def parse_condition(text: str, columns: Sequence[Attribute]) -> Condition:
    """Reads NAME=VALUE,VALUE,... or NAME!=VALUE,VALUE,...

    Args:
        text: what the user wrote.
        columns: `DataSpec.columns`; the first is the class.
    Raises:
        UserError: there is no =, or the name or a value is unknown; the message names the nearest.
    """
    name, equals, values = text.partition("=")
    negated = name.endswith("!")
    name = name.removesuffix("!").strip()
    if not equals:
        raise UserError(f"{shown(text)!r} is not a condition: write NAME=VALUE or NAME!=VALUE, as in hair=red")
    names = [column.name for column in columns]
    column = names.index(_known(name, names, "the data set has no attribute"))
    known = columns[column].values
    places = {known.index(_known(value.strip(), known, f"{name} has no value")) for value in values.split(",")}
    return Condition(column, tuple(place for place in range(len(known)) if (place in places) != negated))


def rows_that_meet(conditions: Sequence[Condition], labels: np.ndarray) -> np.ndarray:
    """Which rows of labels int32 [n] or [n, columns] meet all conditions: bool [n]."""
    table = labels[:, None] if labels.ndim == 1 else labels
    met = np.ones(len(table), bool)
    for condition in conditions:
        met &= np.isin(table[:, condition.column], condition.values)
    return met


def _known(given: str, known: Sequence[str], problem: str) -> str:
    if given in known:
        return given
    near = difflib.get_close_matches(given, known, n=1, cutoff=0.4)
    guess = f"; did you mean {near[0]!r}?" if near else ""
    raise UserError(f"{problem} {shown(given)!r}{guess}\nThere are: {', '.join(known)}")
