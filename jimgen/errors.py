"""The one error that people are meant to see, and how entry points show it."""

import contextlib
import io
import os
import sys
from collections.abc import Iterator


class UserError(Exception):
    """Something the user can fix. The message names the cause and the fix, in one or two lines.

    Entry points print it without a traceback and exit with status 2.
    """


@contextlib.contextmanager
def errors_in_a_line() -> Iterator[None]:
    """For entry points: prints a UserError to stderr as "error: ..." and exits with status 2.

    So it does with what the system says of a file, wherever that was not foreseen; JIMGEN_TRACEBACK=1 shows where. File
    names that are not UTF-8 print as backslash escapes. A pipe that nobody reads any more ends the process with status
    141, without a word.
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
