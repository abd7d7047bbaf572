"""Generative adversarial networks (Goodfellow et al., arXiv:1406.2661): alternating updates of two nets."""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, drop_labels
from jimgen.methods import augmented as augmentation
from jimgen.methods import health
from jimgen.methods.adversary import apply_in_training, discriminator_loss
from jimgen.methods.augmented import AS_IS, Augmented
from jimgen.methods.latents import draw_latents, noise_keys, sampler, z_space
from jimgen.methods.method import LatentSpace, Method
from jimgen.objectives import (
    NON_SATURATING,
    RELATIVISTIC,
    RELATIVISTIC_AVERAGE,
    WASSERSTEIN,
    AdversarialLoss,
    interpolate_pairs,
    squared_gradient_norm,
    wgan_gp,
    zero_centred_penalty,
)
from jimgen.parallel import num_shards
from jimgen.sampling.guidance import check_guidance
from jimgen.schedules import Scheduled, at_step
from jimgen.train_step import Aux, Batch, Follow, Objective, Phase, Variables


class GeneratorPenalty(NamedTuple):
    """A further term of the generator's loss, due in every `period`-th step, where it counts `period` times."""

    name: str  # of its entry in the variables
    first_state: dict[str, Any]  # the content of that entry
    period: int
    term: Callable[[Variables, Batch, Array, Array], tuple[Array, Aux]]  # (variables, batch, key, labels) -> [], aux


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
    r1: Scheduled = 0.0,
    r2: Scheduled = 0.0,
    gradient_penalty: float = 0.0,
    penalty_period: int = 1,
    generator_penalty: GeneratorPenalty | None = None,
    augmented: Augmented = AS_IS,
    discriminator_steps: int = 1,
    takes_noise: bool = False,
    space: LatentSpace | None = None,
    truncation: float = 1.0,
    rollbacks: int | None = None,
) -> Method:
    """A GAN: the phases (discriminator, generator), a sampler and a latent space.

    Args:
        generator: net (z [b, latent_dim], labels, train=...) -> images [b, h, w, c] in [-1, 1].
        discriminator: net (images, labels, train=...) -> logits [b]. Both nets may keep a `batch_stats` collection.
        latent_dim: dimension of z ~ N(0, I).
        generator_tx, discriminator_tx: optimisers.
        num_classes: that of the nets; 0 if they ignore labels.
        label_drop: probability with which training hides labels from both nets, so that they may be left open.
        loss: a pair of functions of (real_logits, fake_logits).
        r1, r2: weights gamma of the penalties gamma/2 ||grad D||^2 on real and on fake images (Mescheder et al.,
            arXiv:1801.04406), or schedules of them. The gradients are those before augmentation. The penalties are
            defined per example, so the discriminator should have no BatchNorm.
        gradient_penalty: weight of (||grad D|| - 1)^2 between real and fake images (WGAN-GP, Gulrajani et al.,
            arXiv:1704.00028), also for a discriminator without BatchNorm.
        penalty_period: steps between these penalties, which then count as often (see `Phase.periodic`).
        generator_penalty: such as that of path lengths.
        augmented: how real and fake images are augmented before the discriminator sees them.
        discriminator_steps: updates of the discriminator before each update of the generator, on the same real images
            and new fake ones.
        takes_noise: whether the generator has a third input, PRNG keys [b] of noise that it adds to its features.
        space: the codes that the generator draws from when it samples; default: z itself.
        truncation: psi of `latents.truncated`, for samples.
        rollbacks: how often training may go back to a healthy checkpoint; see `health`. None measures no health, as in
            earlier versions.
    Raises:
        ValueError: for fewer than one discriminator step or step between penalties, a negative weight, a label_drop
            outside [0, 1] or, with attributes, of 0, or an adaptive augmentation without health.
    """
    for name, count in (("discriminator_steps", discriminator_steps), ("penalty_period", penalty_period)):
        if count < 1:
            raise ValueError(f"{name} must be at least 1, got {count}")
    for name, weight in (("r1", r1), ("r2", r2), ("gradient_penalty", gradient_penalty)):
        if not callable(weight) and weight < 0:
            raise ValueError(f"{name} is the weight of a penalty and must not be negative, got {weight}")
    if augmented.target is not None and rollbacks is None:
        raise ValueError("an adaptive augmentation follows the health of the training: give a number of rollbacks")
    check_guidance(1.0, num_classes, label_drop)
    has_health = rollbacks is not None

    def init(key: Array, batch: Batch) -> Variables:
        generator_key, discriminator_key = jax.random.split(key)
        z, index = jnp.zeros((batch["image"].shape[0], latent_dim)), batch["index"]
        inputs = (z, batch["label"], noise_keys(key, index)) if takes_noise else (z, batch["label"])
        extra = {generator_penalty.name: {"state": generator_penalty.first_state}} if generator_penalty else {}
        return {
            "generator": generator.init(generator_key, *inputs, train=True),
            "discriminator": discriminator.init(discriminator_key, batch["image"], batch["label"], train=True),
            **extra,
            **({health.NET: {"state": health.first_state()}} if has_health else {}),
            **augmentation.first_variables(augmented, batch),
        }

    def generate(variables: Variables, z: Array, labels: Array) -> Array:
        return generator.apply(variables["generator"], z, labels, train=False)  # pyright: ignore[reportReturnType]

    def hide(batch: Batch, key: Array) -> Array:
        return drop_labels(batch["label"], jax.random.fold_in(key, 2), batch["index"], label_drop, num_classes)

    game = _Game(generator, discriminator, latent_dim, loss, hide, augmented, takes_noise, has_health)
    penalties = _Penalties(r1, r2, gradient_penalty, penalty_period)
    is_lazy = penalty_period > 1
    judge = Phase(
        "discriminator",
        ("discriminator",),
        _discriminator_objective(game, _Penalties() if is_lazy else penalties),
        discriminator_tx,
        follow=_follow(game) if has_health else None,
        period=penalty_period,
        periodic=_discriminator_objective(game, penalties) if is_lazy else None,
        rate=health.learning_rate_factor if has_health else None,
    )
    draw = Phase(
        "generator",
        ("generator",),
        _generator_objective(game),
        generator_tx,
        period=generator_penalty.period if generator_penalty else 1,
        periodic=_generator_objective(game, generator_penalty) if generator_penalty else None,
        rate=judge.rate,
    )
    space = space or z_space(latent_dim, generate)
    return Method(
        init=init,
        phases=(*[judge] * discriminator_steps, draw),
        ema=("generator",),
        sample=sampler(space, truncation),
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        space=space,
        evaluate=_evaluation(game) if has_health else None,
        recovery=None
        if rollbacks is None
        else health.recovery(judge.name, rollbacks, discriminator_steps, has_margin=loss != WASSERSTEIN),
    )


