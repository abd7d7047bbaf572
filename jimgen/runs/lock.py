"""One training per folder: a lock that the system releases when its process ends, however it ends."""

import contextlib
import errno
import json
import os
import socket
import time
from collections.abc import Iterator
from pathlib import Path

from jimgen.errors import UserError
from jimgen.files import disk_errors
from jimgen.runs.folder import LOCK

_HELD = (errno.EWOULDBLOCK, errno.EACCES, errno.EDEADLK)  # by another process; which one depends on the system
_UNSUPPORTED = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


@contextlib.contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Keeps other trainings out of a folder, which is made, until the block ends or the process does.

    The file stays behind; only the system's lock on it counts, so a kill leaves no stale one. Readers take none. On a
    file system without locks there is no protection.

    Raises:
        UserError: another training holds the folder (the message names its process), or it cannot be written.
    """
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        file = (folder / LOCK).open("a+")
    with file:
        if not _lock(file.fileno()):
            raise UserError(
                f"{folder} is being trained by {_holder(folder)}: wait for it or stop it, or give another --workdir"
            )
        who = {"process": os.getpid(), "host": socket.gethostname(), "since": time.strftime("%Y-%m-%d %H:%M:%S")}
        with disk_errors(folder):
            file.truncate(0)
            file.write(json.dumps(who))
            file.flush()
        yield


def _lock(descriptor: int) -> bool:
    """Locks an open file; False where another process, or another opening of it, holds the lock."""
    try:
        import fcntl
    except ImportError:  # Windows
        import msvcrt

        lock = lambda: msvcrt.locking(descriptor, msvcrt.LK_NBLCK, 1)  # noqa: E731  # pyright: ignore
    else:
        lock = lambda: fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)  # noqa: E731
    try:
        lock()
    except OSError as error:
        if error.errno in _HELD:
            return False
        if error.errno not in _UNSUPPORTED:
            raise
    return True


def _holder(folder: Path) -> str:
    """Who says that they hold the lock of a folder."""
    with contextlib.suppress(OSError, ValueError, KeyError, TypeError):
        who = json.loads((folder / LOCK).read_text())
        return f"process {who['process']} on {who['host']} since {who['since']}"
    return "another process"
