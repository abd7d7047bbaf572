"""What a recipe says about itself, and its arguments."""

import difflib
from collections.abc import Callable, Iterable
from typing import NamedTuple

from jimgen.errors import UserError
from jimgen.files import shown

MOST = 1_000_000  # pictures that may be asked for


class About(NamedTuple):
    """What is known about a data set without opening it."""

    what: str  # one line
    split: str  # what keeps train and test apart
    licence: str
    attribution: str
    install: str  # commands, one a line; "" where nothing is needed
    is_installed: Callable[[], bool]
    transparent: bool = False  # RGBA, as stored


def require_installed(name: str, about: About) -> None:
    """Raises UserError with the commands that install what a recipe needs, unless it is there."""
    if not about.is_installed():
        raise UserError(f"{name} needs a package that is not installed; install it:\n{about.install}")


def require_no_argument(name: str, argument: str) -> None:
    """Raises UserError for a name such as sprites:large of a recipe that takes no argument."""
    if argument:
        raise UserError(f"{name}:{shown(argument)}: {name} takes no argument; write {name}")


def choice(name: str, what: str, given: str, known: Iterable[str], form: str = "{name}:{near}") -> str:
    """Returns `given` if it is known.

    Args:
        name: name of the recipe.
        what: what is chosen: "style".
        given: what the user wrote.
        known: what there is.
        form: how the nearest one is written.
    Raises:
        UserError: it is not known; the message names the nearest.
    """
    known = list(known)
    if given in known:
        return given
    near = difflib.get_close_matches(given.lower(), known, n=1, cutoff=0.4)
    guess = f"; did you mean {form.format(name=name, near=near[0])}?" if near else ""
    problem = (
        f"{name} has no {what} {shown(given)!r}{guess}"
        if given
        else f"{name} needs a {what}: write {name}:{known[0] if known else what.upper()}"
    )
    raise UserError(f"{problem}\nThere are: {', '.join(known)}")


def count(name: str, given: str, default: int) -> tuple[int, int]:
    """Numbers of train and test pictures from NUM in a name: NUM, and a tenth of it.

    Raises:
        UserError: it is not a whole number from 10 to a million.
    """
    if not given:
        return default, default // 10
    if not (given.isascii() and given.isdecimal()) or not 10 <= int(given[:20]) <= MOST:
        raise UserError(f"{name}:{shown(given)}: the number of pictures must be from 10 to {MOST:,}, as in {name}:5000")
    return int(given), int(given) // 10
