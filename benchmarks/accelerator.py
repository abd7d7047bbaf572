"""All that a borrowed accelerator is good for, in one call, within a number of minutes.

    python benchmarks/accelerator.py --minutes 8
    python benchmarks/accelerator.py --minutes 8 --peers FOLDER --other-python PYTHON_WITH_TORCH
    python benchmarks/accelerator.py --minutes 5 --parts attention,train --workloads gpt,dit --batch 512
    python benchmarks/accelerator.py --size toy

What matters most comes first:

  versions     of JAX and its libraries, and the device
  attention    einsum, xla and cudnn, forward and backward: beside einsum in float32, and their milliseconds
  train        a train step of each workload of benchmarks/workloads.py in float32 and bfloat16: images/s, FLOP/s, MFU,
               memory
  pytorch      the same steps, by the PyTorch scripts of --peers, eager
  training     experiments/flow.py to a stated number of images, and its Frechet distance
  large        transformers of 12 blocks of width 768 in bfloat16, and DCGAN at a batch of 2048
  convolution  convolution, its transpose and its kernel gradient in the forms of jimgen.nets.convolution
  grouped      grouped and depthwise convolution: native, dense with a mask, sums of shifted pictures
  compiled     as `pytorch`, with torch.compile

Each measurement begins only if there is time for it. What there was none for, what cannot run here and what failed
stand in the results with the reason. The JSON file is written anew after each measurement, and so is a Markdown file of
tables beside it, which can go into docs/benchmarks.md as it is.

MFU is FLOP/s as a part of the device's dense bfloat16 peak, in float32 too. How FLOPs are counted is said in
benchmarks/accelerator_train.py (`count_flop`).
"""

import dataclasses
import functools
import json
import os
import platform
import shlex
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable
from importlib import metadata
from pathlib import Path
from typing import Any, Literal, NamedTuple

import tyro
from accelerator_tables import cell, tables
from throughput import PEAKS

from jimgen.errors import UserError, errors_in_a_line
from jimgen.files import write_atomically

PARTS = ("versions", "attention", "train", "pytorch", "training", "large", "convolution", "grouped", "compiled")
WORKLOADS = ("dcgan", "vae", "r1", "gpt", "dit")
TRANSFORMERS = ("gpt", "dit")
# Seconds that must be left for a measurement of a part to begin: what one takes, its compilation included.
SECONDS = {"versions": 2, "attention": 8, "train": 45, "large": 60, "pytorch": 25, "training": 110} | {
    **{"convolution": 5, "grouped": 5, "compiled": 75}
}
TOY_SECONDS = 2.0
EVALUATION_SECONDS = {"full": 60.0, "toy": 25.0}  # of the training's images; until then it may train
Row = dict[str, Any]


@dataclasses.dataclass(frozen=True)
class Args:
    minutes: float = 8.0
    """time budget; a measurement under way when it ends is waited for, a script is stopped"""
    parts: str = ",".join(PARTS)
    """which parts to run, in this order, separated by commas"""
    workloads: str = ",".join(WORKLOADS)
    """which workloads to train, separated by commas"""
    size: Literal["full", "toy"] = "full"
    """toy: tiny inputs, to try the program on a CPU"""
    batch: int = 0
    """images a step in train, pytorch and compiled; 0 for 256, and 64 for gpt"""
    images: int = 0
    """images that the training sees; 0 for 153,600 of Fashion-MNIST, or 64,000 of digits where that is not at hand"""
    peak_tflops: float = 0.0
    """peak of the device in dense bfloat16, for MFU; 0 to look it up"""
    peers: Path | None = None
    """folder of the PyTorch scripts bench_dcgan.py, bench_vae.py, bench_r1.py, bench_ar.py and bench_dit.py"""
    other_python: str = sys.executable
    """the interpreter for them"""
    out: Path = Path("runs/accelerator.json")
    """file of the results; the tables are written beside it, with the ending .md"""


