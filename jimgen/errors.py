"""The one error that people are meant to see."""


class UserError(Exception):
    """Something the user can mend. The message names the cause and the mend, in one or two lines.

    Entry points print it without a traceback and exit with status 2.
    """
