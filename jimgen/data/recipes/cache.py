"""Rendered sets are kept in the cache folder, under a name that says all that they depend on."""

import hashlib
import json
import re
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import TypeVar

import numpy as np

from jimgen.data.archive import read_arrays
from jimgen.data.dataset import Arrays, Attribute, Source, cache_dir, data_hash
from jimgen.errors import UserError
from jimgen.files import write_npz

T = TypeVar("T")

_FIELDS = ("train_images", "train_labels", "test_images", "test_labels", "names", "hash")
_SILENT = 2  # seconds
_EACH = 10  # seconds between lines


def cached(name: str, depends_on: Iterable[object], make: Callable[[], Source]) -> Source:
    """The source that `make` returns, from the cache if it is there undamaged.

    Args:
        name: the data set's name, without its colons in the name of the file.
        depends_on: everything that decides the content: version of the recipe, arguments, versions of packages.
        make: renders the source: arrays, with a test split.
    Raises:
        UserError: the cache cannot be written; or what `make` raises.
    """
    digest = hashlib.sha256(json.dumps([name, *map(str, depends_on)]).encode(errors="surrogateescape")).hexdigest()
    path = cache_dir() / f"{re.sub('[^A-Za-z0-9_.-]+', '-', name)}-{digest[:16]}.npz"
    source = _read(path)
    if source is None:
        source = make()
        assert isinstance(source.train, Arrays) and isinstance(source.test, Arrays)
        try:
            write_npz(path, _fields(source))
        except UserError as error:
            raise UserError(f"{error} JIMGEN_CACHE sets the folder for data.") from error
    return source


def _fields(source: Source) -> dict[str, np.ndarray | str]:
    train, test = source.train, source.test
    assert isinstance(train, Arrays) and isinstance(test, Arrays)
    names = json.dumps([source.class_names, source.attributes])
    parts = (train.images, train.labels, test.images, test.labels, names, _hash(train, test, names))
    return dict(zip(_FIELDS, parts, strict=True))


def _hash(train: Arrays, test: Arrays, names: str) -> str:
    return hashlib.sha256(f"{data_hash(train, test)} {names}".encode()).hexdigest()


def _read(path: Path) -> Source | None:
    """The cached source, or None if it is missing or differs from what was written."""
    try:
        saved = read_arrays(path, _FIELDS)
        train, test = (Arrays(saved[f"{split}_images"], saved[f"{split}_labels"]) for split in ("train", "test"))
        names = str(saved["names"])
        if str(saved["hash"]) != _hash(train, test, names):
            return None
        class_names, attributes = json.loads(names)
    except (UserError, KeyError, ValueError):
        return None
    named = tuple(Attribute(attribute, tuple(values)) for attribute, values in attributes)
    return Source(train, test, tuple(class_names), train.images.shape[1:], attributes=named)


def progress(what: str, items: Iterable[T], total: int) -> Iterator[T]:
    """The items; a line on stderr every ten seconds tells how far they are, if they take more than two."""
    start = time.monotonic()
    due = start + _SILENT
    for done, item in enumerate(items):
        if done and (now := time.monotonic()) > due:
            left = (now - start) / done * (total - done)
            print(
                f"{what}: {done} of {total} rendered, about {left:.0f} s left; next time they come from the cache",
                file=sys.stderr,
            )
            due = now + _EACH
        yield item
