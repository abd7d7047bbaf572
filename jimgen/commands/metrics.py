"""Metrics of runs and of sets of images: evaluate, compare, reference."""

from pathlib import Path
from typing import Any, Literal

import tyro

from jimgen.commands.shared import (
    RunFolder,
    output_file,
    output_folder,
    real_images,
    require_positive,
    say_what_is_left_out,
    show_table,
    start_jax,
)
from jimgen.sizes import Size


def evaluate(
    source: RunFolder,
    /,
    data: str | None = None,
    num: int = 10_000,
    metrics: str = "",
    extractors: str = "",
    seed: int = 0,
    classes: Literal["balanced", "frequency"] | None = None,
    best: bool = False,
    change: tuple[str, ...] = (),
    reference: tuple[Path, ...] = (),
    size: Size = None,
    fit: Literal["crop", "resize", "pad"] | None = None,
    channels: Literal[1, 3, 4] | None = None,
    background: str | None = None,
    resample: Literal["bicubic", "nearest"] | None = None,
    bits: int | None = None,
    out: Path | None = None,
) -> None:
    """Measure a run, an .npz of images or a folder of pictures against real images; the last line is JSON.

    The table also shows each metric for real test images and for one Gaussian per class, the baseline to beat.

    Args:
        source: folder of a run, .npz with `images` (uint8 [n, h, w, c]), or folder or .zip of pictures.
        data: name of the data set of real images, as in training; by default the run's own.
        num: number of images to draw, or to take from the beginning of a set.
        metrics: names separated by commas, out of fd, fd_infinity, kid, is, prdc, cmmd, copying, fls, cas,
            agreement and modes. Default: fd,kid,prdc,copying; agreement where labels are known that have attributes;
            modes for stacked_digits.
        extractors: names separated by commas: the data's own classifier (where there is one), efficientnet_lite0@64
            (both are the default), inception, or PATH.py:FUNCTION for your own.
        seed: random seed for the latents and for random choices in the metrics.
        classes: labels of the images drawn from a run: balanced (classes in turn), or as in training; the latter is
            the default where there are attributes.
        best: use the run's best checkpoint instead of its newest one.
        change: config fields that sampling alone depends on, with new values: guidance=3 num_steps=50.
        reference: files of `jimgen reference`, one for each extractor, to use instead of the data's statistics.
        size: height and width of the real images, 64 or 64x96; by default as in the run, or as stored.
        fit: way to bring real images to that size: the largest centred window of its shape, stretching, or background
            around them; by default as in the run, or crop.
        channels: channels of all images, 1 for grey, 3 for colour or 4 with transparency; by default as in the run, or
            grey or colour as stored.
        background: colour under transparent images, on which they are measured, and around padded ones: black, white or
            #rrggbb; by default as in the run, or black.
        resample: way to compute pixels of resized images; by default as in the run, or bicubic.
        bits: bits used in 16-bit grey pictures, such as 12; by default as in the run, or what the files say.
        out: folder of the results. Default: RUN/evaluation, or NAME-evaluation beside a set of images.
    """
    import json

    from jimgen.data.fitting import fitting_of
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
    chosen = _names_in(metrics)
    if chosen:
        check_metrics(chosen)
    asked = {"size": size, "fit": fit, "channels": channels, "background": background}
    asked |= {"resample": resample, "bits": bits}
    asked = {name: value for name, value in asked.items() if value is not None}
    fitting = fitting_of(**asked)
    with start_jax():
        subject, run = subjects.subject_of(source, num, seed, classes, folder, best, change, fitting.reading)
        dataset = real_images(source, run, data, asked)
        say_what_is_left_out(dataset)
        result = measured(
            subject,
            dataset,
            extractors=_names_in(extractors),
            metrics=chosen,
            references=reference,
            seed=seed,
            background=fitting.background if background or run is None else run.config.fitting().background,
        )
    _print_metrics(result)
    if run is not None and out is None:
        pages.write_report([source], source / REPORT)
    print(subject.folder / RESULTS)
    values = {name: row["value"] for name, row in result["metrics"].items()}
    print(json.dumps({**values, "num": num, "data": dataset.spec.name}))


