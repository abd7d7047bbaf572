"""Pictures and pages of runs: image grids, training curves, and one self-contained HTML report.

Nothing here imports jax, and matplotlib is imported only when curves are drawn: a page about a finished run needs no accelerator.
"""

import ast
import base64
import io
import json
import math
import os
import re
import shlex
from collections.abc import Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from jimgen.errors import UserError

Picture = NDArray[np.uint8]  # [H, W, 3]
Metrics = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl: {"step": 100, "generator/loss": 0.7, ...}

GAP_COLOUR = 120  # between tiles: told apart from both black and white pictures, on light and on dark pages
MIN_TILE = 48  # pixels: below this a tile is too small to judge by eye
STRIP_STEPS, STRIP_WIDTH = 6, 160  # frames in the strip of samples over training; CSS pixels of one frame


# ---------------------------------------------------------------------------------------------------------- pictures


def to_uint8(images: ArrayLike) -> NDArray[np.uint8]:
    """Pixels for files and screens: -1 becomes 0 and 1 becomes 255, rounded; what lies outside is clipped.

    Args:
        images: any shape, usually [n, h, w, c]; floating point in [-1, 1], or uint8, which passes unchanged.

    Returns:
        uint8 in [0, 255], of the same shape.

    Raises:
        ValueError: NaN pixels, or integers other than uint8 (their range would be a guess).
    """
    images = np.asarray(images)
    if images.dtype == np.uint8:
        return images
    if images.dtype.kind in "iubc":
        raise ValueError(f"images must be floating point in [-1, 1] or uint8, not {images.dtype}")
    images = images.astype(np.float32)  # bfloat16 as well, which numpy itself does not round
    if num_nan := int(np.isnan(images).sum()):
        raise ValueError(f"images hold {num_nan} NaN of {images.size} values: the model that drew them has diverged")
    return np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)


