"""The one error that people are meant to see."""

import sys


class UserError(Exception):
    """Something the user can mend. The message names the cause and the mend, in one or two lines.

    Entry points print it without a traceback and exit with status 2.
    """


def escape_unprintable() -> None:
    """Prints what the terminal's encoding lacks, such as names that are not UTF-8, as escapes in place of failing."""
    reconfigure = getattr(sys.stdout, "reconfigure", None)
    if reconfigure is not None:  # a stream that someone put in its place may have none
        reconfigure(errors="backslashreplace")
