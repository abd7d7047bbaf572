"""Metrics of runs and of sets of images: evaluate, compare, reference."""

from pathlib import Path
from typing import Any, Literal

import tyro

from jimgen.commands.begin import (
    RunFolder,
    output_file,
    output_folder,
    require_positive,
    say_what_is_left_out,
    start_jax,
)
from jimgen.errors import UserError


def evaluate(
    source: RunFolder,
    /,
    data: str | None = None,
    num: int = 10_000,
    metrics: str = "fd,kid,prdc,copying",
    extractors: str = "",
    seed: int = 0,
    classes: Literal["balanced", "frequency"] = "balanced",
    best: bool = False,
    change: tuple[str, ...] = (),
    reference: tuple[Path, ...] = (),
    size: int | None = None,
    fit: Literal["resize", "pad"] | None = None,
    channels: Literal[1, 3] | None = None,
    bits: int | None = None,
    out: Path | None = None,
) -> None:
    """Measure a run, an .npz of images or a folder of pictures against real images; the last line is JSON.

    Beside each value stand those of real test images and of one Gaussian per class, the baseline to beat.

    Args:
        source: folder of a run, .npz with `images` (uint8 [n, h, w, c]), or folder or .zip of pictures.
        data: real images, as in training; by default the run's own.
        num: images drawn, or the first ones of a set.
        metrics: of fd, fd_infinity, kid, is, prdc, cmmd, copying, fls, cas; separated by commas.
        extractors: names separated by commas; by default the data's own classifier, if there is one, and
            efficientnet_lite0@64. Also inception, and PATH.py:FUNCTION for one's own.
        seed: of the latents and of what is random in the metrics.
        classes: of a run: balanced, or by their frequency in training.
        best: of a run: its best checkpoint, not its newest.
        change: of a run: fields of its config that drawing depends on: guidance=3 num_steps=50.
        reference: files of `jimgen reference`, one for each extractor, in place of the data's statistics.
        size, fit, channels: how real images are brought to the shape of the others; each by default as the run did, and
            for a set of images as they are, fit: resize.
        bits: used by grey pictures of 16, as 12; by default as the run did, else what the files say.
        out: folder of the results. Default RUN/evaluation
    """
    import json

    from jimgen import data as sets
    from jimgen.evaluation.evaluate import evaluate as measured
    from jimgen.evaluation.measure import check_metrics
    from jimgen.evaluation.results import RESULTS
    from jimgen.noise import require_seed
    from jimgen.runs import report as pages
    from jimgen.runs import subject as subjects
    from jimgen.runs.folder import REPORT

    require_positive(num=num)
    require_seed(seed)
    folder = output_folder(out or subjects.default_folder(source))
    chosen = [name.strip() for name in metrics.split(",") if name.strip()]
    check_metrics(chosen)
    with start_jax():
        subject, run = subjects.subject_of(source, num, seed, classes, folder, best, change, bits)
        if run is not None:
            dataset = subjects.load_data(run.config, name=data, size=size, fit=fit, channels=channels, bits=bits)
        elif data is not None:
            dataset = sets.load(data, size=size, fit=fit or "resize", channels=channels, bits=bits)
        else:
            raise UserError(f"{source} does not say what it should be compared with: give --data")
        say_what_is_left_out(dataset)
        result = measured(
            subject,
            dataset,
            extractors=[name.strip() for name in extractors.split(",") if name.strip()],
            metrics=chosen,
            references=reference,
            seed=seed,
        )
    _print_metrics(result)
    if run is not None and out is None:
        pages.write_report([source], source / REPORT)
    print(subject.folder / RESULTS)
    values = {name: row["value"] for name, row in result["metrics"].items()}
    print(json.dumps({**values, "num": num, "data": dataset.spec.name}))


def compare(runs: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Put evaluated runs side by side; runs that differ in their seed alone become a mean with a 95% interval.

    Args:
        runs: folders of runs, or of evaluations.
    """
    import json
    import math

    from rich.table import Table

    from jimgen.runs.subject import compare_runs

    groups, beside = compare_runs(runs)
    table = Table(title=f"{sum(len(group.runs) for group in groups)} runs")
    table.add_column("metric", no_wrap=True)
    for group in groups:
        table.add_column(group.name, justify="right")
    columns = [who for who in ("real", "gaussian") if any(who in row for row in beside.values())]
    for who in columns:
        table.add_column({"real": "real images", "gaussian": "Gaussian per class"}[who], justify="right")
    for name, others in beside.items():
        cells = []
        for group in groups:
            found = group.metrics.get(name)
            width = "" if found is None or math.isnan(found.half_width) else f" ± {found.half_width:.2g}"
            cells.append("" if found is None else f"{found.mean:.4g}{width}")
        table.add_row(name, *cells, *(f"{others[who]:.4g}" if who in others else "" for who in columns))
    _show(table)
    rows = {group.name: {name: found._asdict() for name, found in group.metrics.items()} for group in groups}
    print(json.dumps(rows).replace("NaN", "null"))


def reference(
    data: tyro.conf.Positional[str],
    out: Path,
    extractor: str = "efficientnet_lite0@64",
    split: Literal["train", "test"] = "train",
    num: int = 0,
    features: bool = False,
    size: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    channels: Literal[1, 3] | None = None,
    bits: int | None = None,
) -> None:
    """Make reference statistics of one's own data: a file for `jimgen evaluate --reference`.

    Args:
        data: digits, fashion_mnist, tfds:NAME, folder:PATH (or a .zip of pictures) or npz:PATH.
        out: the file, .npz.
        extractor: whose features.
        split: which images.
        num: how many of them; 0 for all. A distance compares only with others of the same number.
        features: keep the features too, which kid, prdc and cmmd need; the file is larger.
        size, fit, channels, bits: as in training.
    """
    from jimgen import data as sets
    from jimgen.data.dataset import num_rows
    from jimgen.evaluation.extractors import load_extractor
    from jimgen.evaluation.reference import make_reference, save_reference

    out = output_file(out, ".npz")
    if num != 0:
        require_positive(num=num)
    with start_jax():
        net = load_extractor(extractor)
        dataset = sets.load(data, size=size, fit=fit, channels=channels, bits=bits)
        say_what_is_left_out(dataset)
        count = num or num_rows(dataset.train if split == "train" else dataset.test)
        made = make_reference(dataset, net, split=split, count=count, keep_features=features)
    save_reference(out, made)
    print(f"{count} images of {data} ({split}), {len(made.moments.mean)} features of {extractor}: {out}")


def _show(table: Any) -> None:
    """Prints a table, in which brackets are not markup; to a file or a pipe 240 wide, so that no number is cut."""
    from rich.console import Console

    width = None if Console().is_terminal else 240
    Console(width=width, markup=False, emoji=False).print(table)


def _print_metrics(result: dict[str, Any]) -> None:
    """The table of an evaluation."""
    from rich.table import Table

    counts = result["num_real"]
    title = f"{result['num']} images against {counts['train']} of {result['data']['name']}"
    table = Table(title=title)
    table.add_column("metric", no_wrap=True)
    for head in ("images", f"real ({counts['test']} test)", "Gaussian per class"):
        table.add_column(head, justify="right")
    for name, row in result["metrics"].items():
        table.add_row(name, *(f"{row[who]:.4g}" if who in row else "" for who in ("value", "real", "gaussian")))
    _show(table)
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    seconds = result["seconds"]
    print(f"{seconds['images']} s for the images, {seconds['with_comparison']} s with what they are compared with")
