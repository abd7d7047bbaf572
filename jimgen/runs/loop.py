"""The training loop: iterate, log, draw, evaluate, save, resume. The maths is in the train step."""

import contextlib
import signal
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.curves import read_metrics
from jimgen.data.batches import ENDLESS, batches, eval_batches, scale_batch
from jimgen.data.dataset import Dataset
from jimgen.evaluation.measure import is_better
from jimgen.evaluation.opaque import opaque_dataset
from jimgen.evaluation.quality import best_so_far, measure_quality
from jimgen.interrupts import stop_requests
from jimgen.methods.method import Method
from jimgen.output import Output
from jimgen.pictures import NotANumber, save_png
from jimgen.runs import checkpoint
from jimgen.runs.config import RunConfig
from jimgen.runs.folder import BEST, CHECKPOINTS, METRICS_FILE, PROFILE, REAL, SAMPLES
from jimgen.runs.logging import Log, metrics_log, silent
from jimgen.runs.previews import real_grid, write_previews
from jimgen.runs.profiling import profiled_steps
from jimgen.runs.recovery import collapse, require_finite, roll_back
from jimgen.runs.setup import abstract_state, compiled_step, initialise, run_keys
from jimgen.train_step import CompiledStep, TrainState, Variables, due_at, eval_variables


class Interrupted(Exception):
    """Training was asked to stop, and has saved. `signum` is the signal."""

    def __init__(self, signum: int, step: int):
        super().__init__(signum, step)
        self.signum, self.step = signum, step


