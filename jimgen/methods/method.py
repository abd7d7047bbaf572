"""What a generative method is."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax import Array

from jimgen.data.dataset import DataSpec
from jimgen.train_step import Batch, Phase, Variables


class Method(NamedTuple):
    """A generative method over given nets: pure functions, no state.

    Images are float32 [n, h, w, c] in [-1, 1], labels int32 [n], keys PRNG keys, `variables` the nets' by name. Every
    method trains and samples. A capability that a method lacks is None:

    reconstruct: images through the latent space and back (VAEs, tokenizers).
    interpolate: a walk between random latents (GANs, VAEs).
    inpaint: new content in the unknown part of an image (flows, masked and autoregressive transformers).
    evaluate: metrics of held-out examples, of which training reports the mean over the test split.
    aggregate: scalar metrics computed from dataset means, for metrics that no example has alone, such as the usage of a
      codebook: it takes the means [k] of those metrics of `evaluate` that are vectors.
    """

    init: Callable[[Array, Batch], Variables]  # (key, example batch) -> variables of all nets
    phases: tuple[Phase, ...]
    ema: tuple[str, ...]  # nets whose moving average is kept, and sampled from
    sample: Callable[[Variables, Array, Array], Array]  # (variables, key, labels) -> images
    num_classes: int = 0  # labels that the nets know; 0: samples do not depend on labels
    reconstruct: Callable[[Variables, Array, Array], Array] | None = None  # (variables, images, labels) -> images
    interpolate: Callable[[Variables, Array, Array, int], Array] | None = None
    # (variables, key, labels, steps) -> images [n, steps, h, w, c]
    inpaint: Callable[[Variables, Array, Array, Array, Array], Array] | None = None
    # (variables, key, images, mask, labels) -> images; mask bool [n, h, w], True = known
    evaluate: Callable[[Variables, Batch, Array], dict[str, Array]] | None = None  # -> metrics, [n] or [n, k] each
    aggregate: Callable[[dict[str, Array]], dict[str, Array]] | None = None  # means [k] -> metrics, [] each


class HasMethod(Protocol):
    """A method with more beside it, such as a tokenizer with its functions between images and tokens."""

    @property
    def method(self) -> Method: ...


Build = Callable[[Any, DataSpec], Method | HasMethod]  # what an experiment defines: (its Config, data) -> method
