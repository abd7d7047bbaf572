"""Generative adversarial networks (Goodfellow et al., arXiv 1406.2661): a generator and a discriminator in turn."""

from collections.abc import Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.arcs import arc_between, turned
from jimgen.methods.method import Method
from jimgen.objectives import (
    NON_SATURATING,
    AdversarialLoss,
    interpolate_pairs,
    squared_gradient_norm,
    wgan_gp,
    zero_centred_penalty,
)
from jimgen.train_step import Aux, Batch, Phase, Variables


def gan(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    latent_dim: int,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    loss: AdversarialLoss = NON_SATURATING,
    r1: float = 0.0,
    r2: float = 0.0,
    gradient_penalty: float = 0.0,
    discriminator_steps: int = 1,
) -> Method:
    """A GAN: the phases (discriminator, generator), and the samplers.

    Args:
      generator: net (z [b, latent_dim], labels [b], train=...) -> images [b, h, w, c] in [-1, 1].
      discriminator: net (images, labels, train=...) -> logits [b]. Both nets may keep a `batch_stats` collection.
      latent_dim: of z ~ N(0, I).
      generator_tx, discriminator_tx: optimisers.
      loss: a pair of functions of (real_logits, fake_logits).
      r1, r2: weights gamma of the penalties gamma/2 ||grad D||^2 on real and on fake images (Mescheder et al., arXiv
        1801.04406). They are about one example alone: give them a discriminator without BatchNorm.
      gradient_penalty: weight of (||grad D|| - 1)^2 between real and fake images (WGAN-GP, Gulrajani et al., arXiv
        1704.00028), with the same demand.
      discriminator_steps: updates of the discriminator before each one of the generator, on the same real images and
        fresh fake ones.
    """
    if discriminator_steps < 1:
        raise ValueError(f"discriminator_steps must be at least 1, got {discriminator_steps}")

    def latents(key: Array, index: Array) -> Array:
        return noise.normal(key, index, (latent_dim,))

    def init(key: Array, batch: Batch) -> Variables:
        generator_key, discriminator_key = jax.random.split(key)
        z = jnp.zeros((batch["image"].shape[0], latent_dim))
        return {
            "generator": generator.init(generator_key, z, batch["label"], train=True),
            "discriminator": discriminator.init(discriminator_key, batch["image"], batch["label"], train=True),
        }

    def discriminator_objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels, stats = batch["label"], {}

        def logits_of(images: Array, penalised: bool) -> tuple[Array, Array]:
            """Logits [b] and squared gradient norms [b]; the statistics go on from one call to the next."""
            nonlocal stats
            if penalised:
                return squared_gradient_norm(
                    lambda x: _apply(discriminator, variables["discriminator"], x, labels)[0], images
                )
            logits, new = _apply(discriminator, {**variables["discriminator"], **stats}, images, labels)
            stats = {**stats, **new}
            return logits, jnp.zeros_like(logits)

        fake = _apply(generator, variables["generator"], latents(key, batch["index"]), labels)[0]
        real_logits, real_norm = logits_of(batch["image"], r1 > 0)
        fake_logits, fake_norm = logits_of(fake, r2 > 0)
        penalty = zero_centred_penalty(real_norm, r1) + zero_centred_penalty(fake_norm, r2)
        if gradient_penalty:
            alpha = noise.uniform(jax.random.fold_in(key, 1), batch["index"])
            between_norm = logits_of(interpolate_pairs(batch["image"], fake, alpha), penalised=True)[1]
            penalty += wgan_gp(between_norm, gradient_penalty)
        metrics = {
            "real_logits": real_logits.mean(),
            "fake_logits": fake_logits.mean(),
            # How often real and fake are told apart: near .5 the discriminator knows little, near 1 it knows all.
            "accuracy": (jnp.mean(real_logits > 0) + jnp.mean(fake_logits <= 0)) / 2,
        }
        if r1 or r2 or gradient_penalty:
            metrics["penalty"] = penalty.mean()
        return (loss.discriminator(real_logits, fake_logits) + penalty).mean(), Aux(metrics, {"discriminator": stats})

    def generator_objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels = batch["label"]
        fake, stats = _apply(generator, variables["generator"], latents(key, batch["index"]), labels)
        # XLA drops the real half where the loss does not look at it: all but the relativistic ones.
        real_logits = _apply(discriminator, variables["discriminator"], batch["image"], labels)[0]
        fake_logits = _apply(discriminator, variables["discriminator"], fake, labels)[0]
        return loss.generator(real_logits, fake_logits).mean(), Aux({}, {"generator": stats})

    def generate(variables: Variables, z: Array, labels: Array) -> Array:
        return generator.apply(variables["generator"], z, labels, train=False)  # pyright: ignore[reportReturnType]

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        return generate(variables, latents(key, jnp.arange(labels.shape[0])), labels)

    def interpolate(variables: Variables, key: Array, labels: Array, steps: int) -> Array:
        start, end = latents(key, 2 * jnp.arange(labels.shape[0])), latents(key, 2 * jnp.arange(labels.shape[0]) + 1)
        path = slerp(start, end, jnp.linspace(0.0, 1.0, steps))
        images = generate(variables, path.reshape(-1, latent_dim), jnp.repeat(labels, steps))
        return images.reshape(labels.shape[0], steps, *images.shape[1:])

    discriminator_phase = Phase("discriminator", ("discriminator",), discriminator_objective, discriminator_tx)
    generator_phase = Phase("generator", ("generator",), generator_objective, generator_tx)
    return Method(
        init=init,
        phases=(*[discriminator_phase] * discriminator_steps, generator_phase),
        ema=("generator",),
        sample=sample,
        interpolate=interpolate,
    )


def slerp(start: Array, end: Array, t: Array) -> Array:
    """Spherical interpolation [n, d], [n, d], t [steps] -> [n, steps, d] (White, arXiv 1609.04468).

    Angle and length go from one end to the other evenly, so that the points between look like draws of N(0, I),
    which those on a straight line do not: they are too short. Between opposite ends, which have many arcs, it is one of
    them; in one dimension there is none, and the path is a straight line.
    """
    t = t[None, :, None]
    if start.shape[-1] == 1:
        return (1 - t) * start[:, None] + t * end[:, None]
    arc = arc_between(start[:, None], end[:, None])
    direction = jnp.cos(t * arc.angle) * arc.first + turned(arc, t) * arc.across
    return ((1 - t) * arc.start_length + t * arc.end_length) * direction


def _apply(net: nn.Module, variables: Mapping[str, Any], *args: Array) -> tuple[Array, dict[str, Any]]:
    """Runs a net in training mode; returns its output and its changed statistics."""
    output, changed = net.apply(variables, *args, train=True, mutable=["batch_stats"])
    return output, dict(changed)  # pyright: ignore[reportReturnType]
