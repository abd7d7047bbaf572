"""Autoregressive models, log p(x) = sum_i log p(x_i | x_1 .. x_(i-1)): over pixels, and over a tokenizer's tokens.

Van den Oord et al., Pixel Recurrent Neural Networks, arXiv:1601.06759; Esser et al., Taming Transformers,
arXiv:2012.09841.
"""

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jimgen import noise
from jimgen.conditions import drop_labels
from jimgen.methods.method import Method
from jimgen.methods.tokenizer import Tokenizer, tokenize_known
from jimgen.metrics.likelihood import LikelihoodProtocol
from jimgen.nets.embeddings import patchify, unpatchify
from jimgen.nets.pixel_transformer import PixelTransformer
from jimgen.nets.token_transformer import TokenTransformer
from jimgen.objectives import bits_per_dim, cross_entropy
from jimgen.sampling.guidance import check_guidance
from jimgen.sampling.logits import PLAIN, LogitFilter, check_filter
from jimgen.sampling.posterior import as_mask
from jimgen.sampling.tokens import decode_one_by_one, guided_step
from jimgen.train_step import Aux, Batch, Phase, Variables


class Autoregressive(NamedTuple):
    """A method over pixels, with the functions that lossless coding of images needs. Labels are int32 [n]."""

    method: Method
    log_likelihood: Callable[[Variables, Array, Array], Array]  # (variables, images, labels) -> nats [n]
    to_levels: Callable[[Array], Array]  # images -> int32 [n, places], in decoding order
    to_images: Callable[[Array], Array]  # the inverse, images in [-1, 1]
    empty: Callable[[int], Any]  # number of images -> the initial decoding state
    # (variables, decoding, levels, i, labels) -> logits [n, levels] of place i given the places before it, decoding
    decode: Callable[[Variables, Any, Array, Array, Array], tuple[Array, Any]]


