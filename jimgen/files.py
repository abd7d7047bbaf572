"""Reading and writing files: atomic writes, JSON, and faults of the disk as messages for the user."""

import contextlib
import errno
import json
import os
import sys
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from jimgen.errors import UserError


@contextlib.contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Turns an OSError while a folder is written into a UserError with the fix."""
    try:
        yield
    except OSError as error:
        if error.errno == errno.ENOSPC:
            raise UserError(
                f"the disk is full: cannot write to {folder}. Free some space and run the same command again."
            ) from error
        raise UserError(f"cannot write to {folder}: {error.strerror or error}. Choose another folder.") from error


@contextlib.contextmanager
def read_errors(path: Path | str) -> Iterator[None]:
    """Turns an OSError while a file or folder is read into a UserError with its name and the fix."""
    try:
        yield
    except OSError as error:
        if error.errno in (errno.EACCES, errno.EPERM):
            fix = "Give yourself the right to read it (chmod u+rX), or use another"
        elif error.errno in (errno.EMFILE, errno.ENFILE):
            fix = "Raise the limit of open files (ulimit -n)"
        else:
            fix = "Check the path and the disk"
        name = shown(path)
        name = name if len(name) <= 500 else f"{name[:100]}... ({len(name)} characters)"
        raise UserError(f"cannot read {name}: {error.strerror or error}. {fix}.") from error


def expanded(path: Path | str) -> Path:
    """A path with `~` or `~user` at its start replaced by the home folder.

    Raises:
        UserError: there is no such user.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise UserError(f"{shown(path)}: {error}; write the path in full") from error


def status(path: Path | str) -> os.stat_result | None:
    """The status of a path, with links followed; None if nothing is there.

    Raises:
        UserError: the status cannot be read: a parent folder is not readable, the name is too long, ...
    """
    try:
        with read_errors(path):
            return os.stat(path)
    except ValueError:  # a zero byte
        return None
    except UserError as error:
        if isinstance(error.__cause__, (FileNotFoundError, NotADirectoryError)):
            return None
        raise


def shown(path: Path | str | Any) -> str:
    """A name as text that can be printed and stored, with bytes that are not UTF-8 as \\xNN."""
    text = str(path)
    try:
        return text.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")
    except UnicodeEncodeError:  # lone surrogates, which no file name has
        return text.encode("utf-8", "backslashreplace").decode()


def some_of(names: Iterable[str], most: int = 5) -> str:
    """The first few of many names, as text for a message."""
    names = [shown(name)[:100] for name in names]
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return (", ".join(names[:most]) or "none") + more


@contextlib.contextmanager
def atomic_file(path: Path) -> Iterator[BinaryIO]:
    """Yields a temporary file that is renamed at the end; creates the folder. A kill or a full disk leaves the old file
    intact.

    Raises:
        UserError: the disk is full or not writable.
    """
    path = Path(path)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # beside it: os.replace must not cross disks
    with disk_errors(path.parent):
        path.parent.mkdir(parents=True, exist_ok=True)
        try:
            with temporary.open("wb") as file:
                yield file
            os.replace(temporary, path)
        finally:
            temporary.unlink(missing_ok=True)


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file by `atomic_file`.

    Raises:
        UserError: the disk is full or not writable.
    """
    content = content.encode(errors="backslashreplace") if isinstance(content, str) else content
    with atomic_file(path) as file:
        file.write(content)


def write_npz(path: Path, arrays: Mapping[str, Any], *, compress: bool = False) -> None:
    """Writes named arrays by `atomic_file`; strings become arrays of shape [].

    Raises:
        UserError: the disk is full or not writable.
    """
    with atomic_file(path) as file:
        (np.savez_compressed if compress else np.savez)(file, **arrays)


def read_json(path: Path, fix: str) -> dict[str, Any] | None:
    """Reads the object in a JSON file; None if there is no file.

    Args:
        path: path of the file.
        fix: advice for a damaged file, at the end of a message: "run `jimgen evaluate` again".
    Raises:
        UserError: the file cannot be read, is not JSON, or is not an object.
    """
    with read_errors(path):
        try:
            content = json.loads(Path(path).read_text(encoding="utf-8"))
        except (FileNotFoundError, NotADirectoryError):
            return None
        except (ValueError, RecursionError) as error:
            raise UserError(f"{path} is damaged ({error}): {fix}") from error
    if not isinstance(content, dict):
        raise UserError(f"{path} is damaged (it is not an object): {fix}")
    return content


def is_number(value: object) -> bool:
    """Whether a value from a JSON file is a number in the range of a float."""
    if isinstance(value, bool) or not isinstance(value, int | float):
        return False
    return isinstance(value, float) or abs(value) <= sys.float_info.max
