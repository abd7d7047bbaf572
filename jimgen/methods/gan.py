"""Generative adversarial networks (Goodfellow et al., arXiv:1406.2661): alternating updates of two nets."""

from collections.abc import Callable

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, drop_labels
from jimgen.methods.adversary import apply_in_training, discriminator_loss
from jimgen.methods.latents import draw_latents, interpolation
from jimgen.methods.method import Method
from jimgen.objectives import (
    NON_SATURATING,
    AdversarialLoss,
    interpolate_pairs,
    squared_gradient_norm,
    wgan_gp,
    zero_centred_penalty,
)
from jimgen.sampling.guidance import check_guidance
from jimgen.train_step import Aux, Batch, Objective, Phase, Variables


def gan(
    generator: nn.Module,
    discriminator: nn.Module,
    *,
    latent_dim: int,
    generator_tx: optax.GradientTransformation,
    discriminator_tx: optax.GradientTransformation,
    num_classes: NumClasses = 0,
    label_drop: float = 0.0,
    loss: AdversarialLoss = NON_SATURATING,
    r1: float = 0.0,
    r2: float = 0.0,
    gradient_penalty: float = 0.0,
    discriminator_steps: int = 1,
) -> Method:
    """A GAN: the phases (discriminator, generator), a sampler and interpolation.

    Args:
        generator: net (z [b, latent_dim], labels, train=...) -> images [b, h, w, c] in [-1, 1].
        discriminator: net (images, labels, train=...) -> logits [b]. Both nets may keep a `batch_stats` collection.
        latent_dim: dimension of z ~ N(0, I).
        generator_tx, discriminator_tx: optimisers.
        num_classes: that of the nets; 0 if they ignore labels.
        label_drop: probability with which training hides labels from both nets, so that they may be left open.
        loss: a pair of functions of (real_logits, fake_logits).
        r1, r2: weights gamma of the penalties gamma/2 ||grad D||^2 on real and on fake images (Mescheder et al.,
            arXiv:1801.04406). They are defined per example, so the discriminator should have no BatchNorm.
        gradient_penalty: weight of (||grad D|| - 1)^2 between real and fake images (WGAN-GP, Gulrajani et al.,
            arXiv:1704.00028), also for a discriminator without BatchNorm.
        discriminator_steps: updates of the discriminator before each update of the generator, on the same real images
            and new fake ones.
    Raises:
        ValueError: for fewer than one discriminator step, or a label_drop outside [0, 1] or, with attributes, of 0.
    """
    if discriminator_steps < 1:
        raise ValueError(f"discriminator_steps must be at least 1, got {discriminator_steps}")
    check_guidance(1.0, num_classes, label_drop)

    def init(key: Array, batch: Batch) -> Variables:
        generator_key, discriminator_key = jax.random.split(key)
        z = jnp.zeros((batch["image"].shape[0], latent_dim))
        return {
            "generator": generator.init(generator_key, z, batch["label"], train=True),
            "discriminator": discriminator.init(discriminator_key, batch["image"], batch["label"], train=True),
        }

    def generate(variables: Variables, z: Array, labels: Array) -> Array:
        return generator.apply(variables["generator"], z, labels, train=False)  # pyright: ignore[reportReturnType]

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        return generate(variables, draw_latents(key, jnp.arange(labels.shape[0]), latent_dim), labels)

    def hide(batch: Batch, key: Array) -> Array:
        return drop_labels(batch["label"], jax.random.fold_in(key, 2), batch["index"], label_drop, num_classes)

    nets = generator, discriminator, latent_dim, loss, hide
    judge = _discriminator_objective(*nets, r1=r1, r2=r2, gradient_penalty=gradient_penalty)
    discriminator_phase = Phase("discriminator", ("discriminator",), judge, discriminator_tx)
    generator_phase = Phase("generator", ("generator",), _generator_objective(*nets), generator_tx)
    return Method(
        init=init,
        phases=(*[discriminator_phase] * discriminator_steps, generator_phase),
        ema=("generator",),
        sample=sample,
        num_classes=num_classes,
        interpolate=interpolation(generate, latent_dim),
    )


def _discriminator_objective(
    generator: nn.Module,
    discriminator: nn.Module,
    latent_dim: int,
    loss: AdversarialLoss,
    hide: Callable[[Batch, Array], Array],
    *,
    r1: float,
    r2: float,
    gradient_penalty: float,
) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels, stats = hide(batch, key), {}

        def logits_of(images: Array, penalised: bool) -> tuple[Array, Array]:
            """Logits [b] and squared gradient norms [b]; running statistics carry over from call to call."""
            nonlocal stats
            if penalised:
                judge = lambda x: apply_in_training(discriminator, variables["discriminator"], x, labels)[0]  # noqa: E731
                return squared_gradient_norm(judge, images)
            logits, new = apply_in_training(discriminator, {**variables["discriminator"], **stats}, images, labels)
            stats = {**stats, **new}
            return logits, jnp.zeros_like(logits)

        z = draw_latents(key, batch["index"], latent_dim)
        fake = apply_in_training(generator, variables["generator"], z, labels)[0]
        real_logits, real_norm = logits_of(batch["image"], r1 > 0)
        fake_logits, fake_norm = logits_of(fake, r2 > 0)
        penalty = zero_centred_penalty(real_norm, r1) + zero_centred_penalty(fake_norm, r2)
        if gradient_penalty:
            alpha = noise.uniform(jax.random.fold_in(key, 1), batch["index"])
            between_norm = logits_of(interpolate_pairs(batch["image"], fake, alpha), penalised=True)[1]
            penalty += wgan_gp(between_norm, gradient_penalty)
        has_penalty = r1 or r2 or gradient_penalty
        return discriminator_loss(loss, real_logits, fake_logits, penalty if has_penalty else None, stats)

    return objective


def _generator_objective(
    generator: nn.Module,
    discriminator: nn.Module,
    latent_dim: int,
    loss: AdversarialLoss,
    hide: Callable[[Batch, Array], Array],
) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels = hide(batch, key)
        # The discriminator's phase has the same key, so XLA computes these images once.
        z = draw_latents(key, batch["index"], latent_dim)
        fake, stats = apply_in_training(generator, variables["generator"], z, labels)
        # XLA removes the real half unless the loss uses it, as only the relativistic ones do.
        real_logits = apply_in_training(discriminator, variables["discriminator"], batch["image"], labels)[0]
        fake_logits = apply_in_training(discriminator, variables["discriminator"], fake, labels)[0]
        return loss.generator(real_logits, fake_logits).mean(), Aux({}, {"generator": stats})

    return objective
