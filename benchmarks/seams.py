"""Whether a run's textures tile without seams.

    python benchmarks/seams.py RUN --num 256 --out tiling.png

Prints the seam ratio of samples and of training images (1: no seam; see `jimgen.metrics.seams`), and draws the first
samples, each tiled 3x3.
"""

import dataclasses
import json
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jimgen.data.dataset import num_rows, read_rows
from jimgen.errors import errors_in_a_line
from jimgen.metrics.seams import seam_ratio
from jimgen.pictures import grid, save_png, to_uint8
from jimgen.runs.load import load_run
from jimgen.runs.subject import draw_images, load_data

SHOWN, COLUMNS = 8, 4  # tiled samples in the picture


@dataclasses.dataclass(frozen=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of the run"""
    num: int = 256
    """number of samples"""
    seed: int = 0
    """random seed for the latents"""
    out: Path = Path("tiling.png")
    """path of the picture"""


def main(args: Args) -> None:
    run = load_run(args.run)
    drawn = to_uint8(draw_images(run, args.num, args.seed).images)
    train = load_data(run.config).train
    real, _ = read_rows(train, range(min(args.num, num_rows(train))))
    tiled = np.tile(drawn[:SHOWN], (1, 3, 3, 1))
    save_png(args.out, grid(tiled, columns=COLUMNS, gap=4))
    print(json.dumps({"samples": round(seam_ratio(drawn), 4), "real": round(seam_ratio(real), 4), "num": len(drawn)}))
    print(args.out)


if __name__ == "__main__":
    with errors_in_a_line():
        main(tyro.cli(Args, description=__doc__))
