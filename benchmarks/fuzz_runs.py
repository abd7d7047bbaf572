"""Damaged run folders: configs, metrics, evaluations, checkpoints, whole runs, tokenizers."""

import contextlib
import dataclasses
import functools
import importlib.util
import io
import json
import shutil
import sys
import tempfile
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
from fuzz_mutations import damage, damage_json, truncate
from fuzz_trial import Trial, require
from numpy.random import Generator

from jimgen import cli, data
from jimgen.curves import draw_curves, read_metrics, series_of
from jimgen.runs import checkpoint, train
from jimgen.runs.load import Run, load_run
from jimgen.runs.report import write_report
from jimgen.runs.setup import build_method, initialise
from jimgen.runs.subject import compare_runs
from jimgen.runs.tokenizer import load_tokenizer
from jimgen.train_step import TrainState, eval_variables

EXPERIMENTS = Path(__file__).parent.parent / "experiments"
TINY = {
    "vae": {"size": 8, "steps": 2, "width": 4, "hidden": 8, "latent_dim": 4},
    "tokenizer": {"size": 8, "steps": 2, "width": 4, "depth": 1, "codes": 8, "latent_dim": 4},
}
ROWS = [{"step": i, "seconds": i / 7, "vae/loss": 50 - i / 10, "test/kl_nats": i * 1.5} for i in range(1, 20)]
EVALUATION = {
    "subject": {"run": "runs/vae", "step": 2, "classes": "balanced", "seed": 0, "changes": []},
    "data": {"name": "digits", "hash": "0" * 64, "shape": [8, 8, 1]},
    "num": 100,
    "num_real": {"train": 100, "test": 90},
    "seed": 0,
    "extractors": {"tiny@8": {"name": "tiny", "weights_hash": "1" * 64, "resolution": 8}},
    "metrics": {"fd[tiny@8]": {"value": 12.5, "real": 1.25, "gaussian": 99.0}, "test/kl_nats": {"value": 3.5}},
    "per_class": [{"class": "0", "share": 0.5, "share_of_data": 0.25, "recognised": 1.0, "cas": None}],
    "seconds": {"images": 1.0, "with_comparison": 2.0},
}


def config(folder: Path, rng: Generator) -> Trial:
    """A run with a damaged config.json, for each command that reads it."""
    run = _copied_run("vae", folder)
    saved = json.loads((run / "config.json").read_text())
    intact = rng.random() < 0.05
    (run / "config.json").write_bytes(json.dumps(saved).encode() if intact else damage_json(saved, rng))
    match rng.integers(5):
        case 0:
            (run / "metrics.jsonl").unlink()  # else the report draws curves into the run
            return Trial(partial(_report, [run]), lambda page: require("</html>" in page, "no page"), intact)
        case 1:
            good = _copied_run("vae", folder, "good")
            return Trial(
                partial(_listed, folder), lambda text: require(str(good) in text, "the good run is not listed"), intact
            )
        case 2:
            _write_evaluation(run)
            return Trial(partial(compare_runs, [run]), _check_compared, intact)
        case 3:  # training in the folder, on missing data: it must end before the first step
            module = _experiment("vae")
            config = module.Config(**TINY["vae"], data="npz:nothing.npz", workdir=str(run))
            return Trial(partial(train.run, config, module.build), lambda _: require(False, "trained on nothing"))
    return Trial(partial(load_run, run), partial(_check_state, "vae"), intact)


def metrics(folder: Path, rng: Generator) -> Trial:
    """metrics.jsonl: whole lines are read, whatever is between them."""
    lines = [json.dumps(row).encode() for row in ROWS]
    path, damaged = _copied_run("vae", folder) / "metrics.jsonl", set()
    for place in rng.choice(len(lines), size=rng.integers(0, 4), replace=False):
        if rng.random() < 0.5:
            lines[place] = damage_json(ROWS[place], rng)
        else:
            lines[place] = damage(lines[place], rng)
        damaged.add(int(place))
    text = b"\n".join(lines) + (b"\n" if rng.random() < 0.9 else b"")
    path.write_bytes(truncate(text, rng) if (cut := rng.random() < 0.1) else text)
    draws = rng.random() < 0.05
    if rng.random() < 0.1:
        return Trial(partial(_listed, folder), lambda text: require(str(path.parent) in text, "not listed"))

    def read() -> Any:
        rows = read_metrics(path)
        series = series_of(rows)
        if draws:
            with tempfile.TemporaryDirectory() as plots:
                draw_curves(rows, Path(plots))
        return rows, series

    def check(found: Any) -> None:
        rows, series = found
        for row in rows:
            require(isinstance(row, dict) and isinstance(row["step"], int | float), f"a row without a step: {row}")
        for values in series.values():
            require(values.steps.dtype == values.values.dtype == np.float64, "dtype")
            require(values.steps.shape == values.values.shape and bool((np.diff(values.steps) > 0).all()), "steps")
        missing = [row["step"] for i, row in enumerate(ROWS) if i not in damaged and row not in rows]
        require(cut or not missing, f"steps {missing} are lost")

    return Trial(read, check, must_read=not cut)


