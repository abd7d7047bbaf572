"""MaskGIT (Chang et al., arXiv:2202.04200): predict masked tokens, and fill a masked grid in a few parallel steps."""

import math
from collections.abc import Mapping
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import optax
from jax import Array

from jimgen import noise
from jimgen.conditions import NumClasses, drop_labels
from jimgen.methods.method import Method
from jimgen.methods.tokenizer import Tokenizer, tokenize_known
from jimgen.objectives import masked_cross_entropy
from jimgen.sampling.guidance import check_guidance, guided
from jimgen.sampling.posterior import as_mask
from jimgen.sampling.tokens import decode_in_parallel, lowest
from jimgen.train_step import Aux, Batch, Phase, Variables


class _Net(NamedTuple):
    """The net, applied to the tokens of a frozen tokenizer."""

    net: nn.Module
    tokenizer: Tokenizer
    num_classes: NumClasses

    @property
    def num_tokens(self) -> int:
        return math.prod(self.tokenizer.grid)

    def logits(self, variables: Variables, tokens: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        return self.net.apply(variables["net"], tokens, labels, dropout_keys=dropout_keys)  # pyright: ignore[reportReturnType]

    def losses(
        self, variables: Variables, batch: Batch, key: Array, smoothing: float, label_drop: float, train: bool
    ) -> Array:
        """Mean cross-entropy over the masked tokens of each example at one draw of the mask: [b] nats."""
        index = batch["index"]
        keys = [jax.random.fold_in(key, i) for i in range(4)]
        tokens = self.tokenizer.tokenize(variables, batch["image"]).reshape(-1, self.num_tokens)
        ratio = jnp.cos(jnp.pi / 2 * noise.uniform(keys[0], index))
        hidden = lowest(noise.uniform(keys[1], index, (self.num_tokens,)), jnp.ceil(self.num_tokens * ratio))
        labels = drop_labels(batch["label"], keys[2], index, label_drop, self.num_classes)
        dropout_keys = noise.example_keys(keys[3], index) if train else None
        logits = self.logits(variables, jnp.where(hidden, self.tokenizer.num_codes, tokens), labels, dropout_keys)
        return masked_cross_entropy(logits, tokens, hidden, smoothing)

    def images(self, variables: Variables, tokens: Array) -> Array:
        return self.tokenizer.detokenize(variables, tokens.reshape(-1, *self.tokenizer.grid))


def masked(
    net: nn.Module,
    tokenizer: Tokenizer,
    frozen: Mapping[str, Any],
    *,
    num_classes: NumClasses,
    tx: optax.GradientTransformation,
    label_drop: float = 0.1,
    label_smoothing: float = 0.1,
    num_steps: int = 8,
    choice_temperature: float = 4.5,
    guidance: float = 1.0,
) -> Method:
    """MaskGIT over a trained tokenizer: one phase; sampler, inpainting, held-out loss.

    The tokenizer's nets are part of the variables and of every checkpoint; no phase trains them.

    Args:
        net: (tokens int32 [b, t] with num_codes for MASK, labels, dropout_keys=keys [b]) -> logits
            [b, t, num_codes].
        tokenizer, frozen: the functions and the variables by net name from `runs.tokenizer.load_tokenizer`.
        num_classes: 0 to learn and sample without labels.
        tx: the optimiser.
        label_drop: probability with which training hides a label, for guidance.
        label_smoothing: epsilon of the cross-entropy, spread over all codes.
        num_steps: number of decoding steps.
        choice_temperature: tau, the scale of the noise in the choice of the tokens to keep; it decreases to 0.
        guidance: weight w of u + w (c - u) on the logits; 1 for none.
    Raises:
        ValueError: for guidance without num_classes > 0 and label_drop > 0, fewer than 1 step, or label_drop or
            label_smoothing outside [0, 1].
    """
    if not 0 <= label_smoothing <= 1:
        raise ValueError(f"label_smoothing must be in [0, 1], got {label_smoothing}")
    check_guidance(guidance, num_classes, label_drop)
    if num_steps < 1:
        raise ValueError(f"decoding takes at least 1 step, got {num_steps}")
    model = _Net(net, tokenizer, num_classes)
    num_codes, num_tokens = tokenizer.num_codes, model.num_tokens

    def init(key: Array, batch: Batch) -> Variables:
        tokens = jnp.zeros((batch["image"].shape[0], num_tokens), jnp.int32)
        return {"net": net.init(key, tokens, batch["label"] * 0), **jax.tree.map(jnp.asarray, dict(frozen))}

    def objective(variables: Variables, batch: Batch, key: Array) -> tuple[Array, Aux]:
        return model.losses(variables, batch, key, label_smoothing, label_drop, train=True).mean(), Aux({})

    def evaluate(variables: Variables, batch: Batch, key: Array) -> dict[str, Array]:
        return {"bits_per_masked_token": model.losses(variables, batch, key, 0.0, 0.0, train=False) / math.log(2)}

    def fill(variables: Variables, key: Array, tokens: Array, labels: Array) -> Array:
        """Decodes the masked tokens among tokens int32 [n, t]; the others are kept."""

        def logits_of(tokens: Array) -> Array:
            return guided(lambda x, labels: model.logits(variables, x, labels), tokens, labels, num_classes, guidance)

        return decode_in_parallel(logits_of, tokens, key, num_codes, num_steps, choice_temperature)

    def sample(variables: Variables, key: Array, labels: Array) -> Array:
        empty = jnp.full((labels.shape[0], num_tokens), num_codes, jnp.int32)
        return model.images(variables, fill(variables, key, empty, labels))

    def inpaint(variables: Variables, key: Array, images: Array, mask: Array, labels: Array) -> Array:
        known = as_mask(mask, images)
        tokens, are_known = tokenize_known(tokenizer, variables, images, known)
        tokens = jnp.where(are_known, tokens, num_codes)
        return jnp.where(known, images, model.images(variables, fill(variables, key, tokens, labels)))

    return Method(
        init=init,
        phases=(Phase("masked", ("net",), objective, tx),),
        ema=("net",),
        sample=sample,
        num_classes=num_classes,
        hides_labels=label_drop > 0,
        evaluate=evaluate,
        inpaint=inpaint,
    )
