"""Autoregressive models, log p(x) = sum_i log p(x_i | x_1 .. x_(i-1)): over pixels, and over a tokenizer's tokens.

Van den Oord et al., Pixel Recurrent Neural Networks, arXiv 1601.06759; Esser et al., Taming Transformers, arXiv
2012.09841.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax
from jax import Array, lax

from jimgen import noise
from jimgen.methods.flow import as_mask
from jimgen.methods.method import Method
from jimgen.methods.tokenizer import Tokenizer, tokenize_known
from jimgen.metrics.likelihood import LikelihoodProtocol
from jimgen.nets.pixel_transformer import PixelTransformer
from jimgen.nets.stems import patchify, unpatchify
from jimgen.nets.token_transformer import TokenTransformer
from jimgen.objectives import bits_per_dim
from jimgen.sampling_logits import PLAIN, LogitFilter, check_filter, filter_logits, guide_logits
from jimgen.train_step import Aux, Batch, Phase, Variables

Step = Callable[[Any, Array, Array], tuple[Array, Any]]  # (decoding, tokens [n, t], i) -> logits [n, k], decoding


class Autoregressive(NamedTuple):
    """A method over pixels, with what coding images without loss needs of it. Labels are int32 [n]."""

    method: Method
    log_likelihood: Callable[[Variables, Array, Array], Array]  # (variables, images, labels) -> nats [n]
    to_levels: Callable[[Array], Array]  # images -> int32 [n, places], in the order in which they are read
    to_images: Callable[[Array], Array]  # and back, [-1, 1]
    empty: Callable[[int], Any]  # number of images -> the start of decoding
    # (variables, decoding, levels, i, labels) -> logits [n, levels] of place i, given those before it; decoding
    decode: Callable[[Variables, Any, Array, Array, Array], tuple[Array, Any]]


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

    In inpainting known pixels stay what they are, and unknown ones are drawn given the pixels before them alone.

    Args:
      net: with num_classes > 0 the model is p(x | label).
      tx: the optimiser.
      flips: whether training mirrors every other image; likelihoods are of images as they are.
      label_drop: how often training hides the label, where the net has labels.
      guidance: weight of classifier-free guidance; 1 for none.
      filter: of the logits in sampling.

    Raises:
      ValueError: options outside their ranges, or guidance without labels or without hiding them.
    """
    conditional = net.num_classes > 0
    _check(label_drop, guidance, filter, conditional)
    size, scale = net.image_shape[:2], (net.levels - 1) / 2

    def to_levels(images: Array) -> Array:
        levels = jnp.round((images + 1) * scale).astype(jnp.int32)
        return patchify(levels, net.patch).reshape(images.shape[0], -1)

    def to_images(levels: Array) -> Array:
        patches = levels.reshape(levels.shape[0], -1, net.places_per_patch)
        return unpatchify(patches, size, net.patch) / scale - 1

    def init(key: Array, batch: Batch) -> Variables:
        return {"net": net.init(key, to_levels(batch["image"]), batch["label"] * 0)}

    def decode(variables: Variables, decoding: Any, levels: Array, i: Array, labels: Array) -> tuple[Array, Any]:
        return net.apply(variables["net"], decoding, levels, i, labels, method="decode")  # pyright: ignore[reportReturnType]

    def nats(variables: Variables, images: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        levels = to_levels(images)
        logits = net.apply(variables["net"], levels, labels, dropout_keys=dropout_keys)
        return cross_entropy(logits, levels).sum(1)  # pyright: ignore[reportArgumentType]

    def log_likelihood(variables: Variables, images: Array, labels: Array) -> Array:
        return -nats(variables, images, labels)

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        labels = _drop_labels(batch, jax.random.fold_in(key, 0), label_drop, net.num_classes)
        dropout_keys = noise.example_keys(jax.random.fold_in(key, 1), batch["index"])
        images = batch["image"]
        if flips:
            mirrored = noise.uniform(jax.random.fold_in(key, 2), batch["index"], (1, 1, 1)) < 0.5
            images = jnp.where(mirrored, images[:, :, ::-1], images)
        losses = bits_per_dim(nats(variables, images, labels, dropout_keys), net.num_places)
        return losses.mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        found = nats(variables, batch["image"], batch["label"])
        given = "_given_label" if conditional else ""
        if net.levels != 256:  # no likelihood of 8-bit images
            return {f"nats{given}": found}
        name = LikelihoodProtocol("8-bit", "exact").name
        bits = bits_per_dim(found, net.num_places)
        return {name(f"nats{given}"): found, name(f"bits_per_dim{given}"): bits}

    def fill(variables: Variables, key: Array, levels: Array, known: Array, labels: Array) -> Array:
        def step(decoding: Any, levels: Array, i: Array, labels: Array) -> tuple[Array, Any]:
            return decode(variables, decoding, levels, i, labels)

        run, copies = guided(step, labels, net.num_classes, guidance)
        return fill_in(run, net.empty(copies * levels.shape[0]), levels, known, key, filter)

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        levels = jnp.zeros((labels.shape[0], net.num_places), jnp.int32)
        return to_images(fill(variables, key, levels, levels > 0, labels))

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = jnp.broadcast_to(as_mask(mask, images), images.shape)
        places = patchify(known, net.patch).reshape(images.shape[0], -1)
        filled = to_images(fill(variables, key, to_levels(images), places, labels))
        return jnp.where(known, images, filled)

    phases = (Phase("autoregressive", ("net",), objective, tx),)
    method = Method(init=init, phases=phases, ema=("net",), sample=sample, evaluate=evaluate, inpaint=inpaint)
    return Autoregressive(method, log_likelihood, to_levels, to_images, net.empty, decode)


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

    In random order each token is told the place of the next one (Yu et al., RAR, arXiv 2411.00776). Training draws an
    order for each example, sampling too; inpainting then reads the known tokens first, so that the others heed all of
    them. Held-out figures are those of the order row by row. They are likelihoods of tokens, not of images.

    In inpainting a token is known if its whole cell of the image is; known pixels stay what they are.

    Args:
      net: over the tokenizer's codes and grid; with num_classes > 0 the model is p(tokens | label).
      tokenizer, frozen: as `load_tokenizer` gives them; no phase trains these variables.
      tx: the optimiser.
      label_drop: how often training hides the label, where the net has labels.
      guidance: weight of classifier-free guidance; 1 for none.
      filter: of the logits in sampling.
      random_order: whether tokens are read in random orders, or row by row.

    Raises:
      ValueError: as `pixel_autoregressive`; or a net of another grid or number of codes than the tokenizer.
    """
    _check(label_drop, guidance, filter, net.num_classes > 0)
    if (net.grid, net.num_codes) != (tokenizer.grid, tokenizer.num_codes):
        raise ValueError(
            f"the net takes {net.num_codes} codes on a grid {list(net.grid)}, the tokenizer has "
            f"{tokenizer.num_codes} on {list(tokenizer.grid)}"
        )
    num_places = net.num_places

    def init(key: Array, batch: Batch) -> Variables:
        tokens = jnp.zeros((batch["label"].shape[0], num_places), jnp.int32)
        return {**frozen, "net": net.init(key, tokens, batch["label"] * 0, orders(tokens, key))}

    def orders(tokens: Array, key: Array, index: Array | None = None, known: Array | None = None) -> Array:
        """Places in the order in which they are read, int32 [n, t]: row by row, or drawn, the known ones first."""
        if index is None or not random_order:
            return jnp.broadcast_to(jnp.arange(num_places, dtype=jnp.int32), tokens.shape)
        rank = noise.uniform(key, index, (num_places,))
        return jnp.argsort(rank if known is None else rank - known, axis=1).astype(jnp.int32)

    def nats(variables: Variables, images: Array, labels: Array, order: Array, keys: Array | None) -> Array:
        tokens = lax.stop_gradient(tokenizer.tokenize(variables, images)).reshape(images.shape[0], -1)
        tokens = jnp.take_along_axis(tokens, order, axis=1)
        logits = net.apply(variables["net"], tokens, labels, order, dropout_keys=keys)
        return cross_entropy(logits, tokens).sum(1)  # pyright: ignore[reportArgumentType]

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        keys = [jax.random.fold_in(key, i) for i in range(3)]
        labels = _drop_labels(batch, keys[0], label_drop, net.num_classes)
        order = orders(jnp.zeros((labels.shape[0], num_places)), keys[2], batch["index"])
        dropout_keys = noise.example_keys(keys[1], batch["index"])
        return (nats(variables, batch["image"], labels, order, dropout_keys) / num_places).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        order = orders(jnp.zeros((batch["label"].shape[0], num_places)), key)
        found = nats(variables, batch["image"], batch["label"], order, None)
        given = "_given_label" if net.num_classes else ""
        return {f"token_nats{given}": found, f"bits_per_token{given}": bits_per_dim(found, num_places)}

    def fill(variables: Variables, key: Array, tokens: Array, known: Array, labels: Array) -> Array:
        n = tokens.shape[0]
        order = orders(tokens, jax.random.fold_in(key, 0), jnp.arange(n), known.astype(jnp.float32))

        def step(decoding: Any, tokens: Array, i: Array, labels: Array) -> tuple[Array, Any]:
            each = jnp.concatenate([order] * (tokens.shape[0] // n))
            return net.apply(variables["net"], decoding, tokens, i, labels, each, method="decode")  # pyright: ignore[reportReturnType]

        run, copies = guided(step, labels, net.num_classes, guidance)
        tokens, known = (jnp.take_along_axis(x, order, axis=1) for x in (tokens, known))
        tokens = fill_in(run, net.empty(copies * n), tokens, known, jax.random.fold_in(key, 1), filter)
        tokens = jnp.take_along_axis(tokens, jnp.argsort(order, axis=1), axis=1)
        return tokenizer.detokenize(variables, tokens.reshape(n, *net.grid))

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        tokens = jnp.zeros((labels.shape[0], num_places), jnp.int32)
        return jnp.clip(fill(variables, key, tokens, tokens > 0, labels), -1.0, 1.0)

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = as_mask(mask, images)
        tokens, are_known = tokenize_known(tokenizer, variables, images, known)
        filled = fill(variables, key, tokens, are_known, labels)
        return jnp.where(known, images, jnp.clip(filled, -1.0, 1.0))

    phases = (Phase("autoregressive", ("net",), objective, tx),)
    return Method(init=init, phases=phases, ema=("net",), sample=sample, evaluate=evaluate, inpaint=inpaint)


def cross_entropy(logits: Array, targets: Array) -> Array:
    """-log softmax(logits)_target: float [..., k] and int32 [...] in 0..k-1 -> nats [...], >= 0."""
    return optax.softmax_cross_entropy_with_integer_labels(logits, targets)


def guided(
    step: Callable[[Any, Array, Array, Array], tuple[Array, Any]], labels: Array, num_classes: int, weight: float
) -> tuple[Step, int]:
    """A decoding step at given labels, with guidance; and how many copies of the examples it decodes."""
    if weight == 1:
        return lambda decoding, tokens, i: step(decoding, tokens, i, labels), 1
    both = jnp.concatenate([labels, jnp.full_like(labels, num_classes)])

    def run(decoding: Any, tokens: Array, i: Array) -> tuple[Array, Any]:
        logits, decoding = step(decoding, jnp.concatenate([tokens, tokens]), i, both)
        conditional, unconditional = jnp.split(logits, 2)
        return guide_logits(conditional, unconditional, weight), decoding

    return run, 2


def fill_in(step: Step, decoding: Any, tokens: Array, known: Array, key: Array, options: LogitFilter) -> Array:
    """Draws the unknown tokens one by one: int32 [n, t], of which bool [n, t] are known -> int32 [n, t]."""
    index = jnp.arange(tokens.shape[0])

    def body(carry: tuple[Array, Any], i: Array) -> tuple[tuple[Array, Any], None]:
        tokens, decoding = carry
        logits, decoding = step(decoding, tokens, i)
        keys = noise.example_keys(jax.random.fold_in(key, i), index)
        drawn = jax.vmap(jax.random.categorical)(keys, filter_logits(logits, options)).astype(tokens.dtype)
        return (tokens.at[:, i].set(jnp.where(known[:, i], tokens[:, i], drawn)), decoding), None

    places = jnp.arange(tokens.shape[1], dtype=jnp.int32)
    return lax.scan(body, (tokens, decoding), places)[0][0]


def _drop_labels(batch: Batch, key: Array, probability: float, num_classes: int) -> Array:
    """Labels, some of them num_classes, which stands for none."""
    if not num_classes:
        return batch["label"]
    return jnp.where(noise.uniform(key, batch["index"]) < probability, num_classes, batch["label"])


def _check(label_drop: float, guidance: float, options: LogitFilter, conditional: bool) -> None:
    check_filter(options)
    if not 0 <= label_drop <= 1:
        raise ValueError(f"label_drop is a probability, got {label_drop}")
    if guidance != 1 and not (conditional and label_drop):
        raise ValueError("guidance needs num_classes > 0 and label_drop > 0")