class Measurement(NamedTuple):
    part: str
    what: Row  # the first columns of its row in the tables
    run: Callable[[], Row]  # returns the others, or {"skipped": reason}


def check(args: Args) -> None:
    """Raises UserError for arguments that make no sense."""
    for flag, given, known in (("parts", args.parts, PARTS), ("workloads", args.workloads, WORKLOADS)):
        if unknown := [name for name in given.split(",") if name not in known]:
            raise UserError(f"--{flag} {given}: no {', '.join(unknown)}. Choose from {','.join(known)}")
    for flag in ("minutes", "batch", "images", "peak_tflops"):
        if not 0 <= getattr(args, flag) < float("inf"):
            raise UserError(f"--{flag.replace('_', '-')} {getattr(args, flag)}: must be finite and not negative")
    if args.out.suffix != ".json":
        raise UserError(f"--out {args.out}: give a name that ends in .json")
    if args.peers and not args.peers.is_dir():
        raise UserError(f"--peers {args.peers}: there is no such folder")


def run(args: Args) -> list[Row]:
    """Measures, prints a line each, and writes the results after each; returns them as they stand in the JSON file."""
    began = time.monotonic()

    def left() -> float:
        return 60 * args.minutes - (time.monotonic() - began)

    head = {
        "date": time.strftime("%Y-%m-%d"),
        "command": shlex.join(["python", *sys.argv]),
        "minutes": args.minutes,
        "size": args.size,
    }
    rows: list[Row] = []
    for measurement in plan(args, left):
        enough = TOY_SECONDS if args.size == "toy" else SECONDS[measurement.part]
        started = time.monotonic()
        row = {"part": measurement.part, "what": measurement.what} | outcome(measurement, left(), enough)
        rows.append(row | {"seconds": round(time.monotonic() - started, 1)})
        print(f"{time.monotonic() - began:4.0f} s  {as_line(row)}", flush=True)
        write_atomically(args.out, json.dumps({**head, "rows": rows}, indent=1))
        write_atomically(args.out.with_suffix(".md"), tables(head, rows))
    count = Counter(row["status"] for row in rows)
    print(f"\n{tables(head, rows)}\n{', '.join(f'{n} {status}' for status, n in count.items())}: {args.out}")
    return rows


def outcome(measurement: Measurement, left_s: float, enough_s: float) -> Row:
    """What came of a measurement: `status`, and either `result` or the `reason` why there is none."""
    if left_s < enough_s:
        reason = f"{max(left_s, 0):.0f} s were left, and it takes {enough_s:.0f}"
        return {"status": "not reached", "reason": reason}
    try:
        result = measurement.run()
    except Exception as error:  # whatever it is, the other measurements are worth having
        lines = str(error).strip().splitlines() or [""]
        return {"status": "failed", "reason": f"{type(error).__name__}: {lines[0]:.300}"}
    if "skipped" in result:
        return {"status": "skipped", "reason": result["skipped"]}
    return {"status": "measured", "result": result}


def as_line(row: Row) -> str:
    """A row for the terminal."""
    what = " ".join(str(value) for value in row["what"].values())
    found = row.get("result", {})
    said = ", ".join(f"{name} {cell(value)}" for name, value in found.items() if not isinstance(value, dict))
    return f"{row['part']} {what}: {said or row['status'] + ', ' + row['reason']}"


# What is measured


def plan(args: Args, left: Callable[[], float]) -> list[Measurement]:
    """All measurements, in order. `left` tells the seconds until the end."""
    from accelerator_forms import Timing

    toy = args.size == "toy"
    timing = Timing(repeats=2, seconds=0.0) if toy else Timing(repeats=5, seconds=0.3)
    planned = {
        "versions": lambda: [Measurement("versions", {}, functools.partial(versions, args.other_python))],
        "attention": lambda: plan_attention(toy, timing),
        "train": lambda: plan_train("train", train_cases(args), args, timing),
        "large": lambda: plan_train("large", large_cases(args), args, timing),
        "pytorch": lambda: plan_pytorch("pytorch", args, left),
        "training": lambda: [plan_training(args, left)],
        "convolution": lambda: plan_forms("convolution", toy, timing),
        "grouped": lambda: plan_forms("grouped", toy, timing),
        "compiled": lambda: plan_pytorch("compiled", args, left),
    }
    return [measurement for part in args.parts.split(",") for measurement in planned[part]()]


