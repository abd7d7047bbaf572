"""What a data set is, and how its rows are read."""

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

UNLABELLED = ("all",)  # the class names of a set without labels: one class, every label 0


class DataSpec(NamedTuple):
    """What a method or an experiment may know of its data."""

    name: str
    shape: tuple[int, int, int]  # (height, width, channels), channels 1 or 3
    num_classes: int
    class_names: tuple[str, ...]
    num_train: int
    num_test: int
    hash: str  # sha256, 64 hex digits: see `data_hash`


class Arrays(NamedTuple):
    """A split in memory."""

    images: np.ndarray  # uint8 [n, h, w, c]
    labels: np.ndarray  # int32 [n]


class Row(NamedTuple):
    """What is known of a picture file before it is decoded."""

    name: str  # relative to the data set
    where: str  # what messages call it
    num_bytes: int
    size: tuple[int, int]  # (height, width)
    label: int
    stamp: str  # differs where the content may differ: path, size, time


@dataclass(frozen=True)
class Stream:
    """A split too large for memory: a row is decoded when it is asked for.

    `read` takes a row in [0, num_rows) and returns (uint8 [h, w, c], int label). Several threads may call it at once.
    `identity` names the rows; it stands for their content in the data hash.
    `rows` is None where every row is sure to be readable. Else it tells of each: `load` then reads it once, leaves out
    those that turn out to be unreadable, and remembers which.
    `size` gives (height, width) of a row as its header tells them, where they differ and `rows` does not tell.
    """

    read: Callable[[int], tuple[np.ndarray, int]]
    num_rows: int
    identity: str
    rows: tuple[Row, ...] | None = None
    size: Callable[[int], tuple[int, int]] | None = None

    def __len__(self) -> int:
        return self.num_rows


def stream_of(rows: Sequence[Row], read: Callable[[int], tuple[np.ndarray, int]]) -> Stream:
    """The stream of picture files; their identity is their names, sizes in bytes and labels."""
    return Stream(read, len(rows), "\n".join(f"{row.name}\t{row.num_bytes}\t{row.label}" for row in rows), tuple(rows))


def select(stream: Stream, chosen: Sequence[int]) -> Stream:
    """Some rows of a stream of picture files, as if there were no others."""
    assert stream.rows is not None
    chosen = tuple(chosen)
    return stream_of([stream.rows[row] for row in chosen], lambda row: stream.read(chosen[row]))


class Source(NamedTuple):
    """What a source hands to `load`: rows as stored. A Stream of a Source may yield pictures of several sizes.

    Without `test`, `load` splits `train` (a stream with `rows`) by `layout.held_out`, after leaving out what cannot be
    read."""

    train: Arrays | Stream
    test: Arrays | Stream | None
    class_names: tuple[str, ...]
    shape: tuple[int | None, int | None, int]  # None where the pictures differ
    skipped: tuple[str, ...] = ()
    notes: tuple[str, ...] = ()


class Dataset(NamedTuple):
    spec: DataSpec
    train: Arrays | Stream
    test: Arrays | Stream
    skipped: tuple[str, ...] = ()  # unreadable files that were left out, each with the reason
    notes: tuple[str, ...] = ()  # what else the user should know: folders or labels that are not used

    @property
    def left_out(self) -> tuple[str, ...]:
        """Lines for the user on the pictures, folders and labels that are not used."""
        pictures = (f"{len(self.skipped)} picture(s) left out, the first: {self.skipped[0]}",) if self.skipped else ()
        return pictures + self.notes


def num_rows(split: Arrays | Stream) -> int:
    """How many pictures a split has. (`len` of Arrays counts its two fields.)"""
    return len(split.labels) if isinstance(split, Arrays) else len(split)


def read_rows(split: Arrays | Stream, rows: Iterable[int]) -> tuple[np.ndarray, np.ndarray]:
    """Images uint8 [n, h, w, c] and labels int32 [n] of some rows of a split."""
    if isinstance(split, Arrays):
        chosen = np.fromiter(rows, np.int64)
        return split.images[chosen], split.labels[chosen]
    read = [split.read(row) for row in rows]
    return np.stack([image for image, _ in read]), np.asarray([label for _, label in read], np.int32)


def data_hash(train: Arrays | Stream, test: Arrays | Stream) -> str:
    """sha256, in hex, of train then test, after fitting.

    Of Arrays: shape and dtype (as text), then the bytes, of the images and of the labels. Of a Stream, which would have
    to be decoded whole: the fitted shape and its identity (for a folder names, sizes in bytes and labels; for TFDS
    name, version and split). So one set has two hashes, one in memory and one streamed.
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
    """Where decoded sets are kept: JIMGEN_CACHE, else ~/.cache/jimgen. Made if it is missing.

    Raises:
        UserError: it cannot be made.
    """
    path = expanded(os.environ.get("JIMGEN_CACHE") or "~/.cache/jimgen")
    try:
        path.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise UserError(f"cannot make the cache folder {path} ({error}); set JIMGEN_CACHE to another") from error
    return path


def read_all(stream: Stream, shape: tuple[int, int, int]) -> tuple[Arrays, dict[int, str]]:
    """Decodes a whole stream of pictures of one shape, in threads.

    Returns:
        All rows, where unreadable ones hold nothing of meaning; and the faults of these by their number.
    """
    images = np.empty((len(stream), *shape), np.uint8)
    labels = np.empty(len(stream), np.int32)
    faults = {}
    for row, result in enumerate(read_in_threads(stream)):
        if isinstance(result, pictures.UnreadableImage):
            faults[row] = str(result)
        else:
            images[row], labels[row] = result
    return Arrays(images, labels), faults


def read_in_threads(stream: Stream) -> Iterator[tuple[np.ndarray, int] | pictures.UnreadableImage]:
    def read(row: int) -> tuple[np.ndarray, int] | pictures.UnreadableImage:
        try:
            return stream.read(row)
        except pictures.UnreadableImage as error:
            return error

    def read_run(rows: range) -> list[tuple[np.ndarray, int] | pictures.UnreadableImage]:
        return [read(row) for row in rows]

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        for part in runs(range(len(stream)), 2048):  # `map` queues all that it is given
            for results in pool.map(read_run, runs(part, 32)):  # a tiny picture is not worth a task of its own
                yield from results


def runs(rows: range, length: int) -> Iterator[range]:
    return (rows[start : start + length] for start in range(0, len(rows), length))
