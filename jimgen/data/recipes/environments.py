"""environments[:GAME]: frames of the 16 procedural games of Procgen, or of one.

- Content: 2,000 train and 200 test frames a game, 64x64 RGB, less those that are there already. They come from a file
  that `procgen_frames.py` makes once, in an environment of its own, as the package needs numpy below 2.
- Labels: the class is the game; one game alone has none.
- Split: by level: test frames come from levels that train has not seen.
- Licence: MIT (Procgen, OpenAI).
- Attribution: K. Cobbe et al., Leveraging Procedural Generation to Benchmark Reinforcement Learning, arXiv:1912.01588.
"""

import os
from pathlib import Path

import numpy as np

from jimgen.data.archive import array_names, read_arrays
from jimgen.data.dataset import UNLABELLED, Arrays, Source, cache_dir
from jimgen.data.recipes.about import About, choice, require_installed
from jimgen.data.recipes.rows import Picture, train_and_test
from jimgen.errors import UserError

FILE = "procgen.npz"
SHAPE = (64, 64, 3)
SCRIPT = Path(__file__).with_name("procgen_frames.py")


def frames_file() -> Path:
    """The file of frames, in the cache folder."""
    return cache_dir() / FILE


ABOUT = About(
    what="frames of the 16 procedural games of Procgen, 64x64 RGB; class = game",
    split="by level: no level is in both",
    licence="MIT",
    attribution="Procgen, OpenAI: Cobbe et al., arXiv:1912.01588",
    install="python3.11 -m venv procgen && procgen/bin/pip install 'numpy<2' procgen-mirror && "
    f"procgen/bin/python {SCRIPT} {os.environ.get('JIMGEN_CACHE') or '~/.cache/jimgen'}/{FILE}",
    is_installed=lambda: frames_file().is_file(),
)


def open_environments(argument: str, size: tuple[int, int] | None) -> Source:
    """Frames of all games, or of the one that is the argument, as stored: `size` is ignored.

    Raises:
        UserError: the file is missing or damaged, or there is no such game.
    """
    require_installed("environments", ABOUT)
    path = frames_file()
    names = array_names(path)
    games = sorted(name.removesuffix("_train") for name in names if name.endswith("_train"))
    chosen = [choice("environments", "game", argument, games)] if argument else games
    arrays = read_arrays(path, [f"{game}_{split}" for game in chosen for split in ("train", "test")])
    pictures = []
    for name, frames in arrays.items():
        if frames.dtype != np.uint8 or frames.shape[1:] != SHAPE:
            raise UserError(f"environments: {path} is damaged at {name}; make it again:\n{ABOUT.install}")
        game, _, split = name.rpartition("_")
        pictures += [Picture(frame, split, chosen.index(game)) for frame in frames]
    train, test = train_and_test(pictures, ["test"])
    if argument:
        train, test = (Arrays(split.images, np.zeros_like(split.labels)) for split in (train, test))
    return Source(train, test, UNLABELLED if argument else tuple(chosen), SHAPE)
