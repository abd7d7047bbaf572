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
from jimgen.sampling.spread import Spread, white_spread


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
    spread: Spread | None = None,
) -> Array:
    """Draws images from about p(x | y): each step denoises, draws x given that and y, and noises it for the next time.

    Given x_t the image is taken to be x^ + S u with x^ = x_t - t v, u ~ N(0, I) and the flow's `spread` S. Then
    x = x^ + k S u, where u solves (B^T B + I) u = B^T (y' - H x^) / sigma + n / k, B = H k S / sigma, with y' = y +
    sigma n' for a draw, or y' = y and n = 0 for the mean. k is the spread's unevenness: what is observed is weighed by
    the error where it is large, and what is not observed drawn with its mean. Without `spread` this is Flower, which is
    exact for images ~ N(0, I); of other images it leaves noise in what y does not show.

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
        spread: of the flow at these times, by `spread_of`; None for that of images ~ N(0, I).
    Returns: float [n, *shape].
    References:
        Pourya et al., FLOWER: A Flow-Matching Solver for Inverse Problems, arXiv:2509.26287; t runs the other way.
    """
    index = jnp.arange(observed.shape[0], dtype=jnp.int32)
    precision = jnp.broadcast_to(1 / jnp.square(jnp.asarray(sigma, observed.dtype)), observed.shape)
    transpose = jax.linear_transpose(operator, jax.ShapeDtypeStruct((1, *shape), observed.dtype))

    def normal(number: Array | int, part: int, shape: tuple[int, ...]) -> Array:
        return noise.normal(jax.random.fold_in(key, 3 * number + part), index, shape).astype(observed.dtype)

    def drawn(denoised: Array, y: Array, fresh: Array, precision: Array, spread: Spread) -> Array:
        """One image given y, from n / k."""
        scaled = lambda x: spread.unevenness * spread.colour(x)  # noqa: E731
        back = lambda residual: scaled(transpose(precision[None] * residual)[0][0])  # noqa: E731
        right = back(y[None] - operator(denoised[None])) + fresh
        u = cg(lambda u: u + back(operator(scaled(u)[None])), right, x0=fresh, tol=1e-5, maxiter=iterations)[0]
        return denoised + scaled(u)

    def step(x: Array, at: tuple[Array, Array, Array, Spread]) -> tuple[Array, None]:
        number, t, t_next, spread = at
        denoised, y, fresh = data_of(x, velocity(x, t), t), observed, jnp.zeros_like(x)
        if draws:
            y = y + normal(number, 0, y.shape[1:]) / jnp.sqrt(precision)
            fresh = normal(number, 1, shape) / spread.unevenness
        x = jax.vmap(drawn, (0, 0, 0, 0, None))(denoised, y, fresh, precision, spread)
        return interpolate(x, normal(number, 2, shape), t_next), None

    start = noise.normal(jax.random.fold_in(key, 0), index, shape).astype(observed.dtype)
    t, t_next = steps_of(times, observed)
    spreads = white_spread(times, observed) if spread is None else spread
    return lax.scan(step, start, (1 + jnp.arange(t.size, dtype=jnp.int32), t, t_next, spreads))[0]


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
