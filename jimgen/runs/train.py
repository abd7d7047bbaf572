"""From a file of experiments/ to a command that trains, and to a run's folder."""

import argparse
import hashlib
import inspect
import json
import os
import shlex
import signal
import sys
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from functools import partial
from pathlib import Path

import tyro

from jimgen import data
from jimgen.cpu import keep_freed_memory
from jimgen.data.dataset import Dataset, DataSpec
from jimgen.data.paths import canonical
from jimgen.errors import UserError, errors_in_a_line
from jimgen.evaluation.extractors import load_extractor
from jimgen.evaluation.quality import check_quality, extractor_name
from jimgen.files import disk_errors, expanded, write_atomically
from jimgen.interrupts import end_at_once
from jimgen.methods.method import Build
from jimgen.output import Output
from jimgen.runs import loop, report
from jimgen.runs.compilation_cache import keep_compiled_programs
from jimgen.runs.config import Config, RunConfig, contained_runs
from jimgen.runs.dry_run import describe
from jimgen.runs.environment import environment
from jimgen.runs.folder import CHECKPOINTS, CONFIG, ENVIRONMENT, PLOTS, REPORT, SAMPLES, read_saved, saved_values
from jimgen.runs.load import contain, saved_config
from jimgen.runs.lock import only_training
from jimgen.runs.resume import require_same_config, require_same_data, schedule_notes, with_own_copies
from jimgen.runs.setup import build_method, compiled_step
from jimgen.runs.source_files import copy_experiment
from jimgen.train_step import TrainState

LONGEST_NAME = 200  # bytes of a folder that is named for its data; systems allow 255


def main(
    config_class: type[Config],
    build: Build,
    arguments: Sequence[str] | None = None,
    *,
    presets: Mapping[str, Config] | None = None,
) -> None:
    """Runs an experiment from the command line; --help lists the fields of its config.

    `presets` are configs by name: `--preset NAME` takes its values in place of the defaults, and other flags change it.

    Exits with status 2 and a line on stderr where the user can fix something, and with 128 + signal when interrupted.
    """
    source = Path(inspect.getfile(build))
    description = inspect.getdoc(inspect.getmodule(build) or build) or ""
    if presets:
        description += f"\n\nPresets, for --preset NAME: {', '.join(presets)}."
    output = Output()
    try:
        with errors_in_a_line(), end_at_once():  # while the loop runs, Ctrl-C saves first
            preset, rest = preset_of(presets or {}, sys.argv[1:] if arguments is None else arguments)
            parse = partial(tyro.cli, config_class, args=rest, prog=source.name, description=description)
            if _asks_for_help(rest):
                parse() if preset is None else parse(default=preset)  # prints it and exits
            folder = _folder_of_flags(config_class, source, rest)
            saved = read_saved(folder)
            before = saved_config(config_class, saved, folder) if saved and saved.experiment == source.stem else None
            usual = preset or before  # what is not said again stays as it was
            run(parse() if usual is None else parse(default=usual), build, output)
    except loop.Interrupted as stop:
        command = shlex.join(["python", *(sys.argv if arguments is None else [str(source)])])
        output.print(f"\nsaved at step {stop.step} after {signal.Signals(stop.signum).name}; to resume: {command}")
        sys.exit(128 + stop.signum)


def run(config: RunConfig, build: Build, output: Output | None = None) -> TrainState | None:
    """Trains as the config says, in its workdir; returns the last state, or None after a dry run."""
    output = output or Output()
    keep_freed_memory()
    keep_compiled_programs()
    source = Path(inspect.getfile(build))
    folder = _folder(config.workdir, config.data, source)
    saved = read_saved(folder)
    require_same_config(config, saved, source.stem, folder)
    dataset = _load_data(config)
    for note in (*dataset.left_out, *schedule_notes(config, saved, folder)):
        output.print(note, style="yellow")
    inside = config if saved is None else with_own_copies(config, saved, folder)
    method = build_method(inside, build, dataset.spec).method
    if config.dry_run:
        describe(method, dataset.spec, config, output)
        return None
    if config.quality_every:
        check_quality(config.quality_metric, config.quality_num, dataset)
        load_extractor(extractor_name(config.quality_extractor, config.data))  # what is missing is told now
    require_same_data(dataset.spec, saved, folder, config.override)
    compiled_step(method, config)  # a batch that does not fit is told before anything is written
    with only_training(folder):
        for name, run_inside in contained_runs(inside).items():
            contain(Path(run_inside), folder / name)
        _write_run_files(config, source, dataset.spec, folder)
        began = time.perf_counter()
        output.print(f"{source.stem} on {dataset.spec.name} {list(dataset.spec.shape)}: {folder}")
        state = loop.train(method, dataset, config, folder, output)
        page = report.write_report([folder], folder / REPORT)
    output.print(
        f"done in {time.perf_counter() - began:.0f} s. Open {page} in a browser; then try `jimgen sample {folder}` or "
        f"`jimgen evaluate {folder}`."
    )
    return state


