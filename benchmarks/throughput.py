"""Speed of one train step, beside a PyTorch script of the same workload.

    python benchmarks/throughput.py --workload dcgan --batch 64
    python benchmarks/throughput.py --workload vae --against path/to/bench_vae.py --other-python path/to/python

Workloads (all on 32x32 grey images, Fashion-MNIST padded with background where it is at hand):
  dcgan  DCGAN, 100 latent dimensions, BatchNorm, Adam(2e-4, .5, .999), non-saturating: one update of each net
  vae    convolutional VAE, 64 latent dimensions, cross-entropy + 4 KL, Adam(1e-3)
  r1     as dcgan, discriminator without BatchNorm, R1 of gamma 10 at every step, Adam(2e-4, 0, .99)

Prints one JSON line (prefix RESULT), then `images_per_cpu_s:` and `images_per_s:`, from medians over the steps; images
are real images, and CPU seconds are those of the process, over all its threads. Pin with `taskset -c 0` to compare on
one processor. With --against, runs itself and the other script in turn and prints the ratio of medians.
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
from typing import Literal

import tyro


@dataclasses.dataclass(frozen=True)
class Args:
    workload: Literal["dcgan", "vae", "r1"] = "dcgan"
    """what to train"""
    batch: int = 64
    """images a step"""
    steps: int = 30
    """timed steps"""
    warmup: int = 5
    """steps before them"""
    mode: Literal["auto", "jit", "pmap", "sharded"] = "jit"
    """how the step is compiled"""
    dtype: Literal["float32", "bfloat16"] = "float32"
    """of the computation"""
    against: str | None = None
    """a script of the same workload that prints the same two lines"""
    other_python: str = sys.executable
    """the interpreter for that script"""
    other_flags: str = ""
    """more flags for that script"""
    repeats: int = 3
    """turns of each, with --against"""


def measure(args: Args) -> None:
    import jax
    import numpy as np

    from jimgen import data, loop
    from jimgen.cpu import keep_freed_memory
    from jimgen.data.batches import batches
    from jimgen.data.dataset import Arrays
    from jimgen.errors import UserError
    from jimgen.train_step import compile_step, init_state, make_train_step

    keep_freed_memory()  # as the loop does
    try:
        train = data.load("fashion_mnist", size=32, fit="pad").train
    except UserError:
        rng = np.random.default_rng(0)  # speed does not depend on what the pictures show
        train = Arrays(rng.integers(0, 256, (10_000, 32, 32, 1), np.uint8), rng.integers(0, 10, 10_000, np.int32))

    method = build(args.workload, args.dtype)
    compiled = compile_step(make_train_step(method.phases, prepare=loop.scale_images), args.mode)
    example = loop.scale_images(next(batches(train, batch_size=2, seed=0)))
    state = jax.jit(lambda key: init_state(method.init, method.phases, (), key, example))(jax.random.key(0))
    num_params = {net: sum(x.size for x in jax.tree.leaves(v["params"])) for net, v in state.variables.items()}
    state = jax.device_put(state, compiled.state_sharding)
    key = jax.device_put(jax.random.key(1), compiled.replicated)
    feed = batches(train, batch_size=args.batch, seed=0, sharding=compiled.batch_sharding)

    seconds, cpu_seconds, metrics = [], [], {}
    for _ in range(1 + args.warmup + args.steps):
        wall, cpu = time.perf_counter(), time.process_time()
        state, metrics = compiled.run(state, next(feed), key)
        jax.block_until_ready(metrics)
        seconds.append(time.perf_counter() - wall)
        cpu_seconds.append(time.process_time() - cpu)
    wall, cpu = (statistics.median(times[1 + args.warmup :]) for times in (seconds, cpu_seconds))
    result = {
        "workload": args.workload,
        "batch": args.batch,
        "mode": args.mode,
        "dtype": args.dtype,
        "params": num_params,
        "losses": {name: round(float(x), 4) for name, x in metrics.items() if name.endswith("/loss")},
        "first_step_s": round(seconds[0], 3),
        "ms_median": round(1e3 * wall, 2),
        "cpu_ms_median": round(1e3 * cpu, 2),
        "devices": f"{compiled.batch_sharding.mesh.size} x {jax.devices()[0].device_kind}",
        "cpus": len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count(),
        "peak_rss_mb": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024,
        "jax": jax.__version__,
    }
    print("RESULT " + json.dumps(result))
    print(f"images_per_cpu_s: {args.batch / cpu:.1f}")
    print(f"images_per_s: {args.batch / wall:.1f}", flush=True)


def build(workload: str, dtype: str):
    import optax

    from jimgen.methods.gan import gan
    from jimgen.methods.vae import bernoulli, vae
    from jimgen.nets.dcgan import Discriminator, Generator
    from jimgen.nets.vae import ConvDecoder, ConvEncoder

    shape = (32, 32, 1)
    if workload == "vae":
        encoder, decoder = ConvEncoder(64, dtype=dtype), ConvDecoder(shape, dtype=dtype)
        likelihood = bernoulli(binarise=False)
        return vae(encoder, decoder, latent_dim=64, tx=optax.adam(1e-3), likelihood=likelihood, kl_weight=4.0)
    r1 = workload == "r1"
    tx = optax.adam(2e-4, 0.0, 0.99) if r1 else optax.adam(2e-4, 0.5, 0.999)
    return gan(
        Generator(shape, dtype=dtype),
        Discriminator(batch_norm=not r1, dtype=dtype),
        latent_dim=100,
        generator_tx=tx,
        discriminator_tx=tx,
        r1=10.0 if r1 else 0.0,
    )


def compare(args: Args) -> None:
    """Runs this workload and the other script in turn."""
    assert args.against is not None
    shared = ["--batch", str(args.batch), "--steps", str(args.steps), "--warmup", str(args.warmup)]
    ours = [sys.executable, __file__, "--workload", args.workload, "--mode", args.mode, "--dtype", args.dtype, *shared]
    other = [args.other_python, os.path.abspath(args.against), *shared, *args.other_flags.split()]
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
    compare(arguments) if arguments.against else measure(arguments)
