"""The files of a data set by their relative names, in a folder or a zip archive."""

import errno
import io
import os
import stat
import zipfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import BinaryIO, NamedTuple

from jimgen.data.archive import check_names, open_zip, read_member
from jimgen.data.images import picture_suffixes
from jimgen.errors import UserError
from jimgen.files import read_errors, shown


class Member(NamedTuple):
    """A file that has not been opened yet."""

    name: str  # relative, with forward slashes
    where: str  # its name in messages
    num_bytes: int
    stamp: str  # path, size and time: differs if the content may differ
    found: str | Callable[[], BinaryIO]  # its path, or a function that opens it

    @property
    def content(self) -> Path | Callable[[], BinaryIO]:
        """Argument of `images.decode`. (A hundred thousand Path objects would take longer than listing the files.)"""
        return Path(self.found) if isinstance(self.found, str) else self.found


def list_members(path: Path) -> list[Member]:
    """All files below a folder or in a zip archive, sorted by name, without those that are hidden.

    Links are followed, except those to a folder that contains them. Nothing is unpacked.

    Raises:
        UserError: a folder may not be read, or an archive is damaged or encrypted.
    """
    found = _in_folder(path) if path.is_dir() else _in_zip(path)
    return sorted(found, key=lambda member: member.name)


def suffix(name: str) -> str:
    """The suffix of a relative name in lower case, ".png"; "" without one. As pathlib's, and many times as fast."""
    file = name.rpartition("/")[2]
    dot = file.rfind(".")
    return file[dot:].lower() if 0 < dot < len(file) - 1 else ""


def is_hidden(name: str) -> bool:
    """Whether a file or folder belongs to the system, not to the data: .DS_Store, ._x.png, __MACOSX, @eaDir."""
    return name.startswith(".") or name in ("__MACOSX", "@eaDir")


def _in_folder(root: Path) -> list[Member]:
    found: list[Member] = []
    waiting: list[tuple[str, str, frozenset]] = [(str(root), "", frozenset())]
    while waiting:
        folder, prefix, above = waiting.pop()
        with read_errors(folder):
            own, real = os.stat(folder), os.path.realpath(folder)
            here = (own.st_dev, own.st_ino)
            if here in above:  # a link to a folder that contains it would never end
                continue
            for entry in list(os.scandir(folder)):
                if is_hidden(entry.name):
                    continue
                with read_errors(entry.path):
                    if _exists(entry) and entry.is_dir():
                        waiting.append((entry.path, f"{prefix}{entry.name}/", above | {here}))
                    elif member := _file(entry, prefix, real):
                        found.append(member)
    return found


def _exists(entry: os.DirEntry) -> bool:
    """Whether an entry is anything but a broken link.

    Raises:
        OSError: the target of a link may not be read.
        UserError: a broken link may have been a folder: a class must not vanish.
    """
    if not entry.is_symlink():
        return True
    try:
        os.stat(entry.path)
    except (FileNotFoundError, NotADirectoryError) as error:
        if not suffix(entry.name):
            target = shown(os.readlink(entry.path))
            raise UserError(f"{shown(entry.path)} is a broken link to {target}: remove it") from error
        return False
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        return False
    return True


def _file(entry: os.DirEntry, prefix: str, folder: str) -> Member | None:
    """A regular file, or a broken link, which fails when it is opened. Pipes and devices would never end."""
    status = entry.stat() if _exists(entry) else entry.stat(follow_symlinks=False)
    if not stat.S_ISREG(status.st_mode) and not stat.S_ISLNK(status.st_mode):
        return None
    real = os.path.realpath(entry.path) if entry.is_symlink() else f"{folder}/{entry.name}"
    stamp = f"{real}\t{status.st_size}\t{status.st_mtime_ns}"
    return Member(prefix + entry.name, shown(entry.path), status.st_size, stamp, entry.path)


def _in_zip(path: Path) -> list[Member]:
    archive = open_zip(path)
    with read_errors(path):
        status = path.stat()
    found = []
    for info in archive.infolist():
        name = _name(info)
        if suffix(name) not in picture_suffixes() and info.file_size:
            check_names(archive, [info], path)  # never unpacked: a damaged name would hide a picture
        if info.filename.endswith(("/", "\\")) or any(is_hidden(part) for part in name.split("/")):
            continue
        stamp = f"{path.resolve()}\t{name}\t{info.CRC}\t{info.file_size}\t{status.st_mtime_ns}"
        where = f"{shown(path)}/{shown(name)}"
        found.append(Member(name, where, info.file_size, stamp, partial(_open, archive, info)))
    return found


def _name(info: zipfile.ZipInfo) -> str:
    """The name of a member with forward slashes, also if a program packed it as cat\\1.png or ./cat/1.png."""
    parts = info.filename.replace("\\", "/").split("/")
    return "/".join(part for part in parts if part not in ("", "."))


def _open(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> BinaryIO:
    return io.BytesIO(read_member(archive, info))
