"""What every command needs first: a run's folder, JAX, checked flags."""

from __future__ import annotations

import contextlib
import errno
import os
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from jimgen.errors import UserError

if TYPE_CHECKING:
    from rich.table import Table

    from jimgen.data import Dataset
    from jimgen.runs.load import Run

MOST = 2**31 - 1  # counters are 32-bit integers
RunFolder = Annotated[Path, tyro.conf.Positional]


@contextlib.contextmanager
def start_jax():
    """Imports JAX and yields it; within the block, too little memory or a missing device is a UserError."""
    import jax

    from jimgen.cpu import keep_freed_memory
    from jimgen.runs.compilation_cache import keep_compiled_programs

    keep_freed_memory()
    keep_compiled_programs()
    try:
        yield jax
    except MemoryError as error:
        raise UserError(f"not enough memory ({error}): ask for fewer images") from error
    except RuntimeError as error:
        if "RESOURCE_EXHAUSTED" in str(error):
            raise UserError(f"not enough memory ({str(error).splitlines()[0]}): ask for fewer images") from error
        if "backend" in str(error).lower():
            raise UserError(
                f"JAX found no device: {error}. `jimgen doctor` says more; JAX_PLATFORMS=cpu runs without."
            ) from error
        raise


def load_run(run: Path, best: bool = False, changes: tuple[str, ...] = ()):
    """Loads a run from its newest or best checkpoint, with changes of its config."""
    from jimgen.runs import load

    return load.load_run(run, best, changes)


def say_what_is_left_out(dataset: Dataset) -> None:
    """Prints to stderr which pictures, folders and labels of a data set are not used."""
    for note in dataset.left_out:
        print(note, file=sys.stderr)


def real_images(source: Path, run: Run | None, name: str | None, asked: dict[str, Any]) -> Dataset:
    """The data set to compare with: the run's own by default. Raises UserError where neither run nor name tells it.

    Args:
        source: folder of the run, or path of a set of images.
        run: the loaded run, if it is one.
        name: name of the data set.
        asked: choices of `data.load` in place of the run's.
    """
    from jimgen import data
    from jimgen.runs.subject import load_data

    if run is not None:
        return load_data(run.config, name=name, **asked)
    if name is None:
        raise UserError(f"{source} does not say what it should be compared with: give --data")
    return data.load(name, **asked)


def show_table(table: Table) -> None:
    """Prints a table, 240 characters wide to a file or a pipe, so that no number is cut. Brackets are not markup."""
    from rich.console import Console

    width = None if Console().is_terminal else 240
    Console(width=width, markup=False, emoji=False).print(table)


def require_positive(**numbers: int) -> None:
    """Raises UserError for a flag below 1 or above MOST."""
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
        if number > MOST:
            raise UserError(f"--{name} {number}: must be at most {MOST}")


def output_file(out: Path, *endings: str) -> Path:
    """Checks the path of a file before its content is computed, and returns it with `~` expanded.

    Args:
        out: path as the user gave it, or the default.
        endings: allowed endings, ".png", ".npz" or ".json", in upper or lower case; none allow any name.
    Raises:
        UserError: the path has another ending, is a folder, or cannot be written.
    """
    if endings and out.suffix.lower() not in endings:
        meaning = {".png": ".png (a grid)", ".npz": ".npz (arrays)", ".json": ".json"}
        raise UserError(f"--out {out}: give a name that ends in {' or '.join(meaning[end] for end in endings)}")
    return _writable(out, is_file=True)


def output_folder(out: Path, *, empty: bool = False) -> Path:
    """Checks the path of a folder to write, and returns it with `~` expanded; with `empty`, it must hold nothing yet.

    Raises:
        UserError: the path is a file, cannot be written, or is a folder that must be empty and is not.
    """
    from jimgen.files import disk_errors

    out = _writable(out, is_file=False)
    with disk_errors(out):
        if empty and out.exists() and any(out.iterdir()):
            raise UserError(f"{out} is there already: give a folder that is empty or does not exist")
    return out


def _writable(out: Path, is_file: bool) -> Path:
    from jimgen.files import disk_errors, expanded

    out = expanded(out)
    with disk_errors(out.parent):
        if out.exists() and out.is_dir() == is_file:
            kinds = ("file", "folder") if is_file else ("folder", "file")
            raise UserError(f"{out} is a {kinds[1]}: give the name of a {kinds[0]}")
        place = out.parent if is_file else out
        while not place.exists():
            place = place.parent
        if not place.is_dir():
            raise NotADirectoryError(errno.ENOTDIR, os.strerror(errno.ENOTDIR))
        if not os.access(place, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
            raise PermissionError(errno.EACCES, os.strerror(errno.EACCES))
    return out
