"""From a run's folder back to a method with its weights."""

import os
import shutil
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax

from jimgen.conditions import is_conditional
from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.files import disk_errors
from jimgen.methods.method import Method
from jimgen.runs import checkpoint, compatibility
from jimgen.runs.config import Config, RunConfig, changed, contained_runs, drawing_fields, from_values
from jimgen.runs.folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    EXPERIMENT,
    MODULES,
    Saved,
    read_saved,
    with_contained_runs,
)
from jimgen.runs.setup import Built, abstract_state, build_method
from jimgen.runs.source_files import load_experiment
from jimgen.train_step import TrainState


class Run(NamedTuple):
    """A finished or interrupted run, ready to use."""

    folder: Path
    config: RunConfig
    spec: DataSpec
    method: Method
    state: TrainState
    experiment: str
    made: Any  # what its `build` returned: the method, or a Tokenizer, Autoregressive, ... that holds it

    @property
    def conditional(self) -> bool:
        """Whether samples depend on their labels."""
        return is_conditional(self.method.num_classes)


def load_run(folder: Path, best: bool = False, changes: Sequence[str] = ()) -> Run:
    """Reads a run's folder: runs its copy of the experiment, builds the method and restores the newest checkpoint.

    Args:
        folder: of the run.
        best: the checkpoint that had the best value of --quality-metric, not the newest one.
        changes: "field=value" of its config, for what drawing depends on: "guidance=3", "num_steps=50".
    Raises:
        UserError: no run there, one that this version cannot load, no good checkpoint; changes of unknown fields, or
            that the weights do not fit.
    """
    saved = read_saved(folder)
    if saved is None or not (folder / EXPERIMENT).exists():
        raise UserError(f"{folder} is not a run: it has no {CONFIG} and {EXPERIMENT}. `jimgen runs` lists runs.")
    config, built = _built(folder, saved, changes)
    if best and not (folder / BEST).is_dir():
        raise UserError(f"{folder} keeps no best checkpoint: train it with --quality-every N")
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = abstract_state(built.method, saved.data, config.seed, device)
    state, warnings = checkpoint.read(folder / (BEST if best else CHECKPOINTS), target)
    for warning in warnings:
        print(warning, file=sys.stderr)
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet: train it first, or longer")
    return Run(folder, config, saved.data, built.method, state, saved.experiment, built.made)


def _built(folder: Path, saved: Saved, changes: Sequence[str]) -> tuple[RunConfig, Built]:
    """The config of a run, and what its copy of the experiment builds of it."""
    module = load_experiment(folder)
    config = with_contained_runs(saved_config(module.Config, saved, folder), folder)
    config = changed(config, changes, drawing_fields(type(config)) or compatibility.drawing_fields(config))
    try:
        built = build_method(config, compatibility.build_of(module), saved.data)
    except UserError:
        raise
    except Exception as error:  # it is code: it may raise anything
        if os.environ.get("JIMGEN_TRACEBACK"):
            raise
        raise UserError(
            f"{folder / EXPERIMENT} cannot build its method ({type(error).__name__}: {error}): restore it from a copy. "
            "JIMGEN_TRACEBACK=1 shows where."
        ) from error
    if not saved.uncompared:  # written by an earlier version
        built = built._replace(method=compatibility.with_labels(built.method, config, saved.data))
    return config, built


def saved_config(config_class: type[Config], saved: Saved, folder: Path) -> Config:
    """The config that a run was begun with, as far as its class still has the fields.

    Raises:
        UserError: a value of the wrong type, or one that makes no sense.
    """
    once = ("override", "dry_run", "profile")  # said of one command, not of the run
    values = {name: value for name, value in saved.config.items() if name not in once}
    return from_values(config_class, compatibility.renamed(values, config_class), folder / CONFIG)


def contain(run: Path, copy: Path) -> None:
    """Copies what is needed to use a run (config, code, the newest good checkpoint), unless it is there already."""
    if copy.resolve() == run.resolve():
        return
    loaded = load_run(run)
    shutil.rmtree(copy, ignore_errors=True)
    with disk_errors(copy):
        copy.mkdir(parents=True)
        for name in (EXPERIMENT, ENVIRONMENT):
            shutil.copyfile(run / name, copy / name)
        for name in (MODULES, *contained_runs(loaded.config)):
            if (run / name).is_dir():
                shutil.copytree(run / name, copy / name)
    manager = checkpoint.open_checkpoints(copy / CHECKPOINTS)
    checkpoint.save(manager, loaded.state)
    checkpoint.finish(manager)
    manager.close()
    shutil.copyfile(run / CONFIG, copy / CONFIG)  # last: now it is a run
