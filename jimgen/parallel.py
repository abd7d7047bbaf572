"""The axis name of pmap, with which nets, losses and the train step average over devices in every mode."""

from typing import TypeVar

import jax

DEVICE_AXIS = "devices"
Tree = TypeVar("Tree")


def device_axis() -> str | None:
    """The name of the device axis while pmap traces, else None.

    Under jit, sharded or not, one program handles the whole batch, so that no average over devices is needed.
    """
    try:
        jax.lax.axis_size(DEVICE_AXIS)
    except NameError:
        return None
    return DEVICE_AXIS


def num_shards() -> int:
    """The number of devices over which the batch of the traced function is split: more than one only under pmap."""
    return jax.lax.axis_size(DEVICE_AXIS) if device_axis() else 1


def mean_over_devices(tree: Tree) -> Tree:
    """The mean of each leaf over the devices of a pmap; outside of pmap the tree itself."""
    axis = device_axis()
    return jax.lax.pmean(tree, axis) if axis else tree


def gather_over_devices(x: jax.Array) -> jax.Array:
    """The examples [b, ...] of the whole batch, in its order, on each device of a pmap; outside of pmap x itself."""
    axis = device_axis()
    return jax.lax.all_gather(x, axis, tiled=True) if axis else x


def own_examples(x: jax.Array) -> jax.Array:
    """This device's share of the examples of `gather_over_devices`; outside of pmap x itself."""
    axis = device_axis()
    if not axis:
        return x
    size = x.shape[0] // num_shards()
    return jax.lax.dynamic_slice_in_dim(x, jax.lax.axis_index(axis) * size, size)
