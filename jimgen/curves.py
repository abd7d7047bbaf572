"""Curves of what training measured. matplotlib is imported only when they are drawn."""

import io
import json
import math
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from jimgen.errors import UserError
from jimgen.files import is_number, write_atomically

Metrics = Sequence[Mapping[str, Any]]  # rows of metrics.jsonl: {"step": 100, "generator/loss": 0.7, ...}

MOST_STEPS = 2**53  # beyond this a float skips integers
LARGEST_DRAWN = 1e100  # values beyond this are drawn as gaps: matplotlib overflows where it leaves room around them
PALETTE = ("#2f6db3", "#cc5a3b", "#3f8f5f", "#8759a8", "#b4861d", "#3a97a6")


def read_metrics(path: Path) -> list[dict[str, Any]]:
    """The rows of a metrics.jsonl, in file order: numbers by name, NaN and Infinity among them.

    A kill in mid-write tears the last line, and a resumed run then writes on behind the tear: lines that cannot be read
    are left out wherever they stand, and so are rows without a "step" of 0 or more, and values that are not numbers.

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
        except (ValueError, RecursionError):
            continue
        if isinstance(row, dict) and is_number(row.get("step")) and 0 <= row["step"] <= MOST_STEPS:
            rows.append({name: value for name, value in row.items() if is_number(value)})
    if len(lines) > 1 and not rows:
        raise UserError(f'{path} holds no metrics. Each line should be a JSON object with a "step".')
    return rows


class Series(NamedTuple):
    """One metric over training: steps [k], rising, and values [k], NaN and infinities among them; both float64."""

    steps: NDArray[np.float64]
    values: NDArray[np.float64]


def series_of(metrics: Metrics) -> dict[str, Series]:
    """Metrics by name, in order of first appearance; rows that a resumed run took back are left out."""
    kept, next_step = [], math.inf
    for row in reversed(metrics):
        if row["step"] <= next_step:  # else the run went back to a checkpoint before this row
            kept.append(row)
            next_step = row["step"]
    points: dict[str, dict[float, float]] = {}
    for row in reversed(kept):
        for name, value in row.items():
            if name != "step" and is_number(value):
                points.setdefault(name, {})[row["step"]] = value
    return {name: Series(np.array(list(at), float), np.array(list(at.values()), float)) for name, at in points.items()}


def draw_curves(metrics: Metrics, folder: Path) -> list[Path]:
    """Draws training curves, one PNG a group of metrics.

    losses.png holds the losses of all phases in one panel; other.png a panel for each metric of no phase, such as
    images_per_s; test.png one for each metric of test data; PHASE.png one for each further metric of a phase. Metrics
    that tell nothing as a curve are left out: those of fewer than two points, those that are always zero, the time, and
    rollbacks.
    A panel is logarithmic where all values are positive and span more than a factor of 100. Values that are not finite
    leave gaps, and the panel's title counts them.

    Args:
        metrics: rows as `read_metrics` gives them.
        folder: where the pictures go; made if need be.
    Returns: The paths written, in reading order; none without metrics.
    """
    groups: dict[str, dict[str, dict[str, Series]]] = {"losses": {}, "other": {}, "test": {}}  # by file, panel, label
    for name, series in series_of(metrics).items():
        if name in ("seconds", "cpu_seconds") or name.startswith("rollback/"):
            continue
        if len(series.values) < 2 or not series.values.any():
            continue
        phase, _, rest = name.rpartition("/")
        if rest == "loss" and phase != "test":
            groups["losses"].setdefault("loss", {})[in_words(phase) or "loss"] = series
        else:
            groups.setdefault(phase or "other", {})[in_words(name)] = {"": series}
    paths = []
    for group, panels in groups.items():
        if panels:
            paths.append(Path(folder) / (re.sub(r"[^\w.-]+", "_", group) + ".png"))
            write_atomically(paths[-1], _draw_panels(panels, markers=group == "test"))
    return paths


WORDS = {
    **{"grad": "gradient", "kl": "KL", "elbo": "ELBO", "neg": "negative", "psnr": "PSNR", "dim": "dimension"},
    **{"fd": "Frechet distance", "kid": "KID", "is": "inception score", "s": "second", "iwae": "IWAE"},
}
UNITS = {"nats": "nats", "bits": "bits", "db": "dB"}


def in_words(name: str) -> str:
    """A metric's name for people: "vae/neg_elbo_nats" -> "vae: negative ELBO (nats)"; brackets stay as they are."""
    phase, _, rest = name.rpartition("/")
    plain, bracket, inside = rest.partition("[")
    parts = plain.split("_")
    unit = f" ({UNITS[parts.pop()]})" if len(parts) > 1 and parts[-1] in UNITS else ""
    words = " ".join(WORDS.get(part, part) for part in parts) + unit
    return (f"{phase}: " if phase else "") + words + (f" [{inside.replace(',', ', ')}" if bracket else "")


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
    finite = values[_can_be_drawn(values)]
    for i, (label, (steps, line)) in enumerate(curves.items()):
        line = np.where(_can_be_drawn(line), line, np.nan)
        style: dict[str, Any] = {"color": PALETTE[i % len(PALETTE)], "lw": 1.5, "label": label}
        if markers or len(steps) < 3:
            style |= {"marker": "o", "ms": 4.5, "mec": "white", "mew": 0.8}
        elif len(steps) >= 60:
            axes.plot(steps, line, color=style["color"], lw=0.7, alpha=0.25)
            line = _smooth(line)
        axes.plot(steps, line, **style)
    lost = f" ({len(values) - len(finite)} not finite)" if len(finite) < len(values) else ""
    axes.set_title(title + lost, loc="left", fontsize=10, color=ink, pad=8)
    axes.set_xlabel("train step", fontsize=8.5, color=ink)
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


def _can_be_drawn(values: NDArray[np.float64]) -> NDArray[np.bool_]:
    return np.abs(values) <= LARGEST_DRAWN  # NaN is not


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """A centred Hann-weighted mean over a tenth of the values [k]: it does not lag, and NaN stays a gap."""
    window, known = np.hanning(len(values) // 10 + 2), np.isfinite(values)
    weight = np.convolve(known, window, "same")
    mean = np.convolve(np.where(known, values, 0), window, "same") / np.where(known, weight, 1)
    return np.where(known, mean, np.nan)
