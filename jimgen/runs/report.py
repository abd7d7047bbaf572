"""One self-contained HTML page on one run or several."""

import ast
import base64
import json
import math
import re
import shlex
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from jimgen.curves import Series, draw_curves, in_words, read_metrics, series_of
from jimgen.errors import UserError
from jimgen.evaluation.results import EXTREMES, NEAREST, RESULTS, read_evaluation
from jimgen.files import read_json, write_atomically
from jimgen.pictures import GAP_COLOUR, Picture, encode_png
from jimgen.runs.folder import CONFIG, ENVIRONMENT, EVALUATION, EXPERIMENT, METRICS_FILE, PLOTS, REAL, SAMPLES
from jimgen.runs.logging import FROM

STRIP_FRAMES, STRIP_WIDTH = 6, 160  # samples over training: how many, and CSS pixels of one


class ReportedRun(NamedTuple):
    """The content of a run's folder but for its pictures, which are read where they are shown."""

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

    A run is only read, unless the page is written into its folder: then its curves are drawn afresh into its plots/.
    What a run lacks is left out of its section.

    Args:
        run_folders: run directories, in the order of the page.
        out: the file; replaced in one step, so that a browser never sees half a page.
        title: of the page. Default: the run's name, or how many runs there are.
    Returns: The path written.
    Raises:
        UserError: no folders, a folder that is missing or holds no run, or a JSON file that cannot be read.
    """
    if not run_folders:
        raise UserError("There is no run to report on. Name at least one run folder.")
    runs = [_read_run(Path(folder)) for folder in run_folders]
    alone = len(runs) == 1 and title is None  # then the run's own heading is the page's
    title = title or (runs[0].name if alone else f"{len(runs)} runs")
    header = "" if alone else f"<header><h1>{escape(title)}</h1>{_comparison(runs)}</header>"
    home = Path(out).resolve().parent
    sections = ""
    for i, run in enumerate(runs):
        with tempfile.TemporaryDirectory() as scratch:
            plots = run.folder / PLOTS if run.folder.resolve() == home else Path(scratch)
            curves = [(path.stem, _load(path)) for path in draw_curves(run.metrics, plots)]
        sections += _section(run, curves, f"run-{i}", "h1" if alone else "h2")
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
    write_atomically(out, page.encode(errors="backslashreplace"))  # half characters of a damaged config
    return Path(out)


def _read_run(folder: Path) -> ReportedRun:
    if not any((folder / part).exists() for part in (CONFIG, METRICS_FILE, SAMPLES)):
        missing = "holds no run (no config.json, metrics.jsonl or samples/)" if folder.is_dir() else "is not a folder"
        raise UserError(f"{folder} {missing}. Give the folder that --workdir named in training.")
    saved, path = _read_json(folder / CONFIG), folder / METRICS_FILE
    if not all(isinstance(saved.get(part, {}), dict) for part in ("config", "changed")):
        raise UserError(f"{folder / CONFIG} is damaged (config and changed are no objects): restore it")
    metrics = read_metrics(path) if path.exists() else []
    return ReportedRun(
        folder=folder,
        name=folder.resolve().name,
        experiment=str(saved.get("experiment") or ""),
        config=_flat(saved.get("config") or {}),
        changed=_flat(saved.get("changed") or {}),
        environment=_flat(_read_json(folder / ENVIRONMENT)),
        metrics=metrics,
        series=series_of(metrics),
    )


def _read_json(path: Path) -> dict[str, Any]:
    return read_json(path, "restore it from a copy, or remove it and the report goes without") or {}


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


def _section(run: ReportedRun, drawn: Sequence[tuple[str, Picture | None]], anchor: str, heading: str) -> str:
    """One run: what it is, what came out, how it got there, and how to go on."""
    seed = run.environment.get("seed", run.config.get("seed"))
    facts = [run.experiment, f"step {run.metrics[-1]['step']:,}" if run.metrics else ""]
    facts += [] if seed is None else [f"seed {seed}"]
    about = {"lead": _first_line(run.folder / EXPERIMENT), "soft": " · ".join(fact for fact in facts if fact)}
    curves = [_figure(sheet, f"Training curves: {name}", density=2) for name, sheet in drawn if sheet is not None]
    return f"""
<section id="{anchor}">
<{heading}>{escape(run.name)}</{heading}>
{"".join(f'<p class="{kind}">{escape(text)}</p>' for kind, text in about.items() if text)}
{_samples(run.folder / SAMPLES)}
{_block("Test metrics", _test_metrics(run.series))}
{_block("Training", _results(run.series))}
{_block("Rollbacks", _rollbacks(run.metrics))}
{_evaluation(run.folder / EVALUATION)}
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
    captions = {"Real images": _load(folder / REAL), f"Samples at step {last:,}": sheets.get(last)}
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
    source = f"data:image/png;base64,{base64.b64encode(encode_png(picture)).decode()}"
    image = f'<img class="{kind}" src="{source}" width="{width}" height="{height}" alt="{escape(alt)}">'
    return f"<figure>{image}{f'<figcaption>{escape(caption)}</figcaption>' if caption else ''}</figure>"


