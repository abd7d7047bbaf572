"""Attributes by name, as users write them: hair=red, and combinations of values: hair=red+glasses=round,kurt or
hair=red+glasses!=none."""

import difflib
from collections.abc import Mapping, Sequence

import numpy as np

from jimgen.data.dataset import Attribute
from jimgen.errors import UserError


def values_by_name(columns: Sequence[Attribute], settings: Sequence[str], flag: str = "--set") -> dict[int, int]:
    """The values, by column of the labels, that settings such as "hair=red" and "class=cat" name.

    Raises:
        UserError: another form, an unknown attribute or value, or one that is set twice.
    """
    given: dict[int, int] = {}
    for setting in settings:
        place, values = _parsed(columns, setting, f"{flag} {setting}")
        if len(values) != 1:
            raise UserError(f"{flag} {setting}: give one value")
        if place in given:
            raise UserError(f"{flag} {setting}: {columns[place].name} is set twice")
        given[place] = values[0]
    return given


def combination_by_name(columns: Sequence[Attribute], text: str, flag: str) -> dict[int, list[int]]:
    """The values, by column, of a combination such as "hair=red+glasses!=none".

    Raises:
        UserError: as `values_by_name`.
    """
    found: dict[int, list[int]] = {}
    for setting in text.split("+"):
        place, values = _parsed(columns, setting, f"{flag} {text}")
        if place in found:
            raise UserError(f"{flag} {text}: {columns[place].name} is set twice")
        found[place] = values
    return found


def show(labels: np.ndarray, combination: Mapping[int, Sequence[int]]) -> np.ndarray:
    """Whether rows of labels int [n] or [n, columns] show a combination: bool [n]."""
    rows = labels.reshape(len(labels), -1)
    return np.all([np.isin(rows[:, place], values) for place, values in combination.items()], axis=0)


def column_by_name(columns: Sequence[Attribute], name: str, flag: str = "--by") -> int:
    """The place of an attribute, or of "class", among the columns. Raises UserError for an unknown name."""
    names = [column.name for column in columns if len(column.values) > 1]
    if name not in names:
        raise UserError(f"{flag} {name}: {_unknown(name, names, 'attribute')}")
    return next(i for i, column in enumerate(columns) if column.name == name)


def _parsed(columns: Sequence[Attribute], setting: str, where: str) -> tuple[int, list[int]]:
    name, equals, text = (part.strip() for part in setting.partition("="))
    negated, name = name.endswith("!"), name.removesuffix("!").rstrip()
    if not equals:
        raise UserError(f"{where}: expected attribute=value, for example {columns[-1].name}={columns[-1].values[-1]}")
    names = [column.name for column in columns if len(column.values) > 1]
    if name not in names:
        raise UserError(f"{where}: {_unknown(name, names, 'attribute')}")
    place = next(i for i, column in enumerate(columns) if column.name == name)
    known = columns[place].values
    values = [text] if text in known else [value.strip() for value in text.split(",")]
    for value in values:
        if value not in known:
            raise UserError(f"{where}: {_unknown(value, known, f'value of {name}')}")
    return place, [i for i, value in enumerate(known) if (value in values) != negated]


def _unknown(name: str, known: Sequence[str], kind: str) -> str:
    near = difflib.get_close_matches(name, known, n=1)
    hint = f"; did you mean {near[0]}?" if near else "."
    listed = ", ".join(known[:30]) + (", ..." if len(known) > 30 else "")
    return f"there is no {kind} {name!r}{hint} There are: {listed or 'none'}"
