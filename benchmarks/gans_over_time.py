"""Frechet distances of GANs over CPU time, on one core each.

    python benchmarks/gans_over_time.py cost --out costs.json
    python benchmarks/gans_over_time.py train --model r3gan --costs costs.json --out runs/over-time
    python benchmarks/gans_over_time.py plot --out runs/over-time --picture fd_over_time.png

`cost` measures the CPU seconds of a train step of each model, in turns within one process: run it alone, pinned to one
core (`taskset -c 0`). `train` trains a model to as many steps as the budgets of CPU time allow at that cost, and
measures it after each leg. The distances depend on the steps alone, so other work on the machine does not change
the result.
"""

import json
import os
import shlex
import statistics
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import tyro

ROOT = Path(__file__).parent.parent
DATA = ("--data", "fashion_mnist", "--size", "32", "--fit", "pad")
MODELS = {  # name -> experiment and its flags
    "dcgan": ("dcgan", ()),
    "sngan": ("sngan", ()),
    "stylegan2": ("stylegan2", ()),
    "r3gan": ("r3gan", ()),
}
BUDGETS = (300, 600, 1400, 4000)  # CPU seconds
EXTRACTORS = "fashion_mnist_classifier,efficientnet_lite0@64"
WARMUP, TIMED = 32, 32  # steps; both are multiples of all periods, since a program may be compiled twice


@dataclass(frozen=True)
class Args:
    task: tyro.conf.Positional[Literal["cost", "train", "plot"]]
    """what to do"""
    out: Path
    """file of the costs, or folder of the runs"""
    model: str = ""
    """model to train, of MODELS"""
    costs: Path = Path("costs.json")
    """file of the costs"""
    seed: int = 0
    """random seed"""
    num: int = 5000
    """samples to measure"""
    picture: Path = Path("fd_over_time.png")
    """path of the plot"""


def measure_costs(out: Path) -> None:
    """Writes the CPU seconds of a step of each model."""
    import jax

    from jimgen import data
    from jimgen.cpu import keep_freed_memory
    from jimgen.data.batches import batches
    from jimgen.runs.setup import compiled_step, initialise
    from jimgen.train_step import due_at

    keep_freed_memory()
    dataset, key, running = data.load("fashion_mnist", size=32, fit="pad"), jax.random.key(0), {}
    for name, (experiment, flags) in MODELS.items():
        module = _module(experiment)
        config = tyro.cli(module.Config, args=[*DATA, "--mode", "jit", *flags])
        method = module.build(config, dataset.spec)
        step = compiled_step(method, config)
        state = jax.jit(lambda method=method: initialise(method, dataset.spec, 0))()
        feed = batches(dataset.train, batch_size=config.batch_size, seed=0)
        running[name] = [method, step, state, feed, []]
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
    out.write_text(json.dumps(costs, indent=2) + "\n")
    print(json.dumps(costs, indent=2))


def _mean_of_medians(seconds: list[tuple[bool, float]]) -> float:
    """The mean cost of a step, from the medians of those with and without a periodic objective."""
    parts = [[s for due, s in seconds if due == kind] for kind in (False, True)]
    return sum(len(part) * statistics.median(part) for part in parts if part) / len(seconds)


def _module(experiment: str) -> Any:
    import importlib

    sys.path.insert(0, str(ROOT / "experiments"))
    return importlib.import_module(experiment)


def train(args: Args) -> None:
    """Trains a model in legs, and measures it after each."""
    cost = json.loads(args.costs.read_text())[args.model]
    experiment, flags = MODELS[args.model]
    run = args.out / f"{args.model}-{args.seed}"
    steps = [round(budget / cost) for budget in BUDGETS]
    schedule = ["--schedule-steps", str(steps[-1])] if hasattr(_module(experiment).Config, "schedule_steps") else []
    for budget, last in zip(BUDGETS, steps, strict=True):
        script = [sys.executable, str(ROOT / "experiments" / f"{experiment}.py"), *DATA, *flags, *schedule]
        _run([*script, "--steps", str(last), "--seed", str(args.seed), "--workdir", str(run), "--mode", "jit"])
        folder = args.out / f"{args.model}-{args.seed}-{budget}"
        command = [sys.executable, "-m", "jimgen.cli", "evaluate", str(run), "--num", str(args.num)]
        _run([*command, "--metrics", "fd,prdc", "--extractors", EXTRACTORS, "--out", str(folder)])


def _run(command: list[str]) -> None:
    print(shlex.join(command), flush=True)
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


def plot(args: Args) -> None:
    """Draws the distances of all runs in a folder, the mean over seeds, and prints them."""
    import numpy as np
    from matplotlib.figure import Figure

    from jimgen.curves import PALETTE

    figure = Figure(figsize=(9, 3.6), dpi=192, layout="constrained")
    for panel, extractor in enumerate(EXTRACTORS.split(","), start=1):
        axes, name = figure.add_subplot(1, 2, panel), ""
        for colour, model in zip(PALETTE, MODELS, strict=False):
            points = []
            for budget in BUDGETS:
                files = sorted(args.out.glob(f"{model}-*-{budget}/evaluation.json"))
                found = [json.loads(file.read_text())["metrics"] for file in files]
                name = next((n for row in found for n in row if n.startswith(f"fd[{extractor}")), name)
                if found:
                    points.append((budget, [row[name] for row in found]))
            for budget, values in points:
                print(f"{name} {model} {budget} s: {np.mean(values):.4g} ({', '.join(f'{v:.4g}' for v in values)})")
            axes.loglog(
                [b for b, _ in points], [np.mean(v) for _, v in points], "o-", color=colour, label=model, lw=1.5
            )
        axes.set_title(name, loc="left", fontsize=10)
        axes.set_xlabel("CPU seconds", fontsize=9)
        axes.set_xticks(BUDGETS, [str(budget) for budget in BUDGETS])
        axes.minorticks_off()
        axes.grid(color="#dcdce1", lw=0.5)
        axes.legend(frameon=False, fontsize=9)
    figure.savefig(args.picture)


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    if arguments.task == "cost":
        measure_costs(arguments.out)
    elif arguments.task == "train":
        train(arguments)
    else:
        plot(arguments)
