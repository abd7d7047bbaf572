"""One train step for every family of generative models.

Training is a sequence of phases over one immutable state. A phase defines which nets are trained, by which loss and
which optimiser. A VAE has one phase, a GAN has two, and a GAN with two critic steps lists the critic's phase twice.
`make_train_step` composes the phases into one pure function (state, batch, key) -> (state, metrics). `compile_step`
compiles that function for one device or many. The same definition computes the same numbers in every mode.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any, Literal, NamedTuple

import jax
import jax.numpy as jnp
import optax
from flax import struct
from jax import Array
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from jimgen.cpu import compiler_options
from jimgen.errors import UserError
from jimgen.parallel import DEVICE_AXIS, mean_over_devices, num_shards

Variables = dict[str, Any]  # net name -> argument of net.apply: {"generator": {"params": ..., "batch_stats": ...}, ...}
# "image" [b, h, w, c]; "label" int32 [b]; "index" int32 [b], the place in the global batch. In training also "step"
# int32 [], the number of steps done, and "images_seen" float32 [], the images in them, for schedules in objectives.
Batch = dict[str, Array]
Metrics = dict[str, Array]  # scalars by name
Due = frozenset[str]  # names of the phases whose periodic objective a step uses, from `due_at`
Step = Callable[..., tuple["TrainState", Metrics]]  # (state, batch, run's key, due=NOTHING_DUE)
HalfLife = float | Callable[[Array], Array]  # in images; a function of the images seen, float32 []
Mode = Literal["auto", "jit", "pmap", "sharded"]

NOTHING_DUE: Due = frozenset()


class Aux(NamedTuple):
    """Auxiliary outputs of an objective."""

    metrics: Metrics
    # Changed non-parameter collections by net name: {"generator": {"batch_stats": ...}}. Averaged like the gradients.
    updates: Mapping[str, Any] = {}
    observed: Any = ()  # a tree of arrays [b, ...], one row per example, for the phase's `follow`


Objective = Callable[[Variables, Batch, Array], tuple[Array, Aux]]  # (variables, batch, key) -> mean loss over examples
Follow = Callable[[Variables, Any, Array], Aux]  # (variables, Aux.observed, key) -> metrics and updates


class Phase(NamedTuple):
    """One update: `tx` updates the params of the nets in `trains` by the gradient of `objective`; others are unchanged.

    `follow` updates state that is not an average over microbatches, such as a codebook with its counts. It runs once
    per step, on the variables from before the step and on `Aux.observed` of the whole batch.

    `periodic` takes the place of `objective` in every `period`-th step, the first one included, for terms that are too
    expensive for every step (lazy regularisation, Karras et al., arXiv:1912.04958, appendix B). Which of the two a step
    uses is decided before it runs, so each combination is a program of its own: XLA on CPU computes convolutions inside
    `lax.cond` at half the speed.
    """

    name: str
    trains: tuple[str, ...]
    objective: Objective
    tx: optax.GradientTransformation
    follow: Follow | None = None
    period: int = 1
    periodic: Objective | None = None
    rate: Callable[[Variables], Array] | None = None  # variables -> factor on the updates of tx, []
    watch: Callable[[Any], Metrics] | None = None  # state of tx after the update -> metrics of the optimiser


def due_at(phases: Sequence[Phase], steps_done: int) -> Due:
    """The phases whose periodic objective is due in the step after `steps_done` steps."""
    return frozenset(phase.name for phase in phases if phase.periodic and steps_done % phase.period == 0)


class TrainState(struct.PyTreeNode):
    """The complete state of training, and the complete content of a checkpoint."""

    step: Array  # int32 []: steps done, which also determines the position in the data
    variables: Variables
    opt_state: dict[str, Any]  # by phase name
    ema: Variables  # exponential moving averages of whole nets, by net name, used for sampling
    skipped: dict[str, Array]  # by phase name, int32 []: updates skipped because they were not finite
    skipped_in_a_row: dict[str, Array]  # by phase name, int32 []: updates skipped since the last finite one


def eval_variables(state: TrainState) -> Variables:
    """The variables for sampling and evaluation: the moving averages of the nets that have one."""
    return {**state.variables, **state.ema}


def init_state(
    init: Callable[[Array, Batch], Variables], phases: Sequence[Phase], ema: Sequence[str], key: Array, batch: Batch
) -> TrainState:
    """Creates the state before the first step. Jit it: compiled initialisation is much faster, with the same numbers.

    `init` creates the variables of all nets from a key and an example batch (images float32 in [-1, 1]); `ema` lists
    the nets whose moving average is kept. Raises ValueError if a net in `phases` or `ema` is not created by `init`.
    """
    # Python numbers are weakly typed and what a step returns is not, so that the second step would compile again.
    variables = jax.tree.map(lambda x: jnp.asarray(x, jnp.result_type(x)), init(key, batch))
    if unknown := {*ema, *(net for phase in phases for net in phase.trains)} - set(variables):
        raise ValueError(f"unknown nets {sorted(unknown)}: init makes {sorted(variables)}")
    zeros = {phase.name: jnp.zeros((), jnp.int32) for phase in phases}
    return TrainState(
        step=jnp.zeros((), jnp.int32),
        variables=variables,
        opt_state={phase.name: phase.tx.init(_params(variables, phase)) for phase in phases},
        ema=jax.tree.map(jnp.copy, {net: variables[net] for net in ema}),  # copies: donated buffers must not be shared
        skipped=zeros,
        skipped_in_a_row=jax.tree.map(jnp.copy, zeros),
    )


def make_train_step(
    phases: Sequence[Phase],
    *,
    prepare: Callable[[Batch], Batch] = lambda batch: batch,
    ema_half_life: HalfLife = 0.0,
    ema_ramp: float = 0.05,
    accumulate: int = 1,
) -> Step:
    """Composes the phases into one pure step (state, batch, key) -> (state, metrics).

    The key is the run's key, the same at every step; the step derives its own by `fold_in(key, state.step)`. Phases of
    one step share it, so that the generator's phase uses the images that the discriminator's phase has drawn (XLA then
    computes them once). A phase that is listed again draws new numbers.

    Args:
        phases: in the order in which they run. A later phase uses the parameters that an earlier one has updated.
        prepare: runs first, inside the compiled step; for example scales uint8 images to [-1, 1].
        ema_half_life: half-life of the averages in images, beta = .5^(batch / half-life); 0 copies the nets. A function
            of the images seen is a schedule.
        ema_ramp: limits a fixed half-life to this times the images seen, so that the averages forget the random start
            (Karras et al., arXiv:2006.06676, official settings); 0 for no limit.
        accumulate: number of microbatches, a divisor of the batch size. Their gradients and `Aux.updates`, all computed
            from the same variables, are averaged before one update, so that running statistics decay once per step.
            Statistics of the batch (BatchNorm, relativistic average losses, free bits, the entropy of codes) are taken
            over one microbatch; `Phase.follow` gets the whole batch.
    Returns:
        The step (state, batch, key, due); `due_at` says what is due. Metrics are float32 scalars named `phase/metric`;
        each phase adds loss, grad_norm, skipped (total) and skipped_in_a_row. Updates with a loss or gradient that is
        not finite are skipped and counted.
    """
    names = [phase.name for phase in phases]
    rounds = [names[:i].count(name) for i, name in enumerate(names)]

    def step(state: TrainState, batch: Batch, key: Array, due: Due = NOTHING_DUE) -> tuple[TrainState, Metrics]:
        batch = prepare(batch)
        step_key = jax.random.fold_in(key, state.step)
        num_images = jax.tree.leaves(batch)[0].shape[0] * num_shards()
        progress = {"step": state.step, "images_seen": state.step.astype(jnp.float32) * num_images}
        parts = [{**part, **progress} for part in _microbatches(batch, accumulate)]
        metrics: Metrics = {}
        for phase, round_ in zip(phases, rounds, strict=True):
            if phase.periodic and phase.name in due:
                phase = phase._replace(objective=phase.periodic)
            state, found = _run_phase(phase, state, parts, jax.random.fold_in(step_key, round_))
            metrics |= {f"{phase.name}/{name}": value for name, value in found.items()}
        beta = _ema_beta(ema_half_life, ema_ramp, num_images, state.step)
        current = {net: state.variables[net] for net in state.ema}
        ema = jax.tree.map(lambda old, new: (new + beta * (old - new)).astype(old.dtype), state.ema, current)
        return state.replace(step=state.step + 1, ema=ema), metrics

    return step


def _run_phase(phase: Phase, state: TrainState, parts: Sequence[Batch], key: Array) -> tuple[TrainState, Metrics]:
    """One update by one phase, from one batch in microbatches."""
    params = _params(state.variables, phase)
    loss, aux, grads = _accumulated_gradient(phase, params, state.variables, parts, key)
    grad_norm = optax.tree.norm(grads)
    finite = jnp.isfinite(loss) & jnp.isfinite(grad_norm)

    updates, opt_state = phase.tx.update(grads, state.opt_state[phase.name], params)
    if phase.rate:
        rate = phase.rate(state.variables)
        updates = jax.tree.map(lambda x: rate.astype(x.dtype) * x, updates)
    moved: Any = optax.apply_updates(params, updates)
    learned = _merge(_merge(state.variables, {net: {"params": moved[net]} for net in phase.trains}), aux.updates)
    followed = Aux({})
    if phase.follow:
        followed = phase.follow(state.variables, aux.observed, key)
        learned = _merge(learned, mean_over_devices(followed.updates))
    before = state.variables, state.opt_state[phase.name]
    variables, opt_state = jax.tree.map(lambda new, old: jnp.where(finite, new, old), (learned, opt_state), before)
    skipped = state.skipped[phase.name] + ~finite
    in_a_row = jnp.where(finite, 0, state.skipped_in_a_row[phase.name] + 1)
    watched = phase.watch(opt_state) if phase.watch else {}
    found = {**aux.metrics, **mean_over_devices(followed.metrics), **watched}
    metrics = {"loss": loss, "grad_norm": grad_norm, **found, "skipped": skipped, "skipped_in_a_row": in_a_row}
    state = state.replace(
        variables=variables,
        opt_state={**state.opt_state, phase.name: opt_state},
        skipped={**state.skipped, phase.name: skipped},
        skipped_in_a_row={**state.skipped_in_a_row, phase.name: in_a_row},
    )
    return state, metrics


def _accumulated_gradient(
    phase: Phase, params: Variables, variables: Variables, parts: Sequence[Batch], key: Array
) -> tuple[Array, Aux, Variables]:
    """Loss, aux and gradient, averaged over devices and microbatches; `Aux.observed` covers the whole batch."""

    def objective(params: Variables, batch: Batch) -> tuple[Array, Aux]:
        together = _merge(variables, {net: {"params": params[net]} for net in phase.trains})
        loss, aux = phase.objective(together, batch, key)
        return mean_over_devices(loss), aux

    found, updates, observed = [], [], []
    # Unrolled rather than scanned: XLA:CPU runs convolutions inside a scan many times slower.
    for part in parts:
        (loss, aux), grads = jax.value_and_grad(objective, has_aux=True)(params, part)
        found.append((loss, *mean_over_devices((aux.metrics, grads))))
        updates.append(mean_over_devices(aux.updates))
        observed.append(aux.observed)
    loss, metrics, grads = jax.tree.map(_mean, *found)
    # Integer counts are not averaged, which would change their type: microbatches start from equal counts.
    kept = jax.tree.map(lambda *x: _mean(*x) if jnp.issubdtype(x[0].dtype, jnp.floating) else x[0], *updates)
    return loss, Aux(metrics, kept, jax.tree.map(_join, *observed)), grads


def _mean(*parts: Array) -> Array:
    return sum(parts) / len(parts)  # pyright: ignore[reportReturnType]


def _microbatches(batch: Batch, count: int) -> list[Batch]:
    """Takes every count-th example, so that each part of a sharded batch stays evenly spread over the devices."""
    size = jax.tree.leaves(batch)[0].shape[0]
    if size % count:
        raise ValueError(f"a batch of {size} (per device) cannot be cut into {count} equal microbatches")
    cut = jax.tree.map(lambda x: x.reshape(size // count, count, *x.shape[1:]), batch)
    return [jax.tree.map(lambda x, i=i: x[:, i], cut) for i in range(count)]


def _join(*parts: Array) -> Array:
    """The inverse of `_microbatches`: rows of each part -> rows of the batch."""
    return jnp.stack(parts, axis=1).reshape(-1, *parts[0].shape[1:])


def _params(variables: Variables, phase: Phase) -> Variables:
    return {net: variables[net]["params"] for net in phase.trains}


def _merge(variables: Variables, changes: Mapping[str, Mapping[str, Any]]) -> Variables:
    return {**variables, **{net: {**variables[net], **collections} for net, collections in changes.items()}}


def _ema_beta(half_life: HalfLife, ramp: float, num_images: int, step: Array) -> Array:
    """.5^(images per step / half-life in images), with a half-life of at most ramp times the images seen so far."""
    seen = (step + 1.0) * num_images
    at = half_life(seen) if callable(half_life) else half_life
    images = at if callable(half_life) else jnp.minimum(at, ramp * seen if ramp else jnp.inf)
    return 0.5 ** (num_images / jnp.maximum(images, 1e-8))


class CompiledStep(NamedTuple):
    """A compiled train step and the shardings of its arguments. It donates the state: keep only the returned one."""

    run: Step
    state_sharding: Any  # a Sharding, or a TrainState of them
    batch_sharding: NamedSharding  # of every leaf of a batch, along its leading axis
    replicated: NamedSharding  # of the key


def compile_step(
    step: Step,
    mode: Mode = "auto",
    devices: Sequence[Any] | None = None,
    state_sharding: Any = None,
) -> CompiledStep:
    """Compiles a step for one device or many. The state never has a device axis, so checkpoints work in every mode.

    Args:
        step: from `make_train_step`.
        mode: "jit": the first device. "sharded": one program over all devices, the batch cut along its leading axis.
            "pmap": one program per device, with explicit averages. "auto": sharded on several devices, else jit.
        state_sharding: for mode sharded, a TrainState of shardings (such as FSDP); default replicated (data parallel).
    Raises:
        UserError: for an unknown mode; for pmap with several processes or with a state_sharding (use sharded).
    """
    devices = list(devices or jax.devices())
    if mode == "auto":
        mode = "sharded" if len(devices) > 1 else "jit"
    if mode == "jit":
        devices = devices[:1]
    mesh = jax.make_mesh((len(devices),), (DEVICE_AXIS,), axis_types=(AxisType.Auto,), devices=devices)
    everywhere, split = NamedSharding(mesh, PartitionSpec()), NamedSharding(mesh, PartitionSpec(DEVICE_AXIS))
    if mode == "pmap":
        if jax.process_count() > 1:
            raise UserError("mode pmap runs in one process only: use --mode sharded")
        if state_sharding is not None:
            raise UserError("mode pmap replicates the state: use --mode sharded to shard it")
        parallel = jax.pmap(
            step,
            DEVICE_AXIS,
            in_axes=(None, 0, None, None),
            out_axes=(None, None),
            static_broadcasted_argnums=3,
            devices=devices,
            donate_argnums=0,
        )

        def run_parallel(state: TrainState, batch: Batch, key: Array, due: Due = NOTHING_DUE):
            return parallel(state, jax.tree.map(lambda x: x.reshape(len(devices), -1, *x.shape[1:]), batch), key, due)

        return CompiledStep(run_parallel, everywhere, split, everywhere)
    if mode not in ("jit", "sharded"):
        raise UserError(f"unknown mode {mode!r}: choose auto, jit, pmap or sharded")
    placed = everywhere if state_sharding is None else state_sharding
    run = jax.jit(
        step,
        in_shardings=(placed, split, everywhere),
        out_shardings=(placed, everywhere),
        static_argnums=3,
        donate_argnums=0,
        compiler_options=compiler_options(devices[0].platform),
    )
    return CompiledStep(run, placed, split, everywhere)
