"""Paths in names of data sets: folder:PATH, npz:PATH, records:PATH, medical:PATH."""

import difflib
import os
from pathlib import Path

from jimgen.errors import UserError
from jimgen.files import expanded, shown, status

PATH_KINDS = ("folder", "npz", "records", "medical")  # of data sets whose name contains a path


def find(path: str) -> Path | None:
    """The file or folder in a data set's name, with `~` expanded; None if it does not exist.

    Raises:
        UserError: see `status` and `expanded`.
    """
    found = expanded(path)
    return None if status(found) is None else found


def not_there(path: str, kind: str) -> UserError:
    """The error for a missing path, with the nearest name in its folder."""
    wanted = expanded(path)
    try:
        siblings = set(os.listdir(wanted.parent)) - {wanted.name}  # a broken link is listed too
    except (OSError, ValueError):
        siblings = set()
    nearest = difflib.get_close_matches(wanted.name, siblings, n=1)
    guess = f"did you mean {kind}:{wanted.parent / nearest[0]}?" if nearest else f"looked in {wanted.parent.absolute()}"
    return UserError(f"{kind}:{shown(path)}: there is no such {'file' if kind == 'npz' else 'folder'}; {shown(guess)}")


def canonical(name: str) -> str:
    """A data set's name with its path in canonical form: no `~`, no `/` at the end, relative if possible.

    Names without a path do not change.
    """
    kind, colon, path = name.partition(":")
    if kind not in PATH_KINDS or not path:
        return name
    absolute = os.path.abspath(os.path.expanduser(path))
    here = os.getcwd()
    return kind + colon + (os.path.relpath(absolute) if absolute.startswith(here.rstrip("/") + "/") else absolute)
