"""Writes frames of Procgen's games, for the data set `environments`. It needs an environment of its own:

    python3.11 -m venv procgen && procgen/bin/pip install 'numpy<2' procgen-mirror
    procgen/bin/python jimgen/data/recipes/procgen_frames.py ~/.cache/jimgen/procgen.npz

The package needs numpy below 2, so this file imports nothing of jimgen. Games are played at random, 64 levels at a
time, and each level gives one frame. The levels of train and of test differ.
"""

import sys

import numpy as np

NUM_TRAIN, NUM_TEST = 2000, 200  # frames a game
LEVELS = {"train": (0, 1_000_000), "test": (1_000_000, 1_000_000)}  # first level, number of levels
ACTIONS = 15
AT_ONCE = 64
STEPS = 30  # at most, before the frame


def frames(game: str, num: int, levels: tuple[int, int]) -> np.ndarray:
    """Frames uint8 [num, 64, 64, 3] of a game from random levels, each after 1 to 29 random steps."""
    from procgen import ProcgenGym3Env  # pyright: ignore[reportMissingImports]

    found = []
    for batch in range(-(-num // AT_ONCE)):
        rng = np.random.default_rng([levels[0], batch])
        env = ProcgenGym3Env(
            num=AT_ONCE,
            env_name=game,
            start_level=levels[0],
            num_levels=levels[1],
            distribution_mode="easy",
            rand_seed=int(rng.integers(2**31)),
        )
        for _ in range(int(rng.integers(1, STEPS))):
            env.act(rng.integers(0, ACTIONS, AT_ONCE).astype(np.int32))
        found.append(env.observe()[1]["rgb"].copy())
        env.close()
    return np.concatenate(found)[:num]


def main() -> None:
    from procgen.env import ENV_NAMES  # pyright: ignore[reportMissingImports]

    if len(sys.argv) != 2:
        sys.exit(__doc__)
    arrays = {}
    for game in ENV_NAMES:
        for split, num in (("train", NUM_TRAIN), ("test", NUM_TEST)):
            arrays[f"{game}_{split}"] = frames(game, num, LEVELS[split])
        print(f"{game}: {NUM_TRAIN} + {NUM_TEST} frames", flush=True)
    with open(sys.argv[1], "wb") as file:
        np.savez(file, **arrays)


if __name__ == "__main__":
    main()
