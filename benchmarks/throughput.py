"""Speed of a train step or of sampling, alone or compared with a PyTorch script of the same workload.

    python benchmarks/throughput.py --workload dcgan --batch 64
    python benchmarks/throughput.py --workload vae --against path/to/bench_vae.py --other-python path/to/python
    python benchmarks/throughput.py --workload gpt --task train --batch 16
    python benchmarks/throughput.py --workload gpt --task sample --batch 64
    python benchmarks/throughput.py --workload dit --task sample --against path/to/bench_dit.py
    python benchmarks/throughput.py --workload dit --depth 12 --width 768 --dtype bfloat16 --attention cudnn

Workloads (all on 32x32 grey images, Fashion-MNIST padded with background if it is available):
  dcgan  DCGAN, 100 latent dimensions, BatchNorm, Adam(2e-4, .5, .999), non-saturating: one update of each net
  sngan  residual SNGAN, 128 latent dimensions, 64 channels in both nets, BatchNorm in the generator, spectral norm in
         the discriminator, Adam(2e-4, 0, .9), hinge loss: one update of each net. Biases before BatchNorm are left out
  vae    convolutional VAE, 64 latent dimensions, cross-entropy + 4 KL, Adam(1e-3)
  r1     as dcgan, but without BatchNorm in the discriminator, R1 with gamma 10 at every step, Adam(2e-4, 0, .99)
  gpt    GPT over 256 tokens of 512 codes and a start token, drawn uniformly: 6 blocks of width 256, 8 heads, MLP 4x
         (GELU, tanh), LayerNorm before each, learned positions, no biases in matrices, a separate output layer;
         cross-entropy, AdamW(3e-4, .9, .95, decay .1); 5,053,184 parameters.
         sample: 256 tokens an image at temperature 1 from all codes, keys and values cached, one compiled scan
  dit    DiT: patches of 4, 6 blocks of width 256, 4 heads, MLP 4x (GELU, tanh), LayerNorm without parameters,
         adaLN-zero, fixed sines and cosines as positions, 10 classes and none (10% of labels hidden); flow matching
         (logit-normal times), AdamW(1e-4) without decay; 7,375,376 parameters.
         sample: 50 Euler steps without guidance

Prints one JSON line (prefix RESULT), then `mfu:` if the device's peak is known, `images_per_cpu_s:` and
`images_per_s:`, from medians over the steps. Images are real in training and drawn in sampling; CPU seconds are those
of the process, over all its threads. Pin with `taskset -c 0` to compare on one processor. With --against, it alternates
with the other script and prints the ratio of medians; for gpt and dit the other script gets the task as --mode.

FLOPs are those that XLA counts in the program before optimisation, as no other count is valid everywhere. In programs
compiled for a GPU, products in library calls count as nothing. In all programs custom kernels count as nothing, and a
loop counts as one iteration. So the counted program, which is not run, is lowered for the CPU, with einsum attention
and without scanned blocks, and a sampler's count is multiplied by its iterations. For vae, gpt and dit the count is
within a hundredth of the work that is done; for dcgan, sngan and r1 XLA saves a twelfth, since both phases share a
pass of the generator. MFU is FLOP/s as a share of the dense bfloat16 peak.
"""

import dataclasses
import json
import os
import re
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import tyro

# Dense bfloat16 FLOP/s by device kind, from the data sheets of NVIDIA and Google.
PEAKS = {
    "NVIDIA B200": 2250e12,
    "NVIDIA GH200 480GB": 989e12,
    "NVIDIA H200": 989e12,
    "NVIDIA H100 80GB HBM3": 989e12,
    "NVIDIA H100 NVL": 835e12,
    "NVIDIA H100 PCIe": 756e12,
    "NVIDIA A100-SXM4-40GB": 312e12,
    "NVIDIA A100-SXM4-80GB": 312e12,
    "NVIDIA A100-PCIE-40GB": 312e12,
    "NVIDIA A100 80GB PCIe": 312e12,
    "NVIDIA L40S": 362e12,
    "NVIDIA L4": 121e12,
    "TPU v4": 275e12,
    "TPU v5 lite": 197e12,  # v5e
    "TPU v5": 459e12,  # v5p
    "TPU v6 lite": 918e12,  # v6e
}
TRANSFORMERS = {"gpt": 32, "dit": 64}  # workload -> width of its heads
OF_TRANSFORMERS = ("depth", "width", "attention")  # fields of Args that only transformers use
OF_DIT = ("size", "patch")


