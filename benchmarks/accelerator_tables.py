"""The results of benchmarks/accelerator.py as Markdown tables, from the rows of its JSON file."""

from typing import Any

Row = dict[str, Any]
Columns = dict[str, str]  # heading -> name in `what` or `result` of a row

TITLES = {
    "versions": "Device and versions",
    "attention": "Attention",
    "train": "Train step",
    "large": "Train step, large",
    "pytorch": "Train step beside PyTorch, eager",
    "training": "One training to the end",
    "convolution": "Forms of convolution, milliseconds",
    "grouped": "Forms of grouped convolution, milliseconds",
    "compiled": "Train step beside PyTorch with torch.compile",
}
STEP: Columns = {
    "workload": "workload",
    "size": "size",
    "dtype": "dtype",
    "attention": "attention",
    "batch": "batch",
    "images/s": "images_per_s",
    "ms": "ms",
    "TFLOP/s": "tflop_per_s",
    "MFU": "mfu",
    "peak MiB": "peak_mib",
    "MiB from": "peak_from",
    "compile s": "compile_s",
}
BESIDE: Columns = {
    "workload": "workload",
    "dtype": "dtype",
    "batch": "batch",
    "jimgen, images/s": "ours",
    "attention": "attention",
    "PyTorch, images/s": "pytorch_images_per_s",
    "jimgen / PyTorch": "ratio",
    "first step s": "pytorch_first_step_s",
    "torch": "torch",
}
COLUMNS: dict[str, Columns] = {
    "attention": {
        "attention": "attention",
        "dtype": "dtype",
        "batch": "batch",
        "tokens": "length",
        "heads": "heads",
        "head size": "head_dim",
        "causal": "causal",
        "forward ms": "forward_ms",
        "forward and backward ms": "forward_and_backward_ms",
        "difference": "difference",
        "of gradients": "gradient_difference",
    },
    "train": STEP,
    "large": STEP,
    "pytorch": BESIDE,
    "compiled": BESIDE,
    "training": {
        "experiment": "experiment",
        "images": "images",
        "of": "images_asked",
        "train s": "train_s",
        "images/s": "images_per_s",
        "distance": "extractor",
        "samples": "num",
        "value": "fd",
        "real images": "fd_of_real_images",
        "Gaussian per class": "fd_of_gaussian",
        "no distance": "no_distance",
    },
}
NOTES = {
    "attention": "Differences are to einsum in float32 at full precision, as parts of the largest value.",
    "train": "Images/s and ms: the median over repeats of many steps that are waited for once. MiB: the device's is "
    "the peak of the process, where this step raised it; the compiler's is what the program needs.",
    "pytorch": "Both wait for each step. Float32 products may be TF32 in both.",
    "convolution": "The fastest form is bold. Difference: the largest of all forms, to the native one in float32 at "
    "full precision.",
}
NOTES |= {"large": NOTES["train"], "compiled": NOTES["pytorch"], "grouped": NOTES["convolution"]}


def tables(head: Row, rows: list[Row]) -> str:
    """Markdown: a heading and a table for each part of which something was measured, then what was not and why.

    Args:
      head: `date`, `command` and `minutes`.
      rows: of the JSON file: `part`, `what`, `status`, and `result` or `reason`.
    """
    measured = [row for row in rows if row["status"] == "measured"]
    device = next((row["result"]["device"] for row in measured if row["part"] == "versions"), "device not asked for")
    text = [f"## {device}, {head['date']}", "", "```", head["command"], "```", ""]
    for part, title in TITLES.items():
        if not (found := [row for row in measured if row["part"] == part]):
            continue
        text += [f"### {title}", ""]
        text += [NOTES[part], ""] if part in NOTES else []
        text += part_table(part, found, measured) + [""]
        text += [f"`{row['result']['command']}`\n" for row in found if "command" in row["result"]]
    if missing := not_measured(rows):
        text += ["### Not measured", "", *missing, ""]
    return "\n".join(text)


