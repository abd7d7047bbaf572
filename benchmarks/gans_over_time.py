"""Frechet distances of GANs, or the modes that they cover, over CPU time on one core.

    python benchmarks/gans_over_time.py cost --out costs.json
    python benchmarks/gans_over_time.py train --model r3gan --costs costs.json --out runs/over-time
    python benchmarks/gans_over_time.py measure --model r3gan --out runs/over-time
    python benchmarks/gans_over_time.py plot --out runs/over-time --picture fd_over_time.png

`cost` measures the CPU seconds of a train step of each model, in turns within one process: run it alone, pinned to one
core (`taskset -c 0`). `train` trains a model for as many steps as --budget CPU seconds allow at that cost, with 40
checkpoints. `measure` measures samples of some of them. What it finds depends on the steps alone, not on the device or
on other work, so `train` and `measure` may run on an accelerator: only `cost` needs the quiet core.

With `--data stacked_digits`, `measure` counts modes (--num 26000 is usual), and nothing is plotted.
"""

import importlib
import json
import os
import shlex
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import tyro

if TYPE_CHECKING:
    from jimgen.data.dataset import Dataset
    from jimgen.evaluation.extractors import Extractor

ROOT = Path(__file__).parent.parent
MODELS = ("dcgan", "sngan", "stylegan2", "r3gan")  # experiments
READING = {"fashion_mnist": {"size": 32, "fit": "pad"}, "stacked_digits": {}}
METRIC = {"fashion_mnist": "fd", "stacked_digits": "modes"}
FLAGS = {("r3gan", "stacked_digits"): ("--stem-stride", "1")}  # of a model on a data set, beside the defaults
CHECKPOINTS = 40  # of a run, at equal distances
MEASURED = (3, 6, 10, 14, 20, 28, 40)  # those whose distances are taken: of 4000 CPU seconds, 300, 600, ..., 4000
TICKS = (300, 600, 1000, 1400, 2000, 2800, 4000)  # CPU seconds that the plot marks
EXTRACTORS = ("fashion_mnist_classifier", "efficientnet_lite0@64")
WARMUP, TIMED = 32, 32  # steps; both are multiples of all periods, since a program may be compiled twice


@dataclass(frozen=True)
class Args:
    task: tyro.conf.Positional[Literal["cost", "train", "measure", "plot"]]
    """what to do"""
    out: Path
    """file of the costs, or folder of the runs"""
    model: str = ""
    """model to train: dcgan, sngan, stylegan2 or r3gan"""
    data: Literal["fashion_mnist", "stacked_digits"] = "fashion_mnist"
    """data set"""
    costs: Path = Path("costs.json")
    """file of the costs"""
    budget: int = 4000
    """CPU seconds to train for"""
    seed: int = 0
    """random seed"""
    num: int = 5000
    """samples to measure"""
    picture: Path = Path("fd_over_time.png")
    """path of the plot"""


def flags_of(model: str, data: str) -> list[str]:
    """Flags of an experiment's script."""
    reading = [text for name, value in READING[data].items() for text in (f"--{name}", str(value))]
    return ["--data", data, *reading, *FLAGS.get((model, data), ()), "--mode", "jit"]


