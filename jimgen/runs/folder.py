"""A run's folder: the names of its files, what its config.json holds, and where runs are."""

import dataclasses
import os
from pathlib import Path
from typing import Any, NamedTuple

from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.files import read_errors, read_json
from jimgen.runs.config import FIX, Config, RunConfig, contained_runs, from_values, uncompared_fields

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
EXPERIMENT = "experiment.py"
MODULES = "modules"  # what the experiment imports from files beside it
LOCK = ".lock"
METRICS_FILE = "metrics.jsonl"
SAMPLES, REAL, RECONSTRUCTIONS = "samples", "real.png", "reconstruct_"  # a folder, a file in it, a prefix of others
PLOTS = "plots"
REPORT = "report.html"
CHECKPOINTS, BEST = "checkpoints", "best"
PROFILE = "profile"
EVALUATION = "evaluation"
UTILITY = "utility.json"


class Saved(NamedTuple):
    """What config.json holds."""

    experiment: str  # name of its file, without .py
    config: dict[str, Any]  # every field of its Config
    data: DataSpec
    uncompared: tuple[str, ...]  # fields that `jimgen compare` ignores
    changed: tuple[str, ...] = ()  # fields that differ from their defaults


def read_saved(folder: Path, fix: str = FIX) -> Saved | None:
    """The content of a run's config.json, None where there is none.

    Raises:
        UserError: it cannot be read, is damaged, or is not that of a run of jimgen.
    """
    path = folder / CONFIG
    content = read_json(path, fix)
    if content is None:
        return None
    experiment, config, data = (content.get(name) for name in ("experiment", "config", "data"))
    if not (isinstance(experiment, str) and isinstance(config, dict) and isinstance(data, dict)):
        raise UserError(f"{path} is not that of a run of jimgen, or damaged: {fix}")
    spec = from_values(DataSpec, data, path)
    if min(*spec.shape, spec.num_classes) < 1:
        raise UserError(f"{path} is damaged (images of {spec.shape} in {spec.num_classes} classes): {fix}")
    uncompared = content.get("uncompared", [])
    if not (isinstance(uncompared, list) and all(isinstance(name, str) for name in uncompared)):
        raise UserError(f"{path} is damaged (uncompared is {uncompared!r:.60}): {fix}")
    changed = content.get("changed", config)  # said by no early version
    if not isinstance(changed, dict):
        raise UserError(f"{path} is damaged (changed is {changed!r:.60}): {fix}")
    return Saved(experiment, config, spec, tuple(uncompared), tuple(changed))


def saved_values(experiment: str, config: RunConfig, spec: DataSpec) -> dict[str, Any]:
    """What `read_saved` reads, for JSON; with the fields that differ from their defaults, for people."""
    values = dataclasses.asdict(config)
    defaults = {each.name: each.default for each in dataclasses.fields(config)}
    different = {name: value for name, value in values.items() if value != defaults[name]}
    uncompared = sorted(uncompared_fields(type(config), best=True))  # without those that count in some comparisons
    return {
        **{"experiment": experiment, "config": values, "changed": different},
        **{"data": spec._asdict(), "uncompared": uncompared},
    }


def is_run(folder: Path) -> bool:
    """Whether a folder looks like a run, damaged or not; one that may not be looked into does not."""
    return os.path.isfile(folder / CONFIG) and os.path.isfile(folder / EXPERIMENT)


def find_runs(folder: Path) -> list[Path]:
    """The runs in a folder, at any depth, sorted; not those that another run contains.

    Raises:
        UserError: the folder cannot be read; one below it that cannot is passed over.
    """

    def refuse(error: OSError) -> None:
        if Path(error.filename) == folder and not isinstance(error, FileNotFoundError):
            raise error

    found = []
    with read_errors(folder):
        for parent, folders, _ in os.walk(folder, onerror=refuse):
            if is_run(Path(parent)):
                found.append(Path(parent))
                folders.clear()
    return sorted(found)


def saved_steps(folder: Path) -> list[int]:
    """The steps of a run's checkpoints, ascending, sound or not; none where there are none."""
    found = (folder / CHECKPOINTS).glob("*")
    return sorted(int(path.name) for path in found if path.name.isdecimal())


def with_contained_runs(config: Config, folder: Path) -> Config:
    """The config with the copies of runs that a run's folder contains in place of where they once were."""
    inside = {name: str(folder / name) for name in contained_runs(config) if is_run(folder / name)}
    return dataclasses.replace(config, **inside)
