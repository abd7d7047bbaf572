"""The effect of classifier-free guidance on a run: class accuracy and Frechet distance over scales.

    python benchmarks/guidance.py RUN --scales 1 1.5 2 3 5 --num 1000 --out docs/images/guidance.png

Each scale uses the same latents and labels (the classes in turn). The classifier of the run's data measures the share
of images that it recognises as their class, and a Frechet distance in its features to as many training images. Prints a
table and one JSON line, and draws both curves.
"""

import dataclasses
import io
import json
import sys
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jimgen.curves import PALETTE
from jimgen.errors import UserError
from jimgen.evaluation.extractors import load_extractor
from jimgen.evaluation.measure import measure, title
from jimgen.evaluation.quality import OF_DATA
from jimgen.files import write_atomically
from jimgen.runs.load import load_run
from jimgen.runs.subject import draw_images, load_data


@dataclasses.dataclass(frozen=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of a class-conditional run whose sampling depends on `guidance`"""
    scales: tuple[float, ...] = (1.0, 1.5, 2.0, 3.0, 5.0)
    """guidance weights to compare; 1 is no guidance"""
    num: int = 1000
    """number of images per scale"""
    seed: int = 0
    """random seed for the latents"""
    out: Path = Path("guidance.png")
    """path of the plot"""


def main(args: Args) -> None:
    points = []
    for scale in args.scales:
        began = time.perf_counter()
        run = load_run(args.run, changes=[f"guidance={scale}"])
        images, labels, *_ = draw_images(run, args.num, args.seed)
        if labels is None or run.spec.name not in OF_DATA:
            raise UserError(
                f"{args.run}: guidance needs a run with labels, of data with a classifier: {', '.join(OF_DATA)}"
            )
        net = load_extractor(OF_DATA[run.spec.name])
        measured = measure(images, labels, load_data(run.config), [net], ["fd"])
        recognised = np.mean(measured.outputs[title(net)].logits.argmax(axis=1) == labels)
        points.append({"scale": scale, "accuracy": float(recognised), "fd": next(iter(measured.metrics.values()))})
        seconds = time.perf_counter() - began
        print(f"scale {scale:g}: accuracy {recognised:.3f}, fd {points[-1]['fd']:.3f}, {seconds:.0f} s", flush=True)
    write_atomically(args.out, draw(points))
    print(args.out)
    print(json.dumps({"run": str(args.run), "num": args.num, "seed": args.seed, "points": points}))


def draw(points: list[dict[str, float]]) -> bytes:
    """A PNG of accuracy and distance over the scale, side by side."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 2.8), dpi=192, layout="constrained", facecolor="white")
    for place, (name, label) in enumerate({"accuracy": "recognised as their class", "fd": "Frechet distance"}.items()):
        axes = figure.add_subplot(1, 2, place + 1)
        axes.plot(
            [point["scale"] for point in points], [point[name] for point in points], marker="o", color=PALETTE[place]
        )
        axes.set_xlabel("guidance scale")
        axes.set_title(label, fontsize=10)
        axes.spines[["top", "right"]].set_visible(False)
        axes.grid(axis="y", color="#dcdce1", lw=0.6)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


if __name__ == "__main__":
    try:
        main(tyro.cli(Args, description=__doc__))
    except UserError as error:
        sys.exit(f"error: {error}")
