"""Tokenizers: autoencoders whose code is a grid of tokens (VQ-VAE, arXiv:1711.00937; VQGAN, arXiv:2012.09841)."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jimgen import noise
from jimgen.methods.adversary import apply_in_training, discriminator_loss, real_and_fake_logits
from jimgen.methods.method import Method
from jimgen.nets.vq import (
    FiniteScalarQuantiser,
    LookupFreeQuantiser,
    Quantised,
    VectorQuantiser,
    codebook_usage,
    count_tokens,
    perplexity,
)
from jimgen.objectives import (
    HINGE,
    AdversarialLoss,
    absolute_error,
    adaptive_weight,
    bernoulli_nll,
    squared_error,
)
from jimgen.parallel import mean_over_devices, num_shards
from jimgen.schedules import linear_ramp
from jimgen.train_step import Aux, Batch, Objective, Phase, Variables

Quantiser = VectorQuantiser | FiniteScalarQuantiser | LookupFreeQuantiser
NETS = ("encoder", "quantiser", "decoder")


class Reconstruction(NamedTuple):
    """How to convert a decoder's output to images, and to compare the two. Arrays [b, h, w, c], images in [-1, 1]."""

    loss: Callable[[Array, Array], Array]  # (decoder output, images) -> [b], summed over pixels
    as_images: Callable[[Array], Array]  # decoder output -> images, not clipped


L1 = Reconstruction(lambda output, images: absolute_error(images, output), lambda output: output)
L2 = Reconstruction(lambda output, images: squared_error(images, output), lambda output: output)
# The output is logits of grey values in [0, 1]: for images that are nearly binary.
CROSS_ENTROPY = Reconstruction(
    lambda logits, images: bernoulli_nll(logits, jnp.clip((images + 1) / 2, 0.0, 1.0)),
    lambda logits: 2 * jax.nn.sigmoid(logits) - 1,
)


class Adversary(NamedTuple):
    """A discriminator of reconstructions. It trains from the first step; its loss trains the decoder after `start`."""

    discriminator: nn.Module  # (images, labels [b], train=...) -> logits [b], or [b, h, w] of patches
    tx: optax.GradientTransformation
    loss: AdversarialLoss = HINGE
    weight: float = 0.8  # of the adversarial loss
    adaptive: bool = True  # multiply the weight by `adaptive_weight`
    start: int = 0  # images seen before the weight begins to increase from zero
    ramp: int = 0  # images over which it increases linearly; an abrupt start may destroy reconstructions
    last_layer: str = "output"  # name of the decoder's last layer, whose kernel `adaptive_weight` uses


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
        judge = _discriminator_objective(nets, adversary)
        phases = (Phase("discriminator", ("discriminator",), judge, adversary.tx), *phases)
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
        adversarial = _generator_loss(nets, adversary, variables, output, batch).mean()
        seen = batch["images_seen"] + 1  # the first image after the start counts already
        weight = adversary.weight * linear_ramp(seen, adversary.start, adversary.ramp)
        if adversary.adaptive:
            weight *= _balance(nets, adversary, variables, quantised.z_q, batch)
        metrics |= {"adversarial": adversarial, "adversarial_weight": weight}
        return loss.mean() + weight * adversarial, Aux(metrics, observed=observed)

    return objective


def _generator_loss(nets: _Nets, adversary: Adversary, variables: Variables, output: Array, batch: Batch) -> Array:
    """The generator's loss on a decoder output, [b] or [b, h, w]."""

    def judge(images: Array) -> Array:
        return apply_in_training(adversary.discriminator, variables["discriminator"], images, batch["label"])[0]

    return adversary.loss.generator(judge(batch["image"]), judge(nets.reconstruction.as_images(output)))


def _balance(nets: _Nets, adversary: Adversary, variables: Variables, z_q: Array, batch: Batch) -> Array:
    """The weight that balances both gradients of the kernel of the decoder's last layer; a constant in the loss.

    `adaptive_weight` is defined for errors averaged over pixels. It gets these, and num_dims rescales it to our sums.
    """
    variables, z_q = lax.stop_gradient((variables, z_q))
    params, name = variables["decoder"]["params"], adversary.last_layer
    num_dims = math.prod(nets.image_shape)

    def output_by(kernel: Array) -> Array:
        changed = {**params, name: {**params[name], "kernel": kernel}}
        return nets.output({"decoder": {**variables["decoder"], "params": changed}}, z_q)

    output, pull_back = jax.vjp(output_by, params[name]["kernel"])
    losses = (
        lambda output: nets.reconstruction.loss(output, batch["image"]).mean() / num_dims,
        lambda output: _generator_loss(nets, adversary, variables, output, batch).mean(),
    )
    gradients = [mean_over_devices(pull_back(jax.grad(loss)(output))) for loss in losses]
    return num_dims * adaptive_weight(*(optax.tree.norm(gradient) for gradient in gradients))


def _discriminator_objective(nets: _Nets, adversary: Adversary) -> Objective:
    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        _, quantised = nets.quantise(variables, batch["image"])
        fake = nets.reconstruction.as_images(nets.output(variables, quantised.z_q))
        logits = real_and_fake_logits(
            adversary.discriminator, variables["discriminator"], batch["image"], fake, batch["label"]
        )
        return discriminator_loss(adversary.loss, *logits[:2], penalty=None, stats=logits[2])

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
        squares = squared_error(images, nets.as_images(output)) / images[0].size
        return {
            "reconstruction": nets.reconstruction.loss(output, images),
            "psnr_db": 10 * jnp.log10(4 / jnp.maximum(squares, 1e-10)),  # images span 2
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
    count = jnp.maximum(known.sum((1, 2), keepdims=True), 1)
    mean = jnp.where(known, images, 0.0).sum((1, 2), keepdims=True) / count
    tokens = tokenizer.tokenize(variables, jnp.where(known, images, mean))
    return tokens.reshape(images.shape[0], -1), known_tokens(known, tokenizer.grid)


def known_tokens(known: Array, grid: tuple[int, int]) -> Array:
    """A token is known if all pixels of its cell are: bool [n, h, w, 1] -> bool [n, rows * columns].

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
