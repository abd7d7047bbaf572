"""Comparison of evaluated runs, with confidence intervals over seeds."""

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple

from jimgen.errors import UserError
from jimgen.metrics.intervals import Interval, confidence_interval


class Group(NamedTuple):
    """Runs that differ only in their seed."""

    name: str
    runs: tuple[Path, ...]
    metrics: dict[str, Interval]


def compare(
    identities: Mapping[Path, str], evaluations: Mapping[Path, dict[str, Any]]
) -> tuple[list[Group], dict[str, dict[str, float]]]:
    """Groups runs that differ only in their seed, and averages their metrics.

    Args:
        identities: run -> text that is equal for runs that differ only in their seed.
        evaluations: run -> content of its evaluation.json.
    Returns: The groups in the order given; and the metrics to compare with, {name: {"real": ..., "gaussian": ...}}.
    Raises:
        UserError: there are no runs, or evaluations have different data, counts or extractors.
    """
    if not evaluations:
        raise UserError("give the folder of at least one run; `jimgen runs` lists them")
    _require_same_measurement(evaluations)
    grouped: dict[str, list[Path]] = {}
    for run in evaluations:
        grouped.setdefault(identities[run], []).append(run)
    rows = {name: row for found in evaluations.values() for name, row in found["metrics"].items()}
    groups = []
    for members in grouped.values():
        names = [name for name in rows if all(name in evaluations[run]["metrics"] for run in members)]
        values = {name: [evaluations[run]["metrics"][name]["value"] for run in members] for name in names}
        alike = [run for run in evaluations if run.name == members[0].name and run not in members]
        label = str(members[0]) if alike else members[0].name
        label += f" and {len(members) - 1} more" if len(members) > 1 else ""
        intervals = {name: confidence_interval(found) for name, found in values.items()}
        groups.append(Group(label, tuple(members), intervals))
    beside = {name: {k: v for k, v in row.items() if k != "value"} for name, row in rows.items()}
    return groups, beside


def _require_same_measurement(evaluations: Mapping[Path, dict[str, Any]]) -> None:
    first_run, first = next(iter(evaluations.items()))
    for run, found in evaluations.items():
        for what in ("data", "num", "num_real", "extractors"):
            if found[what] != first[what]:
                raise UserError(
                    f"{run} and {first_run} were evaluated with different {what}: {_short(found[what])} and "
                    f"{_short(first[what])}. Evaluate both alike: metrics depend on it."
                )


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else f"{text[:117]}..."
