"""Tokenizers: autoencoders whose code is a grid of tokens (VQ-VAE, arXiv:1711.00937; VQGAN, arXiv:2012.09841)."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.methods.adversary import Adversary, adversary_phase, decoder_loss
from jimgen.methods.method import Method
from jimgen.methods.reconstruction import CROSS_ENTROPY as CROSS_ENTROPY
from jimgen.methods.reconstruction import L1 as L1
from jimgen.methods.reconstruction import L2 as L2
from jimgen.methods.reconstruction import Reconstruction, psnr
from jimgen.nets.vq import (
    FiniteScalarQuantiser,
    LookupFreeQuantiser,
    Quantised,
    VectorQuantiser,
    codebook_usage,
    count_tokens,
    perplexity,
)
from jimgen.parallel import num_shards
from jimgen.train_step import Aux, Batch, Objective, Phase, Variables

Quantiser = VectorQuantiser | FiniteScalarQuantiser | LookupFreeQuantiser
NETS = ("encoder", "quantiser", "decoder")


class Tokenizer(NamedTuple):
    """A pair of functions between images and tokens, trained by `method`, for methods that model tokens."""

    method: Method
    tokenize: Callable[[Variables, Array], Array]  # (variables, images [n, h, w, c]) -> int32 [n, *grid]
    detokenize: Callable[[Variables, Array], Array]  # (variables, tokens [n, *grid]) -> images in [-1, 1]
    num_codes: int  # K: tokens are 0..K-1
    grid: tuple[int, int]  # rows and columns of tokens of an image


class _Nets(NamedTuple):
    """Encoder, quantiser and decoder as functions of the variables."""

    encoder: nn.Module
    quantiser: Quantiser
    decoder: nn.Module
    reconstruction: Reconstruction
    image_shape: tuple[int, int, int]
    grid: tuple[int, int]

    def init(self, keys: Array, images: Array) -> Variables:
        return {
            "encoder": self.encoder.init(keys[0], images),
            "quantiser": self.quantiser.init(keys[1], jnp.zeros((1, *self.grid, self.quantiser.dim))),
            "decoder": self.decoder.init(keys[2], jnp.zeros((1, *self.grid, self.quantiser.dim))),
        }

    def quantise(self, variables: Variables, images: Array) -> tuple[Array, Quantised]:
        """z before quantisation, and its quantisation. Only `follow` updates the codebook."""
        z = self.encoder.apply(variables["encoder"], images)
        return z, self.quantiser.apply(variables["quantiser"], z)  # pyright: ignore[reportReturnType]

    def output(self, variables: Variables, z_q: Array) -> Array:
        return self.decoder.apply(variables["decoder"], z_q)  # pyright: ignore[reportReturnType]

    def training_images(self, variables: Variables, batch: Batch, key: Array) -> Array:
        """Reconstructions, not clipped."""
        return self.reconstruction.as_images(self.output(variables, self.quantise(variables, batch["image"])[1].z_q))

    def as_images(self, output: Array) -> Array:
        return jnp.clip(self.reconstruction.as_images(output), -1.0, 1.0)

    def tokenize(self, variables: Variables, images: Array) -> Array:
        if images.shape[1:] != self.image_shape:
            raise ValueError(f"this tokenizer takes images {list(self.image_shape)}, got {list(images.shape[1:])}")
        return self.quantise(variables, images)[1].tokens

    def detokenize(self, variables: Variables, tokens: Array) -> Array:
        if tokens.shape[1:] != self.grid or not jnp.issubdtype(tokens.dtype, jnp.integer):
            found, wanted = f"{tokens.dtype} {list(tokens.shape)}", f"[n, {self.grid[0]}, {self.grid[1]}]"
            raise ValueError(f"this tokenizer takes integer tokens {wanted}, got {found}")
        codes = self.quantiser.apply(variables["quantiser"], tokens, method="lookup")
        return self.as_images(self.output(variables, codes))  # pyright: ignore[reportArgumentType]


def tokenizer(
    encoder: nn.Module,
    decoder: nn.Module,
    quantiser: Quantiser,
    *,
    image_shape: tuple[int, int, int],
    tx: optax.GradientTransformation,
    reconstruction: Reconstruction = L1,
    commitment_weight: float = 0.25,
    entropy_weight: float = 0.1,
    adversary: Adversary | None = None,
    usage_half_life: float = 10_000,
) -> Tokenizer:
    """Reconstruction + codebook + beta commitment + alpha entropy, in one phase, after that of a discriminator, if any.

    All terms are summed over pixels, or over places and dimensions, and averaged over the batch.

    `variables["usage"]` counts tokens and images. The counts decay with the given half-life, so that they show which
    codes were used within about the last usage_half_life images: a code counts as used if it was chosen once within
    them, or more often before. The metrics window_* describe these counts, the metrics codebook_* the current step.

    `sample` draws tokens independently from these counts and decodes them. This shows the codes, but is not a model of
    images, for which a second method models the tokens.

    Args:
        encoder: net (images [b, h, w, c] in [-1, 1]) -> z [b, *grid, quantiser.dim].
        decoder: net (codes [b, *grid, dim]) -> the input of `reconstruction`, [b, h, w, c].
        quantiser: a quantiser of nets/vq.py.
        image_shape: (h, w, c).
        tx: the optimiser of encoder, decoder and codes, if codes are parameters.
        reconstruction: L1, L2 or CROSS_ENTROPY.
        commitment_weight, entropy_weight: beta and alpha of the quantiser's losses; see `Quantised`.
        adversary: for the adversarial loss of VQGAN (Esser et al., arXiv:2012.09841), without its perceptual loss.
        usage_half_life: half-life of the counts, in images.
    Raises:
        ValueError: if encoder and quantiser, or decoder and image_shape, have incompatible shapes.
    """
    grid, collections = _fitted(encoder, decoder, quantiser, image_shape)
    nets = _Nets(encoder, quantiser, decoder, reconstruction, image_shape, grid)
    num_codes = quantiser.num_codes

    def init(key: Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, 4)
        variables = nets.init(keys, batch["image"])
        # "images" is unused, but kept for compatibility with existing checkpoints.
        variables["usage"] = {"counts": jnp.zeros(num_codes), "images": jnp.zeros((), jnp.int32)}
        if adversary:
            args = batch["image"], batch["label"]
            variables["discriminator"] = adversary.discriminator.init(keys[3], *args, train=True)
        return variables

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        return nets.detokenize(variables, nets.tokenize(variables, images))

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        tokens = _draw_by_frequency(key, variables["usage"]["counts"], labels.shape[0], grid)
        return nets.detokenize(variables, tokens)

    trained = NETS if "params" in collections else ("encoder", "decoder")
    objective = _autoencoder_objective(nets, adversary, commitment_weight, entropy_weight)
    follow = _follow(quantiser, "codebook" in collections, usage_half_life)
    phases = (Phase("autoencoder", trained, objective, tx, follow),)
    if adversary:
        phases = (adversary_phase(adversary, nets.training_images), *phases)
    method = Method(
        init=init,
        phases=phases,
        ema=NETS,
        sample=sample,
        reconstruct=reconstruct,
        evaluate=_evaluation(nets),
        aggregate=_codebook_metrics,
    )
    return Tokenizer(method, nets.tokenize, nets.detokenize, num_codes, grid)


def _fitted(
    encoder: nn.Module, decoder: nn.Module, quantiser: Quantiser, image_shape: tuple[int, int, int]
) -> tuple[tuple[int, int], set[str]]:
    """The grid of tokens, and the collections of the quantiser. Raises ValueError if the parts do not fit together."""
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    z, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    if len(z.shape) != 4 or z.shape[-1] != quantiser.dim:
        raise ValueError(f"the quantiser takes [b, h, w, {quantiser.dim}], the encoder gives {list(z.shape)}")
    output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), z)
    if output.shape != images.shape:
        raise ValueError(f"images are {list(image_shape)}, the decoder gives {list(output.shape[1:])}")
    return (z.shape[1], z.shape[2]), set(jax.eval_shape(quantiser.init, jax.random.key(0), z))


def _autoencoder_objective(
    nets: _Nets, adversary: Adversary | None, commitment_weight: float, entropy_weight: float
) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        images = batch["image"]
        z, quantised = nets.quantise(variables, images)
        output = nets.output(variables, quantised.z_q)
        error = nets.reconstruction.loss(output, images)
        loss = error + quantised.codebook
        loss += commitment_weight * quantised.commitment + entropy_weight * quantised.entropy
        metrics = {
            "reconstruction": error.mean(),
            "commitment": quantised.commitment.mean(),
            "entropy_nats": quantised.entropy.mean(),
        }
        observed = {"z": z, "tokens": quantised.tokens}
        if not adversary:
            return loss.mean(), Aux(metrics, observed=observed)
        parts = nets.decoder, nets.reconstruction, variables, quantised.z_q, batch
        adversarial, weighed = decoder_loss(adversary, *parts)
        return loss.mean() + adversarial, Aux(metrics | weighed, observed=observed)

    return objective


def _follow(
    quantiser: Quantiser, has_codebook: bool, half_life: float
) -> Callable[[Variables, dict[str, Array], Array], Aux]:
    """Updates codebook and usage by the whole batch."""

    def follow(variables: Variables, observed: dict[str, Array], key: Array) -> Aux:
        z, tokens = observed["z"], observed["tokens"]
        counts = count_tokens(tokens, quantiser.num_codes)
        usage = _count(variables["usage"], counts, len(tokens) * num_shards(), half_life)
        updates = {"usage": usage}
        if has_codebook:
            options = {"method": "follow", "mutable": ["codebook"]}
            key = jax.random.fold_in(key, 0)
            updates["quantiser"] = dict(quantiser.apply(variables["quantiser"], z, tokens, key, **options)[1])
        metrics = {
            "codebook_usage": codebook_usage(counts),
            "codebook_perplexity": perplexity(counts),
            "window_usage": codebook_usage(usage["counts"]),
            "window_perplexity": perplexity(usage["counts"]),
        }
        return Aux(metrics, updates)

    return follow


def _draw_by_frequency(key: Array, counts: Array, n: int, grid: tuple[int, int]) -> Array:
    """Draws tokens independently with the codes' frequencies: counts [K] -> int [n, *grid]."""
    below = jnp.cumsum(counts + (counts.sum() == 0))  # uniform if the tokenizer is untrained
    draws = noise.uniform(key, jnp.arange(n), grid) * below[-1]
    tokens = jnp.searchsorted(below, draws, side="right")
    return jnp.minimum(tokens, len(counts) - 1)  # rounding may give below[-1] itself


