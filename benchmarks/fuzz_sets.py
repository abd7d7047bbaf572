"""Damaged tables of labels and damaged records."""

from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import damage
from fuzz_trial import Trial, require
from numpy.random import Generator
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import Arrays, Attribute, Dataset, DataSpec
from jimgen.data.records import write_records

COLOURS = ("black", "none", "red")


def label_table(folder: Path, rng: Generator) -> Trial:
    """Intact pictures with a labels.csv, written in one of many ways, intact or damaged."""
    root, count = folder / "set", int(rng.integers(8, 20))
    root.mkdir()
    rows = []
    for i in range(count):
        Image.new("L", (4, 4), 10 * i).save(root / f"{i}.png")
        rows.append([f"{i}.png", str(i % 2), COLOURS[i % 3]])
    separator = str(rng.choice([",", ";", "\t"]))
    quote = '"' if rng.random() < 0.3 else ""
    lines = [separator.join(f"{quote}{cell}{quote}" for cell in row) for row in [["file", "class", "hair"], *rows]]
    text = str(rng.choice(["\n", "\r\n"])).join(lines)
    content = text.encode(str(rng.choice(["utf-8", "utf-8-sig", "utf-16"])))
    intact = rng.random() < 0.2
    (root / "labels.csv").write_bytes(content if intact else damage(content, rng))

    def check(found: Any) -> None:
        spec, images = found.spec, np.concatenate([found.train.images, found.test.images])
        labels = np.concatenate([found.train.labels, found.test.labels])
        require(len(images) == count and labels.dtype == np.int32, f"{len(images)} pictures, {labels.dtype} labels")
        labels = labels.reshape(count, -1)
        require(labels.shape[1] == len(spec.columns), f"{labels.shape} labels, {len(spec.columns)} columns")
        sizes = [len(column.values) for column in spec.columns]
        require(bool((labels >= 0).all() and (labels < sizes).all()), "labels out of range")
        if intact:
            i = images[:, 0, 0, 0] // 10
            require(spec.attributes == (Attribute("hair", COLOURS),), f"{spec.attributes}")
            order = np.array([COLOURS.index(COLOURS[row % 3]) for row in i])
            require(np.array_equal(labels, np.stack([i % 2, order], 1)), "other labels")

    return Trial(lambda: load(f"folder:{root}"), check, must_read=intact)


def records(folder: Path, rng: Generator) -> Trial:
    """What `jimgen pack` writes, with one damaged file: all of the set, exactly, or a UserError."""
    shape = (int(rng.integers(2, 9)), int(rng.integers(2, 9)), int(rng.choice([1, 3])))
    counts = (int(rng.integers(3, 40)), int(rng.integers(1, 9)))
    splits = [
        Arrays(rng.integers(256, size=(count, *shape)).astype(np.uint8), np.stack([np.arange(count) % 2] * 2, 1))
        for count in counts
    ]
    spec = DataSpec("x", shape, 2, ("a", "b"), *counts, "", (Attribute("hair", ("red", "black")),))
    write_records(Dataset(spec, splits[0], splits[1]), folder / "set", shard_bytes=int(rng.choice([500, 2**20])))
    intact = rng.random() < 0.1
    if not intact:
        file = sorted((folder / "set").iterdir())[int(rng.integers(len(list((folder / "set").iterdir()))))]
        file.write_bytes(damage(file.read_bytes(), rng))

    def check(found: Any) -> None:
        require(found.spec._replace(name="x", hash="") == spec, f"{found.spec}")
        for split, name in zip(splits, ("train", "test"), strict=True):
            read = getattr(found, name)
            require(np.array_equal(read.images, split.images), f"other {name} images")
            require(np.array_equal(read.labels, split.labels), f"other {name} labels")

    return Trial(lambda: load(f"records:{folder / 'set'}"), check, must_read=intact)
