"""What commands begin with: a run's folder, JAX, checked flags."""

import contextlib
from pathlib import Path
from typing import Annotated

import tyro

from jimgen.errors import UserError

RunFolder = Annotated[Path, tyro.conf.Positional]


@contextlib.contextmanager
def started_jax():
    """JAX, imported late, with its start-up faults as one line."""
    import jax

    from jimgen.cpu import keep_freed_memory

    keep_freed_memory()
    try:
        yield jax
    except RuntimeError as error:
        if "backend" in str(error).lower():
            raise UserError(
                f"JAX found no device: {error}. `jimgen doctor` says more; JAX_PLATFORMS=cpu runs without."
            ) from error
        raise


def load_run(run: Path, best: bool = False, changes: tuple[str, ...] = ()):
    """The run in a folder, from its newest or its best checkpoint, with changes of its config."""
    from jimgen import experiment

    return experiment.load_run(run, best, changes)


def require_positive(**numbers: int) -> None:
    """Raises UserError for a flag below 1."""
    for name, number in numbers.items():
        if number < 1:
            raise UserError(f"--{name} {number}: must be at least 1")
