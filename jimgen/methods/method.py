"""The interface of generative methods."""

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

from jax import Array

from jimgen.conditions import NumClasses
from jimgen.data.dataset import DataSpec
from jimgen.train_step import Batch, Phase, Variables


class Method(NamedTuple):
    """A generative method over given nets: pure functions, no state.

    Images are float32 [n, h, w, c] in [-1, 1], labels int32 [n] or [n, columns] (see conditions.py), keys PRNG
    keys, `variables` the nets' by name. Every method trains and samples. Capabilities that a method lacks are None:

    reconstruct: encodes and decodes images (VAEs, tokenizers).
    interpolate: interpolates between random latents (GANs, VAEs).
    inpaint: draws the unknown part of an image (flows, masked and autoregressive transformers).
    evaluate: computes metrics of held-out examples; training reports their means over the test split.
    aggregate: computes scalar metrics from dataset means, such as the usage of a codebook, which a single example does
        not have. It takes the means [k] of the vector-valued metrics of `evaluate`.
    """

    init: Callable[[Array, Batch], Variables]  # (key, example batch) -> variables of all nets
    phases: tuple[Phase, ...]
    ema: tuple[str, ...]  # nets whose moving average is kept, and used for sampling
    sample: Callable[[Variables, Array, Array], Array]  # (variables, key, labels) -> images
    num_classes: NumClasses = 0  # of the labels that the nets know; 0: samples do not depend on labels
    reconstruct: Callable[[Variables, Array, Array], Array] | None = None  # (variables, images, labels) -> images
    interpolate: Callable[[Variables, Array, Array, int], Array] | None = None
    # (variables, key, labels, steps) -> images [n, steps, h, w, c]
    inpaint: Callable[[Variables, Array, Array, Array, Array], Array] | None = None
    # (variables, key, images, mask, labels) -> images; mask bool [n, h, w], True = known
    evaluate: Callable[[Variables, Batch, Array], dict[str, Array]] | None = None  # -> metrics, [n] or [n, k] each
    aggregate: Callable[[dict[str, Array]], dict[str, Array]] | None = None  # means [k] -> metrics, [] each


class HasMethod(Protocol):
    """A method together with further functions, such as a tokenizer's functions between images and tokens."""

    @property
    def method(self) -> Method: ...


Build = Callable[[Any, DataSpec], Method | HasMethod]  # defined by an experiment: (Config, data) -> method
