"""The console on which a training prints its progress."""

import os
import sys
from typing import IO

from rich.console import Console


class Output(Console):
    """A console for plain text, in which brackets are not markup. It becomes silent when its reader has gone."""

    lost = False
    """whether the reader of the pipe has gone"""

    def __init__(self, file: IO[str] | None = None):
        super().__init__(file=file, soft_wrap=True, markup=False, highlight=False, emoji=False)

    def on_broken_pipe(self) -> None:
        """Called by rich instead of raising BrokenPipeError."""
        self.lost = True
        silence()

    def ends(self) -> None:
        """Stops printing, because the terminal is closed."""
        self.quiet = True
        silence()


def silence() -> None:
    """Redirects stdout to nowhere: otherwise the interpreter would fail when it flushes stdout at exit."""
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)
