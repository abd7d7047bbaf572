"""Rollbacks: a training that has collapsed goes on from its last healthy checkpoint."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import jax

from jimgen.errors import UserError
from jimgen.methods.method import Method, Recovery
from jimgen.output import Output
from jimgen.runs import checkpoint
from jimgen.runs.logging import FROM, Log
from jimgen.train_step import TrainState


def not_finite(metrics: Mapping[str, float], limit: int) -> str | None:
    """The phase that has skipped `limit` updates in a row because they were not finite; None if there is none."""
    for name, count in metrics.items():
        if name.endswith("/skipped_in_a_row") and count >= limit:
            return name.removesuffix("/skipped_in_a_row")
    return None


def require_finite(metrics: Mapping[str, float], limit: int, step: int, manager: Any) -> None:
    """Raises UserError where a phase has skipped `limit` updates in a row because they were not finite."""
    if (phase := not_finite(metrics, limit)) is None:
        return
    count = metrics[f"{phase}/skipped_in_a_row"]
    bad = [n for n, v in metrics.items() if n.startswith(phase) and not math.isfinite(v)]
    checkpoint.finish(manager)
    good = [saved for saved in manager.all_steps() if saved <= step - count]
    last = f"the last good checkpoint is step {max(good)}" if good else "no checkpoint was written yet"
    raise UserError(
        f"the loss of phase {phase!r} was not finite in {count:.0f} updates in a row up to step {step} "
        f"({', '.join(bad) or phase + '/grad_norm'} is {metrics.get(bad[0] if bad else '', math.nan)}); {last}.\n"
        "All those updates were skipped. Lower the learning rate or the penalties, in a new --workdir."
    )


def collapse(method: Method, state: TrainState, metrics: Mapping[str, float], limit: int) -> str | None:
    """Why training must go back, where it still may; None while it is healthy or all rollbacks are used.

    Args:
        metrics: of the newest step.
        limit: updates in a row that may fail to be finite.
    """
    recovery = method.recovery
    if recovery is None or recovery.rollbacks(state.variables) >= recovery.most:
        return None
    return "not_finite" if not_finite(metrics, limit) else recovery.diagnose(metrics)


def roll_back(
    recovery: Recovery | None,
    collapsed: TrainState,
    reason: str,
    *,
    every: int,
    manager: Any,
    target: TrainState,
    first: Callable[[], TrainState],
    log: Log,
    output: Output,
) -> TrainState:
    """The state to go on with, which is saved in place of the healthy checkpoint that it comes from.

    Args:
        collapsed: the newest state.
        reason: from `collapse`.
        every: steps between regular checkpoints. A checkpoint of another step, where training was interrupted, is none
            to go back to: a training that was not interrupted has none there either.
        manager: of the checkpoints.
        target: shapes and shardings of a state.
        first: makes the state before the first step, where no checkpoint is healthy.
    """
    assert recovery is not None
    count = recovery.rollbacks(collapsed.variables) + 1

    def is_good(saved: TrainState) -> bool:
        is_finite = not any(int(skipped) for skipped in saved.skipped_in_a_row.values())
        return int(saved.step) % every == 0 and is_finite and recovery.is_healthy(saved.variables)

    healthy = checkpoint.go_back(manager, target, is_good) or first()
    state = healthy.replace(variables=recovery.retry(healthy.variables, count))
    state = jax.device_put(state, jax.tree.map(lambda x: x.sharding, target))
    checkpoint.replace(manager, state)
    back, noticed = int(state.step), int(collapsed.step)
    output.print(
        f"step {noticed}: the training has collapsed ({reason}); it goes on from step {back} with new noise, stronger "
        f"penalties and half the learning rate (rollback {count} of {recovery.most})",
        style="yellow",
    )
    log(back, {FROM: noticed, f"rollback/{reason}": count})
    return state
