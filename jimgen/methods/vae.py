"""Variational autoencoders (Kingma and Welling, arXiv 1312.6114): reconstruction + lambda KL, in one phase."""

import math
from collections.abc import Callable
from typing import Any, Literal, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.methods.method import Method
from jimgen.metrics.likelihood import LikelihoodProtocol, importance_weighted_bound
from jimgen.objectives import (
    bernoulli_nll,
    bits_per_dim,
    bounded_logvar,
    gaussian_kl,
    gaussian_nll,
    soft_lower_bound,
)
from jimgen.train_step import Aux, Batch, Phase, Variables


class Likelihood(NamedTuple):
    """p(x|z): what the data are taken to be, and how the decoder's output is read. Arrays [b, h, w, c]."""

    observe: Callable[[Array, Array, Array], Array]  # (key, index [b], images in [-1, 1]) -> x, what p(x|z) is about
    as_images: Callable[[Array], Array]  # x, or its expectation -> images in [-1, 1]
    expectation: Callable[[Array], Array]  # decoder output -> E[x|z]
    nll: Callable[[Any, Array, Array], Array]  # (params, decoder output, x) -> -log p(x|z), nats [b]
    data: Literal["binarised"] | None  # a discrete x, whose nats are those of a code; None where they are not
    params: dict[str, float] = {}  # learnt with the nets, from these values on


def bernoulli(binarise: bool = True) -> Likelihood:
    """Pixels are coins; the decoder's output is their logits.

    With `binarise`, x is drawn afresh from the grey values at each step (dynamic binarisation; Salakhutdinov and Murray
    2008). Without, x is the grey value itself: a cross-entropy loss, common but no likelihood.
    """

    def observe(key: Array, index: Array, images: Array) -> Array:
        grey = jnp.clip((images + 1) / 2, 0.0, 1.0)
        return noise.bernoulli(key, index, grey) if binarise else grey

    return Likelihood(
        observe=observe,
        as_images=lambda x: 2 * x - 1,
        expectation=jax.nn.sigmoid,
        nll=lambda _, logits, x: bernoulli_nll(logits, x),
        data="binarised" if binarise else None,
    )


def gaussian(sigma: float | None = None) -> Likelihood:
    """Pixels in [-1, 1] are the decoder's output plus noise of deviation sigma, one for all pixels; None learns it.

    A fixed sigma is the loss ||x - D(E(x))||^2 + 2 sigma^2 KL up to a factor and a constant: lambda = 2 sigma^2. The
    learnt one is softly bounded from below (Rybkin et al., arXiv 2006.13202).

    Raises:
      ValueError: a sigma that is not above 0.
    """
    if sigma is not None and not 0 < sigma < math.inf:
        raise ValueError(f"--sigma {sigma}: must be above 0; --likelihood learned_gaussian learns it")

    def log_sigma(params: Any) -> Array:
        return soft_lower_bound(params["log_sigma"], -6.0) if sigma is None else jnp.asarray(math.log(sigma))

    return Likelihood(
        observe=lambda key, index, images: images,
        as_images=lambda x: x,
        expectation=lambda mean: mean,
        nll=lambda params, mean, x: gaussian_nll(x, mean, log_sigma(params)),
        data=None,
        params={"log_sigma": 0.0} if sigma is None else {},
    )