def evaluation(folder: Path, rng: Generator) -> Trial:
    """A damaged evaluation.json, next to an intact one."""
    run, good = _copied_run("vae", folder), _copied_run("vae", folder, "good")
    _write_evaluation(good)
    _write_evaluation(run)
    intact = rng.random() < 0.05
    if not intact:
        (run / "evaluation" / "evaluation.json").write_bytes(damage_json(EVALUATION, rng))
    if rng.random() < 0.5:
        return Trial(partial(compare_runs, [good, run]), _check_compared, intact)
    (run / "metrics.jsonl").unlink()
    return Trial(partial(_report, [run]), lambda page: require("</html>" in page, "no page"), intact)


def checkpoints(folder: Path, rng: Generator) -> Trial:
    """Two steps of a tiny state: the result is one of them, bit for bit, and the newer one if it is intact."""
    steps = folder / "checkpoints"
    shutil.copytree(_tiny_checkpoints(), steps)
    newest = steps / "2"
    files = sorted(path for path in newest.rglob("*") if path.is_file())
    file, how = files[rng.integers(len(files))], rng.integers(9)
    match how:
        case 0:
            pass
        case 1:
            file.unlink()
        case 2:
            file.write_bytes(b"")
        case 3:
            file.write_bytes(truncate(file.read_bytes(), rng))
        case 4:
            others = sorted(path for path in steps.rglob("*") if path.is_file())
            file.write_bytes(others[rng.integers(len(others))].read_bytes())
        case 5:
            parts = sorted(path for path in newest.rglob("*") if path.is_dir())
            shutil.rmtree(parts[rng.integers(len(parts))])
        case 6:
            (steps / str(rng.choice(["x", "5", "-1", "3.orbax-checkpoint-tmp", "4.5", "corrupt-2"]))).mkdir()
        case _:
            text = file.read_bytes()
            is_json = text.startswith(b"{") and rng.random() < 0.5
            file.write_bytes(damage_json(json.loads(text), rng) if is_json else damage(text, rng))

    def check(found: Any) -> None:
        state, warnings = found
        require(state is not None, f"no state: {warnings}")
        step = int(state.step)
        require(step == 2 or step == 1 and how != 0, f"step {step}")
        require(checkpoint.content_hash(state) == checkpoint.content_hash(_tiny_state(step)), "other numbers")
        require(step == 2 or len(warnings) > 0, "an older state without a warning")

    if rng.random() < 0.7:
        return Trial(partial(checkpoint.read, steps, _target()), check, must_read=how == 0)
    before = _sizes(steps)

    def restore() -> Any:  # as in training, which may rename corrupt files
        copy = folder.parent / f"{folder.name}-training"
        shutil.copytree(steps, copy)
        try:
            manager = checkpoint.open_checkpoints(copy)
            found = checkpoint.restore(manager, _target())
            manager.close()
            return found, _sizes(copy)
        finally:
            shutil.rmtree(copy)

    def check_restored(found: Any) -> None:
        check(found[0])
        require("tmp" in str(list(steps.iterdir())) or found[1] == before, "files are lost")

    return Trial(restore, check_restored, must_read=how == 0)


def _sizes(folder: Path) -> list[tuple[str, int]]:
    """Names and sizes of all files, at any depth."""
    return sorted((path.name, path.stat().st_size) for path in folder.rglob("*") if path.is_file())


def whole_run(folder: Path, rng: Generator, name: str = "vae") -> Trial:
    """A run in which any one of its files is damaged."""
    run = _copied_run(name, folder)
    files = sorted(path for path in run.rglob("*") if path.is_file())
    file = files[rng.integers(len(files))]
    match rng.integers(4):
        case 0:
            file.unlink()
        case 1:
            file.write_bytes(truncate(file.read_bytes(), rng))
        case _ if file.suffix == ".py":  # code that runs must not be changed at random
            file.write_bytes(truncate(file.read_bytes(), rng))
        case _:
            file.write_bytes(damage(file.read_bytes(), rng))
    return Trial(partial(load_run, run), partial(_check_state, name))


