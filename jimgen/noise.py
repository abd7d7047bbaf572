"""Random numbers that belong to the example, not to the device.

Each example draws from `fold_in(key, index)`, where index is its place in the global batch. So jit, pmap and sharded
programs draw the same numbers on any number of devices, with or without microbatches.
"""

from functools import partial

import jax
from jax import Array

from jimgen.errors import UserError

LARGEST_SEED = 2**63 - 1


def key_of(seed: int) -> Array:
    """The PRNG key of a seed, a different one for each seed from 0 to 2^63 - 1.

    `jax.random.key` uses only the low 32 bits, unless JAX runs in 64-bit mode. Seeds below 2^32 have the key of
    `jax.random.key`. For larger seeds the high bits are folded into the key of the low bits, in either mode.

    Raises:
        UserError: see `require_seed`.
    """
    require_seed(seed)
    high, low = divmod(seed, 2**32)
    key = jax.random.key(low)
    return jax.random.fold_in(key, high) if high else key


def require_seed(seed: int) -> None:
    """Raises UserError for a seed outside 0 to 2^63 - 1."""
    if not 0 <= seed <= LARGEST_SEED:
        raise UserError(f"--seed {seed}: must lie within 0 and {LARGEST_SEED} (2^63 - 1)")


def example_keys(key: Array, index: Array) -> Array:
    """One key per example: a scalar PRNG key and index int32 [b] -> keys [b]."""
    return jax.vmap(partial(jax.random.fold_in, key))(index)


def normal(key: Array, index: Array, shape: tuple[int, ...]) -> Array:
    """Standard normal draws, float [b, *shape], independent for each entry of index int32 [b]."""
    return jax.vmap(lambda k: jax.random.normal(k, shape))(example_keys(key, index))


def uniform(key: Array, index: Array, shape: tuple[int, ...] = ()) -> Array:
    """Uniform draws in [0, 1), float [b, *shape], independent for each entry of index int32 [b]."""
    return jax.vmap(lambda k: jax.random.uniform(k, shape))(example_keys(key, index))


def bernoulli(key: Array, index: Array, probability: Array) -> Array:
    """Draws 0. or 1. with the given probabilities of 1 in [0, 1], float [b, ...], for index int32 [b]."""
    draws = jax.vmap(jax.random.bernoulli)(example_keys(key, index), probability)
    return draws.astype(probability.dtype)
