"""What files were found to hold, kept in the cache, so that only new and changed files are opened again.

A file is known by its stamp: path, size and time of its last change. An edit that keeps all three is not noticed.
Another version of Pillow may read files that the last one could not, so it reads them all again.
"""

import contextlib
import hashlib
import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import PIL

from jimgen.data.dataset import cache_dir
from jimgen.errors import UserError
from jimgen.files import read_json, write_atomically

_MADE_BY = {"format": 1, "pillow": PIL.__version__}  # an index that differs in it is made anew


def recall(
    kind: str,
    place: str,
    stamps: Sequence[str],
    read: Callable[[list[int]], Sequence[Any]],
    is_valid: Callable[[Any], bool],
) -> list[Any]:
    """What is known about files, from the index of an earlier call or else read from them.

    Args:
        kind: name of what is known: "shapes". Each has its own index.
        place: real path of the folder or archive that holds the files.
        stamps: text that differs if the content of a file may differ.
        read: function from row numbers of `stamps` to their values: plain JSON, or exceptions, which are not kept.
        is_valid: whether a value from the index is one that `read` may return.
    Returns: A value for each stamp.
    """
    known = _known(kind, place)
    values = [known.get(stamp) for stamp in stamps]
    new = [row for row, value in enumerate(values) if value is None or not is_valid(value)]
    for row, value in zip(new, read(new) if new else (), strict=True):
        values[row] = value
    kept = {stamp: value for stamp, value in zip(stamps, values, strict=True) if not isinstance(value, Exception)}
    if new and kept or len(known) != len(kept):
        with contextlib.suppress(UserError):  # a full disk costs time, not the run
            write_atomically(index_file(kind, place), json.dumps(_MADE_BY | {"place": place, "files": kept}))
    return values


def index_file(kind: str, place: str) -> Path:
    """The path of an index in the cache.

    Raises:
        UserError: there is no cache, see `cache_dir`.
    """
    return cache_dir() / f"{kind}-{hashlib.sha256(place.encode(errors='surrogateescape')).hexdigest()[:32]}.json"


def _known(kind: str, place: str) -> dict[str, Any]:
    """The values by stamp in an index; none if it is missing, damaged or of other versions, or there is no cache."""
    with contextlib.suppress(UserError):
        content = read_json(index_file(kind, place), fix="remove it")
        if content and _MADE_BY.items() <= content.items() and isinstance(content.get("files"), dict):
            return content["files"]
    return {}
