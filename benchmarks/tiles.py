"""A large noisy picture, denoised by a flow in overlapping tiles: PSNR, and whether seams show.

    python benchmarks/tiles.py runs/scenery picture.png --sigma 25 --draws 4

The seam ratio is the mean absolute difference of neighbouring pixels across edges of tiles over that elsewhere: where
no seam shows, it is that of the picture itself, about 1. For comparison the same picture is denoised tile by tile
without overlap, each by itself. Other denoisers are scikit-image's.
"""

import json
import time
from dataclasses import dataclass
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import tyro
from PIL import Image
from restoration import LEVELS, mean_psnr
from skimage.restoration import denoise_nl_means, denoise_tv_chambolle

from jimgen.apps.degradations import identity
from jimgen.apps.restoration import Observation, Steps, restore
from jimgen.pictures import grid_of_rows, save_png, to_uint8
from jimgen.runs.compilation_cache import keep_compiled_programs
from jimgen.runs.load import load_run
from jimgen.sampling.tiles import starts
from jimgen.train_step import eval_variables

OVERLAP = 0.5  # the default of `tiled`


@dataclass(frozen=True)
class Args:
    run: tyro.conf.Positional[Path]
    """folder of the run: a flow on small colour images"""
    picture: tyro.conf.Positional[Path]
    """picture of at least that size"""
    sigma: float = 25
    """standard deviation of the noise in grey levels"""
    draws: int = 4
    """number of draws"""
    steps: int = 25
    """steps of the flow"""
    seed: int = 0
    """random seed of noise and draws"""
    out: Path = Path("tiles")
    """folder for results.json, the pictures and a sheet of cuttings"""


def seam_ratio(image: np.ndarray, edges: list[list[int]]) -> float:
    """Mean |difference| between rows and columns at `edges` over that elsewhere; given is what follows each edge."""
    at, elsewhere = [], []
    for axis, places in enumerate(edges):
        difference = np.abs(np.diff(image, axis=axis)).mean(axis=(1 - axis, 2))
        chosen = np.isin(1 + np.arange(len(difference)), places)
        at.append(difference[chosen].mean())
        elsewhere.append(difference[~chosen].mean())
    return float(sum(at) / sum(elsewhere))


def edges_of(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels after an edge of a tile, inside the picture."""
    firsts = starts(side, tile, overlap)
    return sorted({*firsts, *(first + tile for first in firsts)} - {0, side})


def main(args: Args) -> None:
    keep_compiled_programs()
    loaded = load_run(args.run)
    tile = loaded.spec.shape[:2]
    truth = np.asarray(Image.open(args.picture).convert("RGB"), np.float32) / LEVELS - 1
    truth = truth[: truth.shape[0] // tile[0] * tile[0], : truth.shape[1] // tile[1] * tile[1]]
    size = truth.shape[:2]
    rng = np.random.default_rng(args.seed)
    noisy = truth + args.sigma / LEVELS * rng.standard_normal(truth.shape, np.float32)

    def denoised(y: np.ndarray, number: int) -> np.ndarray:
        """One draw for each picture [n, h, w, c]."""
        seen = Observation(identity, jnp.asarray(y), args.sigma / LEVELS, y.shape[1:3])
        open_labels = jnp.full(len(y), loaded.spec.num_classes if loaded.conditional else 0, jnp.int32)
        key = jax.random.fold_in(jax.random.key(args.seed + 1), number)
        return restore(loaded.method, eval_variables(loaded.state), seen, open_labels, key, Steps(args.steps))

    began = time.process_time()
    draws = np.concatenate([denoised(noisy[None], i) for i in range(args.draws)])
    seconds = (time.process_time() - began) / args.draws
    rows, columns = size[0] // tile[0], size[1] // tile[1]
    parts = noisy.reshape(rows, tile[0], columns, tile[1], 3).swapaxes(1, 2).reshape(-1, *tile, 3)
    alone = denoised(parts, 0).reshape(rows, columns, *tile, 3).swapaxes(1, 2).reshape(truth.shape)
    sigma = args.sigma / LEVELS / 2
    found = {
        "noisy": noisy,
        "total variation": denoise_tv_chambolle((noisy + 1) / 2, weight=2.5 * sigma, channel_axis=-1) * 2 - 1,
        "non-local means": denoise_nl_means((noisy + 1) / 2, 5, 6, 0.8 * sigma, sigma=sigma, channel_axis=-1) * 2 - 1,
        "tiles by themselves, one draw": alone,
        "overlapping tiles, one draw": draws[0],
        "overlapping tiles, mean of draws": draws.mean(0),
        "the picture itself": truth,
    }
    edges = {share: [edges_of(*sides, share) for sides in zip(size, tile, strict=True)] for share in (0, OVERLAP)}
    everywhere = np.ones(size, bool)
    results = {
        name: {
            "psnr": mean_psnr(x[None], truth[None], everywhere),
            "seam ratio at the tiles": seam_ratio(x, edges[OVERLAP]),
            "seam ratio at tiles without overlap": seam_ratio(x, edges[0]),
        }
        for name, x in found.items()
    }
    print(json.dumps({**results, "cpu_seconds_of_a_draw": seconds}, indent=1))
    args.out.mkdir(parents=True, exist_ok=True)
    (args.out / "results.json").write_text(json.dumps({**results, "cpu_seconds": seconds}, indent=1) + "\n")
    for name, x in found.items():
        save_png(args.out / f"{name.replace(' ', '-').replace(',', '')}.png", to_uint8(x))
    middle = slice(size[0] // 2 - 96, size[0] // 2 + 96), slice(size[1] // 2 - 96, size[1] // 2 + 96)
    save_png(args.out / "sheet.png", grid_of_rows([to_uint8(np.stack([x[middle] for x in found.values()]))]))


if __name__ == "__main__":
    main(tyro.cli(Args, description=__doc__))
