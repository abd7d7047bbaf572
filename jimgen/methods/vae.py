"""Variational autoencoders (Kingma and Welling, arXiv:1312.6114): reconstruction + lambda KL, in one phase."""

from collections.abc import Callable
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen.conditions import NumClasses, drop_labels
from jimgen.methods import priors
from jimgen.methods.latents import draw_latents, sampler, z_space
from jimgen.methods.likelihoods import Likelihood, bound_metrics
from jimgen.methods.method import ImportanceSampler, LatentSpace, Method
from jimgen.methods.priors import Prior, standard_prior
from jimgen.metrics.likelihood import importance_weighted_bound
from jimgen.objectives import (
    beta_vae_loss,
    bounded_logvar,
    gaussian_kl,
    gaussian_nll,
    negative_elbo,
)
from jimgen.sampling.guidance import check_guidance
from jimgen.train_step import Aux, Batch, Phase, Variables


class _Nets(NamedTuple):
    """Encoder, decoder and likelihood as functions of the variables."""

    encoder: nn.Module
    decoder: nn.Module
    likelihood: Likelihood
    latent_dim: int
    prior: Prior

    def init(self, key: Array, batch: Batch) -> Variables:
        encoder_key, decoder_key = jax.random.split(key)
        z = jnp.zeros((batch["image"].shape[0], self.latent_dim))
        variables: Variables = {
            "encoder": self.encoder.init(encoder_key, batch["image"], batch["label"]),
            "decoder": self.decoder.init(decoder_key, z, batch["label"]),
        }
        if params := self.likelihood.params:
            variables["likelihood"] = {"params": {name: jnp.asarray(x) for name, x in params.items()}}
        if self.prior.init:
            variables[priors.NET] = self.prior.init(jax.random.fold_in(key, 2), batch)
        return variables

    def encode(self, variables: Variables, images: Array, labels: Array) -> tuple[Array, Array]:
        """Mean and log variance of q(z|x), [b, latent_dim] each."""
        mean, logvar = self.encoder.apply(variables["encoder"], images, labels)
        return mean, bounded_logvar(logvar)  # pyright: ignore[reportReturnType, reportArgumentType]

    def decode(self, variables: Variables, z: Array, labels: Array) -> Array:
        """E[x|z] as images."""
        mean = self.likelihood.expectation(self._output(variables, z, labels))
        return jnp.clip(self.likelihood.as_images(mean), -1.0, 1.0)

    def posterior(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, Array, Array]:
        """x (one draw if x is random), and mean and log variance of q(z|x)."""
        x = self.likelihood.observe(jax.random.fold_in(key, 1), batch["index"], batch["image"])
        return x, *self.encode(variables, self.likelihood.as_images(x), batch["label"])

    def draw(self, mean: Array, logvar: Array, batch: Batch, key: Array) -> tuple[Array, Array]:
        """z ~ q(z|x), and its standard normal noise."""
        eps = draw_latents(key, batch["index"], self.latent_dim)
        return mean + jnp.exp(logvar / 2) * eps, eps

    def log_weight(self, variables: Variables, seen: tuple[Array, Array, Array], batch: Batch, key: Array) -> Array:
        """log p(x, z) - log q(z|x) at one z ~ q(z|x), for x, mean and log variance of `posterior`: nats [b]."""
        x, mean, logvar = seen
        z, eps = self.draw(mean, logvar, batch, key)
        return -self.log_ratio(variables, z, logvar, eps) - self.nll(variables, x, z, batch["label"])

    def log_ratio(self, variables: Variables, z: Array, logvar: Array, eps: Array) -> Array:
        """log q(z|x) - log p(z) at z = mean + sigma eps, nats [b]: an estimate of the KL."""
        # log q(z|x) from the noise itself, because z - mean is inaccurate for a small standard deviation.
        log_q = -gaussian_nll(eps, jnp.zeros_like(eps), 0.0) - logvar.sum(1) / 2
        return log_q - self.prior.log_prob(variables, self.encode, z)

    def nll(self, variables: Variables, x: Array, z: Array, labels: Array) -> Array:
        """-log p(x|z), nats [b]."""
        params = variables["likelihood"]["params"] if self.likelihood.params else {}
        return self.likelihood.nll(params, self._output(variables, z, labels), x, None)

    def _output(self, variables: Variables, z: Array, labels: Array) -> Array:
        return self.decoder.apply(variables["decoder"], z, labels)  # pyright: ignore[reportReturnType]


