"""Checkpoints: Orbax, with a hash of the content that is verified at restore.

Orbax writes a step atomically, but takes a truncated step for a good one and does not notice a flipped bit. So each
step carries the hash of its arrays. A step is corrupt if the hash differs or its content is missing or cannot be
parsed; then the step before it is used. Every other error (no memory, no permission, a failing disk) says nothing about
the content: it is raised, and nothing is changed.

The training removes unfinished saves and renames corrupt steps. A reader (`read`) changes nothing, so a run can be
read while it trains.
"""

import contextlib
import errno
import hashlib
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, TypeVar

import jax
import numpy as np
import orbax.checkpoint as ocp
from jax.experimental.multihost_utils import sync_global_devices
from orbax.checkpoint import checkpoint_managers

from jimgen.errors import UserError
from jimgen.files import disk_errors
from jimgen.train_step import TrainState

_DESCRIPTION = "_CHECKPOINT_METADATA"  # Orbax's file in every step: handlers and times, which we do not need

Listing = TypeVar("Listing")
LISTING_TRIES = 100


def open_checkpoints(folder: Path, keep: int = 3) -> ocp.CheckpointManager:
    """The checkpoints in a folder, made if it is not there; the newest `keep` stay. Saves run in the background.

    Raises:
        UserError: the folder cannot be written.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        _on_first_process(lambda: _end_replacement(folder))
        return _manager(
            folder,
            ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
            ),
        )


def save(manager: ocp.CheckpointManager, state: TrainState) -> None:
    """Begins to save a state; the arrays are copied before this returns. A step that is saved already is left alone.

    Raises:
        UserError: the disk is full or cannot be written; also for an earlier save that failed in the background.
    """
    step = int(state.step)
    if step in manager.all_steps():
        return
    meta = {"hash": content_hash(state), "leaves": _leaves(state)}
    meta["check"] = _check_of(meta)
    with _disk_errors(Path(manager.directory)):
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until everything is on the disk. Raises UserError where that failed."""
    with _disk_errors(Path(manager.directory)):
        manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, target: TrainState) -> tuple[TrainState | None, list[str]]:
    """The newest good state, or None where there is none: for the training that writes these checkpoints.

    Args:
        manager: from `open_checkpoints`.
        target: a state of ShapeDtypeStructs with shardings: where the arrays are put, on any number of devices.
    Returns: The state, and a warning for each newer checkpoint that was corrupt. Those are renamed to `corrupt-STEP`.
    Raises:
        UserError: a checkpoint holds other arrays than the target (other code or another configuration wrote it), or
            cannot be read for a reason that is not its own: too little memory, no permission. Nothing is renamed then.
    """

    def set_aside(step: int) -> str:
        aside = _set_aside(Path(manager.directory) / str(step))
        manager.reload()  # else it takes the step for saved, and never writes it again
        return f"kept as {aside.name}, going back"

    return _newest_good(manager, target, set_aside)


def go_back(
    manager: ocp.CheckpointManager, target: TrainState, is_good: Callable[[TrainState], bool]
) -> TrainState | None:
    """The newest good state of which `is_good` is true, or None where there is none. Newer ones are deleted.

    Raises: as `restore`.
    """
    finish(manager)
    while True:
        state, _ = restore(manager, target)
        if state is None or is_good(state):
            return state
        with _disk_errors(Path(manager.directory)):
            manager.delete(int(state.step))


def replace(manager: ocp.CheckpointManager, state: TrainState) -> None:
    """Saves a state in place of those that were saved at its step or later, and waits until it is on the disk.

    The others are renamed first and deleted last. If the process ends in between, `open_checkpoints` puts them back.

    Raises: as `save`.
    """
    folder, new = Path(manager.directory), int(state.step)
    finish(manager)
    old = sorted(step for step in manager.all_steps() if step >= new)

    def put_away() -> None:
        for step in old:  # the one at the same step first: see `_end_replacement`
            (folder / str(step)).rename(folder / f"replaced-{step}-by-{new}")

    with _disk_errors(folder):
        _on_first_process(put_away)
        manager.reload()
    save(manager, state)
    finish(manager)
    with _disk_errors(folder):
        _on_first_process(lambda: _end_replacement(folder))


