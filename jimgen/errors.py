"""The error type for users, and how entry points print it."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator


class UserError(Exception):
    """An error that the user can fix. The message names the cause and the fix, in one or two lines.

    Entry points print it without a traceback and exit with status 2.
    """


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """For entry points: prints a UserError to stderr as "error: ..." and exits with status 2.

    An OSError about a file is printed likewise; JIMGEN_TRACEBACK=1 shows its traceback instead. File names that are not
    UTF-8 are printed with backslash escapes. If a pipe's reader has gone, the process exits silently with status 141.
    """
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
    try:
        try:
            yield
        finally:
            sys.stdout.flush()
    except BrokenPipeError:
        from jimgen.output import silence

        silence()
        sys.exit(128 + 13)  # SIGPIPE
    except UserError as error:
        message = str(error)
    except OSError as error:
        if error.filename is None or os.environ.get("JIMGEN_TRACEBACK"):
            raise
        message = f"{os.fsdecode(error.filename)}: {error.strerror} (JIMGEN_TRACEBACK=1 shows where)"
    else:
        return
    print(f"error: {message.encode(errors='backslashreplace').decode()}", file=sys.stderr)
    sys.exit(2)
