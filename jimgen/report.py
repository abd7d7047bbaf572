"""Pictures and pages of runs: image grids, training curves, and one self-contained HTML report.

Nothing here imports jax, and matplotlib only when curves are drawn: a page about a finished run needs no accelerator.
"""

import ast
import base64
import io
import json
import math
import os
import re
import shlex
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray
from PIL import Image

from jimgen.errors import UserError

Picture = NDArray[np.uint8]  # [H, W, 3]
Metrics = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl: {"step": 100, "generator/loss": 0.7, ...}

GAP_COLOUR = 40  # between tiles: neither black nor white, so that pictures with either ground end where they end
MIN_TILE = 48  # pixels: below this a tile is too small to judge by eye
STRIP_FRAMES, STRIP_WIDTH = 6, 160  # samples over training: how many, and CSS pixels of one
PALETTE = ("#2f6db3", "#cc5a3b", "#3f8f5f", "#8759a8", "#b4861d", "#3a97a6")


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
    images = images.astype(np.float32)  # bfloat16 too, which numpy itself cannot round
    if num_nan := int(np.isnan(images).sum()):
        raise ValueError(f"images hold {num_nan} NaN of {images.size} values: the model that drew them has diverged")
    return np.rint(np.clip((images + 1) * 127.5, 0, 255)).astype(np.uint8)