def _end_replacement(folder: Path) -> None:
    """Deletes what `replace` has put away where the new checkpoint is there; otherwise puts it back."""
    for path in folder.glob("replaced-*-by-*"):
        _, step, _, new = path.name.split("-")
        if (folder / new).exists():
            shutil.rmtree(path)
        else:
            path.rename(folder / step)


def _on_first_process(change: Callable[[], None]) -> None:
    """Changes files once, where several processes share a folder; the others wait."""
    if jax.process_index() == 0:
        change()
    sync_global_devices("checkpoints")


def read(folder: Path, target: TrainState) -> tuple[TrainState | None, list[str]]:
    """The newest good state in a folder, or None where there is none. Changes nothing on the disk.

    A training may go on writing there: a checkpoint that it deletes while it is being read is not taken for a corrupt
    one, and the newer ones are looked at instead.

    Args: as `restore`; `folder` holds the checkpoints.
    Raises:
        UserError: as `restore`.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    with _refusals(folder):
        if not folder.is_dir():
            return None, []
    manager = _listed(folder, lambda: _manager(folder, ocp.CheckpointManagerOptions(read_only=True)))
    return _newest_good(manager, target, lambda step: "going back")


def _manager(folder: Path, options: ocp.CheckpointManagerOptions) -> ocp.CheckpointManager:
    """Orbax's manager, which reads what every step says of itself before it lists any.

    Raises:
        UserError: one of these descriptions is damaged.
    """
    try:
        return ocp.CheckpointManager(folder.absolute(), options=options, item_names=("state", "meta"))
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        raise UserError(
            f"a checkpoint in {folder} is damaged: its {_DESCRIPTION} cannot be read ({reason}).\n"
            f"Remove the newest {_DESCRIPTION} and try again; if that does not help, the next."
        ) from error


def _newest_good(
    manager: ocp.CheckpointManager, target: TrainState, on_corrupt: Callable[[int], str]
) -> tuple[TrainState | None, list[str]]:
    """The newest good state, and a line on each corrupt one that was newer, ended by what `on_corrupt` says."""
    folder = Path(manager.directory)
    warnings: dict[int, str] = {}
    while True:
        saved = _listed(folder, lambda: set(manager.all_steps(read=True)))
        if not saved - warnings.keys():
            return None, list(warnings.values())
        step = max(saved - warnings.keys())
        try:
            return _restore_step(manager, step, target), list(warnings.values())
        except _CorruptError as error:
            now = _listed(folder, lambda: set(manager.all_steps(read=True)))
            if step in now and max(now) == max(saved):  # else a training has deleted it in the meantime
                warnings[step] = f"checkpoint {step} is corrupt ({error}); {on_corrupt(step)}"


def _listed(folder: Path, read: Callable[[], Listing]) -> Listing:
    """What `read` finds in a folder of checkpoints; again, where a training deletes one while they are listed."""
    for _ in range(LISTING_TRIES):
        with contextlib.suppress(FileNotFoundError), _refusals(folder):
            return read()
        time.sleep(0.01)
    raise UserError(f"cannot list the checkpoints in {folder}: they are deleted faster than they can be read")


class _CorruptError(Exception):
    """The content of a checkpoint is missing, cannot be parsed or has another hash. The message is one short line."""


def _restore_step(manager: ocp.CheckpointManager, step: int, target: TrainState) -> TrainState:
    """The state of a step, verified. Raises _CorruptError, or UserError as `restore`."""
    folder = Path(manager.directory) / str(step)
    with _refusals(folder):
        _require_permission(folder)
    try:
        meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
        if "check" in meta and meta["check"] != _check_of(meta):
            raise ValueError("its description has changed since it was written")
        _require_same_leaves(meta["leaves"], _leaves(target), folder)
        state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))["state"]
        found = content_hash(state)
        if found != meta["hash"]:
            raise ValueError(f"its content has hash {found[:12]}, not {meta['hash'][:12]} as when it was written")
        return state
    except UserError:
        raise
    except Exception as error:  # Orbax and its storage raise many types
        reason = (str(error).strip() or type(error).__name__).splitlines()[0][:160]
        if _is_corruption(error):
            raise _CorruptError(reason) from error
        raise UserError(
            f"checkpoint {folder} cannot be read here: {reason}\n"
            "This says nothing about its content, and nothing was changed: free some memory and try again."
        ) from error


def _is_corruption(error: BaseException) -> bool:
    """Whether an error in reading comes from the content of the files, not from memory, permissions or the disk."""
    chain: list[BaseException] = []
    link: BaseException | None = error
    while link is not None and link not in chain:
        chain.append(link)
        link = link.__cause__ or link.__context__
    for link in chain:
        if isinstance(link, MemoryError) or isinstance(link, OSError) and not isinstance(link, FileNotFoundError):
            return False
        if any(sign in str(link) for sign in _NOT_THE_CONTENT):
            return False
    # What parsers and TensorStore raise on damaged content. Orbax wraps some in a bare Exception.
    return type(error) is Exception or isinstance(error, (FileNotFoundError, ValueError, LookupError, TypeError))


# TensorStore's status codes, and words of the system and of C++ libraries, of failures that are not the content's.
_NOT_THE_CONTENT = (
    *("RESOURCE_EXHAUSTED", "PERMISSION_DENIED", "UNAVAILABLE", "CANCELLED", "INTERNAL", "DEADLINE_EXCEEDED"),
    *(
        "bad_alloc",
        "Out of memory",
        "out of memory",
        "Cannot allocate memory",
        "Too many open files",
        "start new thread",
    ),
)


def _require_permission(folder: Path) -> None:
    """Raises OSError for what may not be read below a folder: Orbax would take it for missing."""

    def refuse(error: OSError) -> None:
        if not isinstance(error, FileNotFoundError):  # deleted in the meantime
            raise error

    for parent, _, files in os.walk(folder, onerror=refuse):
        for name in files:
            with contextlib.suppress(FileNotFoundError), open(os.path.join(parent, name), "rb"):
                pass


def content_hash(tree: Any) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and bytes of all leaves: equal only where the arrays are identical."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


def _check_of(meta: dict[str, Any]) -> str:
    """SHA-256 (hex) of what is said about a state, so that damage there is not taken for another configuration."""
    return hashlib.sha256(json.dumps([meta["hash"], meta["leaves"]], sort_keys=True).encode()).hexdigest()


def _leaves(tree: Any) -> dict[str, str]:
    return {
        jax.tree_util.keystr(path): f"{leaf.dtype}{list(leaf.shape)}"
        for path, leaf in jax.tree_util.tree_leaves_with_path(tree)
    }


def _require_same_leaves(found: dict[str, str], expected: dict[str, str], path: Path) -> None:
    if found == expected:
        return
    names = sorted(name for name in found.keys() | expected.keys() if found.get(name) != expected.get(name))
    first = f"{names[0]} is {found.get(names[0], 'absent')} there and {expected.get(names[0], 'absent')} here"
    raise UserError(
        f"{path} was written by other code or another configuration: {len(names)} arrays differ, {first}.\n"
        "Use the code and configuration that wrote it, or another --workdir."
    )


def _set_aside(folder: Path) -> Path:
    aside = folder.with_name(f"corrupt-{folder.name}")
    number = 1
    while aside.exists():
        number += 1
        aside = folder.with_name(f"corrupt-{folder.name}-{number}")
    return folder.rename(aside)


@contextlib.contextmanager
def _refusals(path: Path) -> Iterator[None]:
    """Turns what the system refuses while checkpoints are read into a UserError with the fix."""
    try:
        yield
    except FileNotFoundError:
        raise
    except OSError as error:
        raise UserError(
            f"cannot read {error.filename or path}: {error.strerror or error}. Nothing was changed; give yourself the "
            "right to read it, or use a copy."
        ) from error


@contextlib.contextmanager
def _disk_errors(folder: Path) -> Iterator[None]:
    """`files.disk_errors`, also of a full disk that Orbax passes on as text only."""
    with disk_errors(folder):
        try:
            yield
        except Exception as error:
            if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise
