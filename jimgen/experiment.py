"""What turns a file of experiments/ into a command, and a run's folder back into a method with its weights."""

import jimgen.libraries  # noqa: F401

# isort: split
import dataclasses
import difflib
import hashlib
import inspect
import json
import math
import os
import platform
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from functools import partial
from importlib import metadata
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, TypeVar

import jax
import tyro

from jimgen import checkpoint, data, loop, report
from jimgen.cpu import keep_freed_memory
from jimgen.data.dataset import DataSpec
from jimgen.data.paths import PATH_KINDS, canonical
from jimgen.errors import UserError, errors_in_a_line
from jimgen.files import disk_errors, expanded, write_atomically
from jimgen.interrupts import end_at_once
from jimgen.lock import only_training
from jimgen.loop import RunConfig
from jimgen.methods.method import Method
from jimgen.metrics.extractors import load_extractor
from jimgen.noise import require_seed
from jimgen.output import Output
from jimgen.quality import check_quality, extractor_name
from jimgen.run_folder import (
    BEST,
    CHECKPOINTS,
    CONFIG,
    ENVIRONMENT,
    EXPERIMENT,
    MODULES,
    Saved,
    contained_runs,
    from_values,
    read_saved,
    saved_steps,
    with_contained_runs,
)
from jimgen.source_files import copy_experiment, load_experiment
from jimgen.train_step import TrainState

__all__ = ["RunConfig", "main", "load_run", "Run"]
Config = TypeVar("Config", bound=RunConfig)
Build = Callable[[Any, DataSpec], Method]

# Fields that say how a run is carried out, not what it computes: they may change when it resumes. Where the first two
# change a schedule in mid-run, `_schedule_notes` says so.
FREE_FIELDS = (
    *("steps", "schedule_steps", "workdir", "mode", "devices", "log_every", "sample_every", "save_every", "eval_every"),
    *("quality_every", "quality_metric", "quality_num", "quality_extractor"),
    *("keep", "max_skipped", "override", "dry_run", "data_dir", "download", "strict"),
)

LONGEST_NAME = 200  # bytes of a folder that is named for its data; systems allow 255

# Fields of which there must be at least one, where a config has them.
COUNTED_FIELDS = (
    *("size", "steps", "batch_size", "accumulate", "log_every", "save_every", "keep", "max_skipped"),
    *("width", "depth", "hidden", "latent_dim", "codes", "head_width", "discriminator_steps"),
)


def main(config_class: type[Config], build: Build, arguments: Sequence[str] | None = None) -> None:
    """Runs an experiment from the command line; --help lists the fields of its config.

    Exits with status 2 and a line on stderr where the user can fix something, and with 128 + signal when interrupted.
    """
    source = Path(inspect.getfile(build))
    description = (inspect.getmodule(build) or build).__doc__
    output = Output()
    try:
        with errors_in_a_line(), end_at_once("SIGINT"):  # while the loop runs, it saves first
            parse = partial(tyro.cli, config_class, args=arguments, prog=source.name, description=description)
            config = parse()
            folder = _folder(config, source)
            saved = read_saved(folder)
            if saved and saved.experiment == source.stem:  # what is not said again stays as it was
                config = parse(default=_saved_config(config_class, saved, folder))
            run(config, build, output)
    except loop.Interrupted as stop:
        command = shlex.join(["python", *(sys.argv if arguments is None else [str(source)])])
        output.print(f"\nsaved at step {stop.step} after {signal.Signals(stop.signum).name}; to resume: {command}")
        sys.exit(128 + stop.signum)


