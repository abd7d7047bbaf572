"""The host loop: iterate, log, draw, save, resume. What touches files and clocks; the maths is in the train step."""

import contextlib
import json
import math
import signal
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from jimgen import checkpoint
from jimgen.curves import read_metrics
from jimgen.data.batches import batches, test_batches
from jimgen.data.dataset import Dataset, DataSpec, read_rows
from jimgen.errors import UserError
from jimgen.files import disk_errors, write_atomically
from jimgen.interrupts import stop_requests
from jimgen.methods.method import Method
from jimgen.metrics.evaluation import is_better
from jimgen.noise import key_of
from jimgen.output import Output
from jimgen.pictures import grid, grid_of_rows, rows_of, save_png, to_uint8
from jimgen.quality import best_so_far, measure_quality
from jimgen.train_step import (
    Batch,
    CompiledStep,
    Mode,
    TrainState,
    Variables,
    compile_step,
    init_state,
    make_train_step,
)

SAMPLE_ROWS = 8  # of a grid; its columns are the classes, if there are 2 to 16 of them


@dataclass(frozen=True, kw_only=True)
class RunConfig:
    """What every experiment can be told. Experiments add their own fields and override defaults."""

    data: str = "digits"
    """digits, fashion_mnist, tfds:NAME, folder:PATH (PATH may be a .zip of pictures) or npz:PATH"""
    size: int | None = None
    """height and width that images are brought to; as they are by default"""
    fit: Literal["resize", "pad"] = "resize"
    """how: bicubic resizing, or background around a smaller image"""
    channels: Literal[1, 3] | None = None
    """1 grey, 3 colour; what the data are by default"""
    bits: int | None = None
    """bits used by grey pictures of 16, as 12; what their files say by default, else 16"""
    data_dir: str | None = None
    """where prepared TFDS data sets lie"""
    download: bool = False
    """let tensorflow-datasets download what is not there"""
    strict: bool = False
    """fail on a corrupt image instead of leaving it out"""
    steps: int = 1000
    """train steps in all, those before a resume included"""
    batch_size: int = 64
    """images a step, over all devices"""
    accumulate: int = 1
    """microbatches a step is cut into, to save memory"""
    seed: int = 0
    """of initial weights, noise and the order of the data"""
    ema_half_life: float = 20_000
    """images after which the moving average of the weights has forgotten half; 0 for none"""
    workdir: str | None = None
    """folder of the run; an existing one resumes. Default runs/EXPERIMENT-DATA"""
    mode: Mode = "auto"
    """jit (one device), pmap or sharded (all); auto: sharded where there are several"""
    devices: int = 0
    """use the first N devices; 0 for all"""
    log_every: int = 50
    """steps between lines of metrics.jsonl"""
    sample_every: int = 0
    """steps between sample grids; 0 for a tenth of the run"""
    save_every: int = 500
    """steps between checkpoints"""
    eval_every: int = 0
    """steps between evaluations on the test split, where the method has one; 0 for the end only"""
    quality_every: int = 0
    """steps between measurements of drawn images, whose best checkpoint is kept in best/; 0 for none"""
    quality_metric: Literal["fd", "kid", "is", "precision", "recall", "coverage"] = "fd"
    """the figure that decides which checkpoint is the best"""
    quality_num: int = 2000
    """images drawn for it"""
    quality_extractor: str = ""
    """of their features; default the data's own classifier, else efficientnet_lite0@64"""
    keep: int = 3
    """checkpoints that stay"""
    max_skipped: int = 20
    """stop after this many updates in a row that were not finite"""
    override: bool = False
    """go on in a workdir whose config was different"""
    dry_run: bool = False
    """print parameters, shapes, FLOPs and memory, and stop"""


class Interrupted(Exception):
    """Training was asked to stop, and has saved. `signum` is the signal."""

    def __init__(self, signum: int, step: int):
        super().__init__(signum, step)
        self.signum, self.step = signum, step


def scale_images(batch: Batch) -> Batch:
    """uint8 images 0..255 -> float32 in [-1, 1]; runs inside compiled functions, so that bytes travel to the device."""
    return {**batch, "image": batch["image"].astype(jnp.float32) / 127.5 - 1.0}


def example_batch(spec: DataSpec, batch_size: int) -> Batch:
    """Shapes and dtypes of a scaled batch, as zeros."""
    labels = jnp.zeros((batch_size,), jnp.int32)
    return {"image": jnp.zeros((batch_size, *spec.shape)), "label": labels, "index": labels}


