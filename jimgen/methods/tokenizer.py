"""Tokenizers: an autoencoder whose code is a grid of tokens (VQ-VAE, arXiv 1711.00937; VQGAN, arXiv 2012.09841)."""

import math
from collections.abc import Callable, Mapping
from functools import partial
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jimgen import noise
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
from jimgen.objectives import HINGE, AdversarialLoss, absolute_error, bernoulli_nll, squared_error
from jimgen.parallel import mean_over_devices, num_shards
from jimgen.train_step import Aux, Batch, Phase, Variables

Quantiser = VectorQuantiser | FiniteScalarQuantiser | LookupFreeQuantiser


class Reconstruction(NamedTuple):
    """How a decoder's output is read, and compared with images. Arrays [b, h, w, c], images in [-1, 1]."""

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
    """A discriminator that judges reconstructions. It learns from the first step on; the decoder heeds it later."""

    discriminator: nn.Module  # (images, labels [b], train=...) -> logits [b] or, of patches, [b, h, w]
    tx: optax.GradientTransformation
    loss: AdversarialLoss = HINGE
    weight: float = 0.8  # of the adversarial loss
    adaptive: bool = True  # times `adaptive_weight`
    start: int = 0  # images seen before the weight begins to rise from zero
    ramp: int = 0  # images over which it rises, linearly; switched on at once it may wreck reconstructions
    last_layer: str = "output"  # name of the decoder's last layer, whose kernel `adaptive_weight` looks at


