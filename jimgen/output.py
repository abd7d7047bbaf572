"""Where a training says how far it is."""

import os
import sys
from typing import IO

from rich.console import Console


class Output(Console):
    """A console for plain text: brackets in names and paths are not markup. Falls silent when nobody reads it."""

    lost = False
    """whether the reader of the pipe has gone"""

    def __init__(self, file: IO[str] | None = None):
        super().__init__(file=file, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Called by rich in place of raising BrokenPipeError."""
        self.lost = True
        silence()

    def ends(self) -> None:
        """Says no more: the terminal is closed."""
        self.quiet = True
        silence()


def silence() -> None:
    """Sends what is still written to stdout nowhere: the interpreter would fail on it once more when it ends."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
