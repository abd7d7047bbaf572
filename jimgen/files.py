"""Files that are whole or not there."""

import io
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np


def write_atomically(path: Path, content: bytes | str) -> None:
    """Writes a file beside its place and moves it there; makes the folder. A kill or a full disk leaves the old file.

    Raises:
      OSError: the disk refuses.
    """
    path = Path(path)
    content = content.encode() if isinstance(content, str) else content
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # the same folder: os.replace must not cross disks
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


def write_npz(path: Path, arrays: Mapping[str, Any], *, compress: bool = False) -> None:
    """`write_atomically` of named arrays; strings become arrays of no dimension.

    Raises:
      OSError: the disk refuses.
    """
    content = io.BytesIO()
    (np.savez_compressed if compress else np.savez)(content, **arrays)
    write_atomically(path, content.getvalue())
