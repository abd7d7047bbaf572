"""Labels of a folder of pictures: by labels.csv, by StyleGAN's dataset.json, or by its folders."""

import json
from collections.abc import Sequence
from pathlib import PurePosixPath
from typing import Any, NamedTuple

import numpy as np

from jimgen.data import labels as numbers
from jimgen.data.dataset import CLASS, UNLABELLED, Attribute
from jimgen.data.label_table import TABLE_FILE, Table, merged, numbered, read_table
from jimgen.data.layout import class_of, class_order, require_one_kind
from jimgen.data.members import Member
from jimgen.errors import UserError
from jimgen.files import read_errors, shown, some_of

LABEL_FILE = "dataset.json"  # StyleGAN's: {"labels": [["00000/img00000000.png", 6], ...]}
LABEL_FILES = (TABLE_FILE, LABEL_FILE)


class Layout(NamedTuple):
    """The files of both splits, and notes on how they were found."""

    train: list[Member]
    test: list[Member] | None  # None: `load` splits train
    below: str = ""  # folder of train, with a slash
    test_below: str = ""
    notes: tuple[str, ...] = ()


class Labels(NamedTuple):
    of: dict[str, int]  # file name -> class
    class_names: tuple[str, ...]
    notes: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()
    values_of: dict[str, tuple[int, ...]] = {}  # file name -> value of each attribute

    def label(self, file: str) -> int | tuple[int, ...]:
        """The class; with attributes all columns of the labels."""
        return (self.of[file], *self.values_of[file]) if self.attributes else self.of[file]


def labels_of(layout: Layout, members: Sequence[Member], where: str) -> Labels:
    """Labels by TABLE_FILE, else by LABEL_FILE, else by folders.

    Raises:
        UserError: there are pictures beside class folders, or a test class that train lacks; or see `_told_labels`,
            `read_table` and `numbered`.
    """
    table, notes = _table_of(layout, members, where)
    if table is not None:
        return _table_labels(table, layout, members, where, notes)
    files = [*layout.train, *(layout.test or ())]
    told = next((told for member in members if member.name == LABEL_FILE and (told := _label_file(member))), None)
    if told is not None:
        return _told_labels(told["labels"], files, f"{where}: {LABEL_FILE}")
    found = _folder_labels(layout, where)
    return found._replace(notes=notes + _label_notes(layout, found.class_names, members, where))


def _folder_labels(layout: Layout, where: str) -> Labels:
    files = [*layout.train, *(layout.test or ())]
    folders = []
    for split, below in ((layout.train, layout.below), (layout.test or (), layout.test_below)):
        names = [file.name.removeprefix(below) for file in split]
        require_one_kind(names, f"{where}/{shown(below)}" if below else where)
        folders.append([class_of(name) or UNLABELLED[0] for name in names])
    class_names = class_order(folders[0])
    if unknown := class_order(set(folders[1]) - set(class_names)):
        raise UserError(
            f"{where}: {shown(layout.test_below)} has a class that {shown(layout.below)} lacks: {shown(unknown[0])!r}"
        )
    number = {name: i for i, name in enumerate(class_names)}
    of = {file.name: number[folder] for file, folder in zip(files, folders[0] + folders[1], strict=True)}
    return Labels(of, tuple(shown(name) for name in class_names))


def _table_of(layout: Layout, members: Sequence[Member], where: str) -> tuple[Table | None, tuple[str, ...]]:
    """The table at the top, else those in the folders of both splits, and notes on what is not read."""
    by_place = {member.name.lower(): member for member in reversed(members) if _is_table(member)}
    splits = [below for below, files in ((layout.below, layout.train), (layout.test_below, layout.test)) if files]
    places = ["", *splits] if layout.below else [""]
    found = [(below, by_place[name]) for below in places if (name := f"{below}{TABLE_FILE}".lower()) in by_place]
    if not found:
        notes = tuple(f"{where}: {shown(member.name)} is not read: move it to the top" for member in by_place.values())
        return None, notes[:1]
    if found[0][0] == "":
        found = found[:1]
    elif len(found) < len(splits):
        raise UserError(
            f"{where} has {TABLE_FILE} in {shown(found[0][0])} alone: each split needs one, or one at the top"
        )
    tables = [read_table(_content(member), f"{where}: {shown(member.name)}", below) for below, member in found]
    others = [LABEL_FILE] if any(member.name == LABEL_FILE for member in members) else []
    others += [member.name for member in by_place.values() if member not in [table for _, table in found]]
    notes = (f"{where}: {TABLE_FILE} gives the labels; not read: {some_of(others)}",) if others else ()
    return merged(tables), notes


