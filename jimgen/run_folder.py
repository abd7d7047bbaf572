"""A run's folder: the names of its files, and what config.json says of it."""

import dataclasses
import os
from collections.abc import Mapping
from pathlib import Path
from types import NoneType, UnionType
from typing import Annotated, Any, Literal, NamedTuple, TypeVar, Union, get_args, get_origin, get_type_hints

from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.files import read_errors, read_json

CONFIG = "config.json"
ENVIRONMENT = "environment.json"
EXPERIMENT = "experiment.py"
MODULES = "modules"  # what the experiment imports from files beside it
CHECKPOINTS, BEST = "checkpoints", "best"
METRICS = "metrics.jsonl"

CONTAINED_RUN = {"contained_run": True}  # metadata of a field that names a run which this one is to contain

FIX = "restore it from a copy, or use another --workdir"
Class = TypeVar("Class")


class Saved(NamedTuple):
    """What config.json holds."""

    experiment: str  # name of its file, without .py
    config: dict[str, Any]  # every field of its Config
    data: DataSpec


def read_saved(folder: Path) -> Saved | None:
    """What the config.json of a run says, None where there is none.

    Raises:
      UserError: it cannot be read, is damaged, or is not that of a run of jimgen.
    """
    path = folder / CONFIG
    content = read_json(path, FIX)
    if content is None:
        return None
    experiment, config, data = (content.get(name) for name in ("experiment", "config", "data"))
    if not (isinstance(experiment, str) and isinstance(config, dict) and isinstance(data, dict)):
        raise UserError(f"{path} is not that of a run of jimgen, or damaged: {FIX}")
    spec = from_values(DataSpec, data, path)
    if min(*spec.shape, spec.num_classes) < 1:
        raise UserError(f"{path} is damaged (images of {spec.shape} in {spec.num_classes} classes): {FIX}")
    return Saved(experiment, config, spec)


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


def contained_runs(config: Any) -> dict[str, str]:
    """The fields of a config that name runs which its own run contains, and what they say; empty ones left out."""
    fields = [field.name for field in dataclasses.fields(config) if field.metadata.get("contained_run")]
    return {name: value for name in fields if (value := getattr(config, name))}


def with_contained_runs(config: Class, folder: Path) -> Class:
    """The config with the runs that a run's folder contains in place of where they once lay."""
    inside = {name: str(folder / name) for name in contained_runs(config) if is_run(folder / name)}
    return dataclasses.replace(config, **inside)  # pyright: ignore[reportArgumentType, reportCallIssue]


def from_values(made: type[Class], values: Mapping[str, Any], path: Path) -> Class:
    """An instance of a dataclass or NamedTuple from what JSON holds of it; unknown names are left out.

    Args:
      made: the class.
      values: by field; lists for tuples. Missing ones take the class's defaults.
      path: where they come from, for messages.

    Raises:
      UserError: a value of the wrong type, or none for a field without a default.
    """
    hints = get_type_hints(made, include_extras=True)
    names = [field.name for field in dataclasses.fields(made)] if dataclasses.is_dataclass(made) else list(hints)
    found = {name: _tuples(values[name]) for name in names if name in values}
    for name, value in found.items():
        if not _is_of_type(value, hints[name]):
            raise UserError(f"{path} is damaged ({name} is {value!r:.60}): {FIX}")
    try:
        return made(**found)
    except TypeError as error:
        raise UserError(f"{path} is damaged ({error}): {FIX}") from error


def _tuples(value: Any) -> Any:
    return tuple(_tuples(x) for x in value) if isinstance(value, list) else value


def _is_of_type(value: Any, hint: Any) -> bool:
    origin, parts = get_origin(hint), get_args(hint)
    if origin is Annotated:
        return _is_of_type(value, parts[0])
    if origin is Literal:
        return any(value == part and type(value) is type(part) for part in parts)
    if origin in (Union, UnionType):
        return any(_is_of_type(value, part) for part in parts)
    if origin is tuple:
        if not isinstance(value, tuple):
            return False
        wanted = parts[:1] * len(value) if parts[1:] == (...,) else parts
        return len(wanted) == len(value) and all(map(_is_of_type, value, wanted))
    if hint in (int, float):
        return isinstance(value, (int, hint)) and not isinstance(value, bool)
    return value is None if hint in (None, NoneType) else isinstance(value, origin or hint)
