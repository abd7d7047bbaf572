"""Sampling of images by a flow, given some of their pixels or, in general, what a linear operator shows of them.

The observation is y = H x + sigma n with n ~ N(0, I). Operators map images float [n, h, w, c] to observations float
[n, ...], each image by itself. Convention as in diffusion.py: x_t = (1 - t) x + t eps, v = eps - x.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax
from jax.scipy.sparse.linalg import cg

from jimgen import noise
from jimgen.sampling.diffusion import data_of, interpolate
from jimgen.sampling.solvers import Velocity, ancestral_step, steps_of
from jimgen.sampling.spectrum import Spectrum


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


def flower(
    velocity: Velocity,
    operator: Callable[[Array], Array],
    observed: Array,
    sigma: Array | float,
    times: Array | np.ndarray,
    key: Array,
    shape: tuple[int, int, int],
    *,
    draws: bool = True,
    iterations: int = 50,
    spectrum: Spectrum | None = None,
) -> Array:
    """Draws images from about p(x | y): each step denoises, draws x given that and y, and noises it for the next time.

    Given x_t the image is taken to be N(x^, r^2 I) with x^ = x_t - t v and r = t / sqrt(t^2 + (1 - t)^2), which is
    exact for images ~ N(0, I). Then x given x^ and y solves (H^T H / sigma^2 + I / r^2) x = H^T y' / sigma^2 +
    x^' / r^2, with y' = y + sigma n, x^' = x^ + r n for a draw, or y' = y, x^' = x^ for the mean.

    Args:
        velocity: see the solvers.
        operator: H.
        observed: y, float [n, ...].
        sigma: standard deviation of the noise of y: a number > 0, or float broadcastable to y.
        times: see the solvers; about 20 to 100 steps, from 1 to 0.
        key: a PRNG key.
        shape: (h, w, c) of the images.
        draws: False for steps to the mean; the images then vary less than p(x | y) does.
        iterations: most iterations of conjugate gradients in a step.
        spectrum: of H. Two iterations are enough with it where sigma is one number, and few elsewhere.
    Returns: float [n, *shape].
    References:
        Pourya et al., FLOWER: A Flow-Matching Solver for Inverse Problems, arXiv:2509.26287; t runs the other way.
    """
    index = jnp.arange(observed.shape[0], dtype=jnp.int32)
    precision = jnp.broadcast_to(1 / jnp.square(jnp.asarray(sigma, observed.dtype)), observed.shape)
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct((1, *shape), observed.dtype))

    def normal(number: Array | int, part: int, shape: tuple[int, ...]) -> Array:
        return noise.normal(jax.random.fold_in(key, 3 * number + part), index, shape).astype(observed.dtype)

    def solve(right: Array, first: Array, precision: Array, squared: Array) -> Array:
        """One image of (r^2 H^T W H + I) x = right, from a first guess."""

        def system(x: Array) -> Array:
            return x + squared * transpose(precision[None] * operator(x[None]))[0][0]

        nearly = spectrum and (lambda x: spectrum.solve(x, squared * precision.mean()))
        return cg(system, right, x0=first, tol=1e-5, maxiter=iterations, M=nearly)[0]

    def step(x: Array, at: tuple[Array, Array, Array]) -> tuple[Array, None]:
        number, t, t_next = at
        denoised = data_of(x, velocity(x, t), t)
        squared = jnp.square(t) / (jnp.square(t) + jnp.square(1 - t))
        y = observed
        if draws:
            y = y + normal(number, 0, y.shape[1:]) / jnp.sqrt(precision)
            denoised = denoised + jnp.sqrt(squared) * normal(number, 1, shape)
        seen = jax.vmap(lambda y: transpose(y[None])[0][0])(precision * y)
        x = jax.vmap(solve, (0, 0, 0, None))(denoised + squared * seen, denoised, precision, squared)
        return interpolate(x, normal(number, 2, shape), t_next), None

    start = noise.normal(jax.random.fold_in(key, 0), index, shape).astype(observed.dtype)
    t, t_next = steps_of(times, observed)
    return lax.scan(step, start, (1 + jnp.arange(t.size, dtype=jnp.int32), t, t_next))[0]


def pnp_flow(
    velocity: Velocity,
    operator: Callable[[Array], Array],
    observed: Array,
    times: Array | np.ndarray,
    key: Array,
    shape: tuple[int, int, int],
    *,
    alpha: float = 1.0,
    averaged: int = 5,
) -> Array:
    """A likely image, from steps towards y, each followed by denoising: good in mean squared error, but smooth.

    z = x - t^alpha H^T (H x - y) / max(1, |H|^2), then x = mean of D_t((1 - t) z + t eps) over draws of eps, with
    D_t(x) = x - t v(x, t).

    Args:
        velocity, operator, observed, times, key, shape: see `flower`. The first of the times must be below 1 or is left
            out, as D_1 would forget y.
        alpha: how fast the steps towards y shrink.
        averaged: number of draws of eps in a step.
    Returns: float [n, *shape].
    References:
        Martin et al., PnP-Flow: Plug-and-Play Image Restoration with Flow Matching, arXiv:2410.02423, algorithm 3;
        their t runs the other way.
    """
    if averaged < 1:
        raise ValueError(f"expected at least one draw in a step, got {averaged}")
    n = observed.shape[0]
    index = jnp.arange(n, dtype=jnp.int32)
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct((n, *shape), observed.dtype))
    step_size = 1 / jnp.maximum(1, squared_norm(operator, shape, observed.dtype))

    def step(x: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        number, t = at
        (back,) = transpose(operator(x) - observed)
        z = x - t**alpha * step_size * back

        def denoised(part: Array) -> Array:
            eps = noise.normal(jax.random.fold_in(key, averaged * number + part), index, shape).astype(x.dtype)
            noisy = interpolate(z, eps, t)
            return data_of(noisy, velocity(noisy, t), t)

        return lax.map(denoised, jnp.arange(averaged)).mean(0), None

    points = steps_of(times, observed)[0]
    points = points[1:] if points.size > 1 else points
    (start,) = transpose(observed)
    return lax.scan(step, start * step_size, (jnp.arange(points.size, dtype=jnp.int32), points))[0]


def squared_norm(
    operator: Callable[[Array], Array], shape: tuple[int, int, int], dtype: jnp.dtype, iterations: int = 30
) -> Array:
    """|H|^2, the largest eigenvalue of H^T H for images of `shape`, by power iteration from below."""
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct((1, *shape), dtype))

    def step(x: Array, _: None) -> tuple[Array, Array]:
        (x,) = transpose(operator(x / jnp.linalg.norm(x)))
        return x, jnp.linalg.norm(x)

    start = noise.normal(jax.random.key(0), jnp.zeros(1, jnp.int32), shape).astype(dtype)
    return lax.scan(step, start, length=iterations)[1][-1]


def as_mask(mask: Array, images: Array) -> Array:
    """Converts a mask [n, h, w] or [n, h, w, 1] of images [n, h, w, c], bool or 0 and 1, to bool [n, h, w, 1].

    Raises:
        ValueError: if the mask has another shape.
    """
    if mask.shape not in (images.shape[:3], (*images.shape[:3], 1)):
        raise ValueError(f"expected a mask {list(images.shape[:3])}, True = known, got {list(mask.shape)}")
    return mask.reshape(*images.shape[:3], 1).astype(bool)
