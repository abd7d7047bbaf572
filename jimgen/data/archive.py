"""Zip archives and the arrays in them (.npz), read without trust: no pickles, no absurd allocations."""

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
_LONGEST_END = 22 + 2**16  # bytes of the record at the end of an archive, with a comment
_LARGEST_PICTURE = 2**29  # bytes of a file in an archive; what is larger is no picture


def open_zip(path: Path) -> zipfile.ZipFile:
    """Opens a zip archive whose members can all be read.

    Raises:
        UserError: not a zip archive, a damaged one (also where its directory lists fewer members than it says), or
            members that are encrypted or compressed in a foreign way.
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
                raise ValueError(f"it says that it has {said} members, and lists {len(archive.infolist())}")
    except UserError:
        raise
    except Exception as error:  # a damaged archive can raise nearly anything
        raise UserError(f"{shown(path)} cannot be read as {kind} ({error}): damaged, or another file") from error
    for info in archive.infolist():
        if info.flag_bits & _ENCRYPTED:
            raise UserError(f"{shown(path)}: {shown(info.filename)[:100]} is encrypted; unpack it with its password")
        if info.compress_type not in _METHODS:
            raise UserError(
                f"{shown(path)} is compressed in a way that Python cannot read (method {info.compress_type}); pack anew"
            )
    return archive


def check_names(archive: zipfile.ZipFile, members: Iterable[zipfile.ZipInfo], path: Path) -> None:
    """Raises UserError where the directory names a member otherwise than the member itself.

    The contents have checksums, and Python compares the names of what it unpacks. This is for what is not unpacked: an
    array must not vanish because a bit of its name is wrong.
    """
    for info in members:
        try:
            archive.open(info).close()
        except Exception as error:  # a damaged member can raise nearly anything
            raise UserError(
                f"{shown(path)} is damaged at {shown(info.filename)[:100]}; make or copy it anew"
            ) from error


def _members_said(path: Path) -> int | None:
    """How many members the record at the end of an archive counts; None where they are too many for it."""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - _LONGEST_END))
        end = file.read()
    at = end.rfind(b"PK\x05\x06")
    said = int.from_bytes(end[at + 10 : at + 12], "little")
    return None if said == 2**16 - 1 else said


def read_member(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> bytes:
    """A small member, whole.

    Raises:
        ValueError: it is too large for a picture.
        Exception: whatever a damaged archive raises.
    """
    if info.file_size > _LARGEST_PICTURE:
        raise ValueError(f"{info.file_size} bytes are too many for a picture")
    return archive.read(info)


def array_names(path: Path) -> tuple[str, ...]:
    """The arrays of an .npz file: its members that end in .npy, without that ending.

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
    """Some arrays of an .npz file, those that it has.

    An array's header is believed only where the member is as long as it says, and no longer than the machine's memory.

    Raises:
        UserError: as `open_zip`; an array that is damaged, too large for memory, or of Python objects.
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
                        f"{shown(path)}: the array {name} cannot be read ({reason}); write the file anew with "
                        "numpy.savez, without objects"
                    ) from error
    return found


def _read_array(archive: zipfile.ZipFile, info: zipfile.ZipInfo) -> np.ndarray:
    with archive.open(info) as file:
        version = np.lib.format.read_magic(file)
        read_header = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}
        if version not in read_header:
            raise ValueError(f"format {version} of .npy is not read here")
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
        raise ValueError(f"its header tells of {num_bytes} bytes, and {info.file_size - header} are there")
    if num_bytes > (memory := _memory_of_the_machine()):
        raise ValueError(f"it needs {num_bytes / 2**30:.0f} GB of memory, this machine has {memory / 2**30:.0f}")
    with archive.open(info) as file:
        return np.lib.format.read_array(file, allow_pickle=False)


def _memory_of_the_machine() -> float:
    """Bytes of memory; infinite where the system does not say, as on Windows."""
    if not hasattr(os, "sysconf"):
        return math.inf
    return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
