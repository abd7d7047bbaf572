"""Runs side by side, from the evaluations that they hold, with confidence intervals over seeds."""

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen.curves import is_number
from jimgen.errors import UserError
from jimgen.files import read_json
from jimgen.run_folder import CONFIG


class Interval(NamedTuple):
    """Mean of n values and half the width of its 95% confidence interval; nan of one value."""

    mean: float
    half_width: float
    n: int


class Group(NamedTuple):
    """Runs that differ in their seed alone."""

    name: str
    runs: tuple[Path, ...]
    figures: dict[str, Interval]


def confidence_interval(values: Sequence[float]) -> Interval:
    """mean +- t_{.975, n-1} s / sqrt(n), Student's interval for the mean of independent normal values.

    Raises:
      ValueError: no values.
    """
    if not values:
        raise ValueError("a confidence interval takes at least one value")
    from scipy.stats import t  # takes a second to import

    n, mean = len(values), float(np.mean(values))
    if n == 1:
        return Interval(mean, math.nan, 1)
    return Interval(mean, float(t.ppf(0.975, n - 1) * np.std(values, ddof=1) / math.sqrt(n)), n)


def compare(runs: Sequence[Path]) -> tuple[list[Group], dict[str, dict[str, float]]]:
    """Groups runs by what they are, seed aside, and averages their figures.

    Returns:
      The groups in the order given, and what the figures stand beside: {name: {"real": ..., "gaussian": ...}}.

    Raises:
      UserError: a run without evaluation; evaluations of different data, counts or extractors.
    """
    if not runs:
        raise UserError("give the folder of at least one run; `jimgen runs` lists them")
    evaluations = {run: _evaluation(run) for run in runs}
    first_run, first = next(iter(evaluations.items()))
    for run, found in evaluations.items():
        for what in ("data", "num", "num_real", "extractors"):
            if found[what] != first[what]:
                raise UserError(
                    f"{run} and {first_run} were evaluated with different {what}: {_short(found[what])} and "
                    f"{_short(first[what])}. Evaluate both alike: figures move with it."
                )
    grouped: dict[str, list[Path]] = {}
    for run in runs:
        grouped.setdefault(_identity(run, evaluations[run]), []).append(run)
    rows = {name: row for found in evaluations.values() for name, row in found["figures"].items()}
    groups = []
    for members in grouped.values():
        names = [name for name in rows if all(name in evaluations[run]["figures"] for run in members)]
        values = {name: [evaluations[run]["figures"][name]["value"] for run in members] for name in names}
        alike = [run for run in runs if run.name == members[0].name and run not in members]
        label = str(members[0]) if alike else members[0].name
        label += f" and {len(members) - 1} more" if len(members) > 1 else ""
        intervals = {name: confidence_interval(found) for name, found in values.items()}
        groups.append(Group(label, tuple(members), intervals))
    beside = {name: {k: v for k, v in row.items() if k != "value"} for name, row in rows.items()}
    return groups, beside


def read_evaluation(path: Path) -> dict[str, Any] | None:
    """The evaluation.json that `jimgen evaluate` wrote, None where there is none.

    Raises:
      UserError: it is damaged, or something else.
    """
    fix = "run `jimgen evaluate` again"
    found = read_json(path, fix)
    if found is not None and not _is_evaluation(found):
        raise UserError(f"{path} is damaged (parts are missing or of another kind): {fix}")
    return found


def _is_evaluation(found: Mapping[str, Any]) -> bool:
    """Whether all that is read from an evaluation is there, and of its kind."""
    try:
        counts, figures, classes = found["num_real"], found["figures"].values(), found.get("per_class") or []
        numbers = [found["num"], counts["train"], counts["test"], *(row["value"] for row in figures)]
        texts = [found["data"]["name"], *(net["weights_hash"] for net in found["extractors"].values())]
        texts += [row["class"] for row in classes]
        optional = [value for row in figures for value in row.values()]
        optional += [value for row in classes for name, value in row.items() if name != "class" and value is not None]
        changes = found.get("subject", {}).get("changes", [])
    except (KeyError, TypeError, AttributeError):
        return False
    of_kind = all(map(is_number, numbers + optional)) and all(isinstance(text, str) for text in texts)
    return of_kind and isinstance(changes, list)


def _evaluation(run: Path) -> dict[str, Any]:
    for path in (run / "evaluation" / "evaluation.json", run / "evaluation.json"):
        if found := read_evaluation(path):
            return found
    raise UserError(f"{run} has no evaluation yet: run `jimgen evaluate {run}`")


def _identity(run: Path, evaluation: dict[str, Any]) -> str:
    """What a run is and how it was drawn from, seed aside; a set of images is itself.

    Fields that say how a run is carried out, not what it computes, tell no runs apart. Its numbers of steps do, and so
    does what decides on its best checkpoint, where that one was evaluated. Its data count by their content.
    """
    from jimgen.experiment import FREE_FIELDS  # takes seconds: it imports JAX

    fix = "restore it from a copy, or compare without this run"
    saved = read_json(run / CONFIG, fix)
    if saved is None:
        return str(run)
    if not isinstance(saved.get("config"), dict):
        raise UserError(f"{run / 'config.json'} is damaged (it has no config): {fix}")
    drawn = {name: evaluation.get("subject", {}).get(name) for name in ("best", "classes", "changes")}
    decisive = {"steps", "schedule_steps"} | (
        {name for name in FREE_FIELDS if name.startswith("quality_")} if drawn["best"] else set()
    )
    free = {"seed", *FREE_FIELDS} - decisive
    config = {name: value for name, value in saved["config"].items() if name not in free}
    if isinstance(data := saved.get("data"), dict) and "hash" in data:
        config["data"] = data["hash"]
    return json.dumps([saved.get("experiment"), config, drawn], sort_keys=True)


def _short(value: Any) -> str:
    text = json.dumps(value)
    return text if len(text) < 120 else f"{text[:117]}..."
