"""What a generative method is."""

from collections.abc import Callable
from typing import NamedTuple

from jax import Array

from jimgen.train_step import Batch, Phase, Variables


class Method(NamedTuple):
    """A generative method over given nets: pure functions, no state. What only some methods can do is None elsewhere.

    Images are float32 [n, h, w, c] in [-1, 1], labels int32 [n], keys PRNG keys, `variables` the nets' by name.
    """

    init: Callable[[Array, Batch], Variables]  # (key, example batch) -> variables of all nets
    phases: tuple[Phase, ...]
    ema: tuple[str, ...]  # nets whose moving average is kept, and sampled from
    sample: Callable[[Variables, Array, Array], Array]  # (variables, key, labels) -> images
    reconstruct: Callable[[Variables, Array, Array], Array] | None = None  # (variables, images, labels) -> images
    encode: Callable[[Variables, Array, Array], tuple[Array, Array]] | None = None  # -> latent mean, logvar [n, d]
    decode: Callable[[Variables, Array, Array], Array] | None = None  # (variables, z [n, d], labels) -> images
    interpolate: Callable[[Variables, Array, Array, int], Array] | None = None  # (.., labels, steps) -> [n, steps, ...]
    evaluate: Callable[[Variables, Batch, Array], dict[str, Array]] | None = None  # figures of held-out data, each [n]
    # What only a whole set tells: means over it of the figures of `evaluate` that are vectors, [k] -> figures, [] each
    summarise: Callable[[dict[str, Array]], dict[str, Array]] | None = None
    # (variables, key, images, mask, labels) -> images; mask bool [n, h, w], True = known
    inpaint: Callable[[Variables, Array, Array, Array, Array], Array] | None = None