def run(config: RunConfig, build: Build, output: Output | None = None) -> TrainState | None:
    """Trains as the config says, in its workdir; returns the last state, or None after a dry run."""
    output = output or Output()
    check(config)
    keep_freed_memory()
    source = Path(inspect.getfile(build))
    folder = _folder(config, source)
    saved = read_saved(folder)
    _require_same_config(config, saved, source, folder)
    dataset = data.load(
        config.data,
        size=config.size,
        fit=config.fit,
        channels=config.channels,
        bits=config.bits,
        strict=config.strict,
        data_dir=config.data_dir,
        download=config.download,
    )
    for note in (*dataset.left_out, *_schedule_notes(config, saved, folder)):
        output.print(note, style="yellow")
    inside = config if saved is None else _with_contained(config, saved, folder)
    method = build_method(inside, build, dataset.spec)
    if config.dry_run:
        loop.describe(method, dataset.spec, config, output)
        return None
    if config.quality_every:
        check_quality(config.quality_metric, config.quality_num, dataset)
        load_extractor(extractor_name(config.quality_extractor, config.data))  # what is missing is told now
    _require_same_data(dataset.spec, saved, folder, config.override)
    loop.prepare(method, dataset.spec, config)  # a batch that does not fit is told before anything is written
    with only_training(folder):
        for name, run_inside in contained_runs(inside).items():
            _contain(Path(run_inside), folder / name)
        _write_run_files(config, source, dataset.spec, folder)
        began = time.perf_counter()
        output.print(f"{source.stem} on {dataset.spec.name} {list(dataset.spec.shape)}: {folder}")
        state = loop.train(method, dataset, config, folder, output)
        page = report.write_report([folder], folder / "report.html")
    output.print(f"done in {time.perf_counter() - began:.0f} s: {page}")
    return state


def _folder(config: RunConfig, source: Path) -> Path:
    name = f"{source.stem}-{canonical(config.data).replace(':', '-').replace('/', '_')}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{name[:60]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    folder = expanded(config.workdir or Path("runs") / name)
    if any("\ud800" <= character <= "\udfff" for character in str(folder.absolute())):
        raise UserError(f"--workdir {folder} is not UTF-8: checkpoints cannot be written there. Choose another folder.")
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir {folder} is a file: give a folder, or one that does not exist yet")
    except OSError as error:
        raise UserError(f"--workdir {str(folder):.200}: {error.strerror}. Choose another folder.") from error
    return folder


def _saved_config(config_class: type[Config], saved: Saved, folder: Path) -> Config:
    """The config that a run was begun with, as far as its class still has the fields."""
    values = {name: value for name, value in saved.config.items() if name not in ("override", "dry_run")}
    return from_values(config_class, values, folder / CONFIG)


def _with_contained(config: RunConfig, saved: Saved, folder: Path) -> RunConfig:
    """The config with the runs that its folder contains, where they are still those that it names."""
    same = all(_same_path(saved.config.get(name), value) for name, value in contained_runs(config).items())
    return with_contained_runs(config, folder) if same else config


def _same_path(before: str | None, now: str) -> bool:
    """Whether two ways of writing a path name one folder, from here."""
    return before is not None and Path(before).expanduser().absolute() == Path(now).expanduser().absolute()


def _contain(run: Path, copy: Path) -> None:
    """Copies what it takes to use a run (config, code, the newest good checkpoint), to where it is not yet."""
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


def _changed(config: RunConfig, changes: Sequence[str]) -> RunConfig:
    """The config with "field=value" in place of some of its fields; a tuple's values are separated by commas."""
    fields = [field.name for field in dataclasses.fields(config)]
    flags: list[str] = []
    for change in changes:
        name, equals, value = change.partition("=")
        name = name.strip().lstrip("-").replace("-", "_")
        if not equals or name not in fields:
            near = difflib.get_close_matches(name, fields, n=1, cutoff=0.0)
            raise UserError(f"--change {change}: expected field=value with a field of the run's config, as {near[0]}")
        flags += [f"--{name.replace('_', '-')}", *value.split(",")]
    return tyro.cli(type(config), args=flags, default=config, prog="--change") if flags else config