class Tokenizer(NamedTuple):
    """A trained-by-`method` pair of functions between images and tokens, for methods that model tokens."""

    method: Method
    tokenize: Callable[[Variables, Array], Array]  # (variables, images [n, h, w, c]) -> int32 [n, *grid]
    detokenize: Callable[[Variables, Array], Array]  # (variables, tokens [n, *grid]) -> images in [-1, 1]
    num_codes: int  # K: tokens are 0..K-1
    grid: tuple[int, int]  # rows and columns of tokens of an image


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
    """Reconstruction + codebook + beta commitment + alpha entropy, in one phase; a discriminator's phase before it.

    All terms are summed over pixels, or over places and dimensions, and averaged over the batch.

    Beside the nets, `variables["usage"]` counts tokens and images. The counts decay with the given half-life, so they
    tell which codes were in use over about the last usage_half_life images: a code counts as used if it was chosen
    once within them, or more often before. Metrics named window_* are about these, the other codebook_* about the step.

    `sample` draws each token by itself from these counts and decodes: a look at the codes, not a model of images. That
    takes a second method over the tokens.

    Args:
      encoder: net (images [b, h, w, c] in [-1, 1]) -> z [b, *grid, quantiser.dim].
      decoder: net (codes [b, *grid, dim]) -> what `reconstruction` reads, [b, h, w, c].
      quantiser: of nets/vq.py.
      image_shape: (h, w, c).
      tx: the optimiser of encoder, decoder and codes, where codes are parameters.
      reconstruction: L1, L2 or CROSS_ENTROPY.
      commitment_weight, entropy_weight: beta and alpha of the terms that the quantiser has; see `Quantised`.
      adversary: for the adversarial loss of VQGAN (Esser et al., arXiv 2012.09841), without its perceptual one.
      usage_half_life: in images.

    Raises:
      ValueError: encoder and quantiser, or decoder and image_shape, do not fit each other.
    """
    images = jax.ShapeDtypeStruct((1, *image_shape), jnp.float32)
    z, _ = jax.eval_shape(encoder.init_with_output, jax.random.key(0), images)
    if len(z.shape) != 4 or z.shape[-1] != quantiser.dim:
        raise ValueError(f"the quantiser takes [b, h, w, {quantiser.dim}], the encoder gives {list(z.shape)}")
    output, _ = jax.eval_shape(decoder.init_with_output, jax.random.key(0), z)
    if output.shape != images.shape:
        raise ValueError(f"images are {list(image_shape)}, the decoder gives {list(output.shape[1:])}")
    quantiser_variables = jax.eval_shape(quantiser.init, jax.random.key(0), z)
    nets = ("encoder", "quantiser", "decoder")
    trained = nets if "params" in quantiser_variables else ("encoder", "decoder")
    grid, num_codes = (z.shape[1], z.shape[2]), quantiser.num_codes

    def init(key: Array, batch: Batch) -> Variables:
        keys = jax.random.split(key, 4)
        z = jnp.zeros((1, *grid, quantiser.dim))
        variables: Variables = {
            "encoder": encoder.init(keys[0], batch["image"]),
            "quantiser": quantiser.init(keys[1], z),
            "decoder": decoder.init(keys[2], z),
            "usage": {"counts": jnp.zeros(num_codes), "images": jnp.zeros((), jnp.int32)},
        }
        if adversary:
            args = batch["image"], batch["label"]
            variables["discriminator"] = adversary.discriminator.init(keys[3], *args, train=True)
        return variables

    def quantise(variables: Variables, images: Array) -> tuple[Array, Quantised]:
        """z before it is quantised, and what becomes of it. The codebook moves in `follow` alone."""
        z = encoder.apply(variables["encoder"], images)
        return z, quantiser.apply(variables["quantiser"], z)  # pyright: ignore[reportReturnType]

    def output_of(variables: Variables, z_q: Array) -> Array:
        return decoder.apply(variables["decoder"], z_q)  # pyright: ignore[reportReturnType]

    def images_of(output: Array) -> Array:
        return jnp.clip(reconstruction.as_images(output), -1.0, 1.0)

    def autoencoder_objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        images = batch["image"]
        z, quantised = quantise(variables, images)
        output = output_of(variables, quantised.z_q)
        error = reconstruction.loss(output, images)
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
        adversarial = generator_loss(adversary, variables, output, batch).mean()
        weight = adversary.weight * _ramp(variables["usage"]["images"], adversary.start, adversary.ramp)
        if adversary.adaptive:
            weight *= balance(adversary, variables, quantised.z_q, batch)
        metrics |= {"adversarial": adversarial, "adversarial_weight": weight}
        return loss.mean() + weight * adversarial, Aux(metrics, observed=observed)

    def follow(variables: Variables, observed: dict[str, Array], key: Array) -> Aux:
        """Codebook and usage after the whole batch."""
        z, tokens = observed["z"], observed["tokens"]
        counts = count_tokens(tokens, num_codes)
        usage = _count(variables["usage"], counts, len(tokens) * num_shards(), usage_half_life)
        updates = {"usage": usage}
        if "codebook" in quantiser_variables:
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

    def generator_loss(adversary: Adversary, variables: Variables, output: Array, batch: Batch) -> Array:
        """What the discriminator makes of a decoder output, [b] or [b, h, w]."""
        judge = lambda images: _judge(adversary, variables, images, batch["label"])[0]  # noqa: E731
        return adversary.loss.generator(judge(batch["image"]), judge(reconstruction.as_images(output)))

    def balance(adversary: Adversary, variables: Variables, z_q: Array, batch: Batch) -> Array:
        """What makes the two gradients in the kernel of the decoder's last layer alike; a constant of the loss.

        `adaptive_weight` is made for errors averaged over pixels, so it gets such ones, and is multiplied for our sums.
        """
        variables, z_q = lax.stop_gradient((variables, z_q))
        params, name = variables["decoder"]["params"], adversary.last_layer

        def output_by(kernel: Array) -> Array:
            changed = {**params, name: {**params[name], "kernel": kernel}}
            return output_of({"decoder": {**variables["decoder"], "params": changed}}, z_q)

        output, pull_back = jax.vjp(output_by, params[name]["kernel"])
        losses = (
            lambda output: reconstruction.loss(output, batch["image"]).mean() / math.prod(image_shape),
            lambda output: generator_loss(adversary, variables, output, batch).mean(),
        )
        gradients = [mean_over_devices(pull_back(jax.grad(loss)(output))) for loss in losses]
        return math.prod(image_shape) * adaptive_weight(*(optax.tree.norm(gradient) for gradient in gradients))

    def discriminator_objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        assert adversary is not None
        _, quantised = quantise(variables, batch["image"])
        fake = reconstruction.as_images(output_of(variables, quantised.z_q))
        real_logits, stats = _judge(adversary, variables, batch["image"], batch["label"])
        variables = {**variables, "discriminator": {**variables["discriminator"], **stats}}
        fake_logits, stats = _judge(adversary, variables, fake, batch["label"])
        metrics = {
            "real_logits": real_logits.mean(),
            "fake_logits": fake_logits.mean(),
            "accuracy": (jnp.mean(real_logits > 0) + jnp.mean(fake_logits <= 0)) / 2,
        }
        return adversary.loss.discriminator(real_logits, fake_logits).mean(), Aux(metrics, {"discriminator": stats})

    def tokenize(variables: Variables, images: Array) -> Array:
        if images.shape[1:] != image_shape:
            raise ValueError(f"this tokenizer takes images {list(image_shape)}, got {list(images.shape[1:])}")
        return quantise(variables, images)[1].tokens

    def detokenize(variables: Variables, tokens: Array) -> Array:
        if tokens.shape[1:] != grid or not jnp.issubdtype(tokens.dtype, jnp.integer):
            found = f"{tokens.dtype} {list(tokens.shape)}"
            raise ValueError(f"this tokenizer takes integer tokens [n, {grid[0]}, {grid[1]}], got {found}")
        codes = quantiser.apply(variables["quantiser"], tokens, method="lookup")
        return images_of(output_of(variables, codes))  # pyright: ignore[reportArgumentType]

    def reconstruct(variables: Variables, images: Array, labels: Array) -> Array:
        return detokenize(variables, tokenize(variables, images))

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        """Images of tokens that are drawn one by one from the codes' frequencies."""
        counts = variables["usage"]["counts"]
        below = jnp.cumsum(counts + (counts.sum() == 0))  # an untrained tokenizer has seen nothing: uniform
        draws = noise.uniform(key, jnp.arange(labels.shape[0]), grid) * below[-1]
        tokens = jnp.searchsorted(below, draws, side="right")
        return detokenize(variables, jnp.minimum(tokens, num_codes - 1))  # rounding may give below[-1] itself

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        images = batch["image"]
        _, quantised = quantise(variables, images)
        output = output_of(variables, quantised.z_q)
        squares = squared_error(images, images_of(output)) / images[0].size
        return {
            "reconstruction": reconstruction.loss(output, images),
            "psnr_db": 10 * jnp.log10(4 / jnp.maximum(squares, 1e-10)),  # images span 2
            "unigram_bits_per_token": unigram_bits(variables["usage"]["counts"], quantised.tokens),
            "code_counts": jax.vmap(partial(jnp.bincount, length=num_codes))(quantised.tokens.reshape(len(images), -1)),
        }

    def summarise(means: dict[str, Array]) -> dict[str, Array]:
        counts = means["code_counts"]
        return {"codebook_usage": jnp.mean(counts > 0), "codebook_perplexity": perplexity(counts)}

    phases = (Phase("autoencoder", trained, autoencoder_objective, tx, follow),)
    if adversary:
        phases = (Phase("discriminator", ("discriminator",), discriminator_objective, adversary.tx), *phases)
    method = Method(
        init=init,
        phases=phases,
        ema=nets,
        sample=sample,
        reconstruct=reconstruct,
        evaluate=evaluate,
        summarise=summarise,
    )
    return Tokenizer(method, tokenize, detokenize, num_codes, grid)