def grid(images: ArrayLike, *, columns: int | None = None, scale: int | None = None, gap: int = 1) -> Picture:
    """Tiles pictures row by row into one sheet.

    Args:
        images: [n, h, w, c] with c of 1 or 3, as `to_uint8` takes them.
        columns: tiles in a row. Default: near square, with full rows where that is possible.
        scale: whole factor of enlargement. Default: the least that makes both sides of a tile 48 pixels or more.
        gap: pixels between tiles, enlarged with them; there is none around the sheet.

    Returns:
        uint8 [(rows * (h + gap) - gap) * scale, (columns * (w + gap) - gap) * scale, 3].

    Raises:
        ValueError: a wrong shape, no images, NaN pixels, or a size that makes no sense.
    """
    tiles = to_uint8(images)
    if tiles.ndim != 4 or tiles.shape[-1] not in (1, 3) or 0 in tiles.shape:
        raise ValueError(f"a grid takes images [n, h, w, 1 or 3] with n of at least 1, not {list(tiles.shape)}")
    n, h, w, _ = tiles.shape
    if columns is None:
        side = math.ceil(math.sqrt(n))
        columns = next((full for full in range(side, side * 3 // 2 + 1) if n % full == 0), side)
    scale = math.ceil(MIN_TILE / min(h, w)) if scale is None else scale
    if columns < 1 or scale < 1 or gap < 0:
        raise ValueError(f"columns and scale must be at least 1 and gap at least 0, not {columns}, {scale} and {gap}")
    rows = math.ceil(n / columns)
    sheet = np.full((rows * (h + gap) - gap, columns * (w + gap) - gap, 3), GAP_COLOUR, np.uint8)
    for i, tile in enumerate(tiles):
        y, x = i // columns * (h + gap), i % columns * (w + gap)
        sheet[y : y + h, x : x + w] = tile  # one channel broadcasts to three
    return sheet.repeat(scale, axis=0).repeat(scale, axis=1)


def save_png(path: Path, array: ArrayLike) -> None:
    """Writes uint8 [H, W, 3] or [H, W] as PNG, making the folder; a reader sees the old file or the new, no part."""
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
    """One metric over training: steps [k], rising, and values [k], NaN and infinities among them; both float64."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def _series(metrics: Metrics) -> dict[str, Series]:
    """Metrics by name, in order of first appearance; rows that a resumed run took back are left out."""
    kept, next_step = [], math.inf
    for row in reversed(metrics):
        if row["step"] <= next_step:  # else the run went back to a checkpoint before this row
            kept.append(row)
            next_step = row["step"]
    points: dict[str, dict[float, float]] = {}
    for row in reversed(kept):
        for name, value in row.items():
            if name != "step" and _is_number(value):
                points.setdefault(name, {})[row["step"]] = value
    return {name: Series(np.array(list(at), float), np.array(list(at.values()), float)) for name, at in points.items()}


def draw_curves(metrics: Metrics, folder: Path) -> list[Path]:
    """Draws training curves, one PNG a group of metrics.

    losses.png holds the losses of all phases in one panel; other.png a panel for each metric of no phase, such as
    images_per_s; test.png one for each measure on test data; PHASE.png one for each further metric of a phase. A panel
    is logarithmic where all values are positive and span more than a factor of 100. Values that are not finite leave
    gaps, and the panel's title counts them.

    Args:
        metrics: rows as `read_metrics` gives them.
        folder: where the pictures go; made if need be.

    Returns:
        The paths written, in reading order; none without metrics.
    """
    groups: dict[str, dict[str, dict[str, Series]]] = {"losses": {}, "other": {}, "test": {}}  # by file, panel, label
    for name, series in _series(metrics).items():
        phase, _, rest = name.rpartition("/")
        if rest == "loss" and phase != "test":
            groups["losses"].setdefault("loss", {})[phase or "loss"] = series
        else:
            groups.setdefault(phase or "other", {})[f"{phase} {_readable(rest)}".strip()] = {"": series}
    paths = []
    for group, panels in groups.items():
        if panels:
            paths.append(Path(folder) / (re.sub(r"[^\w.-]+", "_", group) + ".png"))
            _write_atomically(paths[-1], _draw_panels(panels, markers=group == "test"))
    return paths


def _readable(name: str) -> str:
    return re.sub(r" (nats|bits|db)$", r" (\1)", name.replace("_", " "))


def _draw_panels(panels: Mapping[str, Mapping[str, Series]], markers: bool) -> bytes:
    """A PNG of small multiples, at most three in a row; dark on white, which the page inverts for dark screens."""
    from matplotlib.figure import Figure
    from matplotlib.layout_engine import ConstrainedLayoutEngine

    columns = min(len(panels), 2 if len(panels) == 4 else 3)
    rows = math.ceil(len(panels) / columns)
    width = 7.0 if any(len(curves) > 1 for curves in panels.values()) else 3.4 * columns
    layout = ConstrainedLayoutEngine(w_pad=0.09, h_pad=0.09)
    figure = Figure(figsize=(width, 2.7 * rows), dpi=192, layout=layout, facecolor="white")
    for i, (title, curves) in enumerate(panels.items(), start=1):
        _draw_panel(figure.add_subplot(rows, columns, i), title, curves, markers)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png")
    return buffer.getvalue()


def _draw_panel(axes: Any, title: str, curves: Mapping[str, Series], markers: bool) -> None:
    """One set of axes: each curve as a line, or as a faint line under a smoothed one where there are many points."""
    from matplotlib.ticker import EngFormatter, MaxNLocator

    ink, faint = "#3c3c43", "#dcdce1"
    values = np.concatenate([curve.values for curve in curves.values()])
    finite = values[np.isfinite(values)]
    for i, (label, (steps, line)) in enumerate(curves.items()):
        line = np.where(np.isfinite(line), line, np.nan)
        style: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "lw": 1.5, "label": label}
        if markers or len(steps) < 3:
            style |= {"marker": "o", "ms": 4.5, "mec": "white", "mew": 0.8}
        elif len(steps) >= 60:
            axes.plot(steps, line, color=style["color"], lw=0.7, alpha=0.25)
            line = _smooth(line)
        axes.plot(steps, line, **style)
    lost = f" ({len(values) - len(finite)} not finite)" if len(finite) < len(values) else ""
    axes.set_title(title + lost, loc="left", fontsize=10, color=ink, pad=8)
    axes.set_xlabel("step", fontsize=8.5, color=ink)
    if len(finite) and finite.min() > 0 and finite.max() > 100 * finite.min():
        axes.set_yscale("log")
    else:
        axes.ticklabel_format(axis="y", useOffset=False, scilimits=(-4, 5))
    axes.xaxis.set_major_locator(MaxNLocator(5, integer=True, steps=[1, 2, 5, 10]))
    axes.xaxis.set_major_formatter(EngFormatter(sep=""))
    axes.tick_params(labelsize=8.5, labelcolor=ink, color=faint, which="both", length=3)
    axes.grid(color=faint, lw=0.5)
    axes.set_axisbelow(True)
    axes.spines[["top", "right"]].set_visible(False)
    axes.spines[["left", "bottom"]].set_color(faint)
    if len(curves) > 1:
        axes.legend(frameon=False, fontsize=9, labelcolor=ink, handlelength=1.4)


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred Hann-weighted mean over a tenth of the values [k]: it does not lag, and NaN stays a gap."""
    window, known = np.hanning(len(values) // 10 + 2), np.isfinite(values)
    weight = np.convolve(known, window, "same")
    mean = np.convolve(np.where(known, values, 0), window, "same") / np.where(known, weight, 1)
    return np.where(known, mean, np.nan)


class Run(NamedTuple):
    """What a run directory says in words and numbers; its pictures are read where they are shown."""

    folder: Path
    name: str
    experiment: str
    config: dict[str, Any]
    changed: dict[str, Any]
    environment: dict[str, Any]
    metrics: list[dict[str, Any]]
    series: dict[str, Series]


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
    alone = len(runs) == 1 and title is None  # then the run's own heading is the page's
    title = title or (runs[0].name if alone else f"{len(runs)} runs")
    header = "" if alone else f"<header><h1>{escape(title)}</h1>{_comparison(runs)}</header>"
    sections = "".join(_section(run, f"run-{i}", "h1" if alone else "h2") for i, run in enumerate(runs))
    page = f"""<!doctype html>
<html lang="en">
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<meta name="color-scheme" content="light dark">
<meta http-equiv="Content-Security-Policy" content="default-src 'none'; img-src data:; style-src 'unsafe-inline'">
<link rel="icon" href="data:,">
<title>{escape(title)}</title>
<style>{STYLE}</style>
<body>{header}<main>{sections}</main></body>
</html>
"""
    _write_atomically(out, page.encode())
    return Path(out)


def _read_run(folder: Path) -> Run:
    if not any((folder / part).exists() for part in ("config.json", "metrics.jsonl", "samples")):
        missing = "holds no run (no config.json, metrics.jsonl or samples/)" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} {missing}. Give the folder that --workdir named in training.")
    saved, path = _read_json(folder / "config.json"), folder / "metrics.jsonl"
    metrics = read_metrics(path) if path.exists() else []
    return Run(
        folder=folder,
        name=folder.resolve().name,
        experiment=str(saved.get("experiment") or ""),
        config=_flat(saved.get("config") or {}),
        changed=_flat(saved.get("changed") or {}),
        environment=_flat(_read_json(folder / "environment.json")),
        metrics=metrics,
        series=_series(metrics),
    )


def _read_json(path: Path) -> dict[str, Any]:
    if not path.exists():
        return {}
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise UserError(f"{path} is not JSON ({error}). Mend it, or remove it and the report goes without.") from error
    return content if isinstance(content, dict) else {}


def _flat(nested: Mapping[str, Any], prefix: str = "") -> dict[str, Any]:
    """{"versions": {"jax": "0.10.0"}} as {"versions.jax": "0.10.0"}."""
    flat: dict[str, Any] = {}
    for key, value in nested.items():
        flat |= _flat(value, f"{prefix}{key}.") if isinstance(value, Mapping) else {f"{prefix}{key}": value}
    return flat


def _first_line(path: Path) -> str:
    """The first line of a Python file's docstring; empty if there is none."""
    try:
        text = ast.get_docstring(ast.parse(path.read_text(encoding="utf-8")))
    except (OSError, SyntaxError, ValueError):
        return ""
    return (text or "").partition("\n")[0]


def _section(run: Run, anchor: str, heading: str) -> str:
    """One run: what it is, what came out, how it got there, and how to go on."""
    seed = run.environment.get("seed", run.config.get("seed"))
    facts = [run.experiment, f"step {run.metrics[-1]['step']:,}" if run.metrics else ""]
    facts += [] if seed is None else [f"seed {seed}"]
    about = {"lead": _first_line(run.folder / "experiment.py"), "soft": " · ".join(fact for fact in facts if fact)}
    pictures = {path: _load(path) for path in draw_curves(run.metrics, run.folder / "plots")}
    curves = [_figure(p, f"Training curves: {path.stem}", density=2) for path, p in pictures.items() if p is not None]
    return f"""
<section id="{anchor}">
<{heading}>{escape(run.name)}</{heading}>
{"".join(f'<p class="{kind}">{escape(text)}</p>' for kind, text in about.items() if text)}
{_samples(run.folder / "samples")}
{_block("Results", _results(run.series))}
{_block("Curves", "".join(curves), "row")}
<div class="pair">
<div>{_block("Changed from the defaults", _fields(run.changed))}
{f"<details><summary>Full config</summary>{_fields(run.config)}</details>" if run.config else ""}</div>
{_block("Environment", _fields(run.environment))}
</div>
{_block("Go on from here", _commands(run))}
</section>"""


def _block(heading: str, content: str, layout: str = "plain") -> str:
    return f'<div><h3>{escape(heading)}</h3><div class="{layout}">{content}</div></div>' if content else ""


def _samples(folder: Path) -> str:
    """Real images beside the newest samples, reconstructions, and a strip of samples over training."""
    found = {int(path.stem[5:]): path for path in folder.glob("step_*.png") if path.stem[5:].isdecimal()}
    steps, last = sorted(found), max(found, default=0)
    frames = np.linspace(0, len(steps) - 1, min(len(steps), STRIP_FRAMES)).round().astype(int)
    sheets = {steps[i]: _load(found[steps[i]]) for i in frames}
    captions = {"Real images": _load(folder / "real.png"), f"Samples at step {last:,}": sheets.get(last)}
    captions["Reconstructions"] = _load(max(folder.glob("reconstruct*.png"), default=folder / "reconstruct.png"))
    shown = [_figure(sheet, f"A grid: {text}", text) for text, sheet in captions.items() if sheet is not None]
    strip = [
        _figure(_corner(sheet), f"The first samples at step {step:,}", f"{step:,}", room=STRIP_WIDTH)
        for step, sheet in sheets.items()
        if sheet is not None
    ]
    over_training = _block("Over training", "".join(strip), "strip") if len(strip) > 1 else ""
    return _block("Samples", "".join(shown), "row") + over_training


def _corner(sheet: Picture) -> Picture:
    """As many whole tiles from the top left as a frame of the strip takes; the whole sheet if it shows no gaps."""
    for axis in (0, 1):
        is_gap = (sheet == GAP_COLOUR).all(axis=(1 - axis, 2))
        ends = np.flatnonzero(is_gap[1:] & ~is_gap[:-1]) + 1
        if len(ends):
            fitting = ends[ends <= STRIP_WIDTH]
            sheet = sheet.take(range(fitting[-1] if len(fitting) else ends[0]), axis)
    return sheet


def _load(path: Path) -> Picture | None:
    """A PNG as pixels; None if it is missing or torn, as one picture must not cost the page."""
    try:
        with Image.open(path) as image:
            return np.asarray(image.convert("RGB"))
    except (OSError, SyntaxError):  # Pillow answers some torn PNGs with SyntaxError
        return None


def _figure(picture: Picture, alt: str, caption: str = "", room: int = 520, density: int = 1) -> str:
    """An embedded picture: pixels stay sharp, unless it is wider than its room and has to shrink."""
    height, width = (side // density for side in picture.shape[:2])
    kind = "plot" if density > 1 else "pixels" if width <= room else "large"
    source = f"data:image/png;base64,{base64.b64encode(_png(picture)).decode()}"
    image = f'<img class="{kind}" src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _results(series: Mapping[str, Series]) -> str:
    """A table of the last values: measures on test data, losses and speed; the rest is in the curves."""
    shown = [name for name in series if re.search(r"^test/|(^|/)loss$|_per_s$", name)]
    rows = []
    for name in sorted(shown, key=lambda name: not name.startswith("test/")):
        steps, values = series[name]
        finite = values[np.isfinite(values)]
        numbers = values[-1], finite.min(initial=math.inf), finite.max(initial=-math.inf)
        rows.append([escape(name), *map(_number, numbers), f"{steps[-1]:,.0f}"])
    return _table(rows, ("Metric", "Last", "Lowest", "Highest", "At step"))


def _comparison(runs: Sequence[Run]) -> str:
    """The runs by the last values of what was measured on test data; their names lead to the sections."""
    names = list(dict.fromkeys(name for run in runs for name in run.series if name.startswith("test/")))
    rows = [
        [f'<a href="#run-{i}">{escape(run.name)}</a>']
        + [_number(run.series[name].values[-1]) if name in run.series else "" for name in names]
        for i, run in enumerate(runs)
    ]
    return f"<nav>{_table(rows, ['Run', *(escape(_readable(name[5:])) for name in names)])}</nav>"


def _number(value: float) -> str:
    return f"{value:,.0f}" if 1e4 <= abs(value) < 1e9 else f"{value:.4g}" if math.isfinite(value) else "not finite"


def _fields(fields: Mapping[str, Any]) -> str:
    """A table of settings; lists without brackets and strings without quotes, the rest as JSON."""
    items = {key: value if isinstance(value, list) else [value] for key, value in fields.items()}
    texts = {key: ", ".join(v if isinstance(v, str) else json.dumps(v) for v in items[key]) for key in items}
    return _table([escape(key), escape(text)] for key, text in texts.items())


def _table(rows: Iterable[Sequence[str]], heads: Sequence[str] = ()) -> str:
    """A table of HTML cells, numbers if it has heads; nothing without rows."""
    top = "".join(f'<th scope="col">{head}</th>' for head in heads)
    body = "".join(
        f'<tr><th scope="row">{first}</th>{"".join(f"<td>{cell}</td>" for cell in rest)}</tr>' for first, *rest in rows
    )
    kind = "numbers" if heads else "fields"
    return f'<div class="scroll"><table class="{kind}"><tr>{top}</tr>{body}</table></div>' if body else ""


def _commands(run: Run) -> str:
    folder = shlex.quote(str(run.folder))
    script = shlex.quote(f"experiments/{run.experiment}.py")
    lines = [f"python {script} --workdir {folder}"] if run.experiment else []
    lines += [f"jimgen sample {folder} --num 64 --seed 0 --out samples.png", f"jimgen evaluate {folder} --num 1000"]
    return "<pre>" + escape("\n".join(lines)) + "</pre>"


STYLE = """
:root { --page: #fcfcfa; --ink: #1f1f23; --soft: #66666e; --line: #e5e5e0; --raised: #f4f4f0; --link: #2560a5;
  --blend: multiply }
@media (prefers-color-scheme: dark) {
  :root { --page: #141416; --ink: #e6e6e3; --soft: #9c9ca3; --line: #2c2c30; --raised: #1d1d20; --link: #86b4e8;
    --blend: screen }
  .plot { filter: invert(1) hue-rotate(180deg) } /* white paper turns black, and screen blends that into the page */
}
* { box-sizing: border-box }
body { margin: 0 auto; padding: 3.5rem 1.5rem 5rem; max-width: 69rem; background: var(--page); color: var(--ink);
  font: 1rem/1.55 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif; -webkit-text-size-adjust: 100% }
h1, h2 { margin: 0; font-size: 1.9rem; line-height: 1.2; letter-spacing: -.02em; overflow-wrap: anywhere }
h2 { font-size: 1.45rem }
h3 { margin: 2.5rem 0 .9rem; font-size: .95rem; font-weight: 600 }
p { margin: .4rem 0 0; max-width: 44rem; text-wrap: pretty }
.soft, figcaption, summary { color: var(--soft); font-size: .875rem; font-variant-numeric: tabular-nums }
header ~ main section { margin-top: 3.5rem; padding-top: 2.5rem; border-top: 1px solid var(--line) }
nav { margin-top: 1.5rem }
a { color: var(--link); text-underline-offset: .18em; text-decoration-thickness: 1px }
figure { margin: 0; min-width: 0 }
figcaption { margin-top: .5rem }
img { display: block; max-width: 100%; height: auto }
.pixels { image-rendering: pixelated }
.plot { mix-blend-mode: var(--blend) }
.row { display: flex; flex-wrap: wrap; gap: 1.75rem; align-items: start }
.strip { display: flex; gap: 1rem }
.strip figure { flex: none; max-width: 10rem }
.strip, .scroll, pre { overflow-x: auto }
.pair { display: grid; grid-template-columns: repeat(auto-fit, minmax(min(100%, 24rem), 1fr)); gap: 0 3rem }
table { border-collapse: collapse; font-size: .875rem; font-variant-numeric: tabular-nums }
th, td { padding: .42rem 0; border-bottom: 1px solid var(--line); text-align: left; vertical-align: top }
th { font-weight: 400; color: var(--soft); white-space: nowrap }
td { padding-left: 2rem; overflow-wrap: anywhere }
.fields { width: 100% }
.fields th { width: 11rem }
.numbers td, .numbers [scope=col] + th { padding-left: 2rem; text-align: right; white-space: nowrap }
.numbers [scope=row] { color: var(--ink) }
details { margin-top: 1.5rem }
summary { cursor: pointer; margin-bottom: .6rem }
pre { margin: 0; padding: 1rem 1.15rem; background: var(--raised); border-radius: .5rem;
  font: .84rem/1.75 ui-monospace, SFMono-Regular, Menlo, Consolas, monospace }
@media (max-width: 40rem) {
  body { padding: 2.25rem 1.25rem 3.5rem }
  .numbers td, .numbers [scope=col] + th { padding-left: 1.1rem }
  .fields th { width: 8rem }
  .row figure { max-width: 100%; overflow-x: auto }
  .plot { max-width: none } /* scrolled, as shrunk labels could not be read */
}
"""
