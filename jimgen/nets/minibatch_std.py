"""Minibatch standard deviation: how varied a batch is, as a feature (Karras et al., arXiv:1710.10196, section 3)."""

import jax.numpy as jnp
from jax import Array

from jimgen.parallel import gather_over_devices, own_examples
from jimgen.precision import at_least_float32


def minibatch_std(x: Array, group: int) -> Array:
    """Appends the standard deviation over a group of examples, as one channel that is constant over the image.

    With b examples, the groups are those i, i + b / group, i + 2 b / group, ... of the whole batch, in every mode. The
    standard deviation, sqrt(population variance + 1e-8), is averaged over places and channels. It couples the examples
    of a batch, so gradients of a sum of logits are not those of each example alone.

    Args:
        x: float [b, h, w, c].
        group: examples per group; the whole batch where it is smaller, as in initialisation.
    Returns: [b, h, w, c + 1].
    Raises:
        ValueError: if `group` is below one or does not divide the batch.
    """
    whole = gather_over_devices(at_least_float32(x))
    size = whole.shape[0]
    if group < 1 or size % min(group, size):
        fits = [n for n in range(1, size + 1) if size % n == 0 and n <= group] or [1]
        raise ValueError(
            f"minibatch standard deviation: groups of {group} examples do not divide a batch of {size}. "
            f"Use groups of {fits[-1]}, or a batch size that is a multiple of {max(group, 1)}."
        )
    members = whole.reshape(min(group, size), -1, *whole.shape[1:])
    variance = jnp.square(members - members.mean(0, keepdims=True)).mean(0)
    deviation = jnp.sqrt(variance + 1e-8).mean((1, 2, 3))
    mine = own_examples(jnp.tile(deviation, members.shape[0]))
    channel = jnp.broadcast_to(mine[:, None, None, None], (*x.shape[:3], 1))
    return jnp.concatenate([x, channel.astype(x.dtype)], axis=-1)
