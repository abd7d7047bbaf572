"""Hierarchical VAEs: latents at several resolutions, drawn from the top down (Child, arXiv:2011.10650), in one phase.

p(x, z) = p(x|z) prod_i p(z_i | z_<i) and q(z|x) = prod_i q(z_i | z_<i, x), all Gaussian. Level 0 is the top.
"""

import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, Protocol

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, drop_labels
from jimgen.gradient_skipping import skip_large_gradients, skipping_metrics
from jimgen.methods.latents import sampler, z_space
from jimgen.methods.likelihoods import Likelihood, bound_metrics
from jimgen.methods.method import ImportanceSampler, Levels, Method
from jimgen.objectives import beta_vae_loss, bounded_logvar, free_bits, gaussian_kl_between, gaussian_nll, negative_elbo
from jimgen.sampling.guidance import check_guidance
from jimgen.schedules import linear_ramp
from jimgen.train_step import Aux, Batch, Phase, Variables

LATENT_NOISE = 100  # folded into a step's key with the number of the level


class TopDown(Protocol):
    """A decoder such as `nets.hierarchical_vae.Decoder`, a linen module with these methods."""

    @property
    def latent_shapes(self) -> tuple[tuple[int, ...], ...]: ...


class Gaussian(NamedTuple):
    """Mean and bounded log variance of the latent of a level, float [b, ...] each."""

    mean: Array
    logvar: Array

    def at(self, eps: Array) -> Array:
        """mean + sigma eps."""
        return self.mean + jnp.exp(self.logvar / 2) * eps

    def eps(self, z: Array) -> Array:
        """The inverse of `at`."""
        return (z - self.mean) * jnp.exp(-self.logvar / 2)


class Level(NamedTuple):
    """The latent of a level, its prior, and its posterior where features of an image are given."""

    z: Array
    prior: Gaussian
    posterior: Gaussian | None

    def kl(self) -> Array:
        """KL(q || p) in nats, [b]."""
        assert self.posterior is not None
        return gaussian_kl_between(*self.posterior, *self.prior)

    def log_ratio(self) -> Array:
        """log p(z) - log q(z), nats [b]."""
        assert self.posterior is not None
        of_p, of_q = (gaussian_nll(self.z, g.mean, g.logvar / 2) for g in (self.prior, self.posterior))
        return of_q - of_p


Choose = Callable[[int, Gaussian, Gaussian | None], Array]  # (level, prior, posterior) -> z