def _evaluation(nets: _Nets) -> Callable[[Variables, Batch, Array], dict[str, Array]]:
    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        images, num_codes = batch["image"], nets.quantiser.num_codes
        _, quantised = nets.quantise(variables, images)
        output = nets.output(variables, quantised.z_q)
        return {
            "reconstruction": nets.reconstruction.loss(output, images),
            "psnr_db": psnr(images, nets.as_images(output)),
            "unigram_bits_per_token": unigram_bits(variables["usage"]["counts"], quantised.tokens),
            "code_counts": jax.vmap(partial(jnp.bincount, length=num_codes))(quantised.tokens.reshape(len(images), -1)),
        }

    return evaluate


def _codebook_metrics(means: dict[str, Array]) -> dict[str, Array]:
    counts = means["code_counts"]
    return {"codebook_usage": jnp.mean(counts > 0), "codebook_perplexity": perplexity(counts)}


def tokenize_known(tokenizer: Tokenizer, variables: Variables, images: Array, known: Array) -> tuple[Array, Array]:
    """Tokens of partly known images, for inpainting. The values of unknown pixels have no influence.

    The receptive field of a known token may contain unknown pixels. They are replaced by the mean of the known pixels.

    Args:
        tokenizer, variables: the arguments of `Tokenizer.tokenize`.
        images: float [n, h, w, c] in [-1, 1].
        known: bool [n, h, w, 1].
    Returns: Tokens int32 [n, rows * columns], and a mask of the known ones, bool [n, rows * columns].
    """
    tokens = tokenizer.tokenize(variables, with_mean_of_known(images, known))
    return tokens.reshape(images.shape[0], -1), known_tokens(known, tokenizer.grid)