def plan_attention(toy: bool, timing: Any) -> list[Measurement]:
    from accelerator_forms import ATTENTIONS, Tokens, measure_attention

    sizes = [Tokens(2, 16, 2, 8, True)] if toy else [Tokens(64, 256, 8, 32, True), Tokens(16, 1024, 12, 64, False)]
    found = []
    for tokens in sizes:
        for form in ATTENTIONS:
            for dtype in ("bfloat16",) if form == "cudnn" else ("float32", "bfloat16"):
                what = {"attention": form, "dtype": dtype, **tokens._asdict()}
                call = functools.partial(measure_attention, form, tokens, dtype, timing)
                found.append(Measurement("attention", what, call))
    return found


def train_cases(args: Args) -> list[Any]:
    """Each workload in float32 and bfloat16, and transformers in bfloat16 with cuDNN's attention as well.

    Toy GANs are float32 alone: they take longest to compile.
    """
    from accelerator_train import Case

    toy = args.size == "toy"
    cases = []
    for name in args.workloads.split(","):
        batch = args.batch or (2 if toy else 64 if name == "gpt" else 256)
        options = {"width": 64, "depth": 1} if toy and name in TRANSFORMERS else {}
        dtypes = ("float32",) if toy and name in ("dcgan", "r1") else ("float32", "bfloat16")
        cases += [Case(name, dtype, batch, options) for dtype in dtypes]
        if name in TRANSFORMERS:
            cases.append(Case(name, "bfloat16", batch, options | {"attention": "cudnn"}))
    return cases


def large_cases(args: Args) -> list[Any]:
    """Where the device rather than the host sets the speed."""
    from accelerator_train import Case

    if args.size == "toy":
        cases = [Case("gpt", "bfloat16", 2, {"depth": 2, "width": 64, "attention": "xla"})]
    else:
        size = {"depth": 12, "width": 768}
        cases = [Case("dit", "bfloat16", 128, size | {"patch": 2, "attention": form}) for form in ("cudnn", "xla")]
        cases += [Case("gpt", "bfloat16", 64, size | {"attention": form}) for form in ("cudnn", "xla")]
        cases += [Case("dcgan", "bfloat16", 2048)]
    return [case for case in cases if case.workload in args.workloads.split(",")]


def plan_train(part: str, cases: list[Any], args: Args, timing: Any) -> list[Measurement]:
    from accelerator_train import measure_step

    def call(case: Any) -> Row:
        import jax

        if part == "large" and args.size == "full" and jax.default_backend() == "cpu":
            return {"skipped": "these sizes are for accelerators"}
        known = PEAKS.get(jax.devices()[0].device_kind)
        return measure_step(case, timing, 1e12 * args.peak_tflops or known)

    return [Measurement(part, case.columns, functools.partial(call, case)) for case in cases]


def plan_pytorch(part: str, args: Args, left: Callable[[], float]) -> list[Measurement]:
    """What the scripts know: all workloads in float32, transformers in bfloat16 too."""
    from accelerator_train import measure_pytorch

    peers = args.peers
    if peers is None:
        reason = "no --peers: the PyTorch scripts are not part of this repository"
        return [Measurement(part, {}, lambda: {"skipped": reason})]

    def call(case: Any) -> Row:
        steps = 2 if args.size == "toy" else 50
        return measure_pytorch(case, part == "compiled", peers.resolve(), args.other_python, steps, left())

    plain = [case._replace(options={}) for case in train_cases(args) if "attention" not in case.options]
    cases = [case for case in plain if case.dtype == "float32" or case.workload in TRANSFORMERS]
    return [Measurement(part, case.columns, functools.partial(call, case)) for case in cases]


