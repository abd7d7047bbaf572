"""KL autoencoders: images as small grids of Gaussian latents, for methods that model these latents.

Rombach et al., High-Resolution Image Synthesis with Latent Diffusion Models, arXiv:2112.10752, section 3.1.
"""

from collections.abc import Callable
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.methods.adversary import Adversary, adversary_phase, decoder_loss
from jimgen.methods.method import Method
from jimgen.methods.reconstruction import L1, FeatureMaps, Reconstruction, psnr, with_features
from jimgen.objectives import beta_vae_loss, bounded_logvar, gaussian_kl
from jimgen.parallel import num_shards
from jimgen.train_step import Aux, Batch, Follow, Objective, Phase, Variables

NETS = ("encoder", "decoder", "latents")  # what encoding and decoding need


class Autoencoder(NamedTuple):
    """A pair of functions between images and latents, trained by `method`, for methods that model latents.

    Latents are normalised: each channel has mean 0 and standard deviation 1 over the training images, as measured.
    """

    method: Method
    encode: Callable[[Variables, Array], tuple[Array, Array]]
    # (variables, images [n, h, w, c]) -> mean and standard deviation of q(z|x), float32 [n, *latent_shape] each
    decode: Callable[[Variables, Array], Array]  # (variables, z [n, *latent_shape]) -> images in [-1, 1]
    latent_shape: tuple[int, int, int]


