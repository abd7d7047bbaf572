"""The dry run: the size and cost of a training, without training."""

import math
from functools import partial

import jax
import jax.numpy as jnp

from jimgen.data.dataset import DataSpec
from jimgen.methods.method import Method
from jimgen.output import Output
from jimgen.runs.config import RunConfig
from jimgen.runs.setup import initialise, train_step
from jimgen.train_step import compile_step


def describe(method: Method, spec: DataSpec, config: RunConfig, output: Output) -> None:
    """Prints parameters and shapes of each net, and FLOPs and memory of one step, as the compiler counts them."""
    state = jax.eval_shape(partial(initialise, method, spec, config.seed))
    for net, variables in state.variables.items():
        leaves = jax.tree_util.tree_leaves_with_path(variables.get("params", {}))
        output.print(f"{net}: {sum(math.prod(leaf.shape) for _, leaf in leaves):,} parameters")
        for path, leaf in leaves:
            output.print(f"  {jax.tree_util.keystr(path, simple=True, separator='/'):40} {list(leaf.shape)}")
    batch = {
        "image": jax.ShapeDtypeStruct((config.batch_size, *spec.shape), jnp.uint8),
        "label": jax.ShapeDtypeStruct(spec.label_shape(config.batch_size), jnp.int32),
        "index": jax.ShapeDtypeStruct((config.batch_size,), jnp.int32),
    }
    key = jax.eval_shape(lambda: jax.random.key(0))
    compiled = compile_step(train_step(method, config), "jit").run.lower(state, batch, key).compile()  # pyright: ignore[reportFunctionMemberAccess]
    flops = (compiled.cost_analysis() or {}).get("flops", math.nan)
    memory = compiled.memory_analysis()
    output.print(f"one step on {config.batch_size} images of {spec.shape}: {flops / 1e9:.2f} GFLOP")
    if memory is not None:
        sizes = (memory.argument_size_in_bytes, memory.temp_size_in_bytes)
        output.print(
            f"memory on one device: {sizes[0] / 2**20:.1f} MiB state and batch, {sizes[1] / 2**20:.1f} MiB work"
        )