def measure_costs(args: Args) -> None:
    """Writes the CPU seconds of a step of each model."""
    import jax

    from jimgen import data
    from jimgen.cpu import keep_freed_memory
    from jimgen.data.batches import batches
    from jimgen.runs.setup import compiled_step, initialise
    from jimgen.train_step import due_at

    keep_freed_memory()
    sys.path.insert(0, str(ROOT / "experiments"))
    dataset, key, running = data.load(args.data, **READING[args.data]), jax.random.key(0), {}
    for model in MODELS:
        module = importlib.import_module(model)
        config = tyro.cli(module.Config, args=flags_of(model, args.data))
        method = module.build(config, dataset.spec)
        step = compiled_step(method, config)
        state = jax.jit(lambda method=method: initialise(method, dataset.spec, 0))()
        feed = batches(dataset.train, batch_size=config.batch_size, seed=0)
        running[model] = [method, step, state, feed, []]
    for turn in range((WARMUP + TIMED) // 16):
        for entry in running.values():
            method, step, state, feed, seconds = entry
            for number in range(16 * turn, 16 * turn + 16):
                began = time.process_time()
                state, _ = step.run(state, next(feed), key, due_at(method.phases, number))
                jax.block_until_ready(state)
                if number >= WARMUP:
                    seconds.append((bool(due_at(method.phases, number)), time.process_time() - began))
            entry[2] = state
    costs = {name: _mean_of_medians(entry[4]) for name, entry in running.items()}
    args.out.write_text(json.dumps(costs, indent=2) + "\n")
    print(json.dumps(costs, indent=2))


def _mean_of_medians(seconds: list[tuple[bool, float]]) -> float:
    """The mean cost of a step, from the medians of those with and without a periodic objective."""
    parts = [[s for due, s in seconds if due == kind] for kind in (False, True)]
    return sum(len(part) * statistics.median(part) for part in parts if part) / len(seconds)


def run_folder(args: Args) -> Path:
    return args.out / f"{args.model}-{args.seed}-{args.budget}"


def train(args: Args) -> None:
    """Trains a model for the budget."""
    cost = json.loads(args.costs.read_text())[args.model]
    every = round(args.budget / cost / CHECKPOINTS)
    steps = ["--steps", str(CHECKPOINTS * every), "--save-every", str(every), "--keep", str(CHECKPOINTS)]
    script = [sys.executable, str(ROOT / "experiments" / f"{args.model}.py"), *flags_of(args.model, args.data), *steps]
    command = [*script, "--seed", str(args.seed), "--workdir", str(run_folder(args))]
    print(shlex.join(command), flush=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def measure_run(args: Args) -> None:
    """Writes what is measured of a run's checkpoints into distances.json in its folder."""
    from jimgen import data
    from jimgen.evaluation.extractors import load_extractor

    dataset, metric = data.load(args.data, **READING[args.data]), METRIC[args.data]
    nets = [load_extractor(name) for name in EXTRACTORS] if metric == "fd" else []
    rows, folder = [], run_folder(args)
    saved = sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit())
    for number in MEASURED:
        step = saved[0] * number
        if step not in saved:
            continue  # the run is not as far
        found = measured_at(folder, step, dataset, nets, metric, args.num)
        rows.append({"cpu_s": args.budget * number / CHECKPOINTS, "step": step, **found})
        print(json.dumps(rows[-1]), flush=True)
        (folder / "distances.json").write_text(json.dumps(rows, indent=1) + "\n")


def measured_at(
    folder: Path, step: int, dataset: "Dataset", nets: "Sequence[Extractor]", metric: str, num: int
) -> dict[str, float]:
    """A metric of samples that a run drew at a step, of which it has a checkpoint."""
    from jimgen.evaluation.asked import balanced_labels
    from jimgen.evaluation.generated import generate
    from jimgen.evaluation.measure import measure
    from jimgen.runs.load import load_run
    from jimgen.runs.setup import run_keys
    from jimgen.train_step import eval_variables

    with tempfile.TemporaryDirectory() as name:  # a run whose newest checkpoint is that one
        copy = Path(name)
        for path in folder.iterdir():
            if path.is_file():
                shutil.copyfile(path, copy / path.name)
        shutil.copytree(folder / "checkpoints" / str(step), copy / "checkpoints" / str(step))
        run = load_run(copy)
    labels = balanced_labels(run.spec, num)
    images = generate(run.method, eval_variables(run.state), run_keys(0).samples, labels).images
    return measure(images, None, dataset, nets, [metric]).metrics


def plot(args: Args) -> None:
    """Draws the distances of all runs in a folder, the mean over seeds, and prints them."""
    import numpy as np
    from matplotlib.figure import Figure
    from matplotlib.ticker import LogLocator

    from jimgen.curves import PALETTE

    figure = Figure(figsize=(9, 3.6), dpi=192, layout="constrained")
    for panel, extractor in enumerate(EXTRACTORS, start=1):
        axes, name = figure.add_subplot(1, 2, panel), ""
        for colour, model in zip(PALETTE, MODELS, strict=False):
            files = sorted(args.out.glob(f"{model}-*-{args.budget}/distances.json"))
            runs = [json.loads(file.read_text()) for file in files]
            if not runs:
                continue
            name = next(key for key in runs[0][0] if key.startswith(f"fd[{extractor}"))
            reached = [[run[i] for run in runs if i < len(run)] for i in range(max(map(len, runs)))]
            points = [(rows[0]["cpu_s"], [row[name] for row in rows]) for rows in reached]
            for seconds, values in points:
                each = ", ".join(f"{value:.4g}" for value in values)
                print(f"{name} {model} {seconds:.0f} s: {np.mean(values):.4g} ({each})")
            seconds, means = [s for s, _ in points], [np.mean(values) for _, values in points]
            axes.loglog(seconds, means, "o-", color=colour, label=model, lw=1.5)
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("CPU seconds", fontsize=9)
        axes.set_xticks(TICKS, [str(tick) for tick in TICKS], fontsize=8)
        axes.yaxis.set_major_locator(LogLocator(subs=(1, 2, 5)))
        axes.yaxis.set_major_formatter(lambda y, _: f"{y:g}")
        axes.minorticks_off()
        axes.grid(color="#dcdce1", lw=0.5)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(args.picture)


TASKS = {"cost": measure_costs, "train": train, "measure": measure_run, "plot": plot}

if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    TASKS[arguments.task](arguments)
