"""Comparison of evaluated runs, with confidence intervals over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen.errors import UserError


class Interval(NamedTuple):
    """Mean of n values and half the width of its 95% confidence interval, which is nan for one value."""

    mean: float
    half_width: float
    n: int


class Group(NamedTuple):
    """Runs that differ only in their seed."""

    name: str
    runs: tuple[Path, ...]
    metrics: dict[str, Interval]


def confidence_interval(values: Sequence[float]) -> Interval:
    """mean +- t_{.975, n-1} s / sqrt(n), Student's interval for the mean of independent normal values.

    Raises:
        ValueError: there are no values.
    """
    if not values:
        raise ValueError("a confidence interval takes at least one value")
    from scipy.stats import t  # slow to import: a second

    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Interval(mean, math.nan, 1)
    return Interval(mean, float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)), n)


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
