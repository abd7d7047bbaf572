"""Fitted pictures of whole splits, kept in the cache where decoding them takes long.

A split is kept under all that its pixels depend on: names, sizes and times of the files, the fitting, and the versions
of this package and Pillow. Together the kept splits take at most `JIMGEN_DECODED_GB` gigabytes (4 if it is not set; 0
keeps none); those not used for the longest time go first.
"""

import contextlib
import hashlib
import json
import math
import os
import time
from pathlib import Path

import numpy as np
import PIL

from jimgen import __version__
from jimgen.data.archive import read_arrays
from jimgen.data.dataset import Arrays, Stream, cache_dir, read_all
from jimgen.errors import UserError
from jimgen.files import write_npz

LIMIT = "JIMGEN_DECODED_GB"
DEFAULT_LIMIT = 4.0
WORTH_KEEPING = 5.0  # seconds of decoding
ABANDONED = 3600.0  # seconds after which an unfinished file is that of a process that was killed


def read_all_once(stream: Stream, shape: tuple[int, int, int]) -> tuple[Arrays, dict[int, str]]:
    """`read_all` of a fitted stream, from the cache if it is there, and kept there if decoding took long.

    Raises:
        UserError: as `read_all`, or JIMGEN_DECODED_GB is not a number.
    """
    limit = _limit()
    if not stream.rows or not limit:
        return read_all(stream, shape)
    name = f"decoded-{_key(stream)}.npz"
    if (kept := _kept(name, (len(stream), *shape))) is not None:
        images, faults = kept
        return Arrays(images, np.asarray([row.label for row in stream.rows], np.int32)), faults
    began = time.perf_counter()
    found, faults = read_all(stream, shape)
    if time.perf_counter() - began >= WORTH_KEEPING and found.images.nbytes <= limit:
        with contextlib.suppress(UserError, OSError):  # a full disk costs time, not the run
            _make_room(cache_dir(), limit - found.images.nbytes)
            write_npz(cache_dir() / name, {"images": found.images, "faults": json.dumps(faults)})
    return found, faults


def _limit() -> float:
    """Bytes that kept splits may take."""
    stated = os.environ.get(LIMIT, "").strip()
    try:
        limit = float(stated or DEFAULT_LIMIT)
    except ValueError:
        limit = math.nan
    if not limit >= 0:
        raise UserError(f"{LIMIT} is {stated!r}: give a number of gigabytes, 0 to keep nothing")
    return limit * 2**30


def _key(stream: Stream) -> str:
    assert stream.rows is not None
    parts = (__version__, PIL.__version__, stream.identity, *(row.stamp for row in stream.rows))
    return hashlib.sha256("\n".join(parts).encode(errors="surrogateescape")).hexdigest()[:32]


def _kept(name: str, shape: tuple[int, ...]) -> tuple[np.ndarray, dict[int, str]] | None:
    """Images uint8 of a shape and faults by row; None if they are missing or damaged, or there is no cache."""
    with contextlib.suppress(UserError, ValueError, KeyError, AttributeError, OSError):
        path = cache_dir() / name
        arrays = read_arrays(path, ("images", "faults"))
        images, faults = arrays["images"], json.loads(str(arrays["faults"]))
        faults = {int(row): str(fault) for row, fault in faults.items()}
        if images.shape == shape and images.dtype == np.uint8 and all(0 <= row < len(images) for row in faults):
            os.utime(path)  # used now
            return images, faults
    return None


def _make_room(folder: Path, room: float) -> None:
    """Removes the splits used longest ago until the others take at most `room` bytes; and what was never finished."""
    for file in folder.glob(".decoded-*.tmp"):
        with contextlib.suppress(FileNotFoundError):  # finished meanwhile
            if time.time() - file.stat().st_mtime > ABANDONED:
                file.unlink()
    files = [(file.stat().st_mtime_ns, file.stat().st_size, file) for file in folder.glob("decoded-*.npz")]
    for _, num_bytes, file in sorted(files, reverse=True):
        room -= num_bytes
        if room < 0:
            file.unlink(missing_ok=True)