class _Nets(NamedTuple):
    """Encoder and decoder as functions of the variables."""

    encoder: nn.Module
    decoder: nn.Module
    reconstruction: Reconstruction
    image_shape: tuple[int, int, int]
    latent_shape: tuple[int, int, int]

    def init(self, keys: Array, images: Array) -> Variables:
        channels = self.latent_shape[-1]
        return {
            "encoder": self.encoder.init(keys[0], images),
            "decoder": self.decoder.init(keys[1], jnp.zeros((1, *self.latent_shape))),
            "latents": {"mean": jnp.zeros(channels), "square": jnp.ones(channels), "images": jnp.zeros(())},
        }

    def posterior(self, variables: Variables, images: Array) -> tuple[Array, Array]:
        """Mean and log variance of q(z|x), not normalised."""
        mean, logvar = self.encoder.apply(variables["encoder"], images)
        return mean, bounded_logvar(logvar)  # pyright: ignore[reportReturnType, reportArgumentType]

    def draw(self, variables: Variables, batch: Batch, key: Array) -> tuple[Array, Array, Array]:
        """z ~ q(z|x), and the mean and log variance of q, not normalised."""
        mean, logvar = self.posterior(variables, batch["image"])
        eps = noise.normal(jax.random.fold_in(key, 1), batch["index"], self.latent_shape).astype(mean.dtype)
        return mean + jnp.exp(logvar / 2) * eps, mean, logvar

    def output(self, variables: Variables, z: Array) -> Array:
        return self.decoder.apply(variables["decoder"], z)  # pyright: ignore[reportReturnType]

    def training_images(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Reconstructions, not clipped."""
        return self.reconstruction.as_images(self.output(variables, self.draw(variables, batch, key)[0]))

    def encode(self, variables: Variables, images: Array) -> tuple[Array, Array]:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"this autoencoder takes images {list(self.image_shape)}, got {list(images.shape[1:])}")
        mean, logvar = self.posterior(variables, images)
        centre, scale = _along_channels(*latent_statistics(variables))
        return (mean - centre) / scale, jnp.exp(logvar / 2) / scale

    def decode(self, variables: Variables, z: Array) -> Array:
        if z.shape[1:] != self.latent_shape:
            raise ValueError(f"this autoencoder takes latents {list(self.latent_shape)}, got {list(z.shape[1:])}")
        centre, scale = _along_channels(*latent_statistics(variables))
        return jnp.clip(self.reconstruction.as_images(self.output(variables, centre + scale * z)), -1.0, 1.0)


def autoencoder(
    encoder: nn.Module,
    decoder: nn.Module,
    *,
    image_shape: tuple[int, int, int],
    tx: optax.GradientTransformation,
    reconstruction: Reconstruction = L1,
    kl_weight: float = 1e-2,
    feature_maps: FeatureMaps | None = None,
    feature_weight: float = 1.0,
    adversary: Adversary | None = None,
    statistics_half_life: float = 10_000,
) -> Autoencoder:
    """Reconstruction + weighted KL, with a feature distance and an adversary, in one phase after a discriminator's.

    The KL divergence and the error of the pixels are summed over their dimensions, and averaged over the batch. The
    weight of the KL divergence is small: it bounds the latents, and leaves their distribution to a second method.

    `variables["latents"]` has the mean and the mean square of each channel of z ~ q(z|x), averaged over about the last
    statistics_half_life / ln 2 images. `Autoencoder.encode` and `decode` normalise by them.

    `sample` decodes noise with the statistics of the latents. This is not a model of images.

    Args:
        encoder: net (images [b, h, w, c] in [-1, 1]) -> mean, logvar of q(z|x), [b, h', w', d] each.
        decoder: net (z [b, h', w', d]) -> the input of `reconstruction`, [b, h, w, c].
        image_shape: (h, w, c).
        tx: the optimiser of both nets.
        reconstruction: L1, L2 or CROSS_ENTROPY.
        kl_weight: weight of KL(q(z|x) || N(0, I)), in units of the reconstruction's error per nat.
        feature_maps: a fixed net, for `with_features`; None for no feature distance.
        feature_weight: weight of the feature distance.
        adversary: for the adversarial loss of VQGAN (Esser et al., arXiv:2012.09841).
        statistics_half_life: half-life of the statistics of the latents, in images.
    Raises:
        ValueError: if encoder and decoder, or decoder and image_shape, have incompatible shapes.
    """
    nets = _Nets(encoder, decoder, reconstruction, image_shape, _latent_shape(encoder, decoder, image_shape))

    def init(key: Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, 3)
        variables = nets.init(keys, batch["image"])
        if adversary:
            args = batch["image"], batch["label"]
            variables["discriminator"] = adversary.discriminator.init(keys[2], *args, train=True)
        return variables

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        return nets.decode(variables, nets.encode(variables, images)[0])

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        return nets.decode(variables, noise.normal(key, jnp.arange(labels.shape[0]), nets.latent_shape))

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        z, mean, logvar = nets.draw(variables, batch, key)
        return {
            "reconstruction": reconstruction.loss(nets.output(variables, z), batch["image"]),
            "psnr_db": psnr(batch["image"], reconstruct(variables, batch["image"], batch["label"])),
            "kl_nats": gaussian_kl(mean, logvar),
        }

    total = with_features(reconstruction, feature_maps, feature_weight) if feature_maps else reconstruction
    objective = _objective(nets, total, kl_weight, adversary)
    phases = (Phase("autoencoder", ("encoder", "decoder"), objective, tx, _follow(statistics_half_life)),)
    if adversary:
        phases = (adversary_phase(adversary, nets.training_images), *phases)
    method = Method(
        init=init,
        phases=phases,
        ema=("encoder", "decoder"),
        sample=sample,
        reconstruct=reconstruct,
        evaluate=evaluate,
    )
    return Autoencoder(method, nets.encode, nets.decode, nets.latent_shape)


def latent_statistics(variables: Variables) -> tuple[Array, Array]:
    """Mean and standard deviation of each channel of the latents, float [d] each."""
    mean, square = variables["latents"]["mean"], variables["latents"]["square"]
    return mean, jnp.sqrt(jnp.maximum(square - jnp.square(mean), 1e-8))


def _along_channels(*vectors: Array) -> tuple[Array, ...]:
    return tuple(vector[None, None, None] for vector in vectors)


def _latent_shape(encoder: nn.Module, decoder: nn.Module, image_shape: tuple[int, int, int]) -> tuple[int, int, int]:
    """The shape of an image's latents. Raises ValueError if the nets do not fit together."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    (mean, _), _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), mean)
    if output.shape != images.shape:
        raise ValueError(f"images are {list(image_shape)}, the decoder gives {list(output.shape[1:])}")
    return mean.shape[1:]


def _objective(nets: _Nets, reconstruction: Reconstruction, kl_weight: float, adversary: Adversary | None) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        z, mean, logvar = nets.draw(variables, batch, key)
        output = nets.output(variables, z)
        error, kl = reconstruction.loss(output, batch["image"]), gaussian_kl(mean, logvar)
        loss = beta_vae_loss(error, kl, kl_weight).mean()
        pixels = nets.reconstruction.loss(output, batch["image"])
        metrics = {"reconstruction": pixels.mean(), "kl_nats": kl.mean()}
        if reconstruction is not nets.reconstruction:
            metrics["features"] = (error - pixels).mean()
        if adversary:
            adversarial, found = decoder_loss(adversary, nets.decoder, reconstruction, variables, z, batch)
            loss, metrics = loss + adversarial, metrics | found
        squares = jnp.square(mean) + jnp.exp(logvar)  # E[z^2]
        return loss, Aux(metrics, observed={"mean": mean.mean((1, 2)), "square": squares.mean((1, 2))})

    return objective


def _follow(half_life: float) -> Follow:
    """Updates the statistics by the whole batch: a plain mean over all images at first, then a moving average."""

    def follow(variables: Variables, observed: dict[str, Array], key: Array) -> Aux:
        latents = variables["latents"]
        num_images = len(observed["mean"]) * num_shards()
        seen = latents["images"] + num_images
        rate = jnp.maximum(1 - 0.5 ** (num_images / half_life), num_images / seen)
        moved = {name: latents[name] + rate * (found.mean(0) - latents[name]) for name, found in observed.items()}
        return Aux({}, {"latents": {**moved, "images": seen}})

    return follow
