"""Lossless coding of images by the exact likelihood of a pixel transformer.

A net computes, one sub-pixel after another, the probabilities by which a range coder codes it. Encoder and decoder run
one compiled program, because a single different bit in a probability would spoil all that follows.
"""

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.apps.codec.range_coder import categorical, constriction, decoded, decoder
from jimgen.methods.autoregressive import Autoregressive
from jimgen.train_step import Variables


def encode(model: Autoregressive, variables: Variables, images: Array, labels: Array) -> np.ndarray:
    """Images float32 [n, h, w, c] in [-1, 1] -> the code of all images, uint32 [words], little-endian."""
    levels = np.asarray(model.to_levels(images))
    coder, family = constriction().stream.queue.RangeEncoder(), _family()
    probabilities = _program(model, variables, labels)
    decoding = model.empty(len(levels))
    for i in range(levels.shape[1]):
        p, decoding = probabilities(decoding, jnp.asarray(levels), jnp.asarray(i, jnp.int32))
        coder.encode(np.ascontiguousarray(levels[:, i]), family, np.asarray(p))
    return coder.get_compressed().astype("<u4")


def decode(model: Autoregressive, variables: Variables, code: bytes, labels: Array, num_places: int) -> Array:
    """The images float32 [n, h, w, c] of a code, for labels int32 [n].

    Raises:
        DamagedFile: no images have this code.
    """
    coder, family = decoder(code), _family()
    probabilities = _program(model, variables, labels)
    decoding, levels = model.empty(len(labels)), np.zeros((len(labels), num_places), np.int32)
    for i in range(num_places):
        p, decoding = probabilities(decoding, jnp.asarray(levels), jnp.asarray(i, jnp.int32))
        levels[:, i] = decoded(coder, family, np.asarray(p))
    return model.to_images(jnp.asarray(levels))


def _program(model: Autoregressive, variables: Variables, labels: Array):
    """Returns a function (decoding, levels, i) -> (probabilities float32 [n, levels] of place i, decoding)."""

    @jax.jit
    def run(variables: Any, decoding: Any, levels: Array, i: Array) -> tuple[Array, Any]:
        logits, decoding = model.decode(variables, decoding, levels, i, labels)
        return jax.nn.softmax(logits), decoding

    return lambda *args: run(variables, *args)


def _family() -> Any:
    return categorical()(perfect=False)