def train(method: Method, dataset: Dataset, config: RunConfig, folder: Path, output: Output) -> TrainState:
    """Trains to `config.steps`, from the newest good checkpoint in the folder or from the start.

    Writes metrics.jsonl, samples/, checkpoints/, best/ and profile/ into the folder, which exists.

    Raises:
        Interrupted: SIGINT, SIGTERM or SIGHUP arrived, or the reader of the output has gone; everything is saved. A
            second signal ends the process at once.
        UserError: a batch that does not fit the devices, a checkpoint of other code, a full disk, a loss that stays
            NaN.
    """
    keys, last = run_keys(config.seed), config.steps
    compiled = compiled_step(method, config)
    manager = checkpoint.open_checkpoints(folder / CHECKPOINTS, config.keep)
    target = abstract_state(method, dataset.spec, config.seed, compiled.state_sharding)
    first = jax.jit(partial(initialise, method, dataset.spec, config.seed), out_shardings=compiled.state_sharding)
    state = _newest_state(config, manager, target, output) or first()
    where = {"every": config.save_every, "manager": manager, "target": target, "first": first}
    begin_again = partial(roll_back, method.recovery, **where, output=output)
    start = int(state.step)
    train_key = jax.device_put(keys.train, compiled.replicated)
    is_first_process = jax.process_index() == 0
    if start == 0 and is_first_process:
        save_png(folder / SAMPLES / REAL, real_grid(dataset))
    with contextlib.ExitStack() as stack:
        log = silent
        if is_first_process:
            log = stack.enter_context(metrics_log(folder / METRICS_FILE, start, last, config.batch_size, output))
        requests = stack.enter_context(stop_requests(output))
        keep_if_best = _best_keeper(method, dataset, config, folder, keys.samples, log)
        options = {"batch_size": config.batch_size, "sharding": compiled.batch_sharding, "flip": config.flip}
        feed_from = partial(batches, dataset.train, seed=config.seed, **options)
        feed, step, turns = feed_from(start_step=start), start, iter(range(ENDLESS))
        if config.profile and is_first_process:
            wait = lambda: jax.block_until_ready(state)  # noqa: E731
            turns = profiled_steps(range(ENDLESS), folder / PROFILE, wait=wait, tell=output.print)
            stack.enter_context(contextlib.closing(turns))  # a loop that stops early has its profile, too
        while step < last:
            next(turns)
            state, metrics = compiled.run(state, next(feed), train_key, due_at(method.phases, step))
            step += 1
            if step == start + 1 or _is_due(step, config.log_every, last):
                row = {name: float(value) for name, value in jax.device_get(metrics).items()}
                log(step, row)
                is_judged = _is_due(step, config.log_every, last)  # not right after a resume, so that a resume is exact
                if is_judged and (reason := collapse(method, state, row, config.max_skipped)):
                    state = begin_again(state, reason, log=log)
                    step = int(state.step)
                    feed = feed_from(start_step=step)
                    continue
                if is_judged:
                    require_finite(row, config.max_skipped, step, manager)
            stop = requests[0] if requests else signal.SIGPIPE if output.lost else None
            if stop or _is_due(step, config.save_every, last):
                checkpoint.save(manager, state)
            if stop:
                checkpoint.finish(manager)
                raise Interrupted(stop, step)
            if is_first_process and _is_due(step, config.sample_every or max(1, last // 10), last):
                try:
                    path = write_previews(method, dataset, folder / SAMPLES, keys.samples, state)
                    output.print(f"samples: {path}")
                except NotANumber as error:  # a sampler may diverge where the losses do not
                    output.print(f"no samples of step {step}: {error}", style="yellow")
            if config.quality_every and _is_due(step, config.quality_every, last):
                keep_if_best(step, state)
            if method.evaluate and _is_due(step, config.eval_every, last):
                found = evaluate(method, eval_variables(state), dataset, keys.test, compiled, config.batch_size)
                log(step, {f"test/{name}": value for name, value in found.items()})
    checkpoint.finish(manager)
    return state


def _is_due(step: int, every: int, last: int) -> bool:
    """Whether something is due that happens at the last step and every so many steps (0: at the last one only)."""
    return step == last or every > 0 and step % every == 0


def _newest_state(config: RunConfig, manager: Any, target: TrainState, output: Output) -> TrainState | None:
    """The state of the newest good checkpoint; None without one."""
    state, warnings = checkpoint.restore(manager, target)
    for warning in warnings:
        output.print(warning, style="yellow")
    if state is not None:
        output.print(f"resuming at step {int(state.step)} of {config.steps}")
    return state


def _best_keeper(
    method: Method, dataset: Dataset, config: RunConfig, folder: Path, key: Array, log: Log
) -> Callable[[int, TrainState], None]:
    """A function (step, state) that measures generated images and keeps the state if it is the best one so far."""
    path = folder / METRICS_FILE
    rows = read_metrics(path) if config.quality_every and path.exists() else []
    record = best_so_far(rows, config.quality_metric)
    background = config.fitting().background
    dataset = opaque_dataset(dataset, background) if config.quality_every else dataset

    def keep_if_best(step: int, state: TrainState) -> None:
        nonlocal record
        variables = jax.device_put(eval_variables(state), jax.local_devices()[0])
        value, metrics = measure_quality(
            method,
            variables,
            key,
            dataset,
            metric=config.quality_metric,
            num=config.quality_num,
            extractor=config.quality_extractor,
            background=background,
        )
        log(step, {f"quality/{name}": value for name, value in metrics.items()})
        if record is None or is_better(config.quality_metric, value, record):
            record = value
            manager = checkpoint.open_checkpoints(folder / BEST, 1)
            checkpoint.replace(manager, state)  # also where the best one was saved later, before a rollback
            manager.close()

    return keep_if_best


def evaluate(
    method: Method, variables: Variables, dataset: Dataset, key: Array, compiled: CompiledStep, batch_size: int
) -> dict[str, float]:
    """Means of the method's metrics over the whole test split, each example once, with noise fixed by key and row."""
    assert method.evaluate is not None
    metrics_of = jax.jit(lambda variables, batch, key: method.evaluate(variables, scale_batch(batch), key))  # pyright: ignore[reportOptionalCall]
    key = jax.device_put(key, compiled.replicated)
    sums: dict[str, np.ndarray] = {}
    for batch in eval_batches(dataset.test, batch_size=batch_size, sharding=compiled.batch_sharding):
        valid = batch.pop("valid")
        for name, values in metrics_of(variables, batch, key).items():
            counted = jnp.where(valid.reshape(-1, *[1] * (values.ndim - 1)), values, 0).sum(axis=0)
            sums[name] = sums.get(name, 0.0) + np.asarray(counted, np.float64)
    means = {name: total / dataset.spec.num_test for name, total in sums.items()}
    if method.aggregate:
        vectors = {name: jnp.asarray(mean) for name, mean in means.items() if mean.ndim}
        means = {name: mean for name, mean in means.items() if name not in vectors} | method.aggregate(vectors)
    return {name: float(mean) for name, mean in means.items()}