class _Penalties(NamedTuple):
    r1: Scheduled = 0.0
    r2: Scheduled = 0.0
    wgan_gp: float = 0.0
    period: int = 1


class _Game(NamedTuple):
    """The nets and what they see, as both objectives need them."""

    generator: nn.Module
    discriminator: nn.Module
    latent_dim: int
    loss: AdversarialLoss
    hide: Callable[[Batch, Array], Array]
    augmented: Augmented
    takes_noise: bool
    has_health: bool

    def begin(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, Array]:
        """The key of a step, another one after each rollback, and the labels."""
        if self.has_health:
            key = jax.random.fold_in(key, health.rollbacks(variables).astype(jnp.int32))
        return key, self.hide(batch, key)

    def fakes(self, variables: Variables, batch: Batch, key: Array, labels: Array) -> tuple[Array, dict[str, Any]]:
        """Generated images, and the generator's updated statistics."""
        z = draw_latents(key, batch["index"], self.latent_dim)
        inputs = (z, labels, noise_keys(key, batch["index"])) if self.takes_noise else (z, labels)
        return apply_in_training(self.generator, variables["generator"], *inputs)

    def judge(
        self, variables: Variables, keys: Array, labels: Array
    ) -> Callable[[Array, dict[str, Any]], tuple[Array, dict[str, Any]]]:
        """A function (images, statistics) -> (logits [b] of the images as augmented, statistics)."""

        def logits_of(images: Array, stats: dict[str, Any]) -> tuple[Array, dict[str, Any]]:
            images = augmentation.seen(self.augmented, variables, images, keys)
            return apply_in_training(self.discriminator, {**variables["discriminator"], **stats}, images, labels)

        return logits_of

    def keys(self, batch: Batch, key: Array) -> tuple[Array, Array]:
        """Keys [b] of the augmentation of real and of fake images."""
        real, fake = (noise.example_keys(jax.random.fold_in(key, i), batch["index"]) for i in (5, 6))
        return real, fake