def plan_training(args: Args, left: Callable[[], float]) -> Measurement:
    from accelerator_train import TOY, train_and_evaluate, training_at_hand

    def call() -> Row:
        training = TOY if args.size == "toy" else training_at_hand()
        training = training._replace(images=args.images or training.images)
        folder = args.out.with_name(f"{args.out.stem}-flow-{time.strftime('%Y%m%d-%H%M%S')}").resolve()
        return train_and_evaluate(training, folder, left, EVALUATION_SECONDS[args.size])

    return Measurement("training", {"experiment": "flow"}, call)


def plan_forms(part: str, toy: bool, timing: Any) -> list[Measurement]:
    from accelerator_forms import Picture, convolution_forms, convolution_inputs, grouped_forms, measure_form

    if part == "grouped":
        depthwise, cardinal = (
            Picture(1024, 16, 256, 256, 3, 1, groups=256),
            Picture(1024, 16, 256, 256, 3, 1, groups=16),
        )
        pictures = [Picture(2, 4, 4, 4, 3, 1, groups=4)] if toy else [depthwise, cardinal]
        forms_of = grouped_forms
    else:
        full = [(16, 64, 128, 4, 2), (32, 1, 64, 4, 2), (32, 64, 64, 3, 1)]
        pictures = [Picture(2, 4, 1, 4, 4, 2)] if toy else [Picture(1024, *sizes) for sizes in full]
        forms_of = convolution_forms

    def call(operation: str, picture: Any, form: Any, reference: Any, dtype: str) -> Row:
        return measure_form(form, reference, convolution_inputs(operation, picture), dtype, timing)

    found = []
    for picture in pictures:
        for dtype in ("float32",) if toy else ("float32", "bfloat16"):
            for operation, forms in forms_of(picture).items():
                for name, form in forms.items():
                    if dtype == "bfloat16" and name in ("winograd", "sums"):
                        continue  # their sums in bfloat16 are not exact enough, and are not used
                    what = {"operation": operation, "picture": str(picture), "batch": picture.batch, "dtype": dtype}
                    run_it = functools.partial(call, operation, picture, form, forms["native"], dtype)
                    found.append(Measurement(part, {**what, "form": name}, run_it))
    return found


def versions(other_python: str) -> Row:
    """What the other figures rest on. GPU drivers are named where nvidia-smi tells."""
    import jax

    device = jax.devices()[0]
    names = ("jax", "jaxlib", "flax", "optax", "numpy", "jax-cuda13-plugin", "jax-cuda12-plugin", "libtpu")
    found: Row = {"device": device.device_kind, "devices": jax.device_count(), "python": platform.python_version()}
    for name in names:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    found["platform"] = " ".join(device.client.platform_version.split())[:100]
    if limit := (device.memory_stats() or {}).get("bytes_limit"):
        found["memory_for_jax_gib"] = limit / 2**30
    found["cpus"] = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    asked = {
        "torch": [other_python, "-c", "from importlib.metadata import version; print(version('torch'))"],
        "nvidia-smi": ["nvidia-smi", "--query-gpu=name,driver_version,memory.total", "--format=csv,noheader"],
    }
    for name, command in asked.items():
        try:
            done = subprocess.run(command, capture_output=True, text=True, timeout=20)
        except (OSError, subprocess.TimeoutExpired):
            continue
        if done.returncode == 0:
            found[name] = done.stdout.strip().splitlines()[0]
    return found


if __name__ == "__main__":
    # JAX reads both when it starts. Other processes need memory on the device, and FLOPs are counted by XLA on CPU.
    os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")
    if (platforms := os.environ.get("JAX_PLATFORMS")) and "cpu" not in platforms.split(","):
        os.environ["JAX_PLATFORMS"] = f"{platforms},cpu"
    with errors_in_a_line():
        arguments = tyro.cli(Args, description=__doc__)
        check(arguments)
        from jimgen.cpu import keep_freed_memory

        keep_freed_memory()  # as the loop does
        run(arguments)