def initialise(method: Method, spec: DataSpec, seed: int) -> TrainState:
    """The state before step one: a pure function of the method, the shape of the data and the seed."""
    return init_state(method.init, method.phases, method.ema, _keys(seed)[0], example_batch(spec, 2))


def eval_variables(state: TrainState) -> Variables:
    """What one samples from and evaluates: the moving averages where they are kept."""
    return {**state.variables, **state.ema}


def _keys(seed: int) -> tuple[Array, ...]:
    """Keys for initial weights, training, pictures and evaluation."""
    return tuple(jax.random.split(key_of(seed), 4))


def prepare(method: Method, spec: DataSpec, config: RunConfig) -> CompiledStep:
    """The compiled step of a run.

    Raises:
      UserError: fewer devices than asked for, or a batch that they cannot share evenly.
    """
    devices = jax.devices()
    if config.devices > len(devices):
        raise UserError(f"--devices {config.devices}: only {len(devices)} here")
    step = make_train_step(
        method.phases, prepare=scale_images, ema_half_life=config.ema_half_life, accumulate=config.accumulate
    )
    compiled = compile_step(step, config.mode, devices[: config.devices or None])
    shares = compiled.batch_sharding.mesh.size * config.accumulate
    if config.batch_size % shares:
        fits = max(shares, round(config.batch_size / shares) * shares)
        raise UserError(
            f"a batch of {config.batch_size} cannot be shared evenly by {compiled.batch_sharding.mesh.size} device(s) "
            f"times {config.accumulate} microbatch(es): use --batch-size {fits}"
        )
    return compiled


def describe(method: Method, spec: DataSpec, config: RunConfig, output: Output) -> None:
    """The dry run: parameters and shapes of each net, FLOPs and memory of one step, as the compiler counts them."""
    state = jax.eval_shape(partial(initialise, method, spec, config.seed))
    for net, variables in state.variables.items():
        leaves = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
        output.print(f"{net}: {sum(math.prod(leaf.shape) for _, leaf in leaves):,} parameters")
        for path, leaf in leaves:
            output.print(f"  {jax.tree_util.keystr(path, simple=True, separator='/'):40} {list(leaf.shape)}")
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *spec.shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
        "index": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    step = make_train_step(
        method.phases, prepare=scale_images, ema_half_life=config.ema_half_life, accumulate=config.accumulate
    )
    compiled = compile_step(step, "jit").run.lower(state, batch, jax.eval_shape(lambda: jax.random.key(0))).compile()  # pyright: ignore[reportFunctionMemberAccess]
    flops = (compiled.cost_analysis() or {}).get("flops", math.nan)
    memory = compiled.memory_analysis()
    output.print(f"one step on {config.batch_size} images of {spec.shape}: {flops / 1e9:.2f} GFLOP")
    if memory is not None:
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        output.print(
            f"memory on one device: {sizes[0] / 2**20:.1f} MiB state and batch, {sizes[1] / 2**20:.1f} MiB work"
        )


