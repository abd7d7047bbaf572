"""Latents z ~ N(0, I) and interpolation between them, for GANs and VAEs."""

from collections.abc import Callable

import jax.numpy as jnp
from jax import Array

from jimgen import noise
from jimgen.arcs import slerp
from jimgen.train_step import Variables


def draw_latents(key: Array, index: Array, latent_dim: int) -> Array:
    """z ~ N(0, I), float [n, latent_dim], one row for each entry of index int32 [n]."""
    return noise.normal(key, index, (latent_dim,))


def interpolation(
    decode: Callable[[Variables, Array, Array], Array], latent_dim: int
) -> Callable[[Variables, Array, Array, int], Array]:
    """The `Method.interpolate` of a method with a decoder (variables, z [n, d], labels [n]) -> images.

    It follows arcs (`arcs.slerp`): points on a straight line between two draws are too short to look like draws.
    """

    def interpolate(variables: Variables, key: Array, labels: Array, steps: int) -> Array:
        n = labels.shape[0]
        start, end = (draw_latents(key, 2 * jnp.arange(n) + i, latent_dim)[:, None] for i in (0, 1))
        path = slerp(start, end, jnp.linspace(0.0, 1.0, steps)[None])
        images = decode(variables, path.reshape(-1, latent_dim), jnp.repeat(labels, steps, axis=0))
        return images.reshape(n, steps, *images.shape[1:])

    return interpolate
