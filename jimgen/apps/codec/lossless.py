"""The lossless kind: pictures coded by the exact likelihood of a run of experiments/pixel_transformer.py.

A net computes, one sub-pixel after another, the probabilities by which a range coder codes it. Encoder and decoder run
one compiled program, because a single different bit in a probability would spoil all that follows. Another platform may
compute another bit, so these files are for the platform that wrote them; a checksum of the pixels notices.
"""

import zlib
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.apps.codec.container import Block, Kind
from jimgen.apps.codec.errors import DamagedFile, OtherModel
from jimgen.apps.codec.identity import identity
from jimgen.apps.codec.payload import Payload
from jimgen.apps.codec.range_coder import categorical, constriction, decoded, decoder
from jimgen.conditions import open_labels
from jimgen.data.batches import scale_images
from jimgen.methods.autoregressive import Autoregressive
from jimgen.train_step import Variables

NOT_PORTABLE = (
    "lossless files of this kind need the model and the platform that wrote them: the same run, processor and version "
    "of JAX"
)
_PICTURES_AT_A_TIME = 64


def lossless(model: Autoregressive, variables: Variables, shape: tuple[int, int, int]) -> Payload:
    """The payload of a pixel transformer with its variables, for pictures [h, w, c] of its own shape. Labels are open.

    Raises:
        UnusableModel: weights are not finite.
    """

    def to_block(pictures: np.ndarray, rate: int) -> Block:
        if pictures.shape[1:] != shape:
            raise ValueError(f"expected pictures {list(shape)}, got {list(pictures.shape[1:])}")
        images, labels = scale_images(jnp.asarray(pictures)), _labels(len(pictures))
        groups = _groups(len(pictures))
        parts = tuple(encode(model, variables, images[group], labels[group]).tobytes() for group in groups)
        block = Block(len(pictures), shape, 0, zlib.crc32(pictures.tobytes()), parts)
        to_pictures(block)
        return block

    def to_pictures(block: Block) -> np.ndarray:
        groups = _groups(block.num)
        if block.shape != shape or len(block.parts) != len(groups) or block.rate:
            raise DamagedFile(f"pictures {list(block.shape)} in {len(block.parts)} parts: not of this model")
        try:
            found = [
                decode(model, variables, part, _labels(group.stop - group.start), int(np.prod(shape)))
                for part, group in zip(block.parts, groups, strict=True)
            ]
        except DamagedFile as error:
            raise OtherModel(f"decoded to nothing that was stored. {NOT_PORTABLE}") from error
        pictures = np.rint((np.concatenate([np.asarray(x) for x in found]) + 1) * 127.5).astype(np.uint8)
        if zlib.crc32(pictures.tobytes()) != block.checksum:
            raise OtherModel(f"decoded pictures do not have the stored checksum. {NOT_PORTABLE}")
        return pictures

    def _labels(num: int) -> Array:
        sizes = model.method.num_classes
        labels = jnp.zeros((num, len(sizes)) if isinstance(sizes, tuple) else (num,), jnp.int32)
        return open_labels(labels, sizes) if sizes else labels

    return Payload(Kind.PIXELS, identity(variables), shape[2], shape[:2], 1, to_block, to_pictures)


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


def _groups(num: int) -> list[slice]:
    return [slice(start, min(start + _PICTURES_AT_A_TIME, num)) for start in range(0, num, _PICTURES_AT_A_TIME)]
