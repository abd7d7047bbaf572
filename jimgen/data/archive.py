"""Zip archives and the arrays in them (.npz), read without trust: no pickles, no huge allocations."""

import math
import os
import stat
import zipfile
from collections.abc import Iterable
from pathlib import Path

import numpy as np

from jimgen.errors import UserError
from jimgen.files import read_errors, shown

_METHODS = (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA)
_ENCRYPTED = 1  # bit of a member's flags
_LONGEST_END = 22 + 2**16  # bytes of the record at the end of an archive, including its comment
_LARGEST_PICTURE = 2**29  # bytes; a larger file in an archive is not a picture


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip archive whose members can all be read.

    Raises:
        UserError: the file is not a zip archive, is damaged (its directory may list fewer members than it counts), or
            has members that are encrypted or compressed by an unknown method.
    """
    with read_errors(path):
        if not stat.S_ISREG(path.stat().st_mode):  # a pipe would never end
            raise UserError(f"{shown(path)} is not a file that can be read twice: copy it to one")
        path.open("rb").close()
    kind = "zip" if path.suffix.lower() == ".zip" else "npz"
    try:
        with read_errors(path):
            archive = zipfile.ZipFile(path)
            if (said := _members_said(path)) not in (None, len(archive.infolist())):
                raise ValueError(f"it counts {said} members, and lists {len(archive.infolist())}")
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{shown(path)} cannot be read as {kind} ({error}): damaged, or another file") from error
    for info in archive.infolist():
        if info.flag_bits & _ENCRYPTED:
            raise UserError(f"{shown(path)}: {shown(info.filename)[:100]} is encrypted; unpack it with its password")
        if info.compress_type not in _METHODS:
            raise UserError(
                f"{shown(path)}: Python cannot read its compression (method {info.compress_type}); pack it again"
            )
    return archive


def check_names(archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo], path: Path) -> None:
    """Raises UserError if the archive's directory gives a member another name than the member itself.

    Python checks contents and names of what it unpacks. This checks members that are not unpacked: an array must not
    vanish because a bit of its name is wrong.
    """
    for info in members:
        try:
            archive.open(info).close()
        except Exception as error:  # a damaged member can raise nearly anything
            raise UserError(
                f"{shown(path)} is damaged at {shown(info.filename)[:100]}; make or copy it again"
            ) from error


def _members_said(path: Path) -> int | None:
    """Number of members by the record at the end of an archive; None if they are too many for its field."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_END))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    said = int.from_bytes(end[at + 10 : at + 12], "little")
    return None if said == 2**16 - 1 else said


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """The content of a small member.

    Raises:
        ValueError: the member is too large for a picture.
        Exception: any exception that a damaged archive causes.
    """
    if info.file_size > _LARGEST_PICTURE:
        raise ValueError(f"{info.file_size} bytes are too many for a picture")
    return archive.read(info)


def array_names(path: Path) -> tuple[str, ...]:
    """The names of the arrays in an .npz file: its members that end in .npy, without that ending.

    Raises:
        UserError: as `open_zip`.
    """
    with open_zip(path) as archive:
        check_names(archive, archive.infolist(), path)
        return tuple(name.removesuffix(".npy") for name in archive.namelist() if name.endswith(".npy"))


def holds_arrays(path: Path) -> bool:
    """Whether a file is an .npz by its name, or a .zip with arrays in it.

    Raises:
        UserError: as `open_zip`.
    """
    return path.suffix == ".npz" or path.suffix.lower() == ".zip" and path.is_file() and _has_arrays(path)


def _has_arrays(path: Path) -> bool:
    with open_zip(path) as archive:
        return any(name.endswith(".npy") for name in archive.namelist())


def read_arrays(path: Path, names: Iterable[str]) -> dict[str, np.ndarray]:
    """Reads the named arrays that an .npz file has.

    An array is read only if the member has the length that its header implies, and the machine has that much memory.

    Raises:
        UserError: as `open_zip`; or an array is damaged, too large for memory, or holds Python objects.
    """
    found = {}
    with open_zip(path) as archive:
        check_names(archive, archive.infolist(), path)
        members = {info.filename: info for info in archive.infolist()}
        for name in names:
            if info := members.get(f"{name}.npy"):
                try:
                    found[name] = _read_array(archive, info)
                except MemoryError as error:
                    raise UserError(f"{shown(path)}: too little memory for the array {name}") from error
                except Exception as error:  # a damaged member can raise nearly anything
                    reason = (str(error).strip() or type(error).__name__).splitlines()[0][:200]
                    raise UserError(
                        f"{shown(path)}: the array {name} cannot be read ({reason}); write the file again with "
                        "numpy.savez, without objects"
                    ) from error
    return found


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"format {version} of .npy is not supported")
        shape, _, dtype = read_header[version](file)
        if dtype.hasobject:
            raise ValueError("it holds Python objects")
        num_bytes = dtype.itemsize
        for side in shape:  # Python integers do not overflow
            if side < 0:
                raise ValueError(f"shape {shape}")
            num_bytes *= side
        header = file.tell()
    if header + num_bytes != info.file_size:
        raise ValueError(f"its header implies {num_bytes} bytes, and {info.file_size - header} are there")
    if num_bytes > (memory := _memory_of_the_machine()):
        raise ValueError(f"it needs {num_bytes / 2**30:.0f} GB of memory, this machine has {memory / 2**30:.0f}")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _memory_of_the_machine() -> float:
    """Bytes of memory; infinite if the system does not report it, as on Windows."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