def check(config: RunConfig) -> None:
    """Raises UserError for numbers that make no sense: all are finite, none negative, whole ones fit into 32 bits (the
    seed into 63), and what is counted is there."""
    require_seed(config.seed)
    for field in dataclasses.fields(config):
        value = getattr(config, field.name)
        if not isinstance(value, (int, float)):
            continue
        flag = f"--{field.name.replace('_', '-')} {value}"
        if not 0 <= value < math.inf:
            raise UserError(f"{flag}: must be finite and not negative")
        if field.name in COUNTED_FIELDS and value < 1:
            raise UserError(f"{flag}: must be at least 1")
        if isinstance(value, int) and value >= 2**31 and field.name != "seed":
            raise UserError(f"{flag}: must be below 2^31")


def build_method(config: RunConfig, build: Build, spec: DataSpec) -> Method:
    """The method of a config, tried on shapes alone, so that what does not fit is told at once.

    Raises:
      UserError: the nets cannot take images of this shape, or the config contradicts itself.
    """
    try:
        method = build(config, spec)
        if not isinstance(method, Method):
            raise TypeError(f"build of the experiment returned {type(method).__name__}, not a Method: is it complete?")
        jax.eval_shape(partial(loop.initialise, method, spec, config.seed))
    except (ValueError, TypeError) as error:
        if os.environ.get("JIMGEN_TRACEBACK"):
            raise
        raise UserError(f"{str(error).strip()}\n(images are {spec.shape}; JIMGEN_TRACEBACK=1 shows where)") from error
    return method


class Run(NamedTuple):
    """A finished or interrupted run, ready to use."""

    folder: Path
    config: RunConfig
    spec: DataSpec
    method: Method
    state: TrainState
    experiment: str
    module: ModuleType  # the run's own copy of the experiment

    @property
    def conditional(self) -> bool:
        """Whether its nets were told labels; if not, those that images are drawn with mean nothing."""
        return getattr(self.config, "conditional", False) and self.spec.num_classes > 1


def load_run(folder: Path, best: bool = False, changes: Sequence[str] = ()) -> Run:
    """Reads a run's folder: runs its copy of the experiment, builds the method and restores the newest checkpoint.

    Args:
      folder: of the run.
      best: the checkpoint that had the best figure of --quality-metric, not the newest one.
      changes: "field=value" of its config, for what drawing depends on: "guidance=3", "num_steps=50".

    Raises:
      UserError: no run there, one of another version of jimgen, or no good checkpoint in it; changes of no such field,
        or that the weights do not fit.
    """
    saved = read_saved(folder)
    if saved is None or not (folder / EXPERIMENT).exists():
        raise UserError(f"{folder} is not a run: it has no {CONFIG} and {EXPERIMENT}. `jimgen runs` lists runs.")
    module, spec = load_experiment(folder), saved.data
    config = _changed(with_contained_runs(_saved_config(module.Config, saved, folder), folder), changes)
    try:
        method = build_method(config, module.build, spec)
    except UserError:
        raise
    except Exception as error:  # it is code: it may raise anything
        if os.environ.get("JIMGEN_TRACEBACK"):
            raise
        raise UserError(
            f"{folder / EXPERIMENT} cannot build its method ({type(error).__name__}: {error}): restore it from a copy. "
            "JIMGEN_TRACEBACK=1 shows where."
        ) from error
    target = jax.eval_shape(partial(loop.initialise, method, spec, config.seed))
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    target = jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), target)
    if best and not (folder / BEST).is_dir():
        raise UserError(f"{folder} keeps no best checkpoint: train it with --quality-every N")
    state, warnings = checkpoint.read(folder / (BEST if best else CHECKPOINTS), target)
    for warning in warnings:
        print(warning, file=sys.stderr)
    if state is None:
        raise UserError(f"{folder} has no checkpoint yet: train it first, or longer")
    return Run(folder, config, spec, method, state, saved.experiment, module)


