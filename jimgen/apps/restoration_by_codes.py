"""Restoration by a GAN or a VAE: codes drawn given what is observed of their images."""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jimgen import noise
from jimgen.apps.degradations import Operator
from jimgen.cpu import compiler_options
from jimgen.methods.latents import noise_keys
from jimgen.methods.method import LatentSpace
from jimgen.sampling import latent_posterior
from jimgen.sampling.latent_posterior import Chain
from jimgen.train_step import Variables


class CodeSteps(NamedTuple):
    """How long codes are searched for and drawn."""

    starts: int = 64  # random codes of which a search begins at the most likely one
    search: int = 300  # steps of a search for a likely code
    chain: int = 200  # steps of a Markov chain from there; half of them adapt its step size
    model_sigma: float = 0.1  # standard deviation of what the model cannot draw, in images in [-1, 1]


def drawn_codes(
    space: LatentSpace,
    variables: Variables,
    operator: Operator,
    observed: Array,
    sigma: Array | float,
    labels: Array,
    key: Array,
    steps: CodeSteps,
) -> Array:
    """Images float [n, h, w, c] of codes z, one for each observation, drawn from about p(z | y).

    From the most likely of random codes, Adam descends to a likely code and a Markov chain goes on from there. What the
    model cannot draw counts as noise: sigma^2 is increased by that of `CodeSteps.model_sigma`. Searches begin with a
    larger sigma, so that they find the right region first.

    Args:
        space, variables: latent space of a method, and the variables to draw with.
        operator, observed, sigma: H, y float [n, ...], and the standard deviation of its noise, broadcastable to y.
        labels: int32 [n] or [n, columns], for which the images are drawn.
        key: PRNG key.
        steps: see `CodeSteps`.
    """
    n, d = len(labels), space.latent_dim
    keys = noise_keys(jax.random.fold_in(key, 0), jnp.arange(n))
    total = jnp.sqrt(jnp.square(jnp.asarray(sigma)) + steps.model_sigma**2)
    tx = optax.scale_by_adam()

    def decode(given: Any, z: Array) -> Array:
        variables, _, labels, keys = given
        return space.decode(variables, space.from_z(variables, z, labels), labels, jax.random.clone(keys))

    def potential(given: Any, sigma: Array) -> latent_posterior.Potential:
        return latent_posterior.potential_of(lambda z: decode(given, z), operator, given[1], sigma)

    def drawn(given: Any, best: tuple[Array, Array], key: Array) -> tuple[Array, Array]:
        z = noise.normal(key, jnp.arange(n), (d,))
        value = potential(given, total)(z)
        better = value < best[1]
        return jnp.where(better[:, None], z, best[0]), jnp.where(better, value, best[1])

    def search(given: Any, z: Array, state: Any, progress: Array) -> tuple[Array, Any]:
        softened = latent_posterior.annealed(total, 1.0, jnp.minimum(2 * progress, 1))
        gradient = jax.grad(lambda z: potential(given, softened)(z).sum())(z)
        direction, state = tx.update(gradient, state)
        return z - 0.1 * (1 + jnp.cos(jnp.pi * progress)) / 2 * jnp.asarray(direction), state

    def move(given: Any, chain: Chain, key: Array, rate: Array) -> Chain:
        return latent_posterior.langevin_step(potential(given, total), chain, key, rate)

    given = variables, observed, labels, keys
    start = jax.random.fold_in(key, 1)
    best = jnp.zeros((n, d)), jnp.full(n, jnp.inf)
    look, descend = compiled(drawn), compiled(search)
    for i in range(steps.starts):
        best = look(given, best, jax.random.fold_in(start, i))
    z, state = best[0], tx.init(best[0])
    for i in range(steps.search):
        z, state = descend(given, z, state, np.float32(i / steps.search))
    chain = compiled(lambda given, z: latent_posterior.begin(potential(given, total), z))(given, z)
    step, walk = compiled(move), jax.random.fold_in(key, 2)
    for i in range(steps.chain):
        rate = np.float32(0.2 if i < steps.chain // 2 else 0)
        chain = step(given, chain, jax.random.fold_in(walk, i), rate)
    return compiled(decode)(given, chain.z)


def compiled(function: Callable[..., Any]) -> Callable[..., Any]:
    """The function compiled, with the options that are fastest here."""
    return jax.jit(function, compiler_options=compiler_options(jax.default_backend()))
