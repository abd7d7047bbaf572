"""Runs that several tests begin, stop and resume."""

import functools
import importlib.util
import json
import os
import signal
import sys
import tempfile
from pathlib import Path

import jax
import numpy as np
from tiny import SHAPE

from jimgen.data.dataset import Arrays, Dataset, DataSpec
from jimgen.runs import loop, train
from jimgen.runs.config import RunConfig

ROOT = Path(__file__).parent.parent
EXPERIMENTS = ROOT / "experiments"
SMALLEST = {  # flags that make an experiment tiny, given where its config has the field
    "size": 8,
    "steps": 2,
    "batch_size": 8,
    "width": 4,
    "most_width": 8,
    "generator_width": 4,
    "discriminator_width": 4,
    "w_dim": 4,
    "head_dim": 4,
    "depth": 1,
    "num_steps": 2,
    "hidden": 8,
    "latent_dim": 4,
    "log_every": 1,
    "sample_every": 100,
    "penalty_period": 1,
    "mode": "jit",
}


NUM_TRAIN, NUM_TEST = 30, 13  # of `random_dataset`; neither is a multiple of the batch


def random_dataset() -> Dataset:
    """Random pictures of three classes."""
    rng = np.random.default_rng(0)
    train, test = (
        Arrays(rng.integers(0, 256, (n, *SHAPE), np.uint8), rng.integers(0, 3, n).astype(np.int32))
        for n in (NUM_TRAIN, NUM_TEST)
    )
    return Dataset(DataSpec("random", SHAPE, 3, ("a", "b", "c"), NUM_TRAIN, NUM_TEST, "0" * 64), train, test)


def loop_config(**options) -> RunConfig:
    """The config of a loop on `random_dataset`."""
    return RunConfig(**{"steps": 12, "batch_size": 8, "mode": "jit", "log_every": 1, "sample_every": 100} | options)


def load_experiment(name: str):
    """The module of experiments/NAME.py."""
    if name not in sys.modules:
        spec = importlib.util.spec_from_file_location(name, EXPERIMENTS / f"{name}.py")
        module = importlib.util.module_from_spec(spec)
        sys.modules[name] = module
        spec.loader.exec_module(module)
    return sys.modules[name]


def tiny_options(config_class, **options) -> dict:
    """Fields of a tiny config, as far as the class has them, and what else is given."""
    fields = config_class.__dataclass_fields__
    options = {name: value for name, value in SMALLEST.items() if name in fields} | options
    if "tokenizer" in fields:
        options.setdefault("tokenizer", tiny_tokenizer(options["size"]))
    if "autoencoder" in fields:
        options.setdefault("autoencoder", tiny_autoencoder(options["size"]))
    return options


@functools.cache
def tiny_tokenizer(size: int) -> str:
    """The folder of a tiny tokenizer run on digits of this size."""
    folder = Path(tempfile.mkdtemp()) / "tokenizer"
    train.run(tiny_config("tokenizer", folder, size=size, codes=8), load_experiment("tokenizer").build)
    return str(folder)


@functools.cache
def tiny_autoencoder(size: int) -> str:
    """The folder of a tiny autoencoder run on digits of this size."""
    folder = Path(tempfile.mkdtemp()) / "autoencoder"
    train.run(tiny_config("autoencoder", folder, size=size), load_experiment("autoencoder").build)
    return str(folder)


def tiny_config(name: str, workdir: Path, **options):
    """The config of a tiny run of experiments/NAME.py."""
    config_class = load_experiment(name).Config
    return config_class(**tiny_options(config_class, workdir=str(workdir), **options))


def tiny_flags(name: str, workdir: Path, **options) -> list[str]:
    """The same as command line arguments."""
    options = tiny_options(load_experiment(name).Config, workdir=str(workdir), **options)
    return [part for field, value in options.items() for part in (f"--{field.replace('_', '-')}", str(value))]


def signal_before(monkeypatch, step: int, signum: int = signal.SIGTERM) -> None:
    """Lets a real signal reach this process just before the loop fetches the batch of a step."""
    feed = loop.batches

    def batches(*args, start_step=0, **options):
        fed = feed(*args, start_step=start_step, **options)
        for number, batch in enumerate(fed, start_step + 1):
            if number == step:
                os.kill(os.getpid(), signum)
            yield batch

    monkeypatch.setattr(loop, "batches", batches)


def rows_of(folder: Path) -> list[dict]:
    """The rows of a run's metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def figures_of(folder: Path) -> dict[int, dict]:
    """What a run measured by step; without what the clock says."""
    found: dict[int, dict] = {}
    for row in rows_of(folder):
        clock = ("step", "seconds", "cpu_seconds", "images_per_s")
        kept = {name: value for name, value in row.items() if name not in clock}
        found.setdefault(row["step"], {}).update(kept)
    return found


def saved_steps(folder: Path, kind: str = "checkpoints") -> list[int]:
    """The steps of a run's checkpoints, or of its "best" one."""
    return sorted(int(path.name) for path in (folder / kind).iterdir() if path.name.isdecimal())


def saved_hash(folder: Path) -> str:
    """The content hash that a run's newest checkpoint was written with."""
    newest = folder / "checkpoints" / str(saved_steps(folder)[-1])
    return json.loads((newest / "meta" / "metadata").read_text())["hash"]


def assert_equal_trees(a, b) -> None:
    """Same structure, dtypes and bits."""
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for x, y in zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True):
        assert x.dtype == y.dtype
        np.testing.assert_array_equal(np.asarray(x), np.asarray(y))


def contents(folder: Path) -> dict[str, bytes]:
    """Every file in a folder, to see that nothing changes."""
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
