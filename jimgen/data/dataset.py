"""The types of data sets and their splits, and how their rows are read."""

import hashlib
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jimgen.data import images as pictures
from jimgen.errors import UserError
from jimgen.files import expanded

CLASS = "class"  # name of column 0 of the labels
UNLABELLED = ("all",)  # the class names of a set without labels: one class, every label 0


class Attribute(NamedTuple):
    """A named property of pictures, such as hair, with the names of its values. Labels count them from 0."""

    name: str
    values: tuple[str, ...]


class DataSpec(NamedTuple):
    """What a method or an experiment may know about its data.

    Labels are int32 [n], the class; with attributes int32 [n, columns]: the class, then a column for each attribute.
    """

    name: str
    shape: tuple[int, int, int]  # (height, width, channels), channels 1, 3 or 4
    num_classes: int
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    hash: str  # sha256, 64 hex digits: see `data_hash`
    attributes: tuple[Attribute, ...] = ()  # of columns 1, 2, ... of the labels

    @property
    def conditions(self) -> int | tuple[int, ...]:
        """What labels can tell a net, as its `num_classes`: 0 for nothing, the number of classes, or, where there are
        attributes, the number of values of each column of the labels."""
        if self.attributes:
            return (self.num_classes, *(len(attribute.values) for attribute in self.attributes))
        return self.num_classes if self.num_classes > 1 else 0

    def label_shape(self, num: int) -> tuple[int, ...]:
        """The shape of `num` labels."""
        return (num, 1 + len(self.attributes)) if self.attributes else (num,)

    @property
    def columns(self) -> tuple[Attribute, ...]:
        """All columns of the labels as attributes; the first is called class."""
        return (Attribute(CLASS, self.class_names), *self.attributes)


class Arrays(NamedTuple):
    """A split in memory."""

    images: np.ndarray  # uint8 [n, h, w, c]
    labels: np.ndarray  # int32 [n], or [n, 1 + number of attributes]


Example = tuple[np.ndarray, "int | Sequence[int]"]  # a picture uint8 [h, w, c] and its label


class Row(NamedTuple):
    """What is known about a picture file before it is decoded."""

    name: str  # relative to the data set
    where: str  # its name in messages
    num_bytes: int
    size: tuple[int, int]  # (height, width)
    label: int | tuple[int, ...]
    stamp: str  # path, size and time: differs if the content may differ


@dataclass(frozen=True)
class Stream:
    """A split too large for memory: rows are decoded on demand.

    `read` takes a row in [0, num_rows) and returns (uint8 [h, w, c], its label: int, or ints of all columns).
    Several threads may call it at once.
    `identity` names the rows; it stands for their content in the data hash.
    `rows` describes picture files, and is None if every row is known to be readable. `load` reads all files once,
    leaves out the unreadable ones, and caches which they are.
    `size` returns (height, width) of a row by its header, if sizes differ and `rows` is None.
    `place` is the real path of the folder or archive of `rows`, and the split: it names what is cached about them.
    `draw` takes a row and a random generator, and returns what training sees of the row at one step, such as a part of
    the picture; None if training sees what `read` returns.
    """

    read: Callable[[int], Example]
    num_rows: int
    identity: str
    rows: tuple[Row, ...] | None = None
    size: Callable[[int], tuple[int, int]] | None = None
    place: str = ""
    draw: Callable[[int, np.random.Generator], Example] | None = None

    def __len__(self) -> int:
        return self.num_rows


def stream_of(rows: Sequence[Row], read: Callable[[int], Example], place: str = "") -> Stream:
    """A stream of picture files. Names, sizes in bytes and labels are its identity."""
    identity = "\n".join(f"{row.name}\t{row.num_bytes}\t{row.label}" for row in rows)
    return Stream(read, len(rows), identity, tuple(rows), place=place)


def select(stream: Stream, chosen: Sequence[int]) -> Stream:
    """A stream of some rows of a stream."""
    chosen = tuple(chosen)
    if stream.rows is None:
        size = None if stream.size is None else lambda row: stream.size(chosen[row])  # pyright: ignore
        digest = hashlib.sha256(np.asarray(chosen, np.int64).tobytes()).hexdigest()
        return Stream(lambda row: stream.read(chosen[row]), len(chosen), f"{stream.identity}\nrows {digest}", size=size)
    return stream_of([stream.rows[row] for row in chosen], lambda row: stream.read(chosen[row]), stream.place)


