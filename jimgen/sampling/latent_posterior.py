"""Codes of a decoder, given what a linear operator shows of its image: p(z | y) for y = H (G(z) + sigma n).

Markov chains draw from it by Langevin steps, each accepted or not so that p(z | y) itself is what they converge to. A
step is one call: convolutions within a loop of XLA are many times slower on CPU.
"""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise

ACCEPTANCE = 0.574  # the best rate of Langevin steps in many dimensions (Roberts and Rosenthal, 1998)

Potential = Callable[[Array], Array]  # z [n, d] -> -log p(z | y) + constant, [n]


def potential_of(
    decode: Callable[[Array], Array], operator: Callable[[Array], Array], observed: Array, sigma: Array | float
) -> Potential:
    """U(z) = |H G(z) - y|^2 / (2 sigma^2) + |z|^2 / 2, for z ~ N(0, I).

    Args:
        decode: G, z [n, d] -> images [n, h, w, c].
        operator: H, images -> observations [n, ...].
        observed: y [n, ...].
        sigma: standard deviation of the noise of y, a number > 0 or broadcastable to y.
    """

    def potential(z: Array) -> Array:
        error = (operator(decode(z)) - observed) / sigma
        return (jnp.square(error).reshape(len(z), -1).sum(1) + jnp.square(z).sum(1)) / 2

    return potential


class Chain(NamedTuple):
    """Markov chains, one for each row."""

    z: Array  # [n, d]
    potential: Array  # [n]
    gradient: Array  # [n, d]
    step_size: Array  # [n]
    accepted: Array  # [n], whether the last step was


def begin(potential: Potential, z: Array, step_size: float = 1e-3) -> Chain:
    """Chains at z [n, d]."""
    value, gradient = _with_gradient(potential, z)
    return Chain(z, value, gradient, jnp.full(len(z), step_size, z.dtype), jnp.ones(len(z), bool))


def langevin_step(potential: Potential, chain: Chain, key: Array, rate: Array | float) -> Chain:
    """A step of the Metropolis-adjusted Langevin algorithm: z' = z - e grad U + sqrt(2 e) n, accepted or not.

    Args:
        potential: U.
        chain: the chains.
        key: PRNG key of this step.
        rate: how fast step sizes e are adapted to an acceptance of .574; 0 leaves them, as a draw needs it.
    References: Roberts and Tweedie, Exponential convergence of Langevin distributions, 1996.
    """
    z, value, gradient, size, _ = chain
    index = jnp.arange(len(z), dtype=jnp.int32)
    scale = size[:, None]
    fresh = noise.normal(jax.random.fold_in(key, 0), index, z.shape[1:]).astype(z.dtype)
    new = z - scale * gradient + jnp.sqrt(2 * scale) * fresh
    new_value, new_gradient = _with_gradient(potential, new)

    def log_density(to: Array, start: Array, slope: Array) -> Array:
        return -jnp.square(to - start + scale * slope).sum(1) / (4 * size)

    ratio = value - new_value + log_density(z, new, new_gradient) - log_density(new, z, gradient)
    uniform = noise.uniform(jax.random.fold_in(key, 1), index)
    accepted = jnp.log(uniform) < ratio  # False for NaN
    chance = jnp.where(jnp.isnan(ratio), 0.0, jnp.exp(jnp.minimum(ratio, 0)))
    choose = lambda a, b: jnp.where(accepted.reshape(-1, *[1] * (a.ndim - 1)), a, b)  # noqa: E731
    return Chain(
        choose(new, z),
        choose(new_value, value),
        choose(new_gradient, gradient),
        size * jnp.exp(rate * (chance - ACCEPTANCE)),
        accepted,
    )


def _with_gradient(potential: Potential, z: Array) -> tuple[Array, Array]:
    value, back = jax.vjp(potential, z)
    return value, back(jnp.ones_like(value))[0]


def annealed(sigma: Array, start: float, progress: Array | float) -> Array:
    """Standard deviations that fall from max(sigma, start) to sigma, geometrically, as progress goes from 0 to 1."""
    above = jnp.maximum(jnp.log(start) - jnp.log(sigma), 0)
    return sigma * jnp.exp(above * (1 - progress))