class Hierarchy(NamedTuple):
    """Encoder, decoder and likelihood as functions of the variables."""

    encoder: nn.Module
    decoder: Any  # a TopDown
    likelihood: Likelihood

    @property
    def num_levels(self) -> int:
        return len(self.decoder.latent_shapes)

    def init(self, key: Array, batch: Batch) -> Variables:
        encoder_key, decoder_key = jax.random.split(key)
        images, labels = batch["image"], batch["label"]
        features, encoder = self.encoder.init_with_output(encoder_key, images, labels)
        z = tuple(jnp.zeros((images.shape[0], *shape)) for shape in self.decoder.latent_shapes)
        variables: Variables = {"encoder": encoder, "decoder": self.decoder.init(decoder_key, features, labels, z)}
        if params := self.likelihood.params:
            variables["likelihood"] = {"params": {name: jnp.asarray(x) for name, x in params.items()}}
        return variables

    def features(self, variables: Variables, images: Array, labels: Array) -> Sequence[Array]:
        """What the posterior sees of images in [-1, 1]."""
        return self.encoder.apply(variables["encoder"], images, labels)  # pyright: ignore[reportReturnType]

    def begin(self, variables: Variables, labels: Array) -> Array:
        """The decoder's first state."""
        return self.decoder.apply(variables["decoder"], labels, method="begin")

    def prior(self, variables: Variables, i: int, state: Array) -> tuple[Array, Gaussian]:
        """The state after the prior of level i, and the prior."""
        state, (mean, logvar) = self.decoder.apply(variables["decoder"], i, state, method="prior")
        return state, Gaussian(mean, bounded_logvar(logvar))

    def posterior(self, variables: Variables, i: int, state: Array, features: Sequence[Array]) -> Gaussian:
        """The posterior of level i, given the state after its prior."""
        mean, logvar = self.decoder.apply(variables["decoder"], i, state, features, method="posterior")
        return Gaussian(mean, bounded_logvar(logvar))

    def absorb(self, variables: Variables, i: int, state: Array, z: Array) -> Array:
        """The state after the latent of level i."""
        return self.decoder.apply(variables["decoder"], i, state, z, method="absorb")

    def output(self, variables: Variables, state: Array) -> Array:
        """The input of the likelihood, [b, h, w, c outputs], of the last state."""
        return self.decoder.apply(variables["decoder"], state, method="output")

    def run(
        self, variables: Variables, labels: Array, choose: Choose, features: Sequence[Array] | None = None
    ) -> tuple[Array, tuple[Level, ...]]:
        """The decoder's output, and its levels, whose latents `choose` decides; without features from the prior."""
        state, levels = self.begin(variables, labels), []
        for i in range(self.num_levels):
            state, p = self.prior(variables, i, state)
            q = None if features is None else self.posterior(variables, i, state, features)
            levels.append(Level(choose(i, p, q), p, q))
            state = self.absorb(variables, i, state, levels[-1].z)
        return self.output(variables, state), tuple(levels)

    def images(self, output: Array) -> Array:
        """E[x|z] as images."""
        return jnp.clip(self.likelihood.as_images(self.likelihood.expectation(output)), -1.0, 1.0)

    def encode(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, Sequence[Array]]:
        """x (one draw if x is random), and the features that the posterior sees."""
        x = self.likelihood.observe(jax.random.fold_in(key, 1), batch["index"], batch["image"])
        return x, self.features(variables, self.likelihood.as_images(x), batch["label"])

    def parts(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, tuple[Level, ...]]:
        """-log p(x|z) in nats [b] at one z ~ q(z|x), and the levels."""
        x, features = self.encode(variables, batch, key)
        output, levels = self.run(variables, batch["label"], drawn(key, batch["index"]), features)
        return self.nll(variables, output, x), levels

    def means(self, variables: Variables, images: Array, labels: Array) -> tuple[Array, tuple[Level, ...]]:
        """The decoder's output and the levels where each latent is the mean of its posterior."""
        choose = lambda i, p, q: q.mean  # noqa: E731
        return self.run(variables, labels, choose, self.features(variables, images, labels))

    def decode(self, variables: Variables, codes: Array, labels: Array) -> Array:
        """Images of codes [n, d]: the noise of all levels side by side, in units of their priors."""
        ends = np.cumsum([math.prod(shape) for shape in self.decoder.latent_shapes])[:-1]
        parts = jnp.split(codes, ends, axis=1)
        choose = lambda i, p, q: p.at(parts[i].reshape(p.mean.shape))  # noqa: E731
        return self.images(self.run(variables, labels, choose)[0])

    def mean_code(self, variables: Variables, images: Array, labels: Array) -> Array:
        """The codes of `means`, [n, d]."""
        codes = [level.prior.eps(level.z) for level in self.means(variables, images, labels)[1]]
        return jnp.concatenate([code.reshape(code.shape[0], -1) for code in codes], axis=1)

    def log_weight(self, variables: Variables, seen: tuple[Array, Sequence[Array]], batch: Batch, key: Array) -> Array:
        """log p(x, z) - log q(z|x) at one z ~ q(z|x), for x and features of `encode`: nats [b]."""
        x, features = seen
        output, levels = self.run(variables, batch["label"], drawn(key, batch["index"]), features)
        ratios = [level.log_ratio() for level in levels]
        return sum(ratios, jnp.zeros(x.shape[0])) - self.nll(variables, output, x)

    def nll(self, variables: Variables, output: Array, x: Array) -> Array:
        """-log p(x|z), nats [b]."""
        params = variables["likelihood"]["params"] if self.likelihood.params else {}
        return self.likelihood.nll(params, output, x, None)


class HierarchicalVAE(NamedTuple):
    """The method, and its nets as functions, for bits-back coding."""

    method: Method
    nets: Hierarchy


def drawn(key: Array, index: Array, temperature: float = 1.0) -> Choose:
    """Draws each latent from its posterior, or from its prior where there is none, with sigma times the temperature."""

    def choose(i: int, p: Gaussian, q: Gaussian | None) -> Array:
        source = p if q is None else q
        eps = noise.normal(jax.random.fold_in(key, LATENT_NOISE + i), index, source.mean.shape[1:])
        return source.at(temperature * eps)

    return choose