def _names_in(text: str) -> list[str]:
    """Names that commas separate."""
    return [name.strip() for name in text.split(",") if name.strip()]


def compare(runs: tyro.conf.Positional[tuple[Path, ...]]) -> None:
    """Compare evaluated runs; runs that differ only in their seed become a mean with a 95% confidence interval.

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
    show_table(table)
    rows = {group.name: {name: found._asdict() for name, found in group.metrics.items()} for group in groups}
    print(json.dumps(rows).replace("NaN", "null"))


def reference(
    data: tyro.conf.Positional[str],
    out: Path,
    extractor: str = "efficientnet_lite0@64",
    split: Literal["train", "test"] = "train",
    num: int = 0,
    features: bool = False,
    size: Size = None,
    fit: Literal["crop", "resize", "pad"] = "crop",
    channels: Literal[1, 3, 4] | None = None,
    background: str = "black",
    resample: Literal["bicubic", "nearest"] = "bicubic",
    bits: int | None = None,
) -> None:
    """Make reference statistics of a data set: a file for `jimgen evaluate --reference`.

    Args:
        data: name of the data set: digits, fashion_mnist, tfds:NAME, folder:PATH (or a .zip of pictures) or npz:PATH.
        out: path of the file to write, .npz.
        extractor: name of the feature extractor.
        split: split to take images from.
        num: number of images; 0 for all. Only distances to the same number of images can be compared.
        features: keep the features too, which kid, prdc and cmmd need; the file is larger.
        size: height and width of the images, 64 or 64x96, as in training; by default as stored.
        fit: way to bring images to that size: the largest centred window of its shape, stretching, or background
            around.
        channels: number of channels, 1 for grey, 3 for colour or 4 with transparency; by default grey or colour, as
            stored.
        background: colour under transparent images, on which they are measured, and around padded ones: black, white or
            #rrggbb.
        resample: way to compute pixels of resized images; nearest for pixel art.
        bits: bits used in 16-bit grey pictures, such as 12; by default what the files say.
    """
    from jimgen import data as sets
    from jimgen.data.dataset import num_rows
    from jimgen.data.fitting import fitting_of
    from jimgen.evaluation.extractors import load_extractor
    from jimgen.evaluation.opaque import opaque_dataset
    from jimgen.evaluation.reference import make_reference, save_reference

    out = output_file(out, ".npz")
    if num != 0:
        require_positive(num=num)
    with start_jax():
        net = load_extractor(extractor)
        fitting = fitting_of(size, fit, channels, background, resample, bits)
        dataset = opaque_dataset(sets.load(data, **fitting._asdict()), fitting.background)
        say_what_is_left_out(dataset)
        count = num or num_rows(dataset.train if split == "train" else dataset.test)
        made = make_reference(dataset, net, split=split, count=count, keep_features=features)
    save_reference(out, made)
    print(f"{count} images of {data} ({split}), {len(made.moments.mean)} features of {extractor}: {out}")


def _print_metrics(result: dict[str, Any]) -> None:
    """Prints the table of an evaluation, its warnings and its duration."""
    from rich.table import Table

    counts = result["num_real"]
    title = f"{result['num']} images against {counts['train']} of {result['data']['name']}"
    table = Table(title=title)
    table.add_column("metric", no_wrap=True)
    for head in ("images", f"real ({counts['test']} test)", "Gaussian per class"):
        table.add_column(head, justify="right")
    for name, row in result["metrics"].items():
        table.add_row(name, *(f"{row[who]:.4g}" if who in row else "" for who in ("value", "real", "gaussian")))
    show_table(table)
    for warning in result["warnings"]:
        print(f"warning: {warning}")
    seconds = result["seconds"]
    print(f"{seconds['images']} s for the images, {seconds['with_comparison']} s with real images and Gaussians")
