"""The one axis name of pmap, so that nets and the train step can average over devices without being told the mode."""

from typing import TypeVar

import jax

DEVICE_AXIS = "devices"
Tree = TypeVar("Tree")


def device_axis() -> str | None:
    """The name of the device axis while pmap traces, else None.

    Under jit, sharded or not, one program sees the whole batch and there is nothing to average over.
    """
    try:
        jax.lax.axis_size(DEVICE_AXIS)
    except NameError:
        return None
    return DEVICE_AXIS


def num_shards() -> int:
    """The number of devices that share the batch of the function being traced: more than one only under pmap."""
    return jax.lax.axis_size(DEVICE_AXIS) if device_axis() else 1


def mean_over_devices(tree: Tree) -> Tree:
    """The mean of each leaf over the devices of a pmap, the tree itself elsewhere."""
    axis = device_axis()
    return jax.lax.pmean(tree, axis) if axis else tree
