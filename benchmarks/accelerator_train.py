"""Train steps of the workloads, PyTorch's of the same, and one training to the end with its Frechet distance.

benchmarks/accelerator.py runs these. Each function returns the columns of one row.
"""

import functools
import json
import math
import os
import re
import signal
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import workloads
from accelerator_forms import Timing, without_cudnn

from jimgen.errors import UserError
from jimgen.train_step import compile_step, init_state, make_train_step

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 10_000  # on the device, of which each step takes a batch
WARMUP = 3  # steps
MOST_STEPS = 500  # in one repeat
SCRIPTS = {
    "dcgan": "bench_dcgan.py",
    "vae": "bench_vae.py",
    "r1": "bench_r1.py",
    "gpt": "bench_ar.py",
    "dit": "bench_dit.py",
}
Row = dict[str, Any]


class Case(NamedTuple):
    """One train step to measure. The options are those of `workloads.build`, and say what differs from its defaults."""

    workload: Any  # a name of SCRIPTS
    dtype: Any
    batch: int
    options: dict[str, Any] = {}

    @property
    def columns(self) -> Row:
        return {"workload": self.workload, "dtype": self.dtype, "batch": self.batch, **self.options}


def measure_step(case: Case, timing: Timing, peak: float | None) -> Row:
    """Compiles a train step and measures it twice over: waiting for each step, and for many at once, as training does.

    Images are random bytes on the device; a step gathers its batch there, by row numbers that travel to it, as the
    loop's steps do.

    Args:
      case: what to train.
      timing: repeats, and seconds of steps in each.
      peak: FLOP/s of the device, dense, in bfloat16; None where it is not known.
    Returns:
      `images_per_s`, the median over repeats of many steps; `waiting_images_per_s`, from the median of steps that are
      waited for one by one, which is how the PyTorch scripts measure; `ms`, `compile_s`, `tflop_per_s`, `mfu` (with a
      peak), `peak_mib` and where that is from, and the mean of the losses at the last step.
    Raises:
      ArithmeticError: the loss is not finite.
    """
    if case.options.get("attention") == "cudnn" and (reason := without_cudnn()):
        return {"skipped": reason}
    step, key, compile_s, memory = _compiled_step(case)
    rng = np.random.default_rng(0)

    def run() -> dict[str, Any]:
        return step(rng.integers(0, IMAGES, case.batch, np.int32), key)

    before = _peak_in_use()
    metrics = [jax.block_until_ready(run()) for _ in range(WARMUP)][-1]
    waits = []
    while len(waits) < 2 or (sum(waits) < timing.seconds and len(waits) < MOST_STEPS):
        began = time.perf_counter()
        jax.block_until_ready(run())
        waits.append(time.perf_counter() - began)
    wait = statistics.median(waits)
    number = max(1, min(MOST_STEPS, int(timing.seconds / wait)))
    times = []
    while not times or (len(times) < timing.repeats and number * sum(times) < timing.most_seconds):
        began = time.perf_counter()
        for _ in range(number):
            metrics = run()
        jax.block_until_ready(metrics)
        times.append((time.perf_counter() - began) / number)
    seconds = statistics.median(times)
    loss = statistics.mean(float(value) for name, value in metrics.items() if name.endswith("/loss"))
    if not math.isfinite(loss):
        raise ArithmeticError(f"the loss is {loss}")
    after = _peak_in_use()
    rose = before is not None and after is not None and after > before
    return {
        "images_per_s": case.batch / seconds,
        "waiting_images_per_s": case.batch / wait,
        "ms": 1e3 * seconds,
        "compile_s": compile_s,
        **_flop_columns(case, seconds, peak),
        "peak_mib": (after if rose and after else memory) / 2**20,
        "peak_from": "device" if rose else "compiler",
        "loss": loss,
    }


def _flop_columns(case: Case, seconds: float, peak: float | None) -> Row:
    """FLOP/s and MFU of a step; what was measured stands without them where XLA does not count."""
    try:
        rate = count_flop(case) / seconds
    except (RuntimeError, NotImplementedError) as error:
        return {"flop_not_counted": str(error)[:300]}
    return {"tflop_per_s": rate / 1e12, **({"mfu": rate / peak} if peak else {})}