def tokens(folder: Path, rng: Generator) -> Trial:
    """A damaged run of a tokenizer, read for methods that model its tokens."""
    trial = whole_run(folder, rng, "tokenizer")
    spec = _tiny_run("tokenizer")[1]

    def check(found: Any) -> None:
        codec, variables = found
        require(codec.num_codes == 8 and codec.grid == (2, 2), f"{codec.num_codes} codes, grid {codec.grid}")
        expected = {name: variables_of for name, variables_of in _tiny_run("tokenizer")[2].items() if name in variables}
        require(checkpoint.content_hash(variables) == checkpoint.content_hash(expected), "other weights")

    return trial._replace(read=partial(load_tokenizer, folder / "run", spec), check=check)


def _check_state(name: str, found: Run) -> None:
    expected = _tiny_run(name)[3]
    require(checkpoint.content_hash(found.state) == expected, "the state differs from the saved one")


def _check_compared(found: Any) -> None:
    groups, beside = found
    for group in groups:
        for name, interval in group.metrics.items():
            require(isinstance(interval.mean, float), f"{name} is {interval.mean}")
    require(all(isinstance(value, int | float) for row in beside.values() for value in row.values()), str(beside))


def _report(runs: list[Path]) -> str:
    with tempfile.TemporaryDirectory() as out:
        return write_report(runs, Path(out) / "report.html").read_text()


def _listed(folder: Path) -> str:
    """The output of `jimgen runs`."""
    with contextlib.redirect_stdout(io.StringIO()) as out:
        cli.runs(folder)
    return out.getvalue()


def _write_evaluation(run: Path) -> None:
    (run / "evaluation").mkdir()
    (run / "evaluation" / "evaluation.json").write_text(json.dumps(EVALUATION))


def _copied_run(name: str, folder: Path, called: str = "run") -> Path:
    shutil.copytree(_tiny_run(name)[0], folder / called)
    return folder / called


@functools.cache
def _experiment(name: str) -> Any:
    spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
    assert spec and spec.loader
    sys.modules[name] = module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@functools.cache
def _tiny_run(name: str) -> tuple[Path, Any, Any, str]:
    """A run saved before its first step: folder, data spec, variables for evaluation, hash of the state."""
    module = _experiment(name)
    config = module.Config(**TINY[name], mode="jit")
    spec = data.load("digits", size=8).spec
    method = build_method(config, module.build, spec).method
    state = jax.jit(partial(initialise, method, spec, config.seed))()
    folder = Path(tempfile.mkdtemp(prefix="fuzz-run-")) / name
    manager = checkpoint.open_checkpoints(folder / "checkpoints")
    checkpoint.save(manager, state)
    checkpoint.finish(manager)
    manager.close()
    saved = {"experiment": name, "config": dataclasses.asdict(config), "changed": TINY[name], "data": spec._asdict()}
    (folder / "config.json").write_text(json.dumps(saved))
    (folder / "metrics.jsonl").write_text("".join(json.dumps(row) + "\n" for row in ROWS))
    shutil.copy(EXPERIMENTS / f"{name}.py", folder / "experiment.py")
    return folder, spec, eval_variables(state), checkpoint.content_hash(state)


def _tiny_state(step: int) -> TrainState:
    params = {"w": jnp.arange(6.0) + step, "half": jnp.arange(3, dtype=jnp.bfloat16) / step}
    return TrainState(
        step=jnp.asarray(step, jnp.int32),
        variables={"net": {"params": params}},
        opt_state={"phase": optax.adam(1e-3).init(params)},
        ema={},
        skipped={"phase": jnp.asarray(step, jnp.int32)},
        skipped_in_a_row={"phase": jnp.zeros((), jnp.int32)},
    )


@functools.cache
def _tiny_checkpoints() -> Path:
    folder = Path(tempfile.mkdtemp(prefix="fuzz-steps-")) / "checkpoints"
    manager = checkpoint.open_checkpoints(folder)
    for step in (1, 2):
        checkpoint.save(manager, _tiny_state(step))
    checkpoint.finish(manager)
    manager.close()
    return folder


def _target() -> TrainState:
    device = jax.sharding.SingleDeviceSharding(jax.devices()[0])
    state = _tiny_state(1)
    return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=device), state)
