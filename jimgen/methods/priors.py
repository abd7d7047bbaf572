"""Priors p(z) of a VAE: a standard normal, VampPrior, or a flow that is fitted to the latents.

A prior draws codes z from standard normal noise, which may have more dimensions than z. So searches and Markov chains
over noise work with every prior.
"""

import math
from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from jax import Array
from jax.scipy.special import ndtr

from jimgen import noise
from jimgen.conditions import NumClasses, open_labels
from jimgen.objectives import flow_matching_loss, gaussian_nll, mixture_log_prob
from jimgen.sampling.diffusion import interpolate, logit_normal, uniform_times, velocity_of
from jimgen.sampling.solvers import Velocity, heun, steps_of
from jimgen.train_step import Batch, Variables

NET = "prior"  # the entry of the variables
Encode = Callable[[Variables, Array, Array], tuple[Array, Array]]  # (variables, images, labels) -> mean, logvar of q


class Prior(NamedTuple):
    """p(z) of codes float [n, d]. Functions that need the encoder, as VampPrior does, take it as an argument."""

    noise_dim: int  # of the standard normal noise of a code
    log_prob: Callable[[Variables, Encode, Array], Array]  # (variables, encode, z) -> nats [n]
    draw: Callable[[Variables, Encode, Array], Array]  # (variables, encode, noise [n, noise_dim]) -> z
    init: Callable[[Array, Batch], Variables] | None = None  # (key, batch) -> variables of its own net
    is_standard: bool = False
    fit: Callable[[Variables, Array, Array, Array], Array] | None = None
    # (variables, z, index, key) -> losses [n] that fit its net to latents of a VAE trained for the standard prior;
    # None if it is trained together with the VAE


def standard_prior(latent_dim: int) -> Prior:
    """N(0, I)."""
    return Prior(
        latent_dim,
        log_prob=lambda variables, encode, z: -gaussian_nll(z, jnp.zeros_like(z), 0.0),
        draw=lambda variables, encode, eps: eps,
        is_standard=True,
    )


def vamp_prior(
    latent_dim: int, image_shape: tuple[int, int, int], components: int = 500, num_classes: NumClasses = 0
) -> Prior:
    """An equal mixture of the posteriors of learned images (Tomczak and Welling, arXiv:1705.07120).

    The images are trained with the nets. The last dimension of the noise chooses a component. Nets that know labels see
    these images without any.

    Raises:
        ValueError: if components < 1.
    """
    if components < 1:
        raise ValueError(f"--components {components}: must be at least 1")

    def init(key: Array, batch: Batch) -> Variables:
        images = -1 + 0.5 * jax.random.normal(key, (components, *image_shape))  # dark, as tanh of it will be
        return {"params": {"images": images}}

    def mixture(variables: Variables, encode: Encode) -> tuple[Array, Array]:
        images = jnp.tanh(variables[NET]["params"]["images"])
        columns = (len(num_classes),) if isinstance(num_classes, tuple) else ()
        labels = open_labels(jnp.zeros((components, *columns), jnp.int32), num_classes)
        return encode(variables, images, labels)

    def draw(variables: Variables, encode: Encode, eps: Array) -> Array:
        means, logvars = mixture(variables, encode)
        chosen = jnp.clip(jnp.floor(components * ndtr(eps[:, latent_dim])).astype(jnp.int32), 0, components - 1)
        return means[chosen] + jnp.exp(logvars[chosen] / 2) * eps[:, :latent_dim]

    return Prior(
        latent_dim + 1,
        log_prob=lambda variables, encode, z: mixture_log_prob(z, *mixture(variables, encode)),
        draw=draw,
        init=init,
    )


def flow_prior(latent_dim: int, net: nn.Module, num_steps: int = 16) -> Prior:
    """A flow from latents to noise, fitted by flow matching to the latents of a VAE (methods/flow.py has the maths).

    The VAE itself is trained for N(0, I). Its latents fill that prior unevenly, and the flow learns where they are
    (Dai and Wipf, Diagnosing and Enhancing VAE Models, arXiv:1903.05789, with another second stage).

    Args:
        latent_dim: d.
        net: (z [n, d], times [n]) -> velocity [n, d].
        num_steps: steps of Heun's method, for codes and for densities. A density takes d derivatives in each, and is
            exact but for the steps.
    """
    times = uniform_times(num_steps)

    def init(key: Array, batch: Batch) -> Variables:
        return {**net.init(key, jnp.zeros((1, latent_dim)), jnp.zeros(1))}

    def velocity(variables: Variables) -> Velocity:
        def v(z: Array, t: Array) -> Array:
            return net.apply(variables[NET], z, jnp.broadcast_to(t, z.shape[:1]))  # pyright: ignore[reportReturnType]

        return v

    def fit(variables: Variables, z: Array, index: Array, key: Array) -> Array:
        eps = noise.normal(jax.random.fold_in(key, 0), index, z.shape[1:]).astype(z.dtype)
        t = logit_normal(noise.normal(jax.random.fold_in(key, 1), index, ())).astype(z.dtype)
        found = net.apply(variables[NET], interpolate(z, eps, t), t)
        return flow_matching_loss(found, velocity_of(z, eps), jnp.ones_like(t))  # pyright: ignore[reportArgumentType]

    return Prior(
        latent_dim,
        log_prob=lambda variables, encode, z: flow_log_prob(velocity(variables), z, times[::-1]),
        draw=lambda variables, encode, eps: heun(velocity(variables), eps, times, jax.random.key(0)),
        init=init,
        fit=fit,
    )


def flow_log_prob(velocity: Velocity, z: Array, times: Array | np.ndarray) -> Array:
    """log p(z) = log N(x_1; 0, I) + int_0^1 div v(x_t, t) dt along the path dx/dt = v from x_0 = z, by Heun's method.

    Args:
        velocity: v(x [n, d], t []) -> [n, d], each row by itself.
        z: float [n, d].
        times: float [steps + 1], from 0 to 1.
    Returns: [n] nats.
    References: Chen et al., Neural Ordinary Differential Equations, arXiv:1806.07366, theorem 1.
    """
    basis = jnp.eye(z.shape[1], dtype=z.dtype)

    def slopes(x: Array, t: Array) -> tuple[Array, Array]:
        def along(direction: Array) -> tuple[Array, Array]:
            v, dv = jax.jvp(lambda x: velocity(x, t), (x,), (jnp.broadcast_to(direction, x.shape),))
            return v, dv @ direction

        v, diagonal = jax.vmap(along, out_axes=(None, 0))(basis)
        return v, diagonal.sum(0)

    def step(state: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        (x, total), (t, t_next) = state, at
        h = t_next - t
        v, divergence = slopes(x, t)
        v_next, divergence_next = slopes(x + h * v, t_next)
        return (x + h * (v + v_next) / 2, total + h * (divergence + divergence_next) / 2), None

    (end, total), _ = jax.lax.scan(step, (z, jnp.zeros(z.shape[0], z.dtype)), steps_of(times, z))
    return total - (jnp.square(end).sum(1) + z.shape[1] * math.log(2 * math.pi)) / 2