def hierarchical_vae(
    encoder: nn.Module,
    decoder: TopDown,
    *,
    tx: optax.GradientTransformation,
    likelihood: Likelihood,
    num_classes: NumClasses = 0,
    label_drop: float = 0.0,
    kl_warmup: int = 0,
    free_nats: float = 0.0,
    temperature: float = 1.0,
    skip: float = 500.0,
) -> HierarchicalVAE:
    """A hierarchical VAE: one phase that trains both nets; sampler, reconstructions, latent space, ELBO by level.

    Args:
        encoder: net (images [b, h, w, c] in [-1, 1], labels) -> features for the decoder's posteriors.
        decoder: a net with the methods of `nets.hierarchical_vae.Decoder`.
        tx: the optimiser.
        likelihood: of methods/likelihoods.py; the decoder has `likelihood.outputs` outputs for each value.
        num_classes: that of the nets; 0 if they ignore labels.
        label_drop: probability with which training hides labels, so that they may be left open.
        kl_warmup: images over which the weight of the KL rises from 0 to 1.
        free_nats: KL of each level, averaged over the batch, below which it costs nothing more in the loss.
        temperature: factor on the standard deviations of the prior, for samples.
        skip: norm of the gradient from which an update may be skipped (`skip_large_gradients`), > 0.
    Returns:
        The method with its nets. Codes of its latent space are the noise of all levels side by side, top first:
        z = mean + sigma code, with the prior's mean and sigma.
    Raises:
        ValueError: if label_drop is outside [0, 1] or, with attributes, 0; if skip <= 0.
    """
    check_guidance(1.0, num_classes, label_drop)
    nets = Hierarchy(encoder, decoder, likelihood)
    trained = ("encoder", "decoder", *(["likelihood"] if likelihood.params else []))

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels = drop_labels(batch["label"], jax.random.fold_in(key, 3), batch["index"], label_drop, num_classes)
        reconstruction, levels = nets.parts(variables, {**batch, "label": labels}, key)
        by_level = jnp.stack([level.kl() for level in levels], axis=1)
        weight = linear_ramp(batch["images_seen"], 0, kl_warmup)
        kl = free_bits(by_level, free_nats) if free_nats else by_level.sum(1)
        loss = beta_vae_loss(reconstruction, kl, weight if kl_warmup else 1.0)
        metrics = _parts(reconstruction, levels)
        return loss.mean(), Aux({name: values.mean() for name, values in metrics.items()})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        reconstruction, levels = nets.parts(variables, batch, key)
        metrics = _parts(reconstruction, levels)
        bounds = {"ELBO": metrics.pop("neg_elbo_nats")}
        return metrics | bound_metrics(likelihood.data, bounds, bool(num_classes), batch["image"][0].size)

    def share(variables: Variables, key: Array, images: Array, labels: Array, kept: int) -> Array:
        features, index = nets.features(variables, images, labels), jnp.arange(images.shape[0])
        of_image, fresh = drawn(key, index), drawn(key, index, temperature)
        choose = lambda i, p, q: of_image(i, p, q) if i < kept else fresh(i, p, None)  # noqa: E731
        return nets.images(nets.run(variables, labels, choose, features)[0])

    space = z_space(sum(map(math.prod, decoder.latent_shapes)), nets.decode, nets.mean_code)
    method = Method(
        init=nets.init,
        phases=(Phase("hierarchical_vae", trained, objective, skip_large_gradients(tx, skip), watch=skipping_metrics),),
        ema=trained,
        sample=sampler(space, temperature),
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        reconstruct=lambda variables, images, labels: nets.images(nets.means(variables, images, labels)[0]),
        space=space,
        evaluate=evaluate,
        levels=Levels(tuple("x".join(map(str, shape)) for shape in decoder.latent_shapes), share),
        importance=ImportanceSampler(likelihood.data, nets.encode, nets.log_weight),
    )
    return HierarchicalVAE(method, nets)


def _parts(reconstruction: Array, levels: Sequence[Level]) -> dict[str, Array]:
    """The parts of the ELBO, nats [b] each; level 0 is the top."""
    by_level = [level.kl() for level in levels]
    kl = sum(by_level, jnp.zeros_like(reconstruction))
    return {
        "reconstruction_nats": reconstruction,
        "kl_nats": kl,
        "neg_elbo_nats": negative_elbo(reconstruction, kl),
        **{f"kl_nats_level{i}": values for i, values in enumerate(by_level)},
    }