def _is_table(member: Member) -> bool:
    return PurePosixPath(member.name).name.lower() == TABLE_FILE


def _table_labels(
    table: Table, layout: Layout, members: Sequence[Member], where: str, notes: tuple[str, ...]
) -> Labels:
    """Classes by the column `class`, else by folders; attributes by the other columns."""
    train, test = ([file.name for file in split or ()] for split in (layout.train, layout.test))
    told = numbered(table, train, test, [member.name for member in members])
    names = [column.name for column in told.columns]
    if CLASS in names:
        at = names.index(CLASS)
        labels = Labels({file: values[at] for file, values in told.of.items()}, told.columns[at].values)
    else:
        labels = _folder_labels(layout, where)
    kept = [place for place, name in enumerate(names) if name != CLASS]
    return labels._replace(
        notes=notes + told.notes,
        attributes=tuple(told.columns[place] for place in kept),
        values_of={file: tuple(values[place] for place in kept) for file, values in told.of.items()},
    )


def _label_notes(
    layout: Layout, class_names: tuple[str, ...], members: Sequence[Member], where: str
) -> tuple[str, ...]:
    """Notes on files and folders that may have been meant as labels, but are not read as such."""
    notes = []
    if told := next((file.name for file in members if PurePosixPath(file.name).name == LABEL_FILE), None):
        notes.append(f"{where}: {shown(told)} is not read, folders are the labels; StyleGAN's file is at the top")
    around = f"{layout.below}{class_names[0]}/"
    inner = class_order(top for file in layout.train if (top := class_of(file.name.removeprefix(around))))
    if len(class_names) == 1 and len(inner) > 1:
        notes.append(f"{where}: one class, {shown(around)}; the folders in it are none: {some_of(inner)}")
    return tuple(notes)


def _label_file(member: Member) -> dict[str, Any] | None:
    """The content of a dataset.json in StyleGAN's format; None for another format."""
    content = _content(member)
    try:
        told = json.loads(content)
    except (ValueError, RecursionError):  # not JSON, or nested too deeply for Python
        return None
    return told if isinstance(told, dict) and isinstance(told.get("labels", 0), list | None) else None


def _told_labels(told: list[Any] | None, files: Sequence[Member], where: str) -> Labels:
    """Labels by the "labels" of a dataset.json.

    Raises:
        UserError: a picture has no label, or labels are neither integers nor vectors of one length, or leave gaps.
    """
    unlabelled = Labels({file.name: 0 for file in files}, UNLABELLED)
    if told is None:
        return unlabelled
    try:
        by_name = {str(name): label for name, label in told}
        values = np.asarray([by_name[file.name] for file in files])
    except KeyError as error:
        raise UserError(f"{where} has no label for {shown(error.args[0])}: add it, or remove the picture") from error
    except (TypeError, ValueError) as error:
        raise UserError(f"{where}: expected [[name, label], ...] with labels of one kind") from error
    if values.ndim not in (1, 2) or values.dtype.kind not in ("iu" if values.ndim == 1 else "iuf"):
        raise UserError(f"{where}: labels must be integers from 0 on, or one-hot vectors")
    if (labels := numbers.flat(values)) is None:
        return unlabelled._replace(notes=(f"{where} has several labels for a picture: taken as unlabelled",))
    class_names = numbers.class_names(labels, f"{where}: labels")
    return Labels({file.name: int(label) for file, label in zip(files, labels, strict=True)}, class_names)


def _content(member: Member) -> bytes:
    with read_errors(member.where):
        try:
            with member.content() if callable(member.content) else member.content.open("rb") as file:
                return file.read()
        except OSError:
            raise
        except Exception as error:  # a damaged archive can raise nearly anything
            raise UserError(f"{member.where} is damaged ({error}); make or copy the archive again") from error
