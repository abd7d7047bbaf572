"""Control of attributes by a run on faces:STYLE, also for a combination that its training never showed.

    python benchmarks/held_out_faces.py RUN --held-out hair=red glasses!=none --num 700 --out held-out.png

Draws one image for the labels of each test picture, and one for the labels of as many real faces that have the
combination, all with the same latents. A classifier of every attribute, trained on the whole training split, says
how often it finds what the labels ask for, in the samples and in the real faces themselves. Prints a table and one JSON
line, and draws real faces of the combination above samples for their labels.
"""

import dataclasses
import itertools
import json
import time
from pathlib import Path
from typing import Annotated

import numpy as np
import tyro

from jimgen.alpha import composite
from jimgen.data.attributes import combination_by_name
from jimgen.data.dataset import Dataset, read_rows
from jimgen.data.recipes.faces import faces
from jimgen.errors import UserError, errors_in_a_line
from jimgen.evaluation.agreement import agreement
from jimgen.evaluation.generated import generate
from jimgen.noise import key_of
from jimgen.pictures import grid_of_rows, save_png
from jimgen.runs.load import Run, load_run
from jimgen.runs.subject import load_data
from jimgen.train_step import eval_variables

FIRST_SEED = 2_000_000_000  # of the real faces: neither train nor test has these
STEPS = 1500  # of the classifier, more than usual: each kind of glasses is worn by one face in seventy
SHOWN = 10  # faces in a row of the sheet


@dataclasses.dataclass(frozen=True)
class Args:
    run: Annotated[Path, tyro.conf.Positional]
    """folder of a conditional run on faces:STYLE, trained with --without"""
    held_out: tuple[str, ...] = ("hair=red", "glasses!=none")
    """the combination that training left out"""
    num: int = 700
    """number of images of the test split's labels, and of the combination"""
    seed: int = 0
    """random seed for the latents"""
    change: tuple[str, ...] = ()
    """config fields that sampling alone depends on, with new values: guidance=3"""
    out: Path = Path("held-out.png")
    """path of the sheet"""


def main(args: Args) -> None:
    run = load_run(args.run, changes=args.change)
    kind, _, style = run.config.data.partition(":")
    if kind != "faces" or not run.conditional:
        raise UserError(f"{args.run} is no conditional run on faces:STYLE")
    dataset = load_data(run.config, name=run.config.data)  # whole: the classifier is to know the combination
    shown = read_rows(dataset.test, range(min(args.num, dataset.spec.num_test)))
    held_out = _faces_with(args.held_out, style.partition(":")[0], args.num, dataset, run)
    found, began = {}, time.perf_counter()
    drawn = {}
    for name, (images, labels) in {"as in training": shown, "held out": held_out}.items():
        drawn[name] = generate(run.method, eval_variables(run.state), key_of(args.seed), labels).images
        found[f"samples, {name}"] = agreement(drawn[name], labels, dataset, steps=STEPS)
        found[f"real, {name}"] = agreement(images, labels, dataset, steps=STEPS)
    names = sorted({attribute for values in found.values() for attribute in values})
    print("| attribute | " + " | ".join(found) + " |\n|---" * 1 + "|---" * len(found) + "|")
    for name in names:
        print(f"| {name} | " + " | ".join(f"{values.get(name, float('nan')):.1f}" for values in found.values()) + " |")
    print(json.dumps({"num": args.num, "seconds": round(time.perf_counter() - began), **found}))
    rows = np.linspace(0, len(held_out[0]) - 1, 3 * SHOWN).astype(int)
    pairs = zip(
        held_out[0][rows].reshape(3, SHOWN, *run.spec.shape),
        drawn["held out"][rows].reshape(3, SHOWN, *run.spec.shape),
        strict=True,
    )
    save_png(args.out, grid_of_rows(list(itertools.chain.from_iterable(pairs))))
    print(args.out)


def _faces_with(
    settings: tuple[str, ...], style: str, num: int, dataset: Dataset, run: Run
) -> tuple[np.ndarray, np.ndarray]:
    """Real faces that have a combination, as many of each of its members: images uint8 and labels int32 of `num`."""
    columns = dataset.spec.columns
    combination = combination_by_name(columns, "+".join(settings), "--held-out")
    members = [
        {columns[place].name: columns[place].values[value] for place, value in zip(combination, values, strict=True)}
        for values in itertools.product(*combination.values())
    ]
    each = -(-num // len(members))
    parts = []
    for i, member in enumerate(members):
        seeds = range(FIRST_SEED + i * each, FIRST_SEED + (i + 1) * each)
        parts.append(faces(style, seeds, run.spec.shape[:2], **member))
    images, labels = (np.concatenate(arrays)[:num] for arrays in zip(*parts, strict=True))
    return composite(images, run.config.fitting().background), labels


if __name__ == "__main__":
    with errors_in_a_line():
        main(tyro.cli(Args, description=__doc__))
