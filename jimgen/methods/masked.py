"""MaskGIT (Chang et al., arXiv 2202.04200): predict masked tokens, and fill a masked grid in a few parallel steps."""

import math
from collections.abc import Callable, Mapping
from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import optax
from jax import Array, lax

from jimgen import noise
from jimgen.methods.flow import as_mask
from jimgen.methods.method import Method
from jimgen.methods.tokenizer import Tokenizer, tokenize_known
from jimgen.sampling_logits import guide_logits
from jimgen.train_step import Aux, Batch, Phase, Variables


def masked(
    net: nn.Module,
    tokenizer: Tokenizer,
    frozen: Mapping[str, Any],
    *,
    num_classes: int,
    tx: optax.GradientTransformation,
    label_drop: float = 0.1,
    label_smoothing: float = 0.1,
    num_steps: int = 8,
    randomness: float = 4.5,
    guidance: float = 1.0,
) -> Method:
    """MaskGIT over a trained tokenizer: one phase; sampler, inpainting, held-out loss.

    The tokenizer's nets are part of the variables and of every checkpoint; no phase trains them.

    Args:
      net: (tokens int32 [b, t] with num_codes for MASK, labels int32 [b], dropout_keys=keys [b]) -> logits
        [b, t, num_codes]; the label num_classes stands for none.
      tokenizer, frozen: the functions, and the nets' variables by name, of `tokenizer_run.load_tokenizer`.
      num_classes: 0 to learn and sample without labels.
      tx: the optimiser.
      label_drop: how often training hides a label, for guidance.
      label_smoothing: epsilon of the cross-entropy, spread over all codes.
      num_steps: of decoding.
      randomness: tau of decoding: how much chance decides which tokens are kept; it falls to 0 with the steps.
      guidance: weight w of u + w (c - u) on the logits; 1 for none.

    Raises:
      ValueError: guidance without classes, fewer than 1 step, or label_drop or label_smoothing outside [0, 1].
    """
    if not (0 <= label_drop <= 1 and 0 <= label_smoothing <= 1):
        raise ValueError(f"label_drop and label_smoothing are shares, got {label_drop} and {label_smoothing}")
    if guidance != 1 and not (num_classes and label_drop):
        raise ValueError("guidance needs num_classes > 0 and label_drop > 0")
    if num_steps < 1:
        raise ValueError(f"decoding takes at least 1 step, got {num_steps}")
    num_codes, num_tokens = tokenizer.num_codes, math.prod(tokenizer.grid)

    def init(key: Array, batch: Batch) -> Variables:
        tokens = jnp.zeros((batch["image"].shape[0], num_tokens), jnp.int32)
        return {"net": net.init(key, tokens, batch["label"] * 0), **jax.tree.map(jnp.asarray, dict(frozen))}

    def run(variables: Variables, tokens: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        return net.apply(variables["net"], tokens, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def tokens_of(variables: Variables, images: Array) -> Array:
        return tokenizer.tokenize(variables, images).reshape(-1, num_tokens)

    def losses(variables: Variables, batch: Batch, key: Array, smoothing: float, train: bool) -> Array:
        """Cross-entropy of each example, nats [b]: the mean over its masked tokens, at one draw of the mask."""
        index = batch["index"]
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        tokens = tokens_of(variables, batch["image"])
        ratio = jnp.cos(jnp.pi / 2 * noise.uniform(keys[0], index))
        hidden = lowest(noise.uniform(keys[1], index, (num_tokens,)), jnp.ceil(num_tokens * ratio))
        dropped = noise.uniform(keys[2], index) < label_drop if train else jnp.zeros(index.shape, bool)
        labels = jnp.where(dropped, num_classes, batch["label"]) if num_classes else jnp.zeros_like(batch["label"])
        dropout_keys = noise.example_keys(keys[3], index) if train else None
        logits = run(variables, jnp.where(hidden, num_codes, tokens), labels, dropout_keys)
        nats = smoothed_cross_entropy(logits, tokens, smoothing)
        return jnp.where(hidden, nats, 0.0).sum(-1) / hidden.sum(-1)

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        return losses(variables, batch, key, label_smoothing, train=True).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return {"bits_per_masked_token": losses(variables, batch, key, 0.0, train=False) / math.log(2)}

    def logits_of(variables: Variables, tokens: Array, labels: Array) -> Array:
        if guidance == 1:
            return run(variables, tokens, labels)
        none = jnp.full_like(labels, num_classes)
        both = run(variables, jnp.concatenate([tokens, tokens]), jnp.concatenate([labels, none]))
        conditional, unconditional = jnp.split(both, 2)
        return guide_logits(conditional, unconditional, guidance)

    def fill(variables: Variables, key: Array, tokens: Array, labels: Array) -> Array:
        """Decodes the masked ones among tokens [n, t]; the others stay."""
        labels = labels if num_classes else jnp.zeros_like(labels)
        return decode(lambda x: logits_of(variables, x, labels), tokens, key, num_codes, num_steps, randomness)

    def images_of(variables: Variables, tokens: Array) -> Array:
        return tokenizer.detokenize(variables, tokens.reshape(-1, *tokenizer.grid))

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        empty = jnp.full((labels.shape[0], num_tokens), num_codes, jnp.int32)
        return images_of(variables, fill(variables, key, empty, labels))

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = as_mask(mask, images)
        tokens, are_known = tokenize_known(tokenizer, variables, images, known)
        tokens = jnp.where(are_known, tokens, num_codes)
        return jnp.where(known, images, images_of(variables, fill(variables, key, tokens, labels)))

    return Method(
        init=init,
        phases=(Phase("masked", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        evaluate=evaluate,
        inpaint=inpaint,
    )


def smoothed_cross_entropy(logits: Array, targets: Array, smoothing: float) -> Array:
    """-(1 - eps) log p(y) - eps / K sum_k log p(k): logits [..., K], targets int [...] -> nats [...].

    Szegedy et al., arXiv 1512.00567, section 7.
    """
    log_p = jax.nn.log_softmax(logits)
    of_target = jnp.take_along_axis(log_p, targets[..., None], axis=-1)[..., 0]
    return -(1 - smoothing) * of_target - smoothing * log_p.mean(-1)


def lowest(values: Array, count: Array) -> Array:
    """True for the `count` [n] lowest of values [n, t] in each row: bool [n, t]. Of equal ones the earlier."""
    ranks = jnp.argsort(jnp.argsort(values, axis=-1), axis=-1)
    return ranks < count[:, None]


def num_masked(num_unknown: np.ndarray | Array, num_steps: int, most: int) -> Array:
    """How many tokens are still masked after each step, of `num_unknown` int [n] <= most at the start: [num_steps, n].

    floor(N cos(pi (s + 1) / (2 T))) for s = 0 .. T - 1: 16 in 4 steps leave 14, 11, 6, 0. `decode` clips it to 1 less
    than are unknown and to at least 1. Chang et al., arXiv 2202.04200, section 3.3.
    """
    # In float64: floor must not meet 11.999999 for 12.
    ratios = np.cos(np.pi * np.arange(1, num_steps + 1) / (2 * num_steps))
    table = np.floor(ratios[:, None] * np.arange(most + 1)[None] + 1e-9).astype(np.int32)
    return jnp.asarray(table)[:, num_unknown]


def decode(
    logits_of: Callable[[Array], Array], tokens: Array, key: Array, num_codes: int, num_steps: int, randomness: float
) -> Array:
    """Parallel decoding as one scan: each step draws all unknown tokens and keeps the ones it is most confident of.

    Confidence is log p(token) + tau (1 - (s + 1) / T) g with Gumbel noise g, and infinite for known tokens. The clip of
    the schedule leaves one token masked after the last step, so what comes back are the draws before masking again.

    Args:
      logits_of: tokens int32 [n, t] -> logits [n, t, num_codes].
      tokens: int32 [n, t], num_codes where unknown.
      key: a PRNG key.
      num_codes: K, also the MASK token.
      num_steps: T.
      randomness: tau.

    Returns:
      int32 [n, t] in [0, num_codes); known tokens unchanged.
    """
    n, t = tokens.shape
    keys = noise.example_keys(key, jnp.arange(n))
    schedule = num_masked((tokens == num_codes).sum(-1), num_steps, t)

    def gumbel(step: Array, part: int, shape: tuple[int, ...]) -> Array:
        def draw(key: Array) -> Array:
            return jax.random.gumbel(jax.random.fold_in(jax.random.fold_in(key, step), part), shape)

        return jax.vmap(draw)(keys)

    def one(carry: tuple[Array, Array], at: tuple[Array, Array]) -> tuple[tuple[Array, Array], None]:
        tokens, _ = carry
        step, still = at
        unknown = tokens == num_codes
        log_p = jax.nn.log_softmax(logits_of(tokens))
        drawn = jnp.argmax(log_p + gumbel(step, 0, log_p.shape[1:]), axis=-1).astype(jnp.int32)
        drawn = jnp.where(unknown, drawn, tokens)
        heat = randomness * (1 - (step + 1) / num_steps)
        confidence = jnp.take_along_axis(log_p, drawn[..., None], axis=-1)[..., 0] + heat * gumbel(step, 1, (t,))
        confidence = jnp.where(unknown, confidence, jnp.inf)
        count = jnp.maximum(1, jnp.minimum(unknown.sum(-1) - 1, still))
        again = lowest(confidence, count) & unknown
        return (jnp.where(again, num_codes, drawn), drawn), None

    (_, drawn), _ = lax.scan(one, (tokens, tokens), (jnp.arange(num_steps), schedule))
    return drawn