def preset_of(presets: Mapping[str, Config], arguments: Sequence[str]) -> tuple[Config | None, list[str]]:
    """The preset that the arguments name, and the other arguments. Raises UserError for a name that is none."""
    if not presets:
        return None, list(arguments)
    parser = argparse.ArgumentParser(add_help=False, allow_abbrev=False, exit_on_error=False)
    parser.add_argument("--preset")
    try:
        found, rest = parser.parse_known_args(arguments)
    except argparse.ArgumentError as error:  # --preset alone
        raise UserError(f"--preset needs a name; there are {', '.join(presets)}") from error
    if found.preset is not None and found.preset not in presets:
        raise UserError(f"--preset {found.preset}: there is no such preset; there are {', '.join(presets)}")
    return (None if found.preset is None else presets[found.preset]), rest


def _asks_for_help(arguments: Sequence[str]) -> bool:
    return any(argument in ("-h", "--help") or argument.startswith("--tyro-") for argument in arguments)


@dataclass(frozen=True)
class _FolderFlags:
    """The flags that name a run's folder."""

    workdir: str | None
    data: str


def _folder_of_flags(config_class: type[Config], source: Path, arguments: Sequence[str] | None) -> Path:
    defaults = {each.name: each.default for each in fields(config_class) if each.name in ("workdir", "data")}
    parse = partial(tyro.cli, _FolderFlags, args=arguments, default=_FolderFlags(**defaults))  # pyright: ignore[reportArgumentType]
    where, _ = parse(return_unknown_args=True, add_help=False)
    return _folder(where.workdir, where.data, source)


def _folder(workdir: str | None, data_name: str, source: Path) -> Path:
    name = f"{source.stem}-{canonical(data_name).replace(':', '-').replace('/', '_')}"
    if len(os.fsencode(name)) > LONGEST_NAME:
        name = f"{name[:60]}-{hashlib.sha256(os.fsencode(name)).hexdigest()[:12]}"
    folder = expanded(workdir or Path("runs") / name)
    if any("\ud800" <= character <= "\udfff" for character in str(folder.absolute())):
        raise UserError(f"--workdir {folder} is not UTF-8: checkpoints cannot be written there. Choose another folder.")
    try:
        if folder.exists() and not folder.is_dir():
            raise UserError(f"--workdir {folder} is a file: give a folder, or one that does not exist yet")
    except OSError as error:
        raise UserError(f"--workdir {str(folder):.200}: {error.strerror}. Choose another folder.") from error
    return folder


def _load_data(config: RunConfig) -> Dataset:
    return data.load(
        config.data,
        **config.fitting()._asdict(),
        without=config.without,
        strict=config.strict,
        data_dir=config.data_dir,
        download=config.download,
    )


def _write_run_files(config: RunConfig, source: Path, spec: DataSpec, folder: Path) -> None:
    with disk_errors(folder):
        for name in (SAMPLES, PLOTS, CHECKPOINTS):
            (folder / name).mkdir(parents=True, exist_ok=True)
        copy_experiment(source, folder)
        for name, values in (
            (ENVIRONMENT, environment(spec.hash, config.seed)),
            (CONFIG, saved_values(source.stem, config, spec)),
        ):
            write_atomically(folder / name, json.dumps(values, indent=2) + "\n")
