"""Solvers of dx/dt = v(x, t) from noise at t = 1 to images at t = 0. Each is a single `lax.scan`.

They share the signature (velocity, x_1, times, key) -> x_0 with

    velocity: (x [n, ...], t []) -> v [n, ...];
    x_1: float [n, ...], the start of the path: x at times[0];
    times: float [steps + 1], decreasing, with 0 < t < 1 except at the ends (diffusion.uniform_times);
    key: a PRNG key, used only by `ancestral`.

Convention as in diffusion.py: x_t = (1 - t) x + t eps, v = eps - x.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen import noise
from jimgen.sampling.diffusion import data_of, noise_of

Velocity = Callable[[Array, Array], Array]
Sampler = Callable[[Velocity, Array, Array | np.ndarray, Array], Array]


def euler(velocity: Velocity, x_1: Array, times: Array | np.ndarray, key: Array) -> Array:
    """x' = x + (t' - t) v: order 1, one evaluation per step. Deterministic DDIM in this convention."""

    def step(x: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        t, t_next = at
        return x + (t_next - t) * velocity(x, t), None

    return lax.scan(step, x_1, steps_of(times, x_1))[0]


def heun(velocity: Velocity, x_1: Array, times: Array | np.ndarray, key: Array, correct_last: bool = True) -> Array:
    """x' = x + (t' - t) (v + v') / 2, v' at Euler's x': order 2, two evaluations per step.

    With `correct_last` False the last step is Euler's, as in Karras et al. (arXiv:2206.00364, algorithm 1). If data lie
    on a manifold (pixels that are always black), the velocity at an image without noise cannot be determined, and a
    correction by it would leave half of the last step's noise in the image.
    """

    def step(x: Array, at: tuple[Array, Array]) -> tuple[Array, None]:
        t, t_next = at
        v = velocity(x, t)
        v_next = velocity(x + (t_next - t) * v, t_next)
        if not correct_last:
            v_next = jnp.where(t_next > 0, v_next, v)
        return x + (t_next - t) * (v + v_next) / 2, None

    return lax.scan(step, x_1, steps_of(times, x_1))[0]


def dpmpp_2m(velocity: Velocity, x_1: Array, times: Array | np.ndarray, key: Array) -> Array:
    """DPM-Solver++(2M): x' = (t'/t) x + ((1 - t') - (1 - t) t'/t) D: order 2, one evaluation per step.

    D = x^_i + (x^_i - x^_(i-1)) h_i / (2 h_(i-1)) with the denoised x^ = x - t v and the steps h of lambda =
    ln((1 - t) / t). In the first and the last step, where h is infinite, D = x^_i (Lu et al., arXiv:2211.01095,
    algorithm 2).
    """
    points = jnp.asarray(times, x_1.dtype)
    h = jnp.diff(jnp.log1p(-points) - jnp.log(points))
    # 0 after the step from t = 1, and for infinite steps.
    ratio = jnp.append(0.0, h[1:] / h[:-1])
    ratio = jnp.where(jnp.isfinite(ratio), ratio, 0.0)

    def step(carry: tuple[Array, Array], at: tuple[Array, Array, Array]) -> tuple[tuple[Array, Array], None]:
        x, before = carry
        t, t_next, ratio = at
        denoised = data_of(x, velocity(x, t), t)
        direction = denoised + ratio / 2 * (denoised - before)
        shrink = t_next / t
        return (shrink * x + ((1 - t_next) - (1 - t) * shrink) * direction, denoised), None

    return lax.scan(step, (x_1, jnp.zeros_like(x_1)), (*steps_of(times, x_1), ratio))[0][0]


def ancestral(velocity: Velocity, x_1: Array, times: Array | np.ndarray, key: Array, eta: float = 1.0) -> Array:
    """The ancestral sampler: `ancestral_step` with new noise in each step; order 1. eta = 0 is deterministic (DDIM).

    Example i of step j draws from fold_in(fold_in(key, j), i).
    """
    index = jnp.arange(x_1.shape[0], dtype=jnp.int32)

    def step(x: Array, at: tuple[Array, tuple[Array, Array]]) -> tuple[Array, None]:
        number, (t, t_next) = at
        fresh = noise.normal(jax.random.fold_in(key, number), index, x.shape[1:])
        return ancestral_step(velocity, x, t, t_next, fresh, eta), None

    steps = steps_of(times, x_1)
    return lax.scan(step, x_1, (jnp.arange(steps[0].size, dtype=jnp.int32), steps))[0]


def ancestral_step(velocity: Velocity, x: Array, t: Array, t_next: Array, fresh: Array, eta: float = 1.0) -> Array:
    """Draws x_t' given x_t and the denoised x^: (1 - t') x^ + t' [sqrt(1 - a^2) eps^ + a n], a^2 = eta^2 (1 - r^2).

    r = sigma'/sigma = t' (1 - t) / (t (1 - t')) with sigma = t / (1 - t). At eta = 1 this is the posterior of the
    forward process, DDPM's step; at 0 it is DDIM's (Song et al., arXiv:2010.02502, equations 12 and 16).

    Args:
        velocity, x: see the module's docstring.
        t, t_next: scalars, t > t_next.
        fresh: n, standard normal noise of the shape of x.
        eta: scale of the noise, in [0, 1].
    """
    v = velocity(x, t)
    ratio = t_next * (1 - t) / (t * (1 - t_next))
    fraction = eta * jnp.sqrt(1 - jnp.square(ratio))
    mixed = jnp.sqrt(1 - jnp.square(fraction)) * noise_of(x, v, t) + fraction * fresh
    return (1 - t_next) * data_of(x, v, t) + t_next * mixed


SOLVERS: dict[str, Sampler] = {"euler": euler, "heun": heun, "dpmpp_2m": dpmpp_2m, "ancestral": ancestral}


def steps_of(times: Array | np.ndarray, x: Array) -> tuple[Array, Array]:
    """Start and end times of the steps, [steps] each, in the dtype of x."""
    points = jnp.asarray(times, x.dtype)
    if points.ndim != 1 or points.size < 2:
        raise ValueError(f"expected times [steps + 1], at least two, got {list(points.shape)}")
    return points[:-1], points[1:]
