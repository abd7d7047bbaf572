"""A conditional VAE that fills in missing pixels (Ivanov et al., arXiv:1806.02382), in one phase.

Whichever part of an image is known: the prior p(z | known part) and the decoder p(missing part | z, known part) fill in
the rest; the posterior q(z | whole image, mask) serves training. Masks are drawn at random in training.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, drop_labels
from jimgen.masking import Size, random_masks
from jimgen.methods.likelihoods import Likelihood
from jimgen.methods.method import Method
from jimgen.objectives import bounded_logvar, gaussian_kl_between, negative_elbo, normal_gamma_penalty
from jimgen.sampling.guidance import check_guidance
from jimgen.sampling.posterior import as_mask
from jimgen.train_step import Aux, Batch, Phase, Variables

Masks = Callable[[Array, Array, Size], Array]  # (key, index [b], (h, w)) -> bool [b, h, w], True = known


class _Gaussian(NamedTuple):
    """The mean and log variance of z, float [b, h', w', d] each."""

    mean: Array
    logvar: Array

    def draw(self, key: Array, index: Array) -> Array:
        return self.mean + jnp.exp(self.logvar / 2) * noise.normal(key, index, self.mean.shape[1:])


class _Known(NamedTuple):
    """Whole images, the part of them that is known (mask bool [b, h, w, 1], True = known), and labels."""

    images: Array
    mask: Array
    labels: Array


def _encoded(encoder: nn.Module, variables: Any, known: _Known) -> tuple[tuple[Array, ...], _Gaussian]:
    """An encoder's features, and its Gaussian with a bounded log variance."""
    encoded: Any = encoder.apply(variables, *known)
    features, mean, logvar = encoded
    return features, _Gaussian(mean, bounded_logvar(logvar))


class _Bound(NamedTuple):
    """Metrics [b], and what they were computed from."""

    metrics: dict[str, Array]
    known: _Known
    features: tuple[Array, ...]
    p: _Gaussian


class _Nets(NamedTuple):
    """Prior, posterior, decoder and likelihood as functions of the variables."""

    encoder_of_known: nn.Module
    encoder_of_all: nn.Module
    decoder: nn.Module
    likelihood: Likelihood

    def init(self, key: Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, 3)
        images, labels = batch["image"], batch["label"]
        mask = jnp.zeros((*images.shape[:3], 1), bool)
        (features, mean, _), prior = self.encoder_of_known.init_with_output(keys[0], images, mask, labels)
        variables: Variables = {
            "prior": prior,
            "posterior": self.encoder_of_all.init(keys[1], images, mask, labels),
            "decoder": self.decoder.init(keys[2], mean, features, labels),
        }
        if params := self.likelihood.params:
            variables["likelihood"] = {"params": {name: jnp.asarray(x) for name, x in params.items()}}
        return variables

    def prior(self, variables: Variables, known: _Known) -> tuple[tuple[Array, ...], _Gaussian]:
        """Features for the decoder, and p(z | known part)."""
        images = jnp.where(known.mask, known.images, 0.0)
        return _encoded(self.encoder_of_known, variables["prior"], known._replace(images=images))

    def posterior(self, variables: Variables, known: _Known) -> _Gaussian:
        """q(z | whole image, mask), of which nothing is hidden."""
        return _encoded(self.encoder_of_all, variables["posterior"], known)[1]

    def output(self, variables: Variables, z: Array, features: tuple[Array, ...], known: _Known) -> Array:
        return self.decoder.apply(variables["decoder"], z, features, known.labels)  # pyright: ignore[reportReturnType]

    def images(self, output: Array) -> Array:
        """The expectation of the likelihood, as images in [-1, 1]."""
        return jnp.clip(self.likelihood.as_images(self.likelihood.expectation(output)), -1.0, 1.0)

    def observed(self, key: Array, index: Array, images: Array) -> tuple[Array, Array]:
        """The likelihood's x (one draw if x is random), and x as images, which the nets see."""
        x = self.likelihood.observe(key, index, images)
        return x, self.likelihood.as_images(x)

    def nll(self, variables: Variables, output: Array, x: Array, mask: Array) -> Array:
        """-log p(missing part | z, known part), nats [b]."""
        params = variables["likelihood"]["params"] if self.likelihood.params else {}
        return self.likelihood.nll(params, output, x, jnp.broadcast_to(~mask, x.shape))

    def bound(self, variables: Variables, batch: Batch, mask: Array, key: Array) -> _Bound:
        """The bound of -log p(missing part | known part) for mask bool [b, h, w, 1], at one z ~ q."""
        index, (x_key, z_key) = batch["index"], [jax.random.fold_in(key, i) for i in range(2)]
        x, seen = self.observed(x_key, index, batch["image"])
        known = _Known(seen, mask, batch["label"])
        features, p = self.prior(variables, known)
        q = self.posterior(variables, known)
        reconstruction = self.nll(variables, self.output(variables, q.draw(z_key, index), features, known), x, mask)
        kl = gaussian_kl_between(*q, *p)
        elbo = negative_elbo(reconstruction, kl)
        return _Bound({"reconstruction_nats": reconstruction, "kl_nats": kl, "neg_elbo_nats": elbo}, known, features, p)

    def fill(self, variables: Variables, key: Array, known: _Known) -> Array:
        """Whole images, by one z ~ p for each."""
        features, p = self.prior(variables, known)
        z = p.draw(key, jnp.arange(known.images.shape[0]))
        return self.images(self.output(variables, z, features, known))