def _discriminator_objective(game: _Game, penalties: _Penalties) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        key, labels = game.begin(variables, batch, key)
        real, (fake, _) = batch["image"], game.fakes(variables, batch, key, labels)
        real_keys, fake_keys = game.keys(batch, key)
        stats: dict[str, Any] = {}

        def logits_of(images: Array, keys: Array, penalised: bool) -> tuple[Array, Any]:
            """Logits [b] and, of penalised images, squared gradient norms [b]; statistics carry over between calls."""
            nonlocal stats
            judge, before = game.judge(variables, keys, labels), stats
            if not penalised:
                logits, stats = judge(images, before)
                return logits, ()
            logits, norm, stats = squared_gradient_norm(lambda x: judge(x, before), images, has_aux=True)
            return logits, norm

        real_logits, real_norm = logits_of(real, real_keys, bool(penalties.r1))
        fake_logits, fake_norm = logits_of(fake, fake_keys, bool(penalties.r2))

        def weight(scheduled: Scheduled) -> Array:
            gamma = at_step(scheduled, batch["step"])
            return health.penalty_weight(variables, gamma) if game.has_health else gamma

        norms = ((real_norm, penalties.r1), (fake_norm, penalties.r2))
        terms = [zero_centred_penalty(norm, weight(gamma)) for norm, gamma in norms if gamma]
        if penalties.wgan_gp:
            alpha = noise.uniform(jax.random.fold_in(key, 1), batch["index"])
            between = logits_of(interpolate_pairs(real, fake, alpha), real_keys, penalised=True)[1]
            terms.append(wgan_gp(between, penalties.wgan_gp))
        penalty = penalties.period * jnp.sum(jnp.stack(terms), axis=0) if terms else None
        loss, aux = discriminator_loss(game.loss, real_logits, fake_logits, penalty, stats)
        if not game.has_health:
            return loss, aux
        pooled = health.pooled(real), health.pooled(fake)
        rough = health.roughness(real), health.roughness(fake)
        seen = health.Seen(real_logits, fake_logits, *pooled, *rough, real_norm, fake_norm)
        return loss, aux._replace(observed=seen)

    return objective


def _follow(game: _Game) -> Follow:
    """Health after an update of the discriminator, and the probability of an adaptive augmentation."""
    is_relativistic = game.loss in (RELATIVISTIC, RELATIVISTIC_AVERAGE)

    def follow(variables: Variables, observed: health.Seen, key: Array) -> Aux:
        state, metrics = health.observe(variables[health.NET]["state"], observed)
        signal = state["separation"] if is_relativistic else state["real_sign"]
        num_images = observed.real_logits.shape[0] * num_shards()
        updates = augmentation.adapted(game.augmented, variables, signal, num_images)
        return Aux(metrics, {health.NET: {"state": state}, **updates})

    return follow


def _generator_objective(game: _Game, penalty: GeneratorPenalty | None = None) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        key, labels = game.begin(variables, batch, key)
        real_keys, fake_keys = game.keys(batch, key)
        # The discriminator's phase has the same key, so XLA computes these images once.
        fake, stats = game.fakes(variables, batch, key, labels)
        # XLA removes the real half unless the loss uses it, as only the relativistic ones do.
        real_logits = game.judge(variables, real_keys, labels)(batch["image"], {})[0]
        fake_logits = game.judge(variables, fake_keys, labels)(fake, {})[0]
        loss = game.loss.generator(real_logits, fake_logits).mean()
        updates = {"generator": stats, **augmentation.scheduled(game.augmented, batch)}
        if penalty is None:
            return loss, Aux({}, updates)
        term, aux = penalty.term(variables, batch, key, labels)
        return loss + penalty.period * term, Aux(aux.metrics, {**updates, **aux.updates})

    return objective


def _evaluation(game: _Game) -> Callable[[Variables, Batch, Array], dict[str, Array]]:
    """How the discriminator rates held-out images, beside those of training."""

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        logits = game.judge(variables, game.keys(batch, key)[0], batch["label"])(batch["image"], {})[0]
        return {"real_logits": logits, "overfitting": health.overfitting(variables[health.NET]["state"], logits)}

    return evaluate
