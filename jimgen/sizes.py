"""Sizes of images as text and as fields of configs and flags of commands."""

import re
from typing import Annotated

import tyro

from jimgen.errors import UserError

Sides = tuple[int, int]  # (height, width)


def parse_size(text: str) -> int | Sides:
    """The size that `64` or `64x96` (height x width) names; a square is one number.

    Raises:
        UserError: the text has another form, or a side is 0.
    """
    if not re.fullmatch(r"[1-9][0-9]{0,5}(x[1-9][0-9]{0,5})?", text):
        raise UserError(f"{text!r} is no size: give height and width in pixels, for example 64 or 64x96")
    height, _, width = text.partition("x")
    return int(height) if width in ("", height) else (int(height), int(width))


def size_text(size: int | Sides) -> str:
    """The text that `parse_size` reads: 64, or 64x96."""
    height, width = (size, size) if isinstance(size, int) else size
    return str(height) if height == width else f"{height}x{width}"


# The type of a field or flag that is a size: --size 64, or --size 64x96.
Size = Annotated[
    int | Sides | None,
    tyro.constructors.PrimitiveConstructorSpec(
        nargs=1,
        metavar="SIDE|HEIGHTxWIDTH",
        instance_from_str=lambda given: None if given == ["None"] else parse_size(given[0]),
        is_instance=lambda value: value is None or isinstance(value, int | tuple),
        str_from_instance=lambda size: ["None" if size is None else size_text(size)],
    ),
]
