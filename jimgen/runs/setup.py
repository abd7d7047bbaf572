"""From a config to what trains: the method, its first state, the keys of a run and the compiled step."""

import os
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jimgen.data.batches import scale_batch
from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.methods.method import Build, Method
from jimgen.noise import key_of
from jimgen.runs.config import RunConfig
from jimgen.train_step import Batch, CompiledStep, Step, TrainState, compile_step, init_state, make_train_step


class Built(NamedTuple):
    """What an experiment's `build` returned, and the method in it."""

    made: Any
    method: Method


class RunKeys(NamedTuple):
    """The PRNG keys of a run, all from its seed."""

    initial: Array
    train: Array
    samples: Array
    test: Array


def run_keys(seed: int) -> RunKeys:
    """The keys of a seed from 0 to 2^63 - 1."""
    return RunKeys(*jax.random.split(key_of(seed), 4))


def build_method(config: RunConfig, build: Build, spec: DataSpec) -> Built:
    """Calls an experiment's `build` and tries its method on shapes alone, so that what does not fit is told at once.

    Raises:
        UserError: the nets cannot take images of this shape, or the config contradicts itself.
    """
    try:
        made = build(config, spec)
        method = made if isinstance(made, Method) else getattr(made, "method", None)
        if not isinstance(method, Method):
            raise TypeError(
                f"build of the experiment returned {type(made).__name__}, neither a Method nor anything with a "
                "`.method`: is it complete?"
            )
        jax.eval_shape(partial(initialise, method, spec, config.seed))
    except (ValueError, TypeError) as error:
        if os.environ.get("JIMGEN_TRACEBACK"):
            raise
        raise UserError(f"{str(error).strip()}\n(images are {spec.shape}; JIMGEN_TRACEBACK=1 shows where)") from error
    return Built(made, method)


def example_batch(spec: DataSpec, batch_size: int) -> Batch:
    """A scaled batch of zeros."""
    labels = jnp.zeros(spec.label_shape(batch_size), jnp.int32)
    return {
        "image": jnp.zeros((batch_size, *spec.shape)),
        "label": labels,
        "index": jnp.zeros((batch_size,), jnp.int32),
    }


def initialise(method: Method, spec: DataSpec, seed: int) -> TrainState:
    """The state before step one: a pure function of the method, the shape of the data and the seed."""
    return init_state(method.init, method.phases, method.ema, run_keys(seed).initial, example_batch(spec, 2))


def abstract_state(method: Method, spec: DataSpec, seed: int, sharding: Any) -> TrainState:
    """The state's shapes and dtypes with shardings: one for all arrays, or a TrainState of them."""
    shapes = jax.eval_shape(partial(initialise, method, spec, seed))
    if isinstance(sharding, jax.sharding.Sharding):
        return jax.tree.map(lambda x: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=sharding), shapes)
    return jax.tree.map(lambda x, s: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=s), shapes, sharding)


def train_step(method: Method, config: RunConfig) -> Step:
    """The train step of a run, on batches of uint8 images."""
    return make_train_step(
        method.phases, prepare=scale_batch, ema_half_life=config.ema_schedule(), accumulate=config.accumulate
    )


def compiled_step(method: Method, config: RunConfig) -> CompiledStep:
    """The train step of a run, for the devices that its config asks for.

    Raises:
        UserError: fewer devices than asked for, or a batch that they cannot share evenly.
    """
    devices = jax.devices()
    if config.devices > len(devices):
        raise UserError(f"--devices {config.devices}: only {len(devices)} here")
    compiled = compile_step(train_step(method, config), config.mode, devices[: config.devices or None])
    shares = compiled.batch_sharding.mesh.size * config.accumulate
    if config.batch_size % shares:
        fits = max(shares, round(config.batch_size / shares) * shares)
        raise UserError(
            f"a batch of {config.batch_size} cannot be shared evenly by {compiled.batch_sharding.mesh.size} device(s) "
            f"times {config.accumulate} microbatch(es): use --batch-size {fits}"
        )
    return compiled