def train(method: Method, dataset: Dataset, config: RunConfig, folder: Path, output: Output) -> TrainState:
    """Trains to `config.steps`, from the newest good checkpoint in the folder or from the start.

    Writes metrics.jsonl, samples/, checkpoints/ and report.html into the folder, which exists.

    Raises:
      Interrupted: SIGINT, SIGTERM or SIGHUP arrived, or nobody reads the output any more; everything is saved. A second
        signal ends the process at once.
      UserError: a batch that does not fit the devices, a checkpoint of other code, a full disk, a loss that stays NaN.
    """
    spec = dataset.spec
    compiled = prepare(method, spec, config)
    _, train_key, picture_key, test_key = _keys(config.seed)
    train_key = jax.device_put(train_key, compiled.replicated)
    manager = checkpoint.open_checkpoints(folder / "checkpoints", config.keep)
    target = jax.eval_shape(partial(initialise, method, spec, config.seed))
    state, warnings = checkpoint.restore(manager, _placed(target, compiled.state_sharding))
    for warning in warnings:
        output.print(warning, style="yellow")
    if state is None:
        initial = jax.jit(partial(initialise, method, spec, config.seed), out_shardings=compiled.state_sharding)
        state = initial()
    else:
        output.print(f"resuming at step {int(state.step)} of {config.steps}")
    start = int(state.step)
    best = checkpoint.open_checkpoints(folder / "best", 1) if config.quality_every else None
    log_path = folder / "metrics.jsonl"

    writer = jax.process_index() == 0
    draw = partial(_draw, method, dataset, folder / "samples", picture_key) if writer else lambda state: None
    sample_every = config.sample_every or max(1, config.steps // 10)
    if start == 0 and writer:
        save_png(folder / "samples" / "real.png", _real_grid(dataset))
    with contextlib.ExitStack() as stack:
        log = stack.enter_context(_logger(log_path, start, config, output)) if writer else _silent
        requests = stack.enter_context(stop_requests(output))
        record = best_so_far(read_metrics(log_path), config.quality_metric) if best and start else None
        feed = batches(
            dataset.train,
            batch_size=config.batch_size,
            seed=config.seed,
            start_step=start,
            sharding=compiled.batch_sharding,
        )
        for number in range(start + 1, config.steps + 1):
            state, metrics = compiled.run(state, next(feed), train_key)
            if number % config.log_every == 0 or number in (start + 1, config.steps):
                row = {name: float(value) for name, value in jax.device_get(metrics).items()}
                log(number, row)
                _stop_if_not_finite(row, config.max_skipped, number, manager)
            stop = requests[0] if requests else signal.SIGPIPE if output.lost else None
            if stop or number == config.steps or number % config.save_every == 0:
                checkpoint.save(manager, state)
            if stop:
                checkpoint.finish(manager)
                raise Interrupted(stop, number)
            if number % sample_every == 0 or number == config.steps:
                draw(state)
            if best and (number % config.quality_every == 0 or number == config.steps):
                variables = jax.device_put(eval_variables(state), jax.local_devices()[0])
                value, figures = measure_quality(
                    *(method, variables, picture_key, dataset),
                    metric=config.quality_metric,
                    num=config.quality_num,
                    extractor=config.quality_extractor,
                )
                log(number, {f"quality/{name}": figure for name, figure in figures.items()})
                if record is None or is_better(config.quality_metric, value, record):
                    record = value
                    checkpoint.save(best, state)
            if method.evaluate and (number == config.steps or config.eval_every and number % config.eval_every == 0):
                figures = evaluate(method, eval_variables(state), dataset, test_key, compiled, config.batch_size)
                log(number, {f"test/{name}": value for name, value in figures.items()})
    for each in (manager, best):
        if each:
            checkpoint.finish(each)
    return state


def evaluate(
    method: Method, variables: Variables, dataset: Dataset, key: Array, compiled: CompiledStep, batch_size: int
) -> dict[str, float]:
    """Means of the method's figures over the whole test split, each example once, with noise fixed by key and row."""
    assert method.evaluate is not None
    figures_of = jax.jit(lambda variables, batch, key: method.evaluate(variables, scale_images(batch), key))  # pyright: ignore[reportOptionalCall]
    key = jax.device_put(key, compiled.replicated)
    sums: dict[str, np.ndarray] = {}
    for batch in test_batches(dataset.test, batch_size=batch_size, sharding=compiled.batch_sharding):
        valid = batch.pop("valid")
        for name, values in figures_of(variables, batch, key).items():
            counted = jnp.where(valid.reshape(-1, *[1] * (values.ndim - 1)), values, 0).sum(axis=0)
            sums[name] = sums.get(name, 0.0) + np.asarray(counted, np.float64)
    means = {name: total / dataset.spec.num_test for name, total in sums.items()}
    if method.summarise:
        vectors = {name: jnp.asarray(mean) for name, mean in means.items() if mean.ndim}
        means = {name: mean for name, mean in means.items() if name not in vectors} | method.summarise(vectors)
    return {name: float(mean) for name, mean in means.items()}


def grid_labels(num_classes: int, rows: int = SAMPLE_ROWS) -> tuple[np.ndarray, int]:
    """Labels int32 [n] of a sample grid, and its number of columns: a class a column, or eight columns."""
    columns = num_classes if 2 <= num_classes <= 16 else SAMPLE_ROWS
    return np.tile(np.arange(columns, dtype=np.int32) % max(num_classes, 1), rows), columns


def _placed(target: TrainState, sharding: Any) -> TrainState:
    """The target's shapes with shardings."""
    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), target)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), target, sharding)


def _real_grid(dataset: Dataset) -> np.ndarray:
    """Training images laid out as the sample grid is: where there are classes, one a column."""
    labels, columns = grid_labels(dataset.spec.num_classes)
    images, found = read_rows(dataset.train, range(min(dataset.spec.num_train, 4 * len(labels))))
    waiting = {label: list(np.flatnonzero(found == label)) for label in np.unique(found)}
    rows = [waiting[label].pop(0) if waiting.get(label) else i % len(images) for i, label in enumerate(labels)]
    return grid(images[np.asarray(rows)], columns=columns)


