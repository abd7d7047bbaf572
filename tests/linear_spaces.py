"""Latent spaces of linear generators, in which codes are known exactly."""

import jax
import jax.numpy as jnp
import numpy as np

from jimgen.methods.method import LatentSpace

SHAPE = (8, 8, 1)
MEAN = 2.0  # of every entry of w


def w_space() -> LatentSpace:
    """w = z a + 2 of four dimensions, image = w b; with noise of the image that the key draws."""

    def decode(variables, codes, labels, keys):
        noise = jax.vmap(lambda key: jax.random.normal(key, SHAPE))(keys)
        return (codes @ variables["b"]).reshape(-1, *SHAPE) + variables["noise"] * noise

    return LatentSpace(
        4,
        from_z=lambda variables, z, labels: z @ variables["a"] + MEAN,
        decode=decode,
        centre=lambda variables, labels: jnp.full((labels.shape[0], 4), MEAN, jnp.float32),
        is_straight=True,
    )


def weights(noise=0.0):
    rng = np.random.default_rng(0)
    a, b = rng.normal(size=(4, 4)) + 2 * np.eye(4), 0.3 * rng.normal(size=(4, 64))
    return {"a": jnp.asarray(a, jnp.float32), "b": jnp.asarray(b, jnp.float32), "noise": jnp.float32(noise)}