class Source(NamedTuple):
    """What a source returns to `load`: rows as stored. Its streams may yield pictures of several sizes.

    Without `test`, `load` leaves out unreadable rows of `train` (a stream with `rows`) and splits the rest by
    `layout.held_out`."""

    train: Arrays | Stream
    test: Arrays | Stream | None
    class_names: tuple[str, ...]
    shape: tuple[int | None, int | None, int]  # (height, width, channels); None if pictures differ in it
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()
    attributes: tuple[Attribute, ...] = ()


class Dataset(NamedTuple):
    spec: DataSpec
    train: Arrays | Stream
    test: Arrays | Stream
    skipped: tuple[str, ...] = ()  # unreadable files that were left out, with the reasons
    notes: tuple[str, ...] = ()  # sentences on folders or labels that are not used

    @property
    def left_out(self) -> tuple[str, ...]:
        """Sentences on pictures, folders and labels that are not used."""
        pictures = (f"{len(self.skipped)} picture(s) left out, the first: {self.skipped[0]}",) if self.skipped else ()
        return pictures + self.notes


def num_rows(split: Arrays | Stream) -> int:
    """Number of pictures in a split. (`len` of Arrays counts its two fields.)"""
    return len(split.labels) if isinstance(split, Arrays) else len(split)


def read_rows(split: Arrays | Stream, rows: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, h, w, c] and labels int32 [n] or [n, columns] of some rows of a split."""
    if isinstance(split, Arrays):
        chosen = np.fromiter(rows, np.int64)
        return split.images[chosen], split.labels[chosen]
    read = [split.read(row) for row in rows]
    return np.stack([image for image, _ in read]), np.asarray([label for _, label in read], np.int32)


def labels_of(split: Arrays | Stream) -> np.ndarray:
    """All labels of a split, int32 [n] or [n, columns]. A stream without `rows` decodes its pictures for that."""
    if isinstance(split, Arrays):
        return split.labels
    labels = [row.label for row in split.rows] if split.rows else [split.read(row)[1] for row in range(len(split))]
    return np.asarray(labels, np.int32)


def data_hash(train: Arrays | Stream, test: Arrays | Stream) -> str:
    """sha256, in hex, of train then test, after fitting.

    Arrays contribute shape and dtype (as text) and bytes of images and labels. A Stream, which would have to be decoded
    first, contributes its fitted shape and its identity (of a folder: names, sizes in bytes and labels; of TFDS: name,
    version and split). So one set has two hashes, one in memory and one streamed.
    """
    digest = hashlib.sha256()
    for split in (train, test):
        for part in split if isinstance(split, Arrays) else (split.identity,):
            if isinstance(part, str):
                digest.update(part.encode(errors="surrogateescape"))
            else:
                digest.update(f"{part.shape} {part.dtype}".encode())
                digest.update(np.ascontiguousarray(part).data)
    return digest.hexdigest()


def cache_dir() -> Path:
    """The folder for decoded sets: JIMGEN_CACHE, else ~/.cache/jimgen. It is created if missing.

    Raises:
        UserError: it cannot be created.
    """
    path = expanded(os.environ.get("JIMGEN_CACHE") or "~/.cache/jimgen")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache folder {path} ({error}); set JIMGEN_CACHE to another") from error
    return path


def read_all(stream: Stream, shape: tuple[int, int, int]) -> tuple[Arrays, dict[int, str]]:
    """Decodes a whole stream of pictures of one shape, in threads.

    Returns: All rows, with arbitrary content in unreadable ones; and the reasons for these by row number.
    """
    images = np.empty((len(stream), *shape), np.uint8)
    labels: list[int | Sequence[int]] = [0] * len(stream)
    faults = {}
    for row, result in enumerate(read_in_threads(stream)):
        if isinstance(result, pictures.UnreadableImage):
            faults[row] = str(result)
        else:
            images[row], labels[row] = result
    known = next((label for row, label in enumerate(labels) if row not in faults), 0)
    labels = [known if row in faults else label for row, label in enumerate(labels)]
    return Arrays(images, np.asarray(labels, np.int32)), faults


def read_in_threads(stream: Stream) -> Iterator[Example | pictures.UnreadableImage]:
    def read(row: int) -> Example | pictures.UnreadableImage:
        try:
            return stream.read(row)
        except pictures.UnreadableImage as error:
            return error

    def read_run(rows: range) -> list[Example | pictures.UnreadableImage]:
        return [read(row) for row in rows]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in runs(range(len(stream)), 2048):  # in parts, as `map` queues all its tasks at once
            for results in pool.map(read_run, runs(part, 32)):  # a task per tiny picture would cost too much
                yield from results


def runs(rows: range, length: int) -> Iterator[range]:
    return (rows[start : start + length] for start in range(0, len(rows), length))
