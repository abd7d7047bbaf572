"""Lossless coding of images by the exact likelihood of a pixel transformer.

A net computes, one sub-pixel after another, the probabilities by which a range coder codes it. Encoder and decoder run
one compiled program, because a single different bit in a probability would spoil all that follows.
"""

from collections.abc import Callable
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.apps.codec.range_coder import categorical, constriction, decoded, decoder
from jimgen.methods.autoregressive import Autoregressive
from jimgen.train_step import Variables


class Coder(NamedTuple):
    """What encoder and decoder share."""

    model: Autoregressive
    variables: Variables
    probabilities: Callable[..., tuple[Array, Any]]
    # compiled: (variables, decoding, levels int32 [n, places], place, labels) -> float32 [n, levels], decoding


def make_coder(model: Autoregressive, variables: Variables) -> Coder:
    """A coder for any number of images; one program serves equal numbers of them."""

    @jax.jit
    def probabilities(variables: Variables, decoding: Any, levels: Array, i: Array, labels: Array) -> tuple[Array, Any]:
        logits, decoding = model.decode(variables, decoding, levels, i, labels)
        return jax.nn.softmax(logits), decoding

    return Coder(model, variables, probabilities)


def encode(coder: Coder, images: Array, labels: Array) -> np.ndarray:
    """Images float32 [n, h, w, c] in [-1, 1] with labels int32 [n] -> the code of all images, uint32 [words]."""
    levels = np.asarray(coder.model.to_levels(images))
    stream, family = constriction().stream.queue.RangeEncoder(), _family()
    decoding = coder.model.empty(len(levels))
    for i in range(levels.shape[1]):
        p, decoding = _probabilities(coder, decoding, levels, i, labels)
        stream.encode(np.ascontiguousarray(levels[:, i]), family, p)
    return stream.get_compressed().astype("<u4")


def decode(coder: Coder, code: bytes, labels: Array, num_places: int) -> Array:
    """The images float32 [n, h, w, c] of a code, for labels int32 [n].

    Raises:
        DamagedFile: no images have this code.
    """
    stream, family = decoder(code), _family()
    decoding, levels = coder.model.empty(len(labels)), np.zeros((len(labels), num_places), np.int32)
    for i in range(num_places):
        p, decoding = _probabilities(coder, decoding, levels, i, labels)
        levels[:, i] = decoded(stream, family, p)
    return coder.model.to_images(jnp.asarray(levels))


def _probabilities(coder: Coder, decoding: Any, levels: np.ndarray, i: int, labels: Array) -> tuple[np.ndarray, Any]:
    place = jnp.asarray(i, jnp.int32)
    p, decoding = coder.probabilities(coder.variables, decoding, jnp.asarray(levels), place, labels)
    return np.asarray(p), decoding


def _family() -> Any:
    return categorical()(perfect=False)
