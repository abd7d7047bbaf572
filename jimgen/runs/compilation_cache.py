"""Compiled programs on disk: a training that resumes, or a command that is repeated, does not compile them again."""

import contextlib
import os
import time
from pathlib import Path

import jax

from jimgen.data.dataset import cache_dir
from jimgen.errors import UserError

MAX_AGE_DAYS = 30


def keep_compiled_programs() -> None:
    """Tells JAX to keep compiled programs in `cache_dir()`/compiled, and to read them from there. Call it once, early.

    The key of an entry covers the program, the versions of jaxlib and of the platform, the kind of the devices with the
    features of a CPU, XLA_FLAGS and the `compiler_options` of `jax.jit`. A program from the cache is the one that was
    compiled: its results are bit-identical. JAX keeps those that took at least a second to compile.

    A damaged entry, as a full disk or a kill leaves, costs a warning and a compilation at each start until it is
    deleted. JAX sets no limit to the folder. So entries are deleted when they are MAX_AGE_DAYS old, and the user may
    delete the folder at any time. Whoever can write to it can run code in the processes that read it, so only its
    owner can.

    Does nothing where the folder cannot be made or written, where others can write to it, or where the user has chosen
    another one by JAX_COMPILATION_CACHE_DIR. JAX_ENABLE_COMPILATION_CACHE=false turns the cache off. Of several
    processes of one run only the first writes, so they need a folder that all of them see.
    """
    if jax.config.values["jax_compilation_cache_dir"] is not None:
        return
    try:
        folder = cache_dir() / "compiled"
        folder.mkdir(mode=0o700, exist_ok=True)
        found = folder.stat()
    except (OSError, UserError):
        return
    if hasattr(os, "geteuid") and (found.st_uid != os.geteuid() or found.st_mode & 0o022):
        return  # others could put programs there
    # JAX would warn of each program that it cannot write.
    if os.access(folder, os.W_OK | os.X_OK, effective_ids=os.access in os.supports_effective_ids):
        _delete_old_files(folder)
        jax.config.update("jax_compilation_cache_dir", str(folder))


def _delete_old_files(folder: Path) -> None:
    oldest = time.time() - MAX_AGE_DAYS * 24 * 3600
    for path in folder.rglob("*"):
        with contextlib.suppress(OSError):  # another process has deleted it first
            if path.is_file() and path.stat().st_mtime < oldest:
                path.unlink()
