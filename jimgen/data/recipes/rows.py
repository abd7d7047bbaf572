"""Rows of pictures that are made one after another, and their division into train and test."""

import hashlib
import math
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jimgen.alpha import premultiply
from jimgen.data.dataset import Arrays
from jimgen.errors import UserError


class Picture(NamedTuple):
    """A picture, what it shows, and its label."""

    image: np.ndarray  # uint8 [h, w, c]
    unit: str  # the font, the object, ...: all pictures of a unit are on one side
    label: Any  # int, or ints of all columns


def digest(image: np.ndarray) -> bytes:
    """A hash of the pixels."""
    return hashlib.sha256(np.ascontiguousarray(image).tobytes()).digest()


def tenth_of_each(units: Mapping[str, Iterable[str]]) -> set[tuple[str, str]]:
    """A tenth of the units of each class, at least one of two or more, by the hash of their names: (class, unit)."""
    chosen = set()
    for name, members in units.items():
        ordered = sorted(set(members), key=lambda unit: hashlib.sha256(f"{name}/{unit}".encode()).hexdigest())
        count = math.ceil(len(ordered) / 10) if len(ordered) > 1 else 0
        chosen |= {(name, unit) for unit in ordered[:count]}
    return chosen


def train_and_test(pictures: Iterable[Picture], test_units: Iterable[str]) -> tuple[Arrays, Arrays]:
    """Both splits, by unit. A picture that is there already is left out, in test also one that train has."""
    held_out = set(test_units)
    found = list(pictures)
    seen: set[bytes] = set()
    splits = []
    for is_test in (False, True):
        rows = []
        for picture in found:
            if (picture.unit in held_out) == is_test and (key := digest(picture.image)) not in seen:
                seen.add(key)
                rows.append((picture.image, picture.label))
        splits.append(arrays_of(rows))
    return splits[0], splits[1]


def arrays_of(rows: Iterable[tuple[np.ndarray, Any]]) -> Arrays:
    """Pictures of one shape and their labels, as arrays."""
    rows = list(rows)
    return Arrays(np.stack([image for image, _ in rows]), np.array([label for _, label in rows], np.int32))


def read_rgba(path: Path, recipe: str, install: str) -> np.ndarray:
    """A picture file as premultiplied uint8 [h, w, 4].

    Raises:
        UserError: it cannot be read; the message tells how to install its package.
    """
    try:
        with Image.open(path) as file:
            return premultiply(np.asarray(file.convert("RGBA")))
    except (OSError, ValueError) as error:
        raise damaged(recipe, path, error, install) from error


def damaged(recipe: str, path: Path, error: Exception, install: str) -> UserError:
    """The error for a file of a package that cannot be read."""
    return UserError(f"{recipe}: {path} cannot be read ({error}); install its package again: {install}")