def grid(images: ArrayLike, *, columns: int | None = None, scale: int | None = None, gap: int = 1) -> Picture:
    """Tiles pictures row by row into one sheet.

    Args:
        images: [n, h, w, c] with c of 1 or 3, as `to_uint8` takes them.
        columns: tiles in a row. Default: near square, with full rows where that is possible.
        scale: whole factor of enlargement, each pixel repeated. Default: the least that makes both sides of a tile
            48 pixels or more.
        gap: pixels between tiles, after enlargement; there is none around the sheet.

    Returns:
        uint8 [rows * h * scale + (rows - 1) * gap, columns * w * scale + (columns - 1) * gap, 3].

    Raises:
        ValueError: a wrong shape, no images, NaN pixels, or a size that makes no sense.
    """
    tiles = to_uint8(images)
    if tiles.ndim != 4 or tiles.shape[-1] not in (1, 3) or 0 in tiles.shape:
        raise ValueError(f"a grid takes images [n, h, w, 1 or 3] with n of at least 1, not {list(tiles.shape)}")
    n, height, width, _ = tiles.shape
    columns = _near_square(n) if columns is None else columns
    scale = math.ceil(MIN_TILE / min(height, width)) if scale is None else scale
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns and scale must be at least 1 and gap at least 0, not {columns}, {scale} and {gap}")
    tiles = tiles.repeat(scale, axis=1).repeat(scale, axis=2)
    rows, pitch_y, pitch_x = math.ceil(n / columns), height * scale + gap, width * scale + gap
    sheet = np.full((rows * pitch_y, columns * pitch_x, 3), GAP_COLOUR, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * pitch_y, i % columns * pitch_x
        sheet[y : y + height * scale, x : x + width * scale] = tile  # one channel broadcasts to three
    return sheet[: rows * pitch_y - gap, : columns * pitch_x - gap]


def _near_square(n: int) -> int:
    """Columns for n tiles: the first count from sqrt(n) up to half as many again that leaves no hole, else sqrt(n)."""
    side = math.ceil(math.sqrt(n))
    return next((columns for columns in range(side, side * 3 // 2 + 1) if n % columns == 0), side)


def save_png(path: Path, array: ArrayLike) -> None:
    """Writes uint8 [H, W, 3] or [H, W] as PNG, making the folder. A reader sees the old file or the new, never a part."""
    _write_atomically(path, _png(np.asarray(array)))


def _png(array: NDArray[Any]) -> bytes:
    if array.dtype != np.uint8:
        raise ValueError(f"a PNG takes uint8 pixels, not {array.dtype}: see to_uint8")
    buffer = io.BytesIO()
    Image.fromarray(array).save(buffer, "PNG", optimize=True)
    return buffer.getvalue()


def _write_atomically(path: Path, content: bytes) -> None:
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.tmp")  # the same folder: os.replace must not cross disks
    try:
        temporary.write_bytes(content)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)


# ------------------------------------------------------------------------------------------------------------ curves


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in file order; NaN and Infinity are read as floats.

    A kill in mid-write tears the last line, and a resumed run then writes on behind the tear: lines that cannot be read
    are left out wherever they stand, and so are rows without a "step".

    Raises:
        UserError: no such file, or a file of several lines with no row among them.
    """
    try:
        lines = Path(path).read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError as error:
        raise UserError(f"Cannot read {path}: {error.strerror}. Name the metrics.jsonl of a run.") from error
    rows = []
    for line in lines:
        try:
            row = json.loads(line)
        except ValueError:
            continue
        if isinstance(row, dict) and _is_number(row.get("step")):
            rows.append(row)
    if len(lines) > 1 and not rows:
        raise UserError(f'{path} holds no metrics. Each line should be a JSON object with a "step".')
    return rows


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


class Series(NamedTuple):
    """One metric over training."""

    steps: NDArray[np.float64]  # [k], rising
    values: NDArray[np.float64]  # [k], NaN and infinities as they were logged


def _series(metrics: Metrics) -> dict[str, Series]:
    """Metrics by name, in order of first appearance; rows that a resumed run took back are left out."""
    points: dict[str, dict[float, float]] = {}
    earliest_later, kept = math.inf, []
    for row in reversed(metrics):
        if row["step"] <= earliest_later:  # else the run went back to a checkpoint before this row
            kept.append(row)
            earliest_later = row["step"]
    for row in reversed(kept):
        for name, value in row.items():
            if name != "step" and _is_number(value):
                points.setdefault(name, {})[row["step"]] = value
    return {
        name: Series(np.array(list(by_step), float), np.array(list(by_step.values()), float))
        for name, by_step in points.items()
    }


def draw_curves(metrics: Metrics, folder: Path) -> list[Path]:
    """Draws training curves, one PNG a group of metrics.

    losses.png holds every phase's loss in one panel; test.png what was measured on test data, with markers; PHASE.png a
    panel for each other metric of a phase; other.png a panel for each metric of no phase, such as images_per_s. A panel
    is logarithmic where all values are positive and span more than a factor of 100. Values that are not finite leave a
    gap, and the panel's title counts them.

    Args:
        metrics: rows as `read_metrics` gives them.
        folder: where the pictures go; made if need be.

    Returns:
        The paths written, in reading order; none without metrics.
    """
    groups: dict[str, dict[str, dict[str, Series]]] = {"losses": {}, "test": {}}  # file -> panel -> label -> series
    for name, series in _series(metrics).items():
        phase, _, rest = name.partition("/") if "/" in name else ("", "", name)
        group = re.sub(r"[^\w.-]+", "_", phase) or "other"
        if rest == "loss" and group != "test":
            groups["losses"].setdefault("loss", {})[phase or "loss"] = series
        else:
            groups.setdefault(group, {})[_readable(rest)] = {"": series}
    paths = []
    for group, panels in groups.items():
        if panels:
            paths.append(Path(folder) / f"{group}.png")
            _write_atomically(paths[-1], _draw_panels(group, panels))
    return paths


def _readable(name: str) -> str:
    return re.sub(r" (nats|bits|db)$", r" (\1)", name.replace("_", " "))


def _draw_panels(group: str, panels: Mapping[str, Mapping[str, Series]]) -> bytes:
    """A PNG with small multiples, at most three in a row; dark on white, which the page inverts for dark screens."""
    from matplotlib.figure import Figure

    wide = len(panels) == 1 and len(next(iter(panels.values()))) > 1
    columns = min(len(panels), 2 if len(panels) == 4 else 3)
    rows = math.ceil(len(panels) / columns)
    size = (7.0, 3.0) if wide else (3.4 * columns, 2.5 * rows)
    figure = Figure(figsize=size, dpi=192, layout="constrained", facecolor="white")
    axes = figure.subplots(rows, columns, squeeze=False).flat
    for axis, (title, curves) in zip(axes, panels.items(), strict=False):
        _draw_panel(axis, f"{group} {title}" if group not in ("losses", "other") else title, curves, group == "test")
    for axis in axes[len(panels) :]:
        axis.remove()
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_panel(axis: Any, title: str, curves: Mapping[str, Series], markers: bool) -> None:
    """One set of axes: each curve as a line, or as a faint line under a smoothed one where there are many points."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    palette = ("#2f6db3", "#cc5a3b", "#3f8f5f", "#8759a8", "#b4861d", "#3a97a6")
    ink, faint = "#3c3c43", "#d9d9de"
    everything = np.concatenate([curve.values for curve in curves.values()])
    finite = everything[np.isfinite(everything)]
    for i, (label, (steps, values)) in enumerate(curves.items()):
        colour, values = palette[i % len(palette)], np.where(np.isfinite(values), values, np.nan)
        if markers or len(steps) < 3:
            axis.plot(steps, values, color=colour, lw=1.5, marker="o", ms=4, mec="white", mew=0.7, label=label)
        elif len(steps) < 60:
            axis.plot(steps, values, color=colour, lw=1.5, label=label)
        else:
            axis.plot(steps, values, color=colour, lw=0.7, alpha=0.28)
            axis.plot(steps, _smooth(values), color=colour, lw=1.6, label=label)
    lost = len(everything) - len(finite)
    axis.set_title(title + (f" ({lost} not finite)" if lost else ""), loc="left", fontsize=10, color=ink, pad=8)
    axis.set_xlabel("step", fontsize=8.5, color=ink)
    if len(finite) and finite.min() > 0 and finite.max() > 100 * finite.min():
        axis.set_yscale("log")
    else:
        axis.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 5))
    axis.xaxis.set_major_locator(MaxNLocator(5, integer=True))
    axis.xaxis.set_major_formatter(EngFormatter(sep=""))
    axis.tick_params(labelsize=8.5, labelcolor=ink, color=faint, which="both", length=3)
    axis.grid(color=faint, lw=0.5, alpha=0.7)
    axis.set_axisbelow(True)
    axis.spines[["top", "right"]].set_visible(False)
    axis.spines[["left", "bottom"]].set_color(faint)
    if len(curves) > 1:
        axis.legend(frameon=False, fontsize=9, labelcolor=ink, handlelength=1.4)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred Hann-weighted mean over about a twentieth of [k] values: it does not lag, and NaN stays a gap."""
    window = np.hanning(max(5, len(values) // 20) + 2)
    known = np.isfinite(values)
    total = np.convolve(np.where(known, values, 0), window, "same")
    weight = np.convolve(known, window, "same")
    return np.where(known, total / np.where(known, weight, 1), np.nan)


# ------------------------------------------------------------------------------------------------------------ report


def write_report(run_folders: Sequence[Path], out: Path, title: str | None = None) -> Path:
    """Writes one HTML file that shows one or several runs and needs nothing else: pictures and style are inside it.

    The curves are drawn afresh into each run's plots/. What a run lacks is left out of its section.

    Args:
        run_folders: run directories, in the order of the page.
        out: the file; replaced in one step, so that a browser never sees half a page.
        title: of the page. Default: the run's name, or how many runs there are.

    Returns:
        The path written.

    Raises:
        UserError: no folders, a folder that is missing or holds no run, or a JSON file that cannot be read.
    """
    if not run_folders:
        raise UserError("There is no run to report on. Name at least one run folder.")
    runs = [_read_run(Path(folder)) for folder in run_folders]
    title = title or (runs[0].name if len(runs) == 1 else f"{len(runs)} runs")
    body = "".join(_section(run, f"run-{i}") for i, run in enumerate(runs, start=1))
    page = f"""<!doctype html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<meta name="color-scheme" content="light dark">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
</head>
<body>
<header><h1>{escape(title)}</h1>{_comparison(runs) if len(runs) > 1 else ""}</header>
<main>{body}</main>
</body>
</html>
"""
    _write_atomically(out, page.encode())
    return Path(out)


class Run(NamedTuple):
    """What a run directory says in words and numbers; pictures are read where they are shown."""

    folder: Path
    name: str
    experiment: str
    description: str
    config: dict[str, Any]
    changed: dict[str, Any]
    environment: dict[str, Any]  # flat: {"versions.jax": "0.10.0", ...}
    metrics: list[dict[str, Any]]
    latest: dict[str, Series]


def _read_run(folder: Path) -> Run:
    if not folder.is_dir():
        raise UserError(f"There is no run at {folder}. Give the folder that --workdir named in training.")
    if not any((folder / part).exists() for part in ("config.json", "metrics.jsonl", "samples")):
        raise UserError(
            f"{folder} holds no run: neither config.json, metrics.jsonl nor samples/ is in it. "
            "Give the folder that --workdir named in training."
        )
    config = _read_json(folder / "config.json")
    metrics = read_metrics(folder / "metrics.jsonl") if (folder / "metrics.jsonl").exists() else []
    return Run(
        folder=folder,
        name=folder.resolve().name,
        experiment=str(config.get("experiment") or ""),
        description=_docstring(folder / "experiment.py"),
        config=dict(config.get("config") or {}),
        changed=dict(config.get("changed") or {}),
        environment=_flat(_read_json(folder / "environment.json")),
        metrics=metrics,
        latest=_series(metrics),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}). Mend it, or remove it and the report goes without.") from error
    return content if isinstance(content, dict) else {}


def _docstring(path: Path) -> str:
    """The first line of a Python file's docstring; empty if there is none."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (text or "").partition("\n")[0]


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _section(run: Run, anchor: str) -> str:
    """One run: what it is, what came out, how it got there, and how to go on."""
    last_step = f"step {max(row['step'] for row in run.metrics):,}" if run.metrics else ""
    seed = run.environment.get("seed", run.config.get("seed"))
    facts = [run.experiment, last_step, "" if seed is None else f"seed {seed}"]
    plots = draw_curves(run.metrics, run.folder / "plots")
    curves = [
        _figure(picture, f"Training curves: {path.stem}", density=2)
        for path in plots
        if (picture := _load(path)) is not None
    ]
    parts = [
        f'<section id="{anchor}" aria-labelledby="{anchor}-name">',
        f'<h2 id="{anchor}-name">{escape(run.name)}</h2>',
        f"<p>{escape(run.description)}</p>" if run.description else "",
        f'<p class="facts">{" · ".join(escape(fact) for fact in facts if fact)}</p>',
        _samples(run.folder / "samples"),
        _block("Results", _results(run.latest)),
        _block("Curves", f'<div class="row">{"".join(curves)}</div>' if curves else ""),
        '<div class="pair">',
        _block("Changed from the defaults", _table(run.changed)),
        _block("Environment", _table(run.environment)),
        "</div>",
        f"<details><summary>Full config</summary>{_table(run.config)}</details>" if run.config else "",
        _block("Go on from here", _commands(run)),
        "</section>",
    ]
    return "\n".join(part for part in parts if part)


def _block(heading: str, content: str) -> str:
    return f"<div><h3>{escape(heading)}</h3>{content}</div>" if content else ""


def _samples(folder: Path) -> str:
    """Real images beside the newest samples, reconstructions, and the strip of samples over training."""
    by_step = {
        int(match[1]): path for path in folder.glob("*.png") if (match := re.fullmatch(r"step_(\d+)\.png", path.name))
    }
    sheets = {step: sheet for step in _spread(sorted(by_step)) if (sheet := _load(by_step[step])) is not None}
    shown = []
    if (real := _load(folder / "real.png")) is not None:
        shown.append(_figure(real, "A grid of real images", "Real images"))
    if sheets:
        step = max(sheets)
        shown.append(_figure(sheets[step], f"A grid of samples at step {step}", f"Samples at step {step:,}"))
    for path in sorted(folder.glob("reconstruct*.png"))[-2:]:
        if (sheet := _load(path)) is not None:
            shown.append(_figure(sheet, f"Reconstructions: {path.stem}", "Reconstructions"))
    pair = _block("Samples", f'<div class="row">{"".join(shown)}</div>' if shown else "")
    if len(sheets) < 2:
        return pair
    strip = "".join(
        _figure(_corner(sheet), f"Samples at step {step}", f"{step:,}", room=STRIP_WIDTH)
        for step, sheet in sheets.items()
    )
    return pair + _block("Over training", f'<div class="strip" tabindex="0">{strip}</div>')


def _spread(steps: list[int]) -> list[int]:
    """At most STRIP_STEPS of the steps, first and last among them."""
    places = np.linspace(0, len(steps) - 1, min(len(steps), STRIP_STEPS)).round().astype(int)
    return [steps[i] for i in places]


def _corner(sheet: Picture) -> Picture:
    """As many whole tiles from the top left as a frame of the strip takes; the whole sheet where no gaps are seen."""
    sides = []
    for axis in (0, 1):
        gaps = np.flatnonzero((sheet == GAP_COLOUR).all(axis=(1 - axis, 2)))
        ends = gaps[(gaps > 0) & (gaps <= STRIP_WIDTH)]
        sides.append(ends[-1] if len(ends) else gaps[0] if len(gaps) and gaps[0] else len(sheet))
    return sheet[: sides[0], : sides[1]]


def _load(path: Path) -> Picture | None:
    """A PNG as pixels; None if it is missing or torn, as a picture must not cost the page."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError):  # Pillow answers some torn PNGs with SyntaxError
        return None


def _figure(picture: Picture, alt: str, caption: str = "", room: int = 520, density: int = 1) -> str:
    """An embedded picture. Enlarged pixels stay sharp; a sheet too large for its room is shrunk smoothly."""
    height, width = (side // density for side in picture.shape[:2])
    kind = "plot" if density > 1 else "pixels" if width <= room else "large"
    source = f"data:image/png;base64,{base64.b64encode(_png(picture)).decode()}"
    image = f'<img class="{kind}" src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _results(latest: Mapping[str, Series]) -> str:
    """A table of the last values: measures on test data, losses and speed; the others are in the curves."""
    names = [name for name in latest if name.startswith("test/")]
    names += [name for name in latest if name not in names and re.search(r"(^|/)loss$|_per_s$", name)]
    rows = ""
    for name in names:
        steps, values = latest[name]
        finite = values[np.isfinite(values)]
        cells = (values[-1], finite.min(initial=math.inf), finite.max(initial=-math.inf))
        numbers = "".join(f"<td>{_number(cell)}</td>" for cell in cells)
        rows += f'<tr><th scope="row">{escape(name)}</th>{numbers}<td>{steps[-1]:,.0f}</td></tr>'
    heads = "".join(f'<th scope="col">{head}</th>' for head in ("Metric", "Last", "Lowest", "Highest", "At step"))
    return f'<div class="scroll"><table class="numbers"><tr>{heads}</tr>{rows}</table></div>' if rows else ""


def _comparison(runs: Sequence[Run]) -> str:
    """A table of runs by the last values of what was measured on test data; its names lead to the sections."""
    names = list(dict.fromkeys(name for run in runs for name in run.latest if name.startswith("test/")))
    heads = "".join(f'<th scope="col">{escape(_readable(head.removeprefix("test/")))}</th>' for head in names)
    rows = ""
    for i, run in enumerate(runs, start=1):
        cells = (f"<td>{_number(run.latest[n].values[-1]) if n in run.latest else ''}</td>" for n in names)
        link = f'<a href="#run-{i}">{escape(run.name)}</a>'
        rows += f'<tr><th scope="row">{link}</th><td>{escape(run.experiment)}</td>{"".join(cells)}</tr>'
    heads = f'<tr><th scope="col">Run</th><th scope="col">Experiment</th>{heads}</tr>'
    return f'<nav class="scroll" aria-label="Runs"><table class="numbers">{heads}{rows}</table></nav>'


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}" if math.isfinite(value) else "not finite"


def _table(fields: Mapping[str, Any]) -> str:
    rows = "".join(
        f'<tr><th scope="row">{escape(str(key))}</th><td>{escape(_text(value))}</td></tr>'
        for key, value in fields.items()
    )
    return f'<div class="scroll"><table>{rows}</table></div>' if rows else ""


def _text(value: object) -> str:
    if isinstance(value, list | tuple) and all(isinstance(item, str | int | float) for item in value):
        return ", ".join(map(str, value))
    return value if isinstance(value, str) else json.dumps(value)


def _commands(run: Run) -> str:
    folder = shlex.quote(str(run.folder))
    lines = [f"python experiments/{shlex.quote(run.experiment)}.py --workdir {folder}"] if run.experiment else []
    lines += [f"jimgen sample {folder} --num 64 --seed 0 --out samples.png", f"jimgen evaluate {folder} --num 1000"]
    return f"<pre>{escape(chr(10).join(lines))}</pre>"


STYLE = """
:root { --page: #fcfcfa; --ink: #1f1f23; --soft: #66666e; --line: #e5e5e0; --raised: #f4f4f0; --link: #2560a5 }
@media (prefers-color-scheme: dark) {
  :root { --page: #141416; --ink: #e6e6e3; --soft: #9c9ca3; --line: #2c2c30; --raised: #1c1c1f; --link: #86b4e8 }
  .plot { filter: invert(1) hue-rotate(180deg); mix-blend-mode: screen } /* white paper becomes the page */
}
@media (prefers-color-scheme: light) { .plot { mix-blend-mode: multiply } }
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 69rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100% }
h1 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.02em; font-weight: 650 }
h2 { margin: 0; font-size: 1.45rem; line-height: 1.25; letter-spacing: -.012em; font-weight: 650 }
h3 { margin: 2.5rem 0 .9rem; font-size: .95rem; font-weight: 600 }
p { margin: .4rem 0 0; max-width: 42rem; text-wrap: pretty }
section { margin-top: 3.5rem; padding-top: 2.5rem; border-top: 1px solid var(--line) }
.facts, figcaption, summary { color: var(--soft); font-size: .875rem }
a { color: var(--link); text-underline-offset: .18em; text-decoration-thickness: 1px }
figure { margin: 0 }
figcaption { margin-top: .45rem; font-variant-numeric: tabular-nums }
img { display: block; max-width: 100%; height: auto }
.pixels { image-rendering: pixelated }
.row { display: flex; flex-wrap: wrap; gap: 1.75rem 2rem; align-items: start }
.strip { display: flex; gap: 1rem; overflow-x: auto; padding-bottom: .5rem }
.strip figure { flex: none; max-width: 10rem }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 3rem }
.scroll { overflow-x: auto }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .42rem 0 .42rem 2rem; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th:first-child, td:first-child { padding-left: 0 }
th { font-weight: 400; color: var(--soft); white-space: nowrap }
td { overflow-wrap: anywhere }
.numbers td, .numbers th:not(:first-child) { text-align: right; white-space: nowrap }
.numbers th[scope=row] { color: var(--ink) }
nav { margin-top: 1.5rem }
details { margin-top: 2rem }
summary { cursor: pointer; margin-bottom: .6rem }
pre { margin: 0; padding: 1rem 1.15rem; overflow-x: auto; background: var(--raised); border-radius: .5rem;
  font: .84rem/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
"""
