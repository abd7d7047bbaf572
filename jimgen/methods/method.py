"""What a generative method is."""

from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
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


def sample_many(method: Method, variables: Variables, key: Array, labels: np.ndarray, chunk: int = 256) -> np.ndarray:
    """Samples any number of images in chunks of one compiled size.

    Args:
      method, variables: what to sample from.
      key: a PRNG key.
      labels: int32 [n].
      chunk: images at a time. Chunk i draws from fold_in(key, i), so another size gives another set.

    Returns:
      Images float32 [n, h, w, c] in [-1, 1], the same on any number of devices. The first ones do not depend on n.
    """
    draw = jax.jit(method.sample)
    images = []
    for i, start in enumerate(range(0, len(labels), chunk)):
        part = labels[start : start + chunk]
        padded = jnp.asarray(np.resize(part, chunk))
        images.append(np.asarray(draw(variables, jax.random.fold_in(key, i), padded))[: len(part)])
    return np.concatenate(images)