def tokenize_known(tokenizer: Tokenizer, variables: Variables, images: Array, known: Array) -> tuple[Array, Array]:
    """Tokens of images of which only a part is known, for inpainting: what unknown pixels hold has no influence.

    The encoder of a cell looks over its edge: there it meets the mean of what is known, not what is hidden.

    Args:
      tokenizer, variables: as of `Tokenizer.tokenize`.
      images: [n, h, w, c] in [-1, 1].
      known: bool [n, h, w, 1].

    Returns:
      Tokens int32 [n, rows * columns], and which of them are known, bool of that shape.
    """
    count = jnp.maximum(known.sum((1, 2), keepdims=True), 1)
    mean = jnp.where(known, images, 0.0).sum((1, 2), keepdims=True) / count
    tokens = tokenizer.tokenize(variables, jnp.where(known, images, mean))
    return tokens.reshape(images.shape[0], -1), known_tokens(known, tokenizer.grid)


def known_tokens(known: Array, grid: tuple[int, int]) -> Array:
    """A token is known if all pixels of its cell are: bool [n, h, w, 1] -> bool [n, rows * columns].

    Raises:
      ValueError: a grid that does not divide the image.
    """
    n, h, w, _ = known.shape
    if h % grid[0] or w % grid[1]:
        raise ValueError(f"a grid of {grid[0]}x{grid[1]} tokens does not divide images of {h}x{w}")
    cells = known.reshape(n, grid[0], h // grid[0], grid[1], w // grid[1])
    return cells.all(axis=(2, 4)).reshape(n, -1)


def adaptive_weight(reconstruction_norm: Array, adversarial_norm: Array) -> Array:
    """|grad L_rec| / (|grad L_adv| + 1e-4), clipped to [0, 1e4], from norms [] of gradients in the last layer.

    It lets both losses pull equally hard there. References: Esser et al., Taming Transformers, arXiv:2012.09841,
    equation 7 (1e-6 there; the constant and the clip are those of the authors' code).
    """
    return jnp.clip(reconstruction_norm / (adversarial_norm + 1e-4), 0.0, 1e4)


def unigram_bits(counts: Array, tokens: Array) -> Array:
    """-mean log2 p(token) under the frequencies of training, (count_k + 1) / (sum + K): [K], int [b, ...] -> [b] bits.

    Its mean over a test set is no less than the entropy of the tokens there, so that 2^mean bounds their perplexity
    from above; all else equal, a codebook that is used evenly has log2 K.
    """
    log_p = jnp.log2((counts + 1) / (counts.sum() + len(counts)))
    return -log_p[tokens].reshape(tokens.shape[0], -1).mean(1)


def _count(usage: Mapping[str, Array], counts: Array, num_images: int, half_life: float) -> dict[str, Array]:
    """The decayed counts, and all images seen, after one more batch."""
    decay = 0.5 ** (num_images / half_life)
    return {"counts": decay * usage["counts"] + counts, "images": usage["images"] + num_images}


def _ramp(images: Array, start: int, length: int) -> Array:
    """0 until `start` images were seen, then rising to 1 over `length` more."""
    return jnp.clip((images - start + 1) / max(length, 1), 0.0, 1.0)


def _judge(adversary: Adversary, variables: Variables, images: Array, labels: Array) -> tuple[Array, dict[str, Any]]:
    """The discriminator's logits in training mode, and its changed statistics."""
    options = {"train": True, "mutable": ["batch_stats"]}
    logits, changed = adversary.discriminator.apply(variables["discriminator"], images, labels, **options)
    return logits, dict(changed)  # pyright: ignore[reportReturnType]
