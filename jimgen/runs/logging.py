"""The log of a training: lines of metrics.jsonl, and its progress on the screen."""

import contextlib
import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jimgen.curves import read_metrics
from jimgen.files import disk_errors, write_atomically
from jimgen.output import Output

Log = Callable[[int, dict[str, float]], None]  # (step, metrics)

FROM = "rollback/from"  # in a row of metrics.jsonl: the step at which a collapse was noticed; the row's step is the one
# that training went back to, and "rollback/REASON" numbers the rollbacks


def silent(step: int, metrics: dict[str, float]) -> None:
    """The log of processes other than the first."""


@contextlib.contextmanager
def metrics_log(path: Path, start: int, steps: int, batch_size: int, output: Output) -> Iterator[Log]:
    """A function (step, metrics) that writes a line of metrics.jsonl and shows progress.

    Args:
        path: of metrics.jsonl. Rows that a run which resumes at `start` writes again are dropped.
        start: steps done before.
        steps: of the whole training.
        batch_size: images a step.
        output: where progress is shown.
    """
    seconds, cpu_seconds = _forget_after(path, start)
    began = last_time = time.perf_counter()
    cpu_began = time.process_time()
    last_step = start
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    values = TextColumn("{task.fields[values]}", markup=False)  # names hold brackets
    bar = Progress(*columns, values, console=output, disable=not output.is_terminal)
    with bar, path.open("ab", buffering=0) as file:  # a buffer would be written once more when it is closed
        task = bar.add_task("training", total=steps, completed=start, values="compiling")
        compiled: tuple[int, float] | None = None  # step and time of the first line: only what follows tells the speed

        def log(step: int, metrics: dict[str, float]) -> None:
            nonlocal last_time, last_step, compiled
            now = time.perf_counter()
            row: dict[str, float] = {
                "step": step,
                "seconds": round(seconds + now - began, 3),
                "cpu_seconds": round(cpu_seconds + time.process_time() - cpu_began, 3),
            }
            if compiled and step > last_step:
                row["images_per_s"] = round((step - last_step) * batch_size / (now - last_time), 2)
            if compiled is None or step < last_step:  # also after a rollback
                compiled = step, now
            last_time, last_step = now, step  # of evaluations too, whose time is not training's
            with disk_errors(path.parent):
                file.write(json.dumps(row | metrics).encode() + b"\n")
            speed = {"images/s": row["images_per_s"]} if "images_per_s" in row else {}
            shown = "  ".join(f"{name} {value:.4g}" for name, value in {**speed, **_headline(metrics)}.items())
            bar.update(task, completed=step, values=shown)
            if not output.is_terminal:
                done, since = step - compiled[0], now - compiled[1]
                left = f"  eta {(steps - step) * since / done:.0f}s" if done and step < steps else ""
                output.print(f"step {step}/{steps}{left}  {shown}")

        yield log


def _headline(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if name.endswith("/loss") or name.startswith(("test/", "quality/"))
    }


def _forget_after(path: Path, step: int) -> tuple[float, float]:
    """Drops the rows after a step, but not those of attempts from which training has gone back before.

    Returns: the seconds trained until then, and those of all processors.
    """
    rows = read_metrics(path) if path.exists() else []
    attempt = max((i for i, row in enumerate(rows) if FROM in row and row["step"] <= step), default=0)
    rows = rows[:attempt] + [row for row in rows[attempt:] if row["step"] <= step]
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
    last = rows[-1] if rows else {}
    return last.get("seconds", 0.0), last.get("cpu_seconds", 0.0)