def _compiled_step(case: Case) -> tuple[Callable[[Any, Any], dict[str, Any]], Any, float, int]:
    """A step from row numbers and a key to metrics; the key; seconds to compile; bytes that the program needs."""
    method = workloads.build(case.workload, case.dtype, **case.options).method
    size = case.options.get("size", 32)
    pixels = jax.random.bits(jax.random.key(2), (IMAGES, size, size, 1), jnp.uint8)

    def gather(batch: dict[str, Any]) -> dict[str, Any]:
        image = batch["pixels"][batch["rows"]].astype(jnp.float32) / 127.5 - 1.0
        index = jnp.arange(case.batch, dtype=jnp.int32)
        return {"image": image, "label": batch["rows"] % 10, "index": index}

    compiled = compile_step(make_train_step(method.phases, prepare=gather), "jit")
    example = workloads.example_batch(2, size)
    state = jax.jit(lambda key: init_state(method.init, method.phases, (), key, example))(jax.random.key(0))
    state = jax.device_put(state, compiled.state_sharding)
    pixels = jax.device_put(pixels, compiled.batch_sharding)
    key = jax.device_put(jax.random.key(1), compiled.replicated)
    began = time.perf_counter()
    rows = np.zeros(case.batch, np.int32)
    program = compiled.run.lower(state, {"pixels": pixels, "rows": rows}, key).compile()  # pyright: ignore[reportFunctionMemberAccess]
    compile_s = time.perf_counter() - began
    sizes = program.memory_analysis()
    memory = sizes.temp_size_in_bytes + sizes.argument_size_in_bytes + sizes.output_size_in_bytes
    memory -= sizes.alias_size_in_bytes  # results in place of arguments

    def step(rows: Any, key: Any) -> dict[str, Any]:
        nonlocal state
        state, metrics = program(state, {"pixels": pixels, "rows": rows}, key)
        return metrics

    return step, key, compile_s, memory


def _peak_in_use() -> int | None:
    """The most bytes that this process has held on the device; None where the device does not tell.

    It never falls, so that it is a workload's own only where the workload raised it.
    """
    return (jax.devices()[0].memory_stats() or {}).get("peak_bytes_in_use")


def count_flop(case: Case) -> float:
    """FLOPs of a train step, as XLA counts them in the program before it is optimised.

    There is no other count that holds on all devices: in a program compiled for a GPU the products of libraries count
    as nothing, a custom kernel counts as nothing anywhere, and a loop counts as one turn. So the program that is
    counted has einsum attention and blocks that are not scanned. It is lowered for CUDA, where convolutions are direct:
    on CPU some are Winograd's, which take fewer products. XLA on CPU counts it, so that no GPU is needed.
    """
    method = workloads.build(case.workload, case.dtype, **case.options | {"attention": "einsum", "scan": False}).method
    size = case.options.get("size", 32)

    def start(key: Any, batch: Any) -> Any:
        return init_state(method.init, method.phases, (), key, batch)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch = jax.eval_shape(lambda: workloads.example_batch(case.batch, size))
        state = jax.eval_shape(start, key, batch)
        traced = jax.jit(make_train_step(method.phases)).trace(state, batch, key)
        counts: Any = traced.lower(lowering_platforms=("cuda",)).cost_analysis()
    return counts["flops"]


# PyTorch


@functools.cache
def without_torch(python: str) -> str | None:
    """Why PyTorch cannot be measured with an interpreter on JAX's device; None if it can."""
    backend, kind = jax.default_backend(), jax.devices()[0].device_kind
    if backend not in ("cpu", "gpu"):
        return f"the PyTorch scripts run on CPU and CUDA, not on {kind}"
    code = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'no GPU')"
    done = subprocess.run([python, "-c", code], capture_output=True, text=True, timeout=60)
    if done.returncode:
        return f"{python} has no PyTorch: {_last_line(done.stderr)}"
    seen = done.stdout.strip()
    return f"PyTorch sees {seen}, and JAX {kind}" if backend == "gpu" and seen != kind else None


def measure_pytorch(case: Case, compiled: bool, scripts: Path, python: str, steps: int, left_s: float) -> Row:
    """Runs the PyTorch script of a workload on the same device. Its steps are waited for one by one.

    Args:
      case: without options, since the scripts have one size. dcgan, vae and r1 know float32 alone.
      compiled: by torch.compile, in its default mode; eager otherwise.
      scripts: the folder of the scripts named in SCRIPTS.
      python: the interpreter that has PyTorch.
      steps: timed ones.
      left_s: seconds after which the script is stopped.
    """
    if reason := without_torch(python):
        return {"skipped": reason}
    command = [python, SCRIPTS[case.workload], f"--batch={case.batch}", f"--steps={steps}", f"--warmup={WARMUP}"]
    command += ["--mode=train"] if case.workload in ("gpt", "dit") else []
    command += [f"--dtype={'bf16' if case.dtype == 'bfloat16' else 'fp32'}"]
    command += [
        f"--compile={'default' if compiled else 'none'}",
        f"--device={'cuda' if jax.default_backend() == 'gpu' else 'cpu'}",
    ]
    # JAX multiplies float32 matrices in TF32 on a GPU that has it, and PyTorch does so only where it is told to.
    environment = os.environ | {"TORCH_ALLOW_TF32_CUBLAS_OVERRIDE": "1"}
    done = subprocess.run(command, capture_output=True, text=True, cwd=scripts, env=environment, timeout=left_s)
    found = re.search(r"^RESULT (\{.*\})$", done.stdout, re.M)
    if done.returncode or not found:
        raise RuntimeError(_last_line(done.stderr) or f"{command[1]} printed no result")
    result = json.loads(found[1])
    return {
        "pytorch_images_per_s": case.batch / result["ms_median"] * 1e3,
        "pytorch_ms": result["ms_median"],
        "pytorch_first_step_s": result["first_step_s"],
        "torch": result["torch"],
    }