def vae(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    latent_dim: int,
    tx: optax.GradientTransformation,
    likelihood: Likelihood,
    num_classes: NumClasses = 0,
    label_drop: float = 0.0,
    kl_weight: float = 1.0,
    importance_samples: int = 0,
    prior: Prior | None = None,
    prior_tx: optax.GradientTransformation | None = None,
) -> Method:
    """A VAE: one phase that trains encoder, decoder and the likelihood's parameters; sampler, reconstructions, ELBO.

    A prior that is fitted to the latents has a phase of its own, which leaves the nets unchanged.

    Args:
        encoder: net (images [b, h, w, c] in [-1, 1], labels) -> mean, logvar of q(z|x), [b, latent_dim] each. Log
            variances above 40 are bounded below 50 (`bounded_logvar`), in draws and losses alike.
        decoder: net (z [b, latent_dim], labels) -> the input of the likelihood, [b, h, w, c].
        latent_dim: dimension of z.
        tx: the optimiser.
        likelihood: `bernoulli(...)` or `gaussian(...)`.
        num_classes: that of the nets; 0 if they ignore labels.
        label_drop: probability with which training hides labels, so that they may be left open.
        kl_weight: beta of the beta-VAE; 1 gives the ELBO.
        importance_samples: k of the tighter bound IWAE-k that `evaluate` adds; 0 for none. It decodes each image k
            times.
        prior: of methods/priors.py; None for N(0, I).
        prior_tx: the optimiser of a fitted prior; None for `tx`.
    Returns:
        The method. If x is discrete, the names of its metrics contain data and bound: nats[binarised,ELBO],
        bits_per_dim[binarised,IWAE-64]; with "_given_label" before the bracket for conditional nets.
    Raises:
        ValueError: if importance_samples is negative, or label_drop outside [0, 1] or, with attributes, 0.
    """
    if importance_samples < 0:
        raise ValueError(f"importance_samples {importance_samples}: must not be negative")
    check_guidance(1.0, num_classes, label_drop)
    prior = prior or standard_prior(latent_dim)
    nets = _Nets(encoder, decoder, likelihood, latent_dim, prior)
    own = ["encoder", "decoder", *(["likelihood"] if likelihood.params else [])]
    is_joint = not (prior.is_standard or prior.fit)
    trained = (*own, *([priors.NET] if is_joint else []))

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels = drop_labels(batch["label"], jax.random.fold_in(key, 3), batch["index"], label_drop, num_classes)
        x, mean, logvar = nets.posterior(variables, {**batch, "label": labels}, key)
        z, eps = nets.draw(mean, logvar, batch, key)
        reconstruction = nets.nll(variables, x, z, labels)
        kl = nets.log_ratio(variables, z, logvar, eps) if is_joint else gaussian_kl(mean, logvar)
        parts = {
            "reconstruction_nats": reconstruction,
            "kl_nats": kl,
            "neg_elbo_nats": negative_elbo(reconstruction, kl),
        }
        loss = beta_vae_loss(reconstruction, kl, kl_weight)
        return loss.mean(), Aux({name: part.mean() for name, part in parts.items()})

    def fitting(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        assert prior.fit is not None
        _, mean, logvar = nets.posterior(variables, batch, key)
        z, _ = nets.draw(mean, logvar, batch, key)
        return prior.fit(variables, z, batch["index"], jax.random.fold_in(key, 5)).mean(), Aux({})

    def mean_code(variables: Variables, images: Array, labels: Array) -> Array:
        return nets.encode(variables, images, labels)[0]

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        return nets.decode(variables, mean_code(variables, images, labels), labels)

    phases = (Phase("vae", trained, objective, tx),)
    if prior.fit:
        phases += (Phase("prior", (priors.NET,), fitting, prior_tx or tx),)
    space = _space(nets, mean_code)
    return Method(
        init=nets.init,
        phases=phases,
        ema=(*own, *([priors.NET] if prior.init else [])),
        sample=sampler(space),
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        reconstruct=reconstruct,
        space=space,
        evaluate=_evaluation(nets, bool(num_classes), importance_samples),
        importance=ImportanceSampler(likelihood.data, nets.posterior, nets.log_weight),
    )


def _space(nets: _Nets, mean_code: Callable[[Variables, Array, Array], Array]) -> LatentSpace:
    """The space of z. Of another prior than N(0, I), codes of noise are its draws, and paths between them straight."""
    prior = nets.prior
    space = z_space(nets.latent_dim, nets.decode, mean_code)
    if prior.is_standard:
        return space

    def centre(variables: Variables, labels: Array) -> Array:
        return prior.draw(variables, nets.encode, jnp.zeros((labels.shape[0], prior.noise_dim)))

    return space._replace(
        latent_dim=prior.noise_dim,
        from_z=lambda variables, z, labels: prior.draw(variables, nets.encode, z),
        centre=centre,
        is_straight=True,
    )


def _evaluation(
    nets: _Nets, given_label: bool, importance_samples: int
) -> Callable[[Variables, Batch, Array], dict[str, Array]]:
    """Evaluation by bounds of -log p(x) on held-out examples."""

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        x, mean, logvar = seen = nets.posterior(variables, batch, key)
        log_weight = partial(nets.log_weight, variables, seen, batch)
        z, eps = nets.draw(mean, logvar, batch, key)
        reconstruction = nets.nll(variables, x, z, batch["label"])
        kl = gaussian_kl(mean, logvar) if nets.prior.is_standard else nets.log_ratio(variables, z, logvar, eps)
        bounds = {"ELBO": negative_elbo(reconstruction, kl)}
        if importance_samples:
            # One draw at a time, because k decoded batches would not fit into memory.
            log_weights = jax.lax.map(log_weight, jax.random.split(jax.random.fold_in(key, 2), importance_samples))
            bounds[f"IWAE-{importance_samples}"] = -importance_weighted_bound(log_weights)
        metrics = {"reconstruction_nats": reconstruction, "kl_nats": kl}
        return metrics | bound_metrics(nets.likelihood.data, bounds, given_label, batch["image"][0].size)

    return evaluate