def with_mean_of_known(images: Array, known: Array) -> Array:
    """Images [n, h, w, c] whose unknown pixels are the mean of the known ones: bool [n, h, w, 1]; 0 if none is."""
    count = jnp.maximum(known.sum((1, 2), keepdims=True), 1)
    mean = jnp.where(known, images, 0.0).sum((1, 2), keepdims=True) / count
    return jnp.where(known, images, mean)


def known_tokens(known: Array, grid: tuple[int, int]) -> Array:
    """A token, or latent, is known if all pixels of its cell are: bool [n, h, w, 1] -> bool [n, rows * columns].

    Raises:
        ValueError: if the grid does not divide the image.
    """
    n, h, w, _ = known.shape
    if h % grid[0] or w % grid[1]:
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} tokens does not divide images of {h}x{w}")
    cells = known.reshape(n, grid[0], h // grid[0], grid[1], w // grid[1])
    return cells.all(axis=(2, 4)).reshape(n, -1)


def unigram_bits(counts: Array, tokens: Array) -> Array:
    """-mean log2 p(token) under the frequencies of training, (count_k + 1) / (sum + K): [K], int [b, ...] -> [b] bits.

    Its mean over a test set is at least the entropy of the tokens there, so 2^mean is an upper bound of their
    perplexity. A codebook with uniform frequencies has log2 K bits.
    """
    log_p = jnp.log2((counts + 1) / (counts.sum() + len(counts)))
    return -log_p[tokens].reshape(tokens.shape[0], -1).mean(1)


def _count(usage: Mapping[str, Array], counts: Array, num_images: int, half_life: float) -> dict[str, Array]:
    """Updates the decayed counts and the number of images by one batch."""
    decay = 0.5 ** (num_images / half_life)
    return {"counts": decay * usage["counts"] + counts, "images": usage["images"] + num_images}
