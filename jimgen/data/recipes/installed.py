"""Where packages put their pictures, and their versions.

JIMGEN_DATA_ROOT names a folder in which they lie instead: with the tree of `dpkg-deb -x PACKAGE.deb ROOT` (usr/share
...), and node_modules of npm.
"""

import hashlib
import os
from collections.abc import Iterable
from importlib import metadata, util
from pathlib import Path

import PIL

from jimgen.files import expanded

ROOT = "JIMGEN_DATA_ROOT"


def debian(path: str) -> Path:
    """A path of a Debian package, such as "usr/share/games/flare", below JIMGEN_DATA_ROOT if it is there, else /."""
    root = os.environ.get(ROOT)
    inside = expanded(root) / path if root else None
    return inside if inside and inside.exists() else Path("/") / path


def npm(package: str) -> Path | None:
    """The folder of an npm package, in node_modules of the current folder or of JIMGEN_DATA_ROOT; None if missing."""
    roots = [Path.cwd(), *([expanded(os.environ[ROOT])] if os.environ.get(ROOT) else [])]
    return next((path for root in roots if (path := root / "node_modules" / package).is_dir()), None)


def has_modules(*modules: str) -> bool:
    """Whether Python modules can be imported."""
    return all(util.find_spec(module) is not None for module in modules)


def versions(*packages: str) -> tuple[str, ...]:
    """The versions of installed Python packages, for names of caches; Pillow's is always among them."""
    return (f"pillow {PIL.__version__}", *(f"{name} {metadata.version(name)}" for name in packages))


def fingerprint(files: Iterable[Path]) -> str:
    """A hash of the paths, sizes and times of files: it differs if their content may differ."""
    digest = hashlib.sha256()
    for file in files:
        status = file.stat()
        digest.update(f"{file}\t{status.st_size}\t{status.st_mtime_ns}\n".encode(errors="surrogateescape"))
    return digest.hexdigest()