class _Pixels(NamedTuple):
    """The net, applied to images as sequences of levels."""

    net: PixelTransformer

    def to_levels(self, images: Array) -> Array:
        levels = jnp.round((images + 1) * self._scale()).astype(jnp.int32)
        return patchify(levels, self.net.patch).reshape(images.shape[0], -1)

    def to_images(self, levels: Array) -> Array:
        patches = levels.reshape(levels.shape[0], -1, self.net.places_per_patch)
        return unpatchify(patches, self.net.image_shape[:2], self.net.patch) / self._scale() - 1

    def nats(self, variables: Variables, images: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        """-log p(image), [n]."""
        levels = self.to_levels(images)
        logits = self.net.apply(variables["net"], levels, labels, dropout_keys=dropout_keys)
        return cross_entropy(logits, levels).sum(1)  # pyright: ignore[reportArgumentType]

    def decode(self, variables: Variables, decoding: Any, levels: Array, i: Array, labels: Array) -> tuple[Array, Any]:
        return self.net.apply(variables["net"], decoding, levels, i, labels, method="decode")  # pyright: ignore[reportReturnType]

    def _scale(self) -> float:
        return (self.net.levels - 1) / 2


def pixel_autoregressive(
    net: PixelTransformer,
    *,
    tx: optax.GradientTransformation,
    flips: bool = False,
    label_drop: float = 0.1,
    guidance: float = 1.0,
    filter: LogitFilter = PLAIN,
) -> Autoregressive:
    """Maximum likelihood over the levels of sub-pixels: one phase; sampler, exact likelihood, inpainting.

    Inpainting keeps the known pixels and draws each unknown pixel given only the pixels before it.

    Args:
        net: with num_classes > 0 the model is p(x | label).
        tx: the optimiser.
        flips: whether training mirrors half of the images at random; likelihoods use images without mirroring.
        label_drop: probability with which training hides the label, if the net has labels.
        guidance: weight of classifier-free guidance; 1 for none.
        filter: filter of the logits in sampling.
    Raises:
        ValueError: for options outside their ranges, or guidance without num_classes > 0 and label_drop > 0.
    """
    check_filter(filter)
    check_guidance(guidance, net.num_classes, label_drop)
    pixels = _Pixels(net)

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, pixels.to_levels(batch["image"]), batch["label"] * 0)}

    def log_likelihood(variables: Variables, images: Array, labels: Array) -> Array:
        return -pixels.nats(variables, images, labels)

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        keys, index, images = [jax.random.fold_in(key, i) for i in range(3)], batch["index"], batch["image"]
        labels = drop_labels(batch["label"], keys[0], index, label_drop, net.num_classes)
        if flips:
            mirrored = noise.uniform(keys[2], index, (1, 1, 1)) < 0.5
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        nats = pixels.nats(variables, images, labels, noise.example_keys(keys[1], index))
        return bits_per_dim(nats, net.num_places).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        nats = pixels.nats(variables, batch["image"], batch["label"])
        given = "_given_label" if net.num_classes else ""
        if net.levels != 256:  # not a likelihood of 8-bit images
            return {f"nats{given}": nats}
        name = LikelihoodProtocol("8-bit", "exact").name
        return {name(f"nats{given}"): nats, name(f"bits_per_dim{given}"): bits_per_dim(nats, net.num_places)}

    def fill(variables: Variables, key: Array, levels: Array, known: Array, labels: Array) -> Array:
        """Draws the unknown levels: levels int32 [n, places], known bool [n, places] -> int32 [n, places]."""
        step, copies = guided_step(partial(pixels.decode, variables), labels, net.num_classes, guidance)
        return decode_one_by_one(step, net.empty(copies * levels.shape[0]), levels, known, key, filter)

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        levels = jnp.zeros((labels.shape[0], net.num_places), jnp.int32)
        return pixels.to_images(fill(variables, key, levels, levels > 0, labels))

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = jnp.broadcast_to(as_mask(mask, images), images.shape)
        places = patchify(known, net.patch).reshape(images.shape[0], -1)
        return jnp.where(
            known, images, pixels.to_images(fill(variables, key, pixels.to_levels(images), places, labels))
        )

    method = Method(
        init=init,
        phases=(Phase("autoregressive", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        num_classes=net.num_classes,
        hides_labels=label_drop > 0,
        evaluate=evaluate,
        inpaint=inpaint,
    )
    return Autoregressive(method, log_likelihood, pixels.to_levels, pixels.to_images, net.empty, pixels.decode)


class _Tokens(NamedTuple):
    """The net, applied to the tokens of a frozen tokenizer in raster or random order."""

    net: TokenTransformer
    tokenizer: Tokenizer
    random_order: bool

    def orders(self, key: Array, index: Array, known: Array | None = None) -> Array:
        """The order of places in training and sampling, int32 [n, t]; a random order starts with the known places."""
        if not self.random_order:
            return self.raster(index.shape[0])
        rank = noise.uniform(key, index, (self.net.num_places,))
        return jnp.argsort(rank if known is None else rank - known, axis=1).astype(jnp.int32)

    def raster(self, n: int) -> Array:
        """Places row by row, int32 [n, t]."""
        return jnp.broadcast_to(jnp.arange(self.net.num_places, dtype=jnp.int32), (n, self.net.num_places))

    def nats(self, variables: Variables, images: Array, labels: Array, order: Array, keys: Array | None) -> Array:
        """-log p(tokens of the image), [n]."""
        tokens = lax.stop_gradient(self.tokenizer.tokenize(variables, images)).reshape(images.shape[0], -1)
        tokens = jnp.take_along_axis(tokens, order, axis=1)
        logits = self.net.apply(variables["net"], tokens, labels, order, dropout_keys=keys)
        return cross_entropy(logits, tokens).sum(1)  # pyright: ignore[reportArgumentType]

    def fill(
        self,
        variables: Variables,
        key: Array,
        tokens: Array,
        known: Array,
        labels: Array,
        guidance: float,
        filter: LogitFilter,
    ) -> Array:
        """Draws the unknown tokens (tokens int32 [n, t], known bool [n, t]), and decodes all tokens to images."""
        n = tokens.shape[0]
        order = self.orders(jax.random.fold_in(key, 0), jnp.arange(n), known.astype(jnp.float32))

        def decode(decoding: Any, tokens: Array, i: Array, labels: Array) -> tuple[Array, Any]:
            each = jnp.concatenate([order] * (tokens.shape[0] // n))
            return self.net.apply(variables["net"], decoding, tokens, i, labels, each, method="decode")  # pyright: ignore[reportReturnType]

        step, copies = guided_step(decode, labels, self.net.num_classes, guidance)
        tokens, known = (jnp.take_along_axis(x, order, axis=1) for x in (tokens, known))
        tokens = decode_one_by_one(step, self.net.empty(copies * n), tokens, known, jax.random.fold_in(key, 1), filter)
        tokens = jnp.take_along_axis(tokens, jnp.argsort(order, axis=1), axis=1)
        return self.tokenizer.detokenize(variables, tokens.reshape(n, *self.net.grid))


def token_autoregressive(
    net: TokenTransformer,
    tokenizer: Tokenizer,
    frozen: Variables,
    *,
    tx: optax.GradientTransformation,
    label_drop: float = 0.1,
    guidance: float = 1.0,
    filter: LogitFilter = PLAIN,
    random_order: bool = False,
) -> Method:
    """Maximum likelihood over the tokens of a frozen tokenizer: one phase; sampler, inpainting.

    In random order each token is given the place of the next one (Yu et al., RAR, arXiv:2411.00776). Training and
    sampling draw an order for each example. Inpainting then starts with the known tokens, so that all other tokens
    depend on them. Held-out metrics use raster order. They are likelihoods of tokens, not of images.

    In inpainting a token is known if all pixels of its cell are. Known pixels are kept.

    Args:
        net: its codes and grid are the tokenizer's; with num_classes > 0 the model is p(tokens | label).
        tokenizer, frozen: the results of `load_tokenizer`; no phase trains these variables.
        tx: the optimiser.
        label_drop: probability with which training hides the label, if the net has labels.
        guidance: weight of classifier-free guidance; 1 for none.
        filter: filter of the logits in sampling.
        random_order: whether to order tokens at random, instead of row by row.
    Raises:
        ValueError: see `pixel_autoregressive`; also if grid or number of codes differ from the tokenizer's.
    """
    check_filter(filter)
    check_guidance(guidance, net.num_classes, label_drop)
    if (net.grid, net.num_codes) != (tokenizer.grid, tokenizer.num_codes):
        raise ValueError(
            f"the net takes {net.num_codes} codes on a grid {list(net.grid)}, the tokenizer has "
            f"{tokenizer.num_codes} on {list(tokenizer.grid)}"
        )
    num_places, model = net.num_places, _Tokens(net, tokenizer, random_order)

    def init(key: Array, batch: Batch) -> Variables:
        order = model.raster(batch["label"].shape[0])
        return {**frozen, "net": net.init(key, jnp.zeros_like(order), batch["label"] * 0, order)}

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        keys, index = [jax.random.fold_in(key, i) for i in range(3)], batch["index"]
        labels = drop_labels(batch["label"], keys[0], index, label_drop, net.num_classes)
        order, dropout_keys = model.orders(keys[2], index), noise.example_keys(keys[1], index)
        return (model.nats(variables, batch["image"], labels, order, dropout_keys) / num_places).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        labels = batch["label"]
        nats = model.nats(variables, batch["image"], labels, model.raster(labels.shape[0]), None)
        given = "_given_label" if net.num_classes else ""
        return {f"token_nats{given}": nats, f"bits_per_token{given}": bits_per_dim(nats, num_places)}

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        tokens = jnp.zeros((labels.shape[0], num_places), jnp.int32)
        return jnp.clip(model.fill(variables, key, tokens, tokens > 0, labels, guidance, filter), -1.0, 1.0)

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = as_mask(mask, images)
        tokens, are_known = tokenize_known(tokenizer, variables, images, known)
        filled = model.fill(variables, key, tokens, are_known, labels, guidance, filter)
        return jnp.where(known, images, jnp.clip(filled, -1.0, 1.0))

    return Method(
        init=init,
        phases=(Phase("autoregressive", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        num_classes=net.num_classes,
        hides_labels=label_drop > 0,
        evaluate=evaluate,
        inpaint=inpaint,
    )