def _require_same_config(config: RunConfig, saved: Saved | None, source: Path, folder: Path) -> None:
    """An existing run goes on only as what it was, unless the user says otherwise."""
    if saved is None or config.override or config.dry_run:
        return
    if saved.experiment != source.stem:
        raise UserError(f"{folder} is a run of {saved.experiment}, not of {source.stem}: give another --workdir")
    now = json.loads(json.dumps(dataclasses.asdict(config)))
    names = [n for n in now if n not in FREE_FIELDS and n in saved.config and saved.config[n] != now[n]]
    names = [n for n in names if n not in contained_runs(config) or not _same_path(saved.config[n], now[n])]
    if "data" in names and _both_paths(saved.config["data"], config.data):
        names.remove("data")  # one folder can be written in many ways: the hash of its content decides
    if (done := max(saved_steps(folder), default=0)) > config.steps:
        raise UserError(
            f"{folder} has trained for {done} steps already, --steps {config.steps} are fewer: give more, or another "
            "--workdir"
        )
    if names:
        changes = ", ".join(f"{name} {saved.config[name]!r} -> {now[name]!r}" for name in names)
        raise UserError(f"{folder} was trained with another config: {changes}.\nGive a new --workdir, or --override.")


def _both_paths(*names: str) -> bool:
    kinds = {name.partition(":")[0] for name in names}
    return len(kinds) == 1 and kinds <= set(PATH_KINDS)


def _schedule_notes(config: RunConfig, saved: Saved | None, folder: Path) -> list[str]:
    """What to know of a learning rate that leaps where a run resumes, or ends before the run."""
    schedule_steps = getattr(config, "schedule_steps", None)
    if schedule_steps is None:
        return []
    then = saved.config if saved else {}
    now, before = schedule_steps or config.steps, then.get("schedule_steps") or then.get("steps")
    notes = []
    if before not in (None, now) and saved_steps(folder):
        notes.append(
            f"the learning rate now falls to 0 at step {now}, not {before}, so it leaps where this run resumes: "
            f"--schedule-steps {before} keeps the curve that it was begun with"
        )
    if now < config.steps:
        notes.append(f"the learning rate is 0 from step {now} on: --schedule-steps 0 stretches its fall to all steps")
    return notes


def _require_same_data(spec: DataSpec, saved: Saved | None, folder: Path, override: bool) -> None:
    if saved and not override and saved.data.hash != spec.hash:
        raise UserError(
            f"the data {spec.name} are not those that {folder} was trained on (hash {spec.hash[:12]}, then "
            f"{saved.data.hash[:12]}).\nGive a new --workdir, or --override."
        )


def _write_run_files(config: RunConfig, source: Path, spec: DataSpec, folder: Path) -> None:
    values = dataclasses.asdict(config)
    defaults = dataclasses.asdict(type(config)())
    changed = {name: value for name, value in values.items() if value != defaults[name]}
    saved = {"experiment": source.stem, "config": values, "changed": changed, "data": spec._asdict()}
    with disk_errors(folder):
        for name in ("samples", "plots", CHECKPOINTS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        copy_experiment(source, folder)
        _write_json(folder / ENVIRONMENT, environment(config, spec))
        _write_json(folder / CONFIG, saved)


def _write_json(path: Path, value: Any) -> None:
    write_atomically(path, json.dumps(value, indent=2) + "\n")


def environment(config: RunConfig, spec: DataSpec) -> dict[str, Any]:
    """Versions, devices, code and data of a run: what one needs to repeat it."""
    packages = ("jimgen", "jax", "jaxlib", "flax", "optax", "orbax-checkpoint", "numpy")
    devices = jax.devices()
    return {
        "python": platform.python_version(),
        "versions": {name: metadata.version(name) for name in packages},
        "devices": f"{len(devices)} x {devices[0].device_kind} ({devices[0].platform})",
        "processor": platform.processor() or platform.machine(),
        "cpu_count": os.cpu_count(),
        "git_commit": _git_commit(),
        "data_hash": spec.hash,
        "seed": config.seed,
        "command": shlex.join(sys.argv),
        "started": time.strftime("%Y-%m-%d %H:%M:%S %z"),
    }


def _git_commit() -> str | None:
    command = ["git", "-C", str(Path(__file__).parent), "describe", "--always", "--dirty", "--abbrev=40"]
    try:
        return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None  # installed without its repository
