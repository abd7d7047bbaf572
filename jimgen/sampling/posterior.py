"""Sampling conditioned on the known pixels of an image.

Convention as in diffusion.py: x_t = (1 - t) x + t eps, v = eps - x.
"""

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen import noise
from jimgen.sampling.diffusion import interpolate
from jimgen.sampling.solvers import Velocity, ancestral_step, steps_of


def renoise(x: Array, t: Array, t_later: Array, fresh: Array) -> Array:
    """Draws x_t'' given x_t at t <= t'', the forward process: c x + sqrt(t''^2 - (c t)^2) n, c = (1 - t'') / (1 - t).

    Args:
        x: float [n, ...] at time t.
        t, t_later: scalars, 0 <= t <= t_later <= 1, t < 1.
        fresh: n, standard normal noise of the shape of x.
    """
    keep = (1 - t_later) / (1 - t)
    return keep * x + jnp.sqrt(jnp.maximum(jnp.square(t_later) - jnp.square(keep * t), 0)) * fresh


def inpaint(
    velocity: Velocity,
    known: Array,
    mask: Array,
    times: Array | np.ndarray,
    key: Array,
    rounds: int = 1,
) -> Array:
    """Draws the unknown pixels by ancestral steps, after each of which the known pixels are noised and inserted.

    Further rounds repeat each step: `renoise` goes back to t, then the step is taken again. This makes the new pixels
    consistent with the known ones.

    Args:
        velocity: see the solvers.
        known: images, float [n, ...]; values where the mask is False are not used.
        mask: bool, broadcastable to `known` by axes of length 1; True = known.
        times: see the solvers; the unknown pixels start as noise.
        key: a PRNG key.
        rounds: how often each step is taken, >= 1.
    Returns: [n, ...], equal to `known` where the mask is True.
    References:
        Lugmayr et al., RePaint: Inpainting using Denoising Diffusion Probabilistic Models, arXiv:2201.09865, algorithm
        1, with a jump length of 1.
    """
    if rounds < 1:
        raise ValueError(f"expected at least one round, got {rounds}")
    index = jnp.arange(known.shape[0], dtype=jnp.int32)
    t, t_next = steps_of(times, known)
    # Each step is repeated `rounds` times; every repetition except the last goes back to its start.
    back = jnp.tile(jnp.arange(rounds) < rounds - 1, t.size)
    numbers = 1 + jnp.arange(t.size * rounds, dtype=jnp.int32)

    def normal(number: Array | int, part: int) -> Array:
        return noise.normal(jax.random.fold_in(key, 3 * number + part), index, known.shape[1:])

    def step(x: Array, at: tuple[Array, Array, Array, Array]) -> tuple[Array, None]:
        number, t, t_next, back = at
        x = ancestral_step(velocity, x, t, t_next, normal(number, 0))
        x = jnp.where(mask, interpolate(known, normal(number, 1), t_next), x)
        return jnp.where(back, renoise(x, t_next, t, normal(number, 2)), x), None

    start = interpolate(jnp.where(mask, known, 0), normal(0, 0), t[0])
    steps = numbers, jnp.repeat(t, rounds), jnp.repeat(t_next, rounds), back
    return jnp.where(mask, known, lax.scan(step, start, steps)[0])


def as_mask(mask: Array, images: Array) -> Array:
    """Converts a mask [n, h, w] or [n, h, w, 1] of images [n, h, w, c], bool or 0 and 1, to bool [n, h, w, 1].

    Raises:
        ValueError: if the mask has another shape.
    """
    if mask.shape not in (images.shape[:3], (*images.shape[:3], 1)):
        raise ValueError(f"expected a mask {list(images.shape[:3])}, True = known, got {list(mask.shape)}")
    return mask.reshape(*images.shape[:3], 1).astype(bool)