def conditional_vae(
    prior: nn.Module,
    posterior: nn.Module,
    decoder: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    tx: optax.GradientTransformation,
    likelihood: Likelihood,
    num_classes: NumClasses = 0,
    label_drop: float = 0.0,
    masks: Masks = random_masks,
) -> Method:
    """A VAE given any part of an image: one phase; fillings, samples, reconstructions, ELBO of the missing part.

    Args:
        prior: net (images [b, h, w, c] in [-1, 1], 0 where missing; known bool [b, h, w, 1]; labels) -> features for
            the decoder, mean and logvar of p(z | known part), [b, h', w', d] each.
        posterior: net (whole images, known, labels) -> features, which are not used, mean and logvar of q.
        decoder: net (z, features, labels) -> the input of the likelihood, [b, h, w, c].
        image_shape: (h, w, c).
        tx: the optimiser.
        likelihood: `bernoulli(...)` or `gaussian(...)` of jimgen/methods/vae.py; `inpaint` draws its expectation.
        num_classes: that of the nets; 0 if they ignore labels.
        label_drop: probability with which training hides labels, so that they may be left open.
        masks: draws the masks of training and evaluation.
    Returns:
        The method. `evaluate` draws one mask an example; its nats are sums over missing pixels, and `filled_mse` is the
        mean squared error, over missing pixels in [-1, 1], of one filling. `reconstruct` codes whole images by the
        posterior, without any known pixel.
    Raises:
        ValueError: if label_drop is outside [0, 1] or, with attributes, 0.
    """
    check_guidance(1.0, num_classes, label_drop)
    nets = _Nets(prior, posterior, decoder, likelihood)
    trained = ("prior", "posterior", "decoder", *(["likelihood"] if likelihood.params else []))

    def drawn_mask(batch: Batch, key: Array) -> Array:
        return masks(jax.random.fold_in(key, 2), batch["index"], image_shape[:2])[..., None]

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels = drop_labels(batch["label"], jax.random.fold_in(key, 3), batch["index"], label_drop, num_classes)
        metrics, _, _, p = nets.bound(variables, {**batch, "label": labels}, drawn_mask(batch, key), key)
        loss = metrics["neg_elbo_nats"] + normal_gamma_penalty(*p)
        return loss.mean(), Aux({name: values.mean() for name, values in metrics.items()})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        metrics, known, features, p = nets.bound(variables, batch, drawn_mask(batch, key), key)
        z = p.draw(jax.random.fold_in(key, 3), batch["index"])
        filled = nets.images(nets.output(variables, z, features, known))
        return {**metrics, "filled_mse": _mse_of_missing(filled, batch["image"], known.mask)}

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        mask = as_mask(mask, images)
        _, seen = nets.observed(jax.random.fold_in(key, 1), jnp.arange(images.shape[0]), images)
        return jnp.where(mask, images, nets.fill(variables, jax.random.fold_in(key, 0), _Known(seen, mask, labels)))

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        return nets.fill(variables, key, _nothing_known(jnp.zeros((labels.shape[0], *image_shape)), labels))

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        known = _nothing_known(images, labels)
        features, _ = nets.prior(variables, known)
        return nets.images(nets.output(variables, nets.posterior(variables, known).mean, features, known))

    return Method(
        init=nets.init,
        phases=(Phase("conditional_vae", trained, objective, tx),),
        ema=trained,
        sample=sample,
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        reconstruct=reconstruct,
        inpaint=inpaint,
        evaluate=evaluate,
    )


def _nothing_known(images: Array, labels: Array) -> _Known:
    return _Known(images, jnp.zeros((*images.shape[:3], 1), bool), labels)


def _mse_of_missing(found: Array, images: Array, mask: Array) -> Array:
    """The mean squared error over missing pixels, [b]; 0 where none is missing."""
    missing = jnp.broadcast_to(~mask, images.shape)
    total = jnp.where(missing, jnp.square(found - images), 0.0).sum((1, 2, 3))
    return total / jnp.maximum(missing.sum((1, 2, 3)), 1)