def _draw(method: Method, dataset: Dataset, folder: Path, key: Array, state: TrainState) -> None:
    """Sample and reconstruction grids at fixed latents and fixed test images."""
    variables = jax.device_put(eval_variables(state), jax.local_devices()[0])
    labels, columns = grid_labels(dataset.spec.num_classes)
    images = jax.jit(method.sample)(variables, key, jnp.asarray(labels))
    name = f"step_{int(state.step):08d}.png"
    save_png(folder / name, grid(to_uint8(images), columns=columns))
    if method.reconstruct:
        test, test_labels = read_rows(dataset.test, (row % dataset.spec.num_test for row in range(4 * columns)))
        scaled = scale_images({"image": jnp.asarray(test)})["image"]
        again = jax.jit(method.reconstruct)(variables, scaled, jnp.asarray(test_labels))
        save_png(folder / f"reconstruct_{name}", pairs_grid(test, to_uint8(again), columns))


def pairs_grid(images: np.ndarray, reconstructions: np.ndarray, columns: int) -> np.ndarray:
    """A grid whose rows are, in turn, images and their reconstructions: uint8 [n, h, w, c] twice -> [H, W, 3]."""
    pairs = zip(rows_of(images, columns), rows_of(reconstructions, columns), strict=True)
    return grid_of_rows([row for pair in pairs for row in pair])


def _silent(step: int, row: dict[str, float]) -> None:
    """The log of processes other than the first."""


@contextlib.contextmanager
def _logger(path: Path, start: int, config: RunConfig, output: Output):
    """A function (step, metrics) that writes a line of metrics.jsonl and shows progress."""
    seconds = _forget_after(path, start)
    began = last_time = time.perf_counter()
    last_step = start
    columns = [TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()]
    figures = TextColumn("{task.fields[figures]}", markup=False)  # names hold brackets
    bar = Progress(*columns, figures, console=output, disable=not output.is_terminal)
    with bar, path.open("ab", buffering=0) as file:  # a buffer would be written once more when it is closed
        task = bar.add_task("training", total=config.steps, completed=start, figures="compiling")

        def log(step: int, metrics: dict[str, float]) -> None:
            nonlocal last_time, last_step
            now = time.perf_counter()
            row: dict[str, float] = {"step": step, "seconds": round(seconds + now - began, 3)}
            # The first interval holds the compilation, which says nothing of the speed.
            if step > last_step > start:
                row["images_per_s"] = round((step - last_step) * config.batch_size / (now - last_time), 2)
            last_time, last_step = now, step  # of evaluations too, whose time is not training's
            with disk_errors(path.parent):
                file.write(json.dumps(row | metrics).encode() + b"\n")
            shown = {**({"images/s": row["images_per_s"]} if "images_per_s" in row else {}), **_headline(metrics)}
            figures = "  ".join(f"{name} {value:.4g}" for name, value in shown.items())
            bar.update(task, completed=step, figures=figures)
            if not output.is_terminal:
                left = (config.steps - step) * (now - began) / max(1, step - start)
                output.print(f"step {step}/{config.steps}  eta {left:.0f}s  {figures}")

        yield log


def _headline(metrics: dict[str, float]) -> dict[str, float]:
    return {
        name: value
        for name, value in metrics.items()
        if name.endswith("/loss") or name.startswith(("test/", "quality/"))
    }


def _forget_after(path: Path, step: int) -> float:
    """Drops the rows after a step, which a run that resumes writes again. Returns the seconds trained until then."""
    rows = [row for row in read_metrics(path) if row["step"] <= step] if path.exists() else []
    write_atomically(path, "".join(json.dumps(row) + "\n" for row in rows))
    return rows[-1].get("seconds", 0.0) if rows else 0.0


def _stop_if_not_finite(row: dict[str, float], limit: int, step: int, manager: Any) -> None:
    for name, count in row.items():
        if name.endswith("/skipped_in_a_row") and count >= limit:
            phase = name.removesuffix("/skipped_in_a_row")
            bad = [n for n, v in row.items() if n.startswith(phase) and not math.isfinite(v)]
            checkpoint.finish(manager)
            good = [saved for saved in manager.all_steps() if saved <= step - count]
            last = f"the last good checkpoint is step {max(good)}" if good else "no checkpoint was written yet"
            raise UserError(
                f"the loss of phase {phase!r} was not finite in {count:.0f} updates in a row up to step {step} "
                f"({', '.join(bad) or phase + '/grad_norm'} is {row.get(bad[0] if bad else '', math.nan)}); {last}.\n"
                "All those updates were left out. Lower the learning rate or the penalties, in a new --workdir."
            )
