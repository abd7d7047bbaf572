"""labels.csv: a table beside pictures, with a row for each picture and a column for its class and each attribute.

file,class,hair,glasses
0001.png,elf,red,none
0002.png,dwarf,black,round
"""

import codecs
import csv
import difflib
import io
import unicodedata
from collections.abc import Collection, Sequence, Set
from typing import NamedTuple

from jimgen.data.dataset import CLASS, Attribute
from jimgen.data.labels import check_attribute_names
from jimgen.data.layout import class_order
from jimgen.errors import UserError
from jimgen.files import shown

TABLE_FILE = "labels.csv"
FILE = "file"  # name of the column of file names
DELIMITERS = (",", ";", "\t")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))


class Table(NamedTuple):
    """The rows of a file, by the names of pictures."""

    where: str  # its name in messages
    columns: tuple[str, ...]  # without `file`
    cells: dict[str, tuple[str, ...]]  # name of a picture -> its values, in the order of the columns
    places: dict[str, str]  # name of a picture -> file and line in messages


class Told(NamedTuple):
    """What tables say about the pictures of both splits."""

    of: dict[str, tuple[int, ...]]  # name of a picture -> its values as numbers, in the order of the columns
    columns: tuple[Attribute, ...]  # with the names of the values in natural order; `class` may be among them
    notes: tuple[str, ...] = ()


def read_table(content: bytes, where: str, below: str = "") -> Table:
    """Parses a table: UTF-8 or UTF-16 with a byte order mark; commas, semicolons or tabs; quotes as in spreadsheets.

    Args:
        content: bytes of the file.
        where: its name in messages.
        below: folder of the table, with a slash; names of pictures are relative to it.
    Raises:
        UserError: the text is in another encoding, there is no column `file` or none beside it, names of columns are
            empty or occur twice, a row has too many, too few or empty cells, or a file has two rows.
    """
    text = _text(content, where)
    reader = csv.reader(io.StringIO(text, newline=""), delimiter=_delimiter(text, where), strict=True)
    rows: list[tuple[int, list[str]]] = []
    try:
        for cells in reader:
            if any(cell.strip() for cell in cells):  # spreadsheets write empty rows as ;;;
                rows.append((reader.line_num, [cell.strip() for cell in cells]))
    except csv.Error as error:
        raise UserError(f"{where}, line {reader.line_num}: {error}; check the quotes there") from error
    if not rows:
        raise UserError(f"{where} is empty: its first line names the columns, such as file,class,hair")
    header = rows[0][1]
    at = _check_header(header, where)
    table = Table(where, tuple(name for name in header if name != FILE), {}, {})
    for line, cells in rows[1:]:
        if len(cells) != len(header):
            raise UserError(
                f"{where}, line {line} has {len(cells)} cells, and the header {len(header)}: {shown(cells[0])[:100]}; "
                "put text that contains the separator in quotes"
            )
        if "" in cells:
            name = header[cells.index("")]
            raise UserError(f"{where}, line {line}: {shown(name)} is empty: write a value, such as none")
        file = below + _file_name(cells.pop(at))
        if file in table.places:
            raise UserError(f"{where}, line {line}: {shown(file)} has a row already ({table.places[file]}): keep one")
        table.cells[file], table.places[file] = tuple(cells), f"{where}, line {line}"
    return table


def _file_name(cell: str) -> str:
    """A relative name with forward slashes."""
    return "/".join(part for part in cell.replace("\\", "/").split("/") if part not in ("", "."))


def _text(content: bytes, where: str) -> str:
    encoding = next((name for mark, name in MARKS if content.startswith(mark)), "utf-8")
    try:
        text = content.decode(encoding)
    except UnicodeDecodeError as error:
        line = content[: error.start].count(b"\n") + 1
        raise UserError(
            f"{where}, line {line} is not {encoding.removesuffix('-sig').upper()} text: save the file as UTF-8"
        ) from error
    if "\0" in text:
        raise UserError(f"{where} has zero bytes in its text: save the file as UTF-8")
    return text


def _delimiter(text: str, where: str) -> str:
    """The separator with which the header has a column `file`; without one, that with the most columns."""
    start = text.lstrip("\r\n ")
    header = start[: min((place for mark in "\r\n" if (place := start.find(mark)) >= 0), default=len(start))]
    found = {}
    for delimiter in DELIMITERS:
        try:
            found[delimiter] = [name.strip() for name in next(csv.reader([header], delimiter=delimiter), [])]
        except csv.Error as error:
            raise UserError(f"{where}, line 1: {error}; check the quotes there") from error
    with_file = [delimiter for delimiter, names in found.items() if FILE in names]
    return max(with_file or found, key=lambda delimiter: len(found[delimiter]))