def vae(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    latent_dim: int,
    tx: optax.GradientTransformation,
    likelihood: Likelihood,
    kl_weight: float = 1.0,
    importance_samples: int = 0,
) -> Method:
    """A VAE: one phase that trains encoder, decoder and the likelihood's parameters; sampler, encoder, decoder, ELBO.

    Args:
      encoder: net (images [b, h, w, c] in [-1, 1], labels [b]) -> mean, logvar of q(z|x), [b, latent_dim] each. Log
        variances above 40 are bent to less than 50 (`bounded_logvar`), for draws and losses alike.
      decoder: net (z [b, latent_dim], labels [b]) -> what the likelihood reads, [b, h, w, c].
      latent_dim: of z, whose prior is N(0, I).
      tx: the optimiser.
      likelihood: `bernoulli(...)` or `gaussian(...)`.
      kl_weight: beta of the beta-VAE; 1 gives the ELBO.
      importance_samples: k of a tighter bound that `evaluate` adds, IWAE-k; 0 for none. It decodes each image k times.

    Figures of `evaluate`, where x is discrete, say what is measured and by which bound: nats[binarised,ELBO],
    bits_per_dim[binarised,IWAE-64]; "_given_label" before the bracket where the decoder knows the label.

    Raises:
      ValueError: a negative number of importance samples.
    """
    if importance_samples < 0:
        raise ValueError(f"importance_samples {importance_samples}: must not be negative")
    nets = ("encoder", "decoder", *(["likelihood"] if likelihood.params else []))
    given = "_given_label" if getattr(decoder, "num_classes", 0) else ""

    def init(key: Array, batch: Batch) -> Variables:
        encoder_key, decoder_key = jax.random.split(key)
        z = jnp.zeros((batch["image"].shape[0], latent_dim))
        variables: Variables = {
            "encoder": encoder.init(encoder_key, batch["image"], batch["label"]),
            "decoder": decoder.init(decoder_key, z, batch["label"]),
        }
        if likelihood.params:
            variables["likelihood"] = {"params": {name: jnp.asarray(x) for name, x in likelihood.params.items()}}
        return variables

    def encode(variables: Variables, images: Array, labels: Array) -> tuple[Array, Array]:
        mean, logvar = encoder.apply(variables["encoder"], images, labels)
        return mean, bounded_logvar(logvar)  # pyright: ignore[reportReturnType, reportArgumentType]

    def output_of(variables: Variables, z: Array, labels: Array) -> Array:
        return decoder.apply(variables["decoder"], z, labels)  # pyright: ignore[reportReturnType]

    def decode(variables: Variables, z: Array, labels: Array) -> Array:
        """E[x|z] as images."""
        return jnp.clip(likelihood.as_images(likelihood.expectation(output_of(variables, z, labels))), -1.0, 1.0)

    def posterior(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Array, Array]:
        """One draw of x (where it is drawn), and mean and logvar of q(z|x)."""
        x = likelihood.observe(jax.random.fold_in(key, 1), batch["index"], batch["image"])
        return x, *encode(variables, likelihood.as_images(x), batch["label"])

    def draw(mean: Array, logvar: Array, batch: Batch, key: Array) -> tuple[Array, Array]:
        """z ~ q(z|x), and its standard normal noise."""
        eps = noise.normal(key, batch["index"], (latent_dim,))
        return mean + jnp.exp(logvar / 2) * eps, eps

    def nll(variables: Variables, x: Array, z: Array, labels: Array) -> Array:
        params = variables["likelihood"]["params"] if likelihood.params else {}
        return likelihood.nll(params, output_of(variables, z, labels), x)

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        x, mean, logvar = posterior(variables, batch, key)
        reconstruction = nll(variables, x, draw(mean, logvar, batch, key)[0], batch["label"])
        kl = gaussian_kl(mean, logvar)
        parts = {"reconstruction_nats": reconstruction, "kl_nats": kl, "neg_elbo_nats": reconstruction + kl}
        return (reconstruction + kl_weight * kl).mean(), Aux({name: part.mean() for name, part in parts.items()})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        x, mean, logvar = posterior(variables, batch, key)

        def log_weight(sample_key: Array) -> Array:
            z, eps = draw(mean, logvar, batch, sample_key)
            zeros = jnp.zeros_like(z)
            # -log q(z|x) from the noise itself: z - mean has lost it to rounding where the deviation is small.
            log_ratio = gaussian_nll(eps, zeros, 0.0) + logvar.sum(1) / 2 - gaussian_nll(z, zeros, 0.0)
            return log_ratio - nll(variables, x, z, batch["label"])

        reconstruction = nll(variables, x, draw(mean, logvar, batch, key)[0], batch["label"])
        kl = gaussian_kl(mean, logvar)
        bounds = {"ELBO": reconstruction + kl}
        if importance_samples:
            # One draw after the other: k decoded batches at once would not fit into memory.
            log_weights = jax.lax.map(log_weight, jax.random.split(jax.random.fold_in(key, 2), importance_samples))
            bounds[f"IWAE-{importance_samples}"] = -importance_weighted_bound(log_weights)
        figures = {"reconstruction_nats": reconstruction, "kl_nats": kl}
        for bound, nats in bounds.items():
            if likelihood.data is None:
                figures[f"neg_{bound.lower()}_nats"] = nats
            else:
                protocol = LikelihoodProtocol(likelihood.data, bound)
                figures[protocol.name(f"nats{given}")] = nats
                figures[protocol.name(f"bits_per_dim{given}")] = bits_per_dim(nats, batch["image"][0].size)
        return figures

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        return decode(variables, noise.normal(key, jnp.arange(labels.shape[0]), (latent_dim,)), labels)

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        return decode(variables, encode(variables, images, labels)[0], labels)

    def interpolate(variables: Variables, key: Array, labels: Array, steps: int) -> Array:
        n = labels.shape[0]
        ends = noise.normal(key, jnp.arange(2 * n), (latent_dim,)).reshape(n, 2, latent_dim)
        t = jnp.linspace(0.0, 1.0, steps)[None, :, None]
        path = (1 - t) * ends[:, :1] + t * ends[:, 1:]
        images = decode(variables, path.reshape(-1, latent_dim), jnp.repeat(labels, steps))
        return images.reshape(n, steps, *images.shape[1:])

    return Method(
        init=init,
        phases=(Phase("vae", nets, objective, tx),),
        ema=nets,
        sample=sample,
        reconstruct=reconstruct,
        encode=encode,
        decode=decode,
        interpolate=interpolate,
        evaluate=evaluate,
    )