def _last_line(text: str) -> str:
    return (text.strip().splitlines() or [""])[-1][:300]


# One training to the end


class Training(NamedTuple):
    """A run of experiments/flow.py and how it is evaluated: `num` images against as many real ones."""

    data: str
    flags: tuple[str, ...]
    images: int
    num: int
    batch: int = 64


# The commands of experiments/flow.py's docstring, so that the distance can be put beside those in docs/results.md.
FASHION_MNIST = Training(
    "fashion_mnist", ("--size=32", "--fit=pad", "--ema-half-life=20000"), images=2400 * 64, num=2000
)
DIGITS = Training("digits", ("--patch=2",), images=1000 * 64, num=1000)
TOY = Training("digits", ("--patch=4", "--width=32", "--depth=1", "--num-steps=2"), images=128, num=64)


def training_at_hand() -> Training:
    """That of Fashion-MNIST where it is at hand, else that of digits, which always are."""
    from jimgen import data

    try:
        data.load("fashion_mnist", size=32, fit="pad")
    except (UserError, ImportError):
        return DIGITS
    return FASHION_MNIST


def train_and_evaluate(training: Training, folder: Path, left: Callable[[], float], reserve_s: float) -> Row:
    """Trains in a process of its own, then measures the Frechet distance of its images in the data's own classifier.

    When only `reserve_s` of the seconds left remain, the training is told to stop; it saves, and what it has learned
    until then is evaluated. `images` is what it was trained on, `images_asked` what it should have been. Where the
    evaluation fails, `no_distance` says why in place of the distances.

    Args:
      training: the data, the flags and the number of images.
      folder: of the run; new, for a training in an old one would resume it.
      left: seconds until the whole benchmark must end.
      reserve_s: seconds that the evaluation takes.
    Raises:
      RuntimeError: the training failed, with the last line that it said.
    """
    steps = max(1, training.images // training.batch)
    command = [sys.executable, str(ROOT / "experiments" / "flow.py"), f"--data={training.data}", *training.flags]
    command += [f"--batch-size={training.batch}", f"--steps={steps}", "--mode=jit", f"--workdir={folder}"]
    began = time.perf_counter()
    _run_until(command, left() - reserve_s, stopped_by_us=128 + signal.SIGTERM)
    seconds = time.perf_counter() - began
    done = max(int(path.name) for path in (folder / "checkpoints").iterdir() if path.name.isdecimal())
    rates = [json.loads(line).get("images_per_s") for line in (folder / "metrics.jsonl").read_text().splitlines()]
    row = {
        "images": done * training.batch,
        "images_asked": steps * training.batch,
        "train_s": seconds,
        "images_per_s": statistics.median([rate for rate in rates if rate] or [math.nan]),
        "command": " ".join(["python experiments/flow.py", *command[2:-1]]),
    }
    began = time.perf_counter()
    try:
        found = _distance(folder, f"{training.data}_classifier", training.num, left())
    except RuntimeError as error:
        return row | {"no_distance": str(error)}
    return row | found | {"evaluate_s": time.perf_counter() - began}


def _distance(folder: Path, extractor: str, num: int, seconds: float) -> Row:
    """The Frechet distance of a run, beside those of real images and of one Gaussian per class."""
    command = [sys.executable, "-c", "from jimgen.cli import main; main()", "evaluate", str(folder), "--metrics=fd"]
    _run_until([*command, f"--num={num}", f"--extractors={extractor}"], seconds)
    figures = json.loads((folder / "evaluation" / "evaluation.json").read_text())["metrics"]
    name, figure = next(iter(figures.items()))
    return {
        "extractor": name,
        "num": num,
        "fd": figure["value"],
        "fd_of_real_images": figure.get("real"),
        "fd_of_gaussian": figure.get("gaussian"),
    }


def _run_until(command: Sequence[str], seconds: float, stopped_by_us: int | None = None) -> None:
    """Runs a command, and asks it to end after so many seconds. With that it may end with the status given as well."""
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)
    stopped = ""
    try:
        said, _ = process.communicate(timeout=max(0.0, seconds))
    except subprocess.TimeoutExpired:
        stopped = f"stopped after {max(0.0, seconds):.0f} s, when the time was over, "
        process.terminate()
        try:
            said, _ = process.communicate(timeout=30)
        except subprocess.TimeoutExpired:
            process.kill()
            said, _ = process.communicate()
    if process.returncode not in (0, stopped_by_us):
        raise RuntimeError(f"{stopped}status {process.returncode}: {_last_line(said)}")
