"""The precision in which losses and networks compute."""

import jax.numpy as jnp
from jax import Array


def at_least_float32(x: Array) -> Array:
    """Converts to float32, or keeps a higher precision: integers and 16-bit floats become float32."""
    x = jnp.asarray(x)
    return x.astype(jnp.promote_types(x.dtype, jnp.float32))
