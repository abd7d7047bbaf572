"""What must not change when a run resumes, and warnings about what did."""

import dataclasses
import json
from pathlib import Path

from jimgen.data.dataset import DataSpec
from jimgen.data.paths import PATH_KINDS
from jimgen.errors import UserError
from jimgen.runs.compatibility import renamed
from jimgen.runs.config import RunConfig, ScheduledConfig, contained_runs, free_fields, values_not_there
from jimgen.runs.folder import Saved, saved_steps, with_contained_runs


def require_same_config(config: RunConfig, saved: Saved | None, experiment: str, folder: Path) -> None:
    """Refuses to resume a run with another config, unless the user asks for it.

    Raises:
        UserError: a run of another experiment, one that has trained for more steps, or a config that computes something
            else.
    """
    if saved is None or config.override or config.dry_run:
        return
    if saved.experiment != experiment:
        raise UserError(f"{folder} is a run of {saved.experiment}, not of {experiment}: give another --workdir")
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    before = values_not_there(type(config)) | renamed(saved.config, type(config))
    fixed = now.keys() & before.keys() - free_fields(type(config))
    names = [name for name in now if name in fixed and before[name] != now[name]]
    names = [name for name in names if name not in contained_runs(config) or not _one_path(before[name], now[name])]
    if "data" in names and _both_paths(before["data"], config.data):
        names.remove("data")  # one folder can be written in many ways: the hash of its content decides
    if (done := max(saved_steps(folder), default=0)) > config.steps:
        raise UserError(
            f"{folder} has trained for {done} steps already, --steps {config.steps} are fewer: give more, or another "
            "--workdir"
        )
    if names:
        changes = ", ".join(f"{name} {before[name]!r} -> {now[name]!r}" for name in names)
        raise UserError(f"{folder} was trained with another config: {changes}.\nGive a new --workdir, or --override.")


def require_same_data(spec: DataSpec, saved: Saved | None, folder: Path, override: bool) -> None:
    """Raises UserError where the data are not those that the run was trained on."""
    if saved and not override and saved.data.hash != spec.hash:
        raise UserError(
            f"the data {spec.name} are not those that {folder} was trained on (hash {spec.hash[:12]}, then "
            f"{saved.data.hash[:12]}).\nGive a new --workdir, or --override."
        )


def with_own_copies(config: RunConfig, saved: Saved, folder: Path) -> RunConfig:
    """The config with the runs that its folder contains, where they are still those that it names."""
    same = all(_one_path(saved.config.get(name), value) for name, value in contained_runs(config).items())
    return with_contained_runs(config, folder) if same else config


def schedule_notes(config: RunConfig, saved: Saved | None, folder: Path) -> list[str]:
    """Warnings about a learning rate that jumps when the run resumes, or reaches 0 before the last step."""
    if not isinstance(config, ScheduledConfig):
        return []
    then = saved.config if saved else {}
    now, before = config.schedule_length(), then.get("schedule_steps") or then.get("steps")
    notes = []
    if before not in (None, now) and saved_steps(folder):
        notes.append(
            f"the learning rate now falls to 0 at step {now}, not {before}, so it jumps where this run resumes: "
            f"--schedule-steps {before} keeps the curve that it was begun with"
        )
    if now < config.steps:
        notes.append(f"the learning rate is 0 from step {now} on: --schedule-steps 0 stretches its fall to all steps")
    return notes


def _one_path(before: str | None, now: str) -> bool:
    """Whether two ways of writing a path name one folder, from here."""
    return before is not None and Path(before).expanduser().absolute() == Path(now).expanduser().absolute()


def _both_paths(*names: str) -> bool:
    kinds = {name.partition(":")[0] for name in names}
    return len(kinds) == 1 and kinds <= set(PATH_KINDS)
