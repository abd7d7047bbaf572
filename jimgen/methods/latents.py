"""Latent spaces: draws of z ~ N(0, I), truncation towards the mean code, and paths between codes."""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise
from jimgen.arcs import slerp
from jimgen.methods.method import LatentSpace
from jimgen.train_step import Variables

NET_NOISE = 4  # folded into a step's key; 1, 2, 3 and 5 are taken by methods


def draw_latents(key: Array, index: Array, latent_dim: int) -> Array:
    """z ~ N(0, I), float [n, latent_dim], one row for each entry of index int32 [n]."""
    return noise.normal(key, index, (latent_dim,))


def noise_keys(key: Array, index: Array) -> Array:
    """Keys [n] of the noise that a net adds to images, one for each entry of index int32 [n]; not those of z."""
    return noise.example_keys(jax.random.fold_in(key, NET_NOISE), index)


def z_space(
    latent_dim: int,
    decode: Callable[[Variables, Array, Array], Array],
    encode: Callable[[Variables, Array, Array], Array] | None = None,
) -> LatentSpace:
    """The space of z itself, with a decoder (variables, z [n, d], labels) -> images and, perhaps, an encoder."""
    return LatentSpace(
        latent_dim,
        from_z=lambda variables, z, labels: z,
        decode=lambda variables, codes, labels, keys: decode(variables, codes, labels),
        centre=lambda variables, labels: jnp.zeros((labels.shape[0], latent_dim)),
        encode=encode,
    )


def draw_codes(space: LatentSpace, variables: Variables, key: Array, index: Array, labels: Array) -> Array:
    """Codes [n, d] of random z, one row for each entry of index int32 [n]."""
    return space.from_z(variables, draw_latents(key, index, space.latent_dim), labels)


def truncated(space: LatentSpace, variables: Variables, codes: Array, labels: Array, psi: float) -> Array:
    """centre + psi (codes - centre): nearer to the mean code for psi < 1, less varied and more typical.

    References: Karras et al., arXiv:1812.04948, appendix B, for w.
    """
    if psi == 1:
        return codes
    centre = space.centre(variables, labels)
    return centre + psi * (codes - centre)


def sampler(space: LatentSpace, psi: float = 1.0) -> Callable[[Variables, Array, Array], Array]:
    """The `Method.sample` of a latent space: decodes truncated codes of random z."""

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        index = jnp.arange(labels.shape[0])
        codes = truncated(space, variables, draw_codes(space, variables, key, index, labels), labels, psi)
        return space.decode(variables, codes, labels, noise_keys(key, index))

    return sample


def path_between(space: LatentSpace, start: Array, end: Array, steps: int) -> Array:
    """Codes from start to end, both included: [n, d] twice -> [n, steps, d].

    In w they lie on a straight line. In z they lie on an arc (`arcs.slerp`): points on a straight line between two
    draws are too short to look like draws.
    """
    t = jnp.linspace(0.0, 1.0, steps)[None]
    start, end = start[:, None], end[:, None]
    if space.is_straight:
        return start + t[..., None] * (end - start)
    return slerp(start, end, t)


def interpolate(space: LatentSpace, variables: Variables, key: Array, labels: Array, steps: int) -> Array:
    """Images on paths between pairs of random codes: [n, steps, h, w, c] for labels int32 [n] or [n, columns].

    Noise that a net adds is the same along a path.
    """
    n = labels.shape[0]
    start, end = (draw_codes(space, variables, key, 2 * jnp.arange(n) + i, labels) for i in (0, 1))
    path = path_between(space, start, end, steps)
    keys = jnp.repeat(noise_keys(key, jnp.arange(n)), steps, axis=0)
    images = space.decode(variables, path.reshape(n * steps, -1), jnp.repeat(labels, steps, axis=0), keys)
    return images.reshape(n, steps, *images.shape[1:])