@dataclasses.dataclass(frozen=True)
class Args:
    workload: Literal["dcgan", "sngan", "vae", "r1", "gpt", "dit"] = "dcgan"
    """model and data, as listed above"""
    task: Literal["train", "sample"] = "train"
    """work to time: a train step; or sampling of a batch (gpt, dit), at most 5 times"""
    batch: int = 64
    """images per step"""
    steps: int = 30
    """number of timed steps"""
    warmup: int = 5
    """number of steps before the timed ones"""
    mode: Literal["auto", "jit", "pmap", "sharded"] = "jit"
    """compilation of the train step"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """precision of the computation"""
    size: int = 32
    """height and width of the images (dit)"""
    patch: int = 4
    """side of a patch (dit)"""
    depth: int = 6
    """number of blocks (gpt, dit)"""
    width: int = 256
    """width of the tokens (gpt, dit); heads are 32 wide in gpt and 64 in dit"""
    attention: Literal["einsum", "xla", "cudnn"] = "einsum"
    """implementation of attention (gpt, dit); cudnn needs bfloat16 and an NVIDIA GPU"""
    against: str | None = None
    """path of a script of the same workload that prints the same last two lines"""
    other_python: str = sys.executable
    """path of the Python interpreter for that script"""
    other_flags: str = ""
    """further flags for that script"""
    repeats: int = 3
    """number of turns for each script, with --against"""


class Program(NamedTuple):
    step: Callable[[], dict[str, Any]]  # starts one step and returns its results
    num_params: dict[str, int]  # by net
    devices: list[Any]  # devices that run it


def check(args: Args) -> None:
    """Exits if the arguments do not fit each other."""
    transformer = args.workload in TRANSFORMERS
    if args.task == "sample" and not transformer:
        sys.exit(f"error: {args.workload} has --task train only; --task sample is for gpt and dit")
    if args.task == "sample" and args.mode != "jit":
        sys.exit(f"error: --task sample runs on one device: leave out --mode {args.mode}")
    unused = (() if transformer else OF_TRANSFORMERS) + (() if args.workload == "dit" else OF_DIT)
    if given := [name for name in unused if getattr(args, name) != getattr(Args, name)]:
        sys.exit(f"error: {args.workload} takes no {', '.join(f'--{name}' for name in given)}")
    if transformer and (args.width < 1 or args.width % TRANSFORMERS[args.workload]):
        sys.exit(f"error: --width {args.width}: give {args.workload} a multiple of {TRANSFORMERS[args.workload]}")


def measure(args: Args) -> None:
    import jax
    import workloads

    from jimgen.cpu import keep_freed_memory

    keep_freed_memory()  # as in training
    sizes: dict[str, Any] = {name: getattr(args, name) for name in OF_TRANSFORMERS + OF_DIT}
    method = workloads.build(args.workload, args.dtype, **sizes).method
    training = args.task == "train"
    step, num_params, devices = (train_step if training else sampling_step)(method, args)
    steps, warmup = (args.steps, args.warmup) if training else (min(args.steps, 5), min(args.warmup, 1))

    seconds, cpu_seconds, found = [], [], {}
    for _ in range(1 + warmup + steps):
        wall, cpu = time.perf_counter(), time.process_time()
        found = jax.block_until_ready(step())
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    wall, cpu = (statistics.median(times[1 + warmup :]) for times in (seconds, cpu_seconds))
    flop = count_flop(args)
    result = {
        "workload": args.workload,
        "task": args.task,
        "batch": args.batch,
        "mode": args.mode,
        "dtype": args.dtype,
        **{name: value for name, value in sizes.items() if value != getattr(Args, name)},
        "params": num_params,
        "losses": {name: round(float(x), 4) for name, x in found.items() if name.endswith("/loss")},
        "first_step_s": round(seconds[0], 3),
        "ms_median": round(1e3 * wall, 2),
        "cpu_ms_median": round(1e3 * cpu, 2),
        "gflop": round(flop / 1e9, 2),
        "gflop_per_s": round(flop / wall / 1e9, 1),
        "gflop_per_cpu_s": round(flop / cpu / 1e9, 1),
        "devices": f"{len(devices)} x {devices[0].device_kind}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "jax": jax.__version__,
    }
    print("RESULT " + json.dumps(result))
    if peak := PEAKS.get(devices[0].device_kind):
        print(f"mfu: {flop / wall / (len(devices) * peak):.2f}")
    print(f"images_per_cpu_s: {args.batch / cpu:.1f}")
    print(f"images_per_s: {args.batch / wall:.1f}", flush=True)


def train_step(method: Any, args: Args) -> Program:
    import jax
    import numpy as np
    import workloads

    from jimgen import data
    from jimgen.data.batches import batches, scale_batch
    from jimgen.data.dataset import Arrays
    from jimgen.errors import UserError
    from jimgen.train_step import compile_step, init_state, make_train_step

    try:
        train = data.load("fashion_mnist", size=args.size, fit="pad").train
    except UserError:
        rng = np.random.default_rng(0)  # speed does not depend on the content of images
        shape = (10_000, args.size, args.size, 1)
        train = Arrays(rng.integers(0, 256, shape, np.uint8), rng.integers(0, 10, 10_000, np.int32))

    compiled = compile_step(make_train_step(method.phases, prepare=scale_batch), args.mode)
    example = workloads.example_batch(2, args.size)
    state = jax.jit(lambda key: init_state(method.init, method.phases, (), key, example))(jax.random.key(0))
    num_params = count_params(state.variables)
    state = jax.device_put(state, compiled.state_sharding)
    key = jax.device_put(jax.random.key(1), compiled.replicated)
    feed = batches(train, batch_size=args.batch, seed=0, sharding=compiled.batch_sharding)

    def step() -> dict[str, Any]:
        nonlocal state
        state, metrics = compiled.run(state, next(feed), key)
        return metrics

    return Program(step, num_params, list(compiled.batch_sharding.device_set))


def sampling_step(method: Any, args: Args) -> Program:
    import jax
    import workloads

    example = workloads.example_batch(2, args.size)
    variables = jax.jit(lambda key: method.init(key, example))(jax.random.key(0))
    keys = iter(jax.random.split(jax.random.key(1), 7))  # one per draw, at most 1 + 1 + 5
    labels = workloads.example_batch(args.batch, args.size)["label"]
    draw = jax.jit(method.sample)  # as for a run's sample grids
    return Program(lambda: {"drawn": draw(variables, next(keys), labels)}, count_params(variables), jax.devices()[:1])


def count_params(variables: Any) -> dict[str, int]:
    import jax

    return {net: sum(x.size for x in jax.tree.leaves(v["params"])) for net, v in variables.items()}


def count_flop(args: Args) -> float:
    """FLOPs of a train step or of sampling a batch, counted as the docstring of this file describes."""
    import jax
    import workloads

    from jimgen.train_step import init_state, make_train_step

    sizes: dict[str, Any] = {name: getattr(args, name) for name in OF_TRANSFORMERS + OF_DIT}
    method, turns = workloads.build(args.workload, args.dtype, **sizes | {"attention": "einsum", "scan": False})

    def start(key: Any, batch: Any) -> Any:
        return init_state(method.init, method.phases, (), key, batch)

    with jax.default_device(jax.local_devices(backend="cpu")[0]):
        key = jax.eval_shape(lambda: jax.random.key(0))
        batch = jax.eval_shape(lambda: workloads.example_batch(args.batch, args.size))
        state = jax.eval_shape(start, key, batch)
        if args.task == "train":
            turns, lowered = 1, jax.jit(make_train_step(method.phases)).lower(state, batch, key)
        else:
            lowered = jax.jit(method.sample).lower(state.variables, key, batch["label"])
    counts: Any = lowered.cost_analysis()
    return turns * counts["flops"]


def compare(args: Args) -> None:
    """Runs this script and the other one alternately, and prints the ratio of medians."""
    assert args.against is not None
    shared = ["--batch", str(args.batch), "--steps", str(args.steps), "--warmup", str(args.warmup)]
    names = ("workload", "task", "mode", "dtype", *OF_TRANSFORMERS, *OF_DIT)
    ours = [sys.executable, __file__, *(f"--{name}={getattr(args, name)}" for name in names), *shared]
    task = ["--mode", args.task] if args.workload in TRANSFORMERS else []
    other = [args.other_python, os.path.abspath(args.against), *task, *shared, *args.other_flags.split()]
    lines = ("images_per_s", "images_per_cpu_s")
    figures: dict[str, list[tuple[float, float]]] = {"ours": [], "other": []}
    for turn in range(args.repeats):
        for name, command, folder in (("ours", ours, None), ("other", other, os.path.dirname(other[1]))):
            done = subprocess.run(command, capture_output=True, text=True, cwd=folder)
            found = [re.search(rf"^{line}: ([\d.]+)$", done.stdout, re.M) for line in lines]
            if done.returncode or not all(found):
                sys.exit(f"error: {' '.join(command)} failed:\n{done.stderr[-2000:]}")
            figures[name].append(tuple(float(match[1]) for match in found if match))  # pyright: ignore[reportArgumentType]
            wall, cpu = figures[name][-1]
            print(f"turn {turn + 1} {name}: {wall:.1f} images/s, {cpu:.1f} per CPU second")
    for i, line in enumerate(lines):
        median, other_median = (statistics.median(row[i] for row in figures[name]) for name in ("ours", "other"))
        ratios = ", ".join(f"{a[i] / b[i]:.2f}" for a, b in zip(figures["ours"], figures["other"], strict=True))
        print(f"{line}: {median:.1f} against {other_median:.1f}, ratio {median / other_median:.3f} ({ratios})")


if __name__ == "__main__":
    arguments = tyro.cli(Args, description=__doc__)
    check(arguments)
    compare(arguments) if arguments.against else measure(arguments)
