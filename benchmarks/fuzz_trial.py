"""The type of an input of `fuzz.py`."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Trial(NamedTuple):
    """An input in a folder: how to read it, and a check of the result."""

    read: Callable[[], Any]
    check: Callable[[Any], None]  # raises Wrong
    must_read: bool = False  # no relevant part was damaged, so that a UserError is wrong


class Wrong(Exception):
    """A wrong result. The message describes what is wrong."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)