def _rollbacks(metrics: Iterable[Mapping[str, Any]]) -> str:
    """A table of where training collapsed, and from where it went on."""
    rows = [
        [_number(count), name.removeprefix("rollback/").replace("_", " "), f"{row[FROM]:,.0f}", f"{row['step']:,.0f}"]
        for row in metrics
        if FROM in row
        for name, count in row.items()
        if name.startswith("rollback/") and name != FROM
    ]
    return _table(rows, ("Rollback", "Reason", "Noticed at step", "Went on from step"))


def _evaluation(folder: Path) -> str:
    """Results of `jimgen evaluate`: metrics beside those of real images and of Gaussians, pictures, a row per class."""
    found = read_evaluation(folder / RESULTS)
    if not found:
        return ""
    counts = found["num_real"]
    heads = ("Metric", "Samples", f"Real ({counts['test']:,} test)", "Gaussian per class")
    rows = [
        [escape(name), *(_number(row[who]) if who in row else "" for who in ("value", "real", "gaussian"))]
        for name, row in found["metrics"].items()
    ]
    nets = ", ".join(f"{name} (weights {net['weights_hash'][:12]})" for name, net in found["extractors"].items())
    about = f"{found['num']:,} samples against {counts['train']:,} images of {found['data']['name']}. {nets}"
    warnings = "".join(f"<p>Warning: {escape(str(text))}.</p>" for text in found.get("warnings") or [])
    captions = {
        NEAREST: "The samples closest to a training image, and its nearest neighbours",
        EXTREMES: "The samples closest to the data, and below them those farthest away",
    }
    pictures = {text: _load(folder / name) for name, text in captions.items()}
    shown = [_figure(sheet, f"A grid: {text}", text) for text, sheet in pictures.items() if sheet is not None]
    return (
        _block("Evaluation", _table(rows, heads) + f'<p class="soft">{escape(about)}</p>' + warnings)
        + _block("Samples and their neighbours", "".join(shown), "row")
        + _block("Classes", _classes(found.get("per_class") or []))
    )


def _classes(rows: Sequence[Mapping[str, Any]]) -> str:
    heads = {
        "class": "Class",
        "share": "Share of samples",
        "share_of_data": "Share of data",
        "recognised": "Recognised as such",
        "cas": "Accuracy trained on samples",
    }
    names = [name for name in heads if any(name in row for row in rows)]
    cells = [
        [escape(str(row["class"]))] + ["" if row.get(name) is None else f"{100 * row[name]:.1f}%" for name in names[1:]]
        for row in rows
    ]
    return _table(cells, [heads[name] for name in names])


def _test_metrics(series: Mapping[str, Series]) -> str:
    """A table of the last values measured on test data."""
    found = {name: of for name, of in series.items() if name.startswith("test/")}
    rows = [[_name(name), _number(of.values[-1]), f"{of.steps[-1]:,.0f}"] for name, of in found.items()]
    return _table(rows, ("Metric", "Value", "At step"))


def _results(series: Mapping[str, Series]) -> str:
    """A table of losses, sample quality and speed; the rest is in the curves."""
    rows = []
    for name in series:
        if re.search(r"^quality/|(^|/)loss$|_per_s$", name) and not name.startswith("test/"):
            steps, values = series[name]
            finite = values[np.isfinite(values)]
            numbers = values[-1], finite.min(initial=math.inf), finite.max(initial=-math.inf)
            rows.append([_name(name), *map(_number, numbers), f"{steps[-1]:,.0f}"])
    return _table(rows, ("Metric", "Last", "Lowest", "Highest", "At step"))


def _comparison(runs: Sequence[ReportedRun]) -> str:
    """The runs by the last values of what was measured on test data; their names lead to the sections."""
    names = list(dict.fromkeys(name for run in runs for name in run.series if name.startswith("test/")))
    rows = [
        [f'<a href="#run-{i}">{escape(run.name)}</a>']
        + [_number(run.series[name].values[-1]) if name in run.series else "" for name in names]
        for i, run in enumerate(runs)
    ]
    return f"<nav>{_table(rows, ['Run', *(_name(name) for name in names)])}</nav>"


def _name(metric: str) -> str:
    """A metric's name in words; its name in the files as a tooltip."""
    return f'<span title="{escape(metric)}">{escape(in_words(metric).removeprefix("test: "))}</span>'


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


def _commands(run: ReportedRun) -> str:
    folder = shlex.quote(str(run.folder))
    script = shlex.quote(f"experiments/{run.experiment}.py")
    lines = [f"python {script} --workdir {folder}"] if run.experiment else []
    lines += [f"jimgen sample {folder} --num 64 --seed 0 --out samples.png", f"jimgen evaluate {folder}"]
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
