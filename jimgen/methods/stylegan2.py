"""What StyleGAN2 adds to a GAN: the space of w, and the regularisation of path lengths (arXiv:1912.04958)."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise
from jimgen.methods.gan import GeneratorPenalty
from jimgen.methods.latents import draw_latents, noise_keys
from jimgen.methods.method import LatentSpace
from jimgen.objectives import path_length, path_lengths, running_mean
from jimgen.train_step import Aux, Batch, Variables

PATHS = "path_length"  # the entry of the variables: the running mean of path lengths
DECAY = 0.99  # of that mean, per penalty
PIXEL_NOISE = 7  # folded into a step's key


def w_space(generator: nn.Module, latent_dim: int) -> LatentSpace:
    """The space of w, float [n, w_dim], of a generator of `nets.stylegan2`; its centre is the mean of w in training."""

    def from_z(variables: Variables, z: Array, labels: Array) -> Array:
        return generator.apply(variables["generator"], z, labels, method="to_w")  # pyright: ignore[reportReturnType]

    def decode(variables: Variables, codes: Array, labels: Array, keys: Array) -> Array:
        return generator.apply(variables["generator"], codes, keys, method="from_w")  # pyright: ignore[reportReturnType]

    def centre(variables: Variables, labels: Array) -> Array:
        mean = variables["generator"]["batch_stats"]["mean_w"]
        return jnp.broadcast_to(mean[None], (labels.shape[0], mean.shape[0]))

    return LatentSpace(latent_dim, from_z, decode, centre, is_straight=True)


def path_length_penalty(
    generator: nn.Module, latent_dim: int, weight: float = 2.0, period: int = 4
) -> GeneratorPenalty:
    """Penalises path lengths |J^T y| that differ from their running mean, where J = d image / d w and y ~ N(0, I).

    The squared length is that of each layer's own w, averaged over the layers, as in the official code.

    Args:
        generator: of `nets.stylegan2`.
        latent_dim: dimension of z.
        weight: of the squared difference; 2 in the paper.
        period: steps between penalties.
    References: Karras et al., arXiv:1912.04958, section 3.2 and appendix B.
    """

    def term(variables: Variables, batch: Batch, key: Array, labels: Array) -> tuple[Array, Aux]:
        index, net = batch["index"], variables["generator"]
        apply: Callable[..., Array] = generator.apply  # pyright: ignore[reportAssignmentType]
        z = draw_latents(key, index, latent_dim)
        w = apply(net, z, labels, method="to_w")
        layers = jnp.repeat(w[:, None], generator.num_styles, axis=1)
        keys = noise_keys(key, index)
        pixels = noise.normal(jax.random.fold_in(key, PIXEL_NOISE), index, batch["image"].shape[1:])
        _, lengths = path_lengths(lambda w: apply(net, w, keys, method="from_w"), layers, pixels)
        mean = running_mean(variables[PATHS]["state"]["mean"], lengths, DECAY)
        updates = {PATHS: {"state": {"mean": mean}}}
        return path_length(lengths, mean, weight).mean(), Aux({"path_length": lengths.mean()}, updates)

    return GeneratorPenalty(PATHS, {"mean": jnp.zeros(())}, period, term)