def part_table(part: str, found: list[Row], measured: list[Row]) -> list[str]:
    """The lines of a part's table."""
    if part == "versions":
        return table({"": "name", " ": "value"}, [{"name": k, "value": v} for k, v in found[0]["result"].items()])
    if part in ("convolution", "grouped"):
        return forms_table(found)
    if part in ("pytorch", "compiled"):
        return table(COLUMNS[part], [beside(row, measured) for row in found])
    return table(COLUMNS[part], [with_size(row["what"]) | row["result"] for row in found])


def table(columns: Columns, rows: list[Row]) -> list[str]:
    """A table of those columns for which some row has a value."""
    shown = {heading: name for heading, name in columns.items() if any(name in row for row in rows)}
    lines = [list(shown), ["---"] * len(shown)]
    lines += [[cell(row.get(name, "")) for name in shown.values()] for row in rows]
    return ["| " + " | ".join(line) + " |" for line in lines]


def cell(value: Any) -> str:
    """A number to three digits, or all those before the point; True as yes; other things as they are."""
    if isinstance(value, bool) or value is None:
        return {True: "yes", False: "no", None: ""}[value]
    if isinstance(value, int):
        return f"{value:,}"
    if not isinstance(value, float):
        return str(value)
    return f"{value:,.0f}" if abs(value) >= 100 else f"{value:.3g}"


def with_size(what: Row) -> Row:
    """The columns that say what was measured, with a transformer's sizes in one."""
    sizes = [f"{name} {what[name]}" for name in ("depth", "width", "patch") if name in what]
    return what | ({"size": ", ".join(sizes)} if sizes else {})


def beside(row: Row, measured: list[Row]) -> Row:
    """PyTorch's row with the best of ours that does the same: of several attentions the fastest."""
    same = ("workload", "dtype", "batch")
    ours = [
        other
        for other in measured
        if other["part"] == "train"
        and all(other["what"][name] == row["what"][name] for name in same)
        and set(other["what"]) <= {*same, "attention"}  # the scripts know the default sizes alone
    ]
    found = row["what"] | row["result"]
    if not ours:
        return found
    best = max(ours, key=lambda other: other["result"]["waiting_images_per_s"])
    rate = best["result"]["waiting_images_per_s"]
    attention = {"attention": best["what"]["attention"]} if "attention" in best["what"] else {}
    return found | attention | {"ours": rate, "ratio": rate / found["pytorch_images_per_s"]}


def forms_table(found: list[Row]) -> list[str]:
    """A line for each operation, a column for each form."""
    names = list(dict.fromkeys(row["what"]["form"] for row in found))
    lines: dict[tuple[str, ...], Row] = {}
    for row in found:
        what, result = row["what"], row["result"]
        key = ("operation", "picture", "batch", "dtype")
        line = lines.setdefault(tuple(str(what[name]) for name in key), {name: what[name] for name in key})
        line[what["form"]] = result["ms"]
        line["difference"] = max(line.get("difference", 0.0), result["difference"])
    for line in lines.values():
        best = min((name for name in names if name in line), key=lambda name: line[name])
        line[best] = f"**{cell(line[best])}**"
    columns = ("operation", "picture", "batch", "dtype", *names, "difference")
    return table({name: name for name in columns}, list(lines.values()))


def not_measured(rows: list[Row]) -> list[str]:
    """A line for each part and reason, with what it applies to."""
    groups: dict[tuple[str, str, str], list[str]] = {}
    for row in rows:
        if row["status"] != "measured":
            what = " ".join(cell(value) for value in row["what"].values())
            groups.setdefault((row["part"], row["status"], row["reason"]), []).append(what)
    lines = []
    for (part, status, reason), whats in groups.items():
        several = f" ({len(whats)})" if len(whats) > 3 else f" ({'; '.join(whats)})" if any(whats) else ""
        lines.append(f"- {part}{several}: {status}: {reason}")
    return lines
