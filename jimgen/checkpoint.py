"""Checkpoints: Orbax, with a hash of the content that is verified at restore.

Orbax writes a step atomically, but takes a truncated step for a good one and does not notice a flipped bit. So each
step carries the hash of its arrays; a step that fails the test is set aside, and the one before it is used.
"""

import contextlib
import errno
import hashlib
import logging
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jax
import numpy as np
import orbax.checkpoint as ocp
from orbax.checkpoint import checkpoint_managers

from jimgen.errors import UserError
from jimgen.files import disk_errors
from jimgen.train_step import TrainState


def open_checkpoints(folder: Path, keep: int = 3) -> ocp.CheckpointManager:
    """The checkpoints in a folder, made if it is not there; the newest `keep` stay. Saves run in the background.

    Raises:
      UserError: the folder cannot be written.
    """
    logging.getLogger("absl").setLevel(logging.ERROR)
    with _disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        return ocp.CheckpointManager(
            folder.absolute(),
            options=ocp.CheckpointManagerOptions(
                preservation_policy=checkpoint_managers.LatestN(keep),
                cleanup_tmp_directories=True,
            ),
            item_names=("state", "meta"),
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
    with _disk_errors(Path(manager.directory)):
        manager.save(step, args=ocp.args.Composite(state=ocp.args.StandardSave(state), meta=ocp.args.JsonSave(meta)))


def finish(manager: ocp.CheckpointManager) -> None:
    """Waits until everything is on the disk. Raises UserError where that failed."""
    with _disk_errors(Path(manager.directory)):
        manager.wait_until_finished()


def restore(manager: ocp.CheckpointManager, target: TrainState) -> tuple[TrainState | None, list[str]]:
    """The newest good state, or None where there is none.

    Args:
      manager: from `open_checkpoints`.
      target: a state of ShapeDtypeStructs with shardings: where the arrays are put, on any number of devices.

    Returns:
      The state, and a line on each newer checkpoint that was corrupt. Those are renamed to `corrupt-STEP`, not deleted.

    Raises:
      UserError: a checkpoint holds other arrays than the target: other code or another configuration wrote it.
    """
    warnings = []
    for step in sorted(manager.all_steps(), reverse=True):
        try:
            meta = manager.restore(step, args=ocp.args.Composite(meta=ocp.args.JsonRestore()))["meta"]
            _require_same_leaves(meta["leaves"], _leaves(target), Path(manager.directory) / str(step))
            state = manager.restore(step, args=ocp.args.Composite(state=ocp.args.StandardRestore(target)))["state"]
            found = content_hash(state)
            if found != meta["hash"]:
                raise ValueError(f"its content has hash {found[:12]}, not {meta['hash'][:12]} as when it was written")
            return state, warnings
        except UserError:
            raise
        except Exception as error:  # Orbax and its storage raise many types on damaged files
            reason = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            aside = _set_aside(Path(manager.directory) / str(step))
            manager.reload()  # else it takes the step for saved, and never writes it again
            warnings.append(f"checkpoint {step} is corrupt ({reason[:160]}); kept as {aside.name}, going back")
    return None, warnings


def content_hash(tree: Any) -> str:
    """SHA-256 (hex) over names, shapes, dtypes and bytes of all leaves: equal only where the arrays are identical."""
    digest = hashlib.sha256()
    for path, leaf in jax.tree_util.tree_leaves_with_path(tree):
        array = np.asarray(leaf)
        digest.update(f"{jax.tree_util.keystr(path)} {array.dtype} {array.shape}".encode())
        digest.update(np.ascontiguousarray(array).tobytes())
    return digest.hexdigest()


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
def _disk_errors(folder: Path) -> Iterator[None]:
    """`files.disk_errors`, also of a full disk that Orbax passes on as text only."""
    with disk_errors(folder):
        try:
            yield
        except Exception as error:
            if "No space left" in str(error) or "RESOURCE_EXHAUSTED" in str(error):
                raise OSError(errno.ENOSPC, "No space left on device") from error
            raise
