"""What one input of `fuzz.py` is."""

from collections.abc import Callable
from typing import Any, NamedTuple


class Trial(NamedTuple):
    """An input that lies in a folder, how it is read, and what is right."""

    read: Callable[[], Any]
    check: Callable[[Any], None]  # raises Wrong
    must_read: bool = False  # nothing that counts was damaged: a UserError is wrong too


class Wrong(Exception):
    """A result that is not right. The message says in what."""


def require(condition: bool, message: str) -> None:
    if not condition:
        raise Wrong(message)