def _check_header(header: Sequence[str], where: str) -> int:
    """The place of the column `file`. Raises UserError if names are missing or occur twice."""
    if FILE not in header:
        nearest = difflib.get_close_matches(FILE, [name.lower() for name in header], n=1, cutoff=0.5)
        meant = next((name for name in header if nearest and name.lower() == nearest[0]), None)
        guess = f"; is {shown(meant)!r} meant? Rename it to {FILE!r}" if meant else ""
        raise UserError(f"{where} has no column {FILE!r}{guess}. Its columns are {shown(', '.join(header))[:200]}")
    others = [name for name in header if name != FILE]
    if len(others) < len(header) - 1:
        raise UserError(f"{where} has two columns {FILE!r}: remove one")
    if not others:
        raise UserError(f"{where} has no column beside {FILE!r}: add {CLASS!r} or attributes")
    if "" in header:
        raise UserError(
            f"{where}: column {header.index('') + 1} has no name: name or remove it (pandas: to_csv(..., index=False))"
        )
    if others.count(CLASS) > 1:
        raise UserError(f"{where} has two columns {CLASS!r}: remove one")
    if odd := next((name for name in others if name.lower() == CLASS != name), None):
        raise UserError(f"{where} has a column {odd!r}: call it {CLASS!r} if it is the class, or else by another name")
    check_attribute_names([name for name in others if name != CLASS], where)
    return header.index(FILE)


def merged(tables: Sequence[Table]) -> Table:
    """Tables of one or two splits as one, with the columns of the first.

    Raises:
        UserError: the second has other columns.
    """
    first, *others = tables
    cells, places = dict(first.cells), dict(first.places)
    for table in others:
        if odd := sorted(set(first.columns) ^ set(table.columns)):
            has, lacks = (first, table) if odd[0] in first.columns else (table, first)
            raise UserError(f"{has.where} has the column {shown(odd[0])!r}, {lacks.where} has not: give both the same")
        order = [table.columns.index(name) for name in first.columns]
        cells |= {file: tuple(row[place] for place in order) for file, row in table.cells.items()}
        places |= table.places
    return Table(" and ".join(table.where for table in tables), first.columns, cells, places)


def numbered(table: Table, train: Sequence[str], test: Sequence[str], files: Collection[str]) -> Told:
    """The values of all pictures as numbers, which count the values of the training set in natural order.

    Args:
        table: rows of the data set.
        train: names of the training pictures.
        test: names of the test pictures.
        files: names of all files of the data set.
    Raises:
        UserError: a row names no file, a picture has no row, or test has a value that train lacks.
    """
    there = set(files)
    table = _as_files_are_written(table, there)
    _check_files(table, [*train, *test], there)
    columns, notes, numbers = [], [], []
    for column, name in enumerate(table.columns):
        values = class_order(table.cells[file][column] for file in train)
        number = {value: i for i, value in enumerate(values)}
        if unknown := next((file for file in test if table.cells[file][column] not in number), None):
            value = shown(table.cells[unknown][column])
            raise UserError(
                f"{table.places[unknown]}: {shown(name)} is {value[:100]!r}, which no training picture has: "
                "move pictures between the splits, or change the value"
            )
        if name != CLASS and len(values) == 1:
            notes.append(f"{table.where}: {shown(name)} has one value only, {shown(values[0])!r}")
        if name != CLASS and len(values) > max(50, len(train) // 2):
            notes.append(f"{table.where}: {shown(name)} has {len(values)} values in {len(train)} training pictures")
        columns.append(Attribute(shown(name), tuple(shown(value) for value in values)))
        numbers.append(number)
    of = {
        file: tuple(number[value] for number, value in zip(numbers, table.cells[file], strict=True))
        for file in (*train, *test)
    }
    return Told(of, tuple(columns), tuple(notes))


def _as_files_are_written(table: Table, files: Set[str]) -> Table:
    """The table with the names of files as they are stored: an accent may be a part of a letter or a sign of its own,
    and spreadsheets write the former where macOS stores the latter."""
    if all(file in files for file in table.cells):
        return table
    stored = {unicodedata.normalize("NFC", file): file for file in files}

    def name(file: str) -> str:
        return file if file in files else stored.get(unicodedata.normalize("NFC", file), file)

    cells = {name(file): row for file, row in table.cells.items()}
    if len(cells) < len(table.cells):  # two rows would be of one file
        return table
    return table._replace(cells=cells, places={name(file): place for file, place in table.places.items()})


def _check_files(table: Table, listed: Sequence[str], files: Set[str]) -> None:
    """Raises UserError for a row without a file, and for a picture of `listed` without a row."""
    if missing := next((file for file in table.cells if file not in files), None):
        nearest = difflib.get_close_matches(missing, sorted(files)[:5000], n=1)
        fix = f"is {shown(nearest[0])} meant?" if nearest else "names are relative to the table"
        raise UserError(f"{table.places[missing]}: there is no file {shown(missing)[:200]}; {fix}")
    if lost := [file for file in listed if file not in table.cells]:
        more = f" and {len(lost) - 1} others" if len(lost) > 1 else ""
        raise UserError(f"{table.where} has no row for {shown(lost[0])}{more}: add rows, or take the pictures out")
