"""GANs of few images, with and without augmentation: Frechet distance and overfitting over the steps.

    python benchmarks/few_images.py data --out runs/few
    python benchmarks/few_images.py train --model stylegan2-ada --out runs/few
    python benchmarks/few_images.py measure --model stylegan2-ada --out runs/few
    python benchmarks/few_images.py plot --out runs/few --picture few_images.png

`data` writes the first 1000 training images of Fashion-MNIST and the whole test split into a file. `measure` takes the
distance of samples to that test split at 10 checkpoints. Overfitting is that of `jimgen.methods.health`: 0 where
D rates test images as it rates training images, 1 where it rates them as it rates fakes.
"""

import json
import os
import shlex
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

import numpy as np
import tyro
from gans_over_time import EXTRACTORS, measured_at

ROOT = Path(__file__).parent.parent
NUM = 1000  # training images
MODELS = {  # name -> experiment and its flags
    "r3gan": ("r3gan", ()),
    "r3gan-augmented": ("r3gan", ("--last-augmentation", "0.3")),
    "stylegan2": ("stylegan2", ("--augment-target", "0")),
    "stylegan2-ada": ("stylegan2", ("--augment-images", "100000")),
}
CHECKPOINTS = 10


@dataclass(frozen=True)
class Args:
    task: tyro.conf.Positional[Literal["data", "train", "measure", "plot"]]
    """what to do"""
    out: Path
    """folder of the data and the runs"""
    model: str = ""
    """model to train, of MODELS"""
    steps: int = 5000
    """train steps; a multiple of 10"""
    num: int = 5000
    """number of samples at each checkpoint"""
    seed: int = 0
    """random seed"""
    picture: Path = Path("few_images.png")
    """path of the plot"""


def write_data(args: Args) -> None:
    """Writes the data set of few training images."""
    from jimgen import data
    from jimgen.data.dataset import num_rows, read_rows

    dataset = data.load("fashion_mnist", size=32, fit="pad")
    args.out.mkdir(parents=True, exist_ok=True)
    images, labels = read_rows(dataset.train, range(NUM))
    test_images, test_labels = read_rows(dataset.test, range(num_rows(dataset.test)))
    np.savez(
        args.out / "few.npz",
        train_images=images,
        train_labels=labels,
        test_images=test_images,
        test_labels=test_labels,
    )


def train(args: Args) -> None:
    """Trains a model on them."""
    experiment, flags = MODELS[args.model]
    every = str(args.steps // CHECKPOINTS)
    script = [sys.executable, str(ROOT / "experiments" / f"{experiment}.py"), "--data", f"npz:{args.out / 'few.npz'}"]
    often = ["--save-every", every, "--eval-every", every, "--keep", str(CHECKPOINTS)]
    command = [*script, *flags, "--steps", str(args.steps), *often, "--seed", str(args.seed), "--mode", "jit"]
    command += ["--workdir", str(args.out / args.model)]
    print(shlex.join(command), flush=True)
    path = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
    subprocess.run(command, check=True, env={**os.environ, "PYTHONPATH": path})


def measure_run(args: Args) -> None:
    """Writes the distances of a run's checkpoints to the test split into distances.json in its folder."""
    from jimgen import data
    from jimgen.evaluation.extractors import load_extractor

    dataset = data.load("fashion_mnist", size=32, fit="pad")
    dataset = dataset._replace(train=dataset.test)
    nets = [load_extractor(name) for name in EXTRACTORS]
    rows, folder = [], args.out / args.model
    for step in sorted(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdigit()):
        distances = measured_at(folder, step, dataset, nets, "fd", args.num)
        rows.append({"step": step, **distances})
        print(json.dumps(rows[-1]), flush=True)
        (folder / "distances.json").write_text(json.dumps(rows, indent=1) + "\n")


def plot(args: Args) -> None:
    """Draws distances and overfitting of all runs in the folder."""
    from matplotlib.figure import Figure

    from jimgen.curves import PALETTE

    figure = Figure(figsize=(12, 3.4), dpi=192, layout="constrained")
    panels = figure.subplots(1, 3)
    for colour, model in zip(PALETTE, MODELS, strict=False):
        folder = args.out / model
        if not (folder / "distances.json").exists():
            continue
        rows = json.loads((folder / "distances.json").read_text())
        steps = [row["step"] for row in rows]
        for axes, extractor in zip(panels, EXTRACTORS, strict=False):
            name = next(key for key in rows[0] if key.startswith(f"fd[{extractor}"))
            axes.semilogy(steps, [row[name] for row in rows], color=colour, label=model, lw=1.5)
            axes.set_title(name, loc="left", fontsize=10)
        lines = [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]
        found = [(line["step"], line["test/overfitting"]) for line in lines if "test/overfitting" in line]
        panels[2].plot(*zip(*found, strict=True), color=colour, label=model, lw=1.5)
    panels[2].set_title("overfitting of D", loc="left", fontsize=10)
    for axes in panels:
        axes.set_xlabel("step", fontsize=9)
        axes.grid(color="#dcdce1", lw=0.5)
    panels[0].legend(frameon=False, fontsize=9)
    figure.savefig(args.picture)


TASKS = {"data": write_data, "train": train, "measure": measure_run, "plot": plot}

if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    TASKS[arguments.task](arguments)
