"""Whether generated images help to train a classifier: utility."""

from pathlib import Path
from typing import Any, Literal

from jimgen.commands.shared import (
    RunFolder,
    output_file,
    real_images,
    require_positive,
    say_what_is_left_out,
    show_table,
    start_jax,
)
from jimgen.errors import UserError
from jimgen.sizes import Size


def utility(
    source: RunFolder,
    /,
    data: str | None = None,
    few: str | None = None,
    per_class: tuple[int, ...] = (10, 50, 100),
    seeds: int = 5,
    steps: int = 300,
    shares: tuple[float, ...] = (0.25, 0.5, 0.75),
    flip: bool = False,
    num: int = 5000,
    seed: int = 0,
    classes: Literal["balanced", "frequency"] | None = None,
    best: bool = False,
    change: tuple[str, ...] = (),
    size: Size = None,
    fit: Literal["crop", "resize", "pad"] | None = None,
    channels: Literal[1, 3, 4] | None = None,
    background: str | None = None,
    resample: Literal["bicubic", "nearest"] | None = None,
    bits: int | None = None,
    out: Path | None = None,
) -> None:
    """Measure whether generated images help to train a classifier, on real test images, with paired seeds.

    Four arms train one small classifier: few real images; these with augmentation; these with generated images; and
    generated images alone. Every arm trains for the same number of steps, and a seed draws the same real images and
    first weights for all. Validation images choose the checkpoint and the share of generated images.

    Args:
        source: folder of a class-conditional run, .npz with `images` and `labels`, or folder of class folders.
        data: name of the data set of real images; by default the run's own.
        few: name of a data set whose training images are the few real ones, such as that which the run was trained on.
            Default: those of --data.
        per_class: numbers of real images of each class.
        seeds: number of seeds: --seed and those after it. One gives no interval.
        steps: number of train steps of every classifier, with 64 images each.
        shares: shares of generated images in a batch, of which validation images choose one.
        flip: mirror half of the images in the arm with augmentation, where classes look alike mirrored.
        num: number of images to draw, or to take from the beginning of a set.
        seed: first random seed, and that of the latents.
        classes: labels of the images drawn from a run: balanced (classes in turn), or as in training; the latter is
            the default where there are attributes.
        best: use the run's best checkpoint instead of its newest one.
        change: config fields that sampling alone depends on, with new values: guidance=3 num_steps=50.
        size: height and width of the real images, 64 or 64x96; by default as in the run, or as stored.
        fit: way to bring real images to that size: the largest centred window of its shape, stretching, or background
            around them; by default as in the run, or crop.
        channels: channels of all images, 1 for grey, 3 for colour or 4 with transparency; by default as in the run, or
            grey or colour as stored.
        background: colour under transparent images and around padded ones: black, white or #rrggbb; by default as in
            the run, or black.
        resample: way to compute pixels of resized images; by default as in the run, or bicubic.
        bits: bits used in 16-bit grey pictures, such as 12; by default as in the run, or what the files say.
        out: path of the results, .json. Default: RUN/utility.json, or NAME-utility.json beside a set of images.
    """
    import json

    from jimgen.data.fitting import fitting_of
    from jimgen.evaluation.arms import arms_of
    from jimgen.evaluation.few import pools_of
    from jimgen.evaluation.utility import utility as measured
    from jimgen.files import write_atomically
    from jimgen.noise import require_seed
    from jimgen.runs import subject as subjects
    from jimgen.runs.folder import CONFIG

    counts = list(dict.fromkeys(per_class))
    if not counts:
        raise UserError("--per-class: give at least one number, such as 10")
    for count in counts:
        require_positive(**{"per-class": count})
    require_positive(seeds=seeds, steps=steps, num=num)
    require_seed(seed)
    require_seed(seed + seeds - 1)
    arms_of(shares)
    is_run = (source / CONFIG).exists()
    path = output_file(out or subjects.default_file(source), ".json")
    asked = {"size": size, "fit": fit, "channels": channels, "background": background}
    asked |= {"resample": resample, "bits": bits}
    asked = {name: value for name, value in asked.items() if value is not None}
    fitting = fitting_of(**asked)
    with start_jax():
        run = subjects.load_run(source, best, change) if is_run else None
        dataset = real_images(source, run, data, asked)
        say_what_is_left_out(dataset)
        few_real = None if few is None else real_images(source, run, few, asked)
        if run is not None:
            subjects.require_same_classes(run, dataset.spec)
        ground = fitting.background if background or run is None else run.config.fitting().background
        pools = pools_of(dataset, few_real, ground)
        for count in counts:
            pools.held_out_per_class(count)  # before images are drawn, which may take long
        if run is None:
            subject, _ = subjects.subject_of(source, num, seed, classes, path.parent, reading=fitting.reading)
        else:
            subject = subjects.subject_of_run(run, num, seed, classes, path.parent, best, change)
        result = measured(
            subject,
            pools,
            per_class=counts,
            seeds=range(seed, seed + seeds),
            trained_on=None if run is None else run.spec,
            steps=steps,
            shares=shares,
            flip=flip,
            say=print,
        )
    write_atomically(path, json.dumps(result, indent=2) + "\n")
    _print(result)
    print(path)


def _print(result: dict[str, Any]) -> None:
    """Prints the table of a result, its notes and its verdicts."""
    from rich.table import Table

    title = f"test accuracy on {result['num_test']} images of {result['data']['name']}, {len(result['seeds'])} seed(s)"
    table = Table(title=title)
    is_balanced = all("balanced_accuracy" not in row["arms"]["real"] for row in result["results"])
    kinds = {"": "accuracy %"} | ({} if is_balanced else {"balanced_": "balanced accuracy %"})
    for head in ("real per class", "arm"):
        table.add_column(head, no_wrap=True)
    for head in kinds.values():
        for column in (head, "minus real", "verdict"):
            table.add_column(column, justify="right")
    for row in result["results"]:
        for name, arm in row["arms"].items():
            cells = []
            for prefix in kinds:
                cells.append(_percent(arm[f"{prefix}accuracy"]))
                cells.append(_percent(arm[f"{prefix}difference"], sign="+") if f"{prefix}difference" in arm else "")
                cells.append(arm.get(f"{prefix}verdict", ""))
            table.add_row(str(row["per_class"]), name, *cells)
        table.add_section()
    show_table(table)
    for note in result["notes"]:
        print(f"note: {note}")
    for row in result["results"]:
        print(*row["sentences"], sep="\n")


def _percent(interval: dict[str, Any], sign: str = "") -> str:
    """The mean of an interval in percent, and half of its width if there is one."""
    width = "" if interval["half_width"] is None else f" ± {100 * interval['half_width']:.1f}"
    return f"{100 * interval['mean']:{sign}.1f}{width}"
