"""The lossless kinds: pictures coded by the probabilities that a model gives them, with a checksum of the pixels.

A single different bit in a probability spoils all that follows, and another platform may compute another one. So these
files are for the platform that wrote them; the checksum notices.
"""

import math
import zlib
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.apps.codec import bits_back, pixels
from jimgen.apps.codec.container import MOST_PIXELS, Block, Kind
from jimgen.apps.codec.errors import DamagedFile, OtherModel
from jimgen.apps.codec.identity import identity
from jimgen.apps.codec.payload import Payload
from jimgen.conditions import NumClasses, open_labels
from jimgen.data.batches import scale_images
from jimgen.errors import UserError
from jimgen.methods.autoregressive import Autoregressive
from jimgen.methods.hierarchical_vae import HierarchicalVAE
from jimgen.pictures import to_uint8
from jimgen.train_step import Variables

NOT_PORTABLE = (
    "lossless files need the model and the platform that wrote them: the same run, processor and version of JAX"
)
SIDE_BY_SIDE = 64  # pictures that a pixel transformer codes together
DRAWN = 100  # samples whose posteriors choose the bins of latents


def by_pixels(model: Autoregressive, variables: Variables, shape: tuple[int, int, int]) -> Payload:
    """Pictures [h, w, c] by the likelihood of a pixel transformer, labels open.

    Raises:
        UnusableModel: weights are not finite.
    """

    coder = pixels.make_coder(model, variables)

    def labels(num: int) -> Array:
        return _open(num, model.method.num_classes)

    def encode(pictures: np.ndarray) -> bytes:
        images = scale_images(jnp.asarray(pictures))
        if not np.array_equal(to_uint8(model.to_images(model.to_levels(images))), pictures):
            raise UserError("the run knows fewer grey levels than these pictures have: it would not be lossless")
        return pixels.encode(coder, images, labels(len(pictures))).tobytes()

    def decode(code: bytes, num: int) -> np.ndarray:
        return to_uint8(pixels.decode(coder, code, labels(num), math.prod(shape)))

    return _payload(Kind.PIXELS, identity(variables), shape, encode, decode, SIDE_BY_SIDE)


def by_latents(vae: HierarchicalVAE, variables: Variables, shape: tuple[int, int, int]) -> Payload:
    """Pictures [h, w, c] by bits-back coding with a hierarchical VAE of discrete pixels, labels open.

    The model's own samples choose the bins of its latents, so that decoding needs no training images.

    Raises:
        UnusableModel: weights are not finite.
        UserError: pixels that are not discrete to the model.
    """
    identity(variables)  # before anything is drawn: weights must be finite
    labels = _open(DRAWN, vae.method.num_classes)
    drawn = to_uint8(jax.jit(vae.method.sample)(variables, jax.random.key(0), labels))
    if vae.nets.likelihood.data == "binarised":
        drawn = np.where(np.random.default_rng(0).random(drawn.shape) < drawn / 255, 255, 0).astype(np.uint8)
    coder = bits_back.make_coder(vae.nets, variables, drawn, labels[:1])

    def encode(pictures: np.ndarray) -> bytes:
        return bits_back.encode(coder, pictures).astype("<u4").tobytes()

    def decode(code: bytes, num: int) -> np.ndarray:
        if len(code) % 4 or not any(code[-4:]):
            raise DamagedFile(f"a code of {len(code)} bytes that no encoder writes")
        return bits_back.decode(coder, np.frombuffer(code, "<u4").astype(np.uint32), num)

    return _payload(Kind.BITS_BACK, identity(variables, coder.bits), shape, encode, decode, MOST_PIXELS)


def _payload(
    kind: Kind,
    model: bytes,
    shape: tuple[int, int, int],
    encode: Callable[[np.ndarray], bytes],
    decode: Callable[[bytes, int], np.ndarray],
    at_a_time: int,
) -> Payload:
    """The payload of a code for up to `at_a_time` pictures of one shape; `decode` takes their number."""

    def parts_of(num: int) -> list[slice]:
        return [slice(start, min(start + at_a_time, num)) for start in range(0, num, at_a_time)]

    def to_block(pictures: np.ndarray, rate: int) -> Block:
        if pictures.shape[1:] != shape:
            raise ValueError(f"expected pictures {list(shape)}, got {list(pictures.shape[1:])}")
        codes = tuple(encode(pictures[part]) for part in parts_of(len(pictures)))
        block = Block(len(pictures), shape, 0, zlib.crc32(pictures.tobytes()), codes)
        to_pictures(block)
        return block

    def to_pictures(block: Block) -> np.ndarray:
        parts = parts_of(block.num)
        if block.shape != shape or len(block.parts) != len(parts) or block.rate:
            raise DamagedFile(f"pictures {list(block.shape)} in {len(block.parts)} parts: not of this model")
        try:
            codes = zip(block.parts, parts, strict=True)
            pictures = np.concatenate([decode(code, part.stop - part.start) for code, part in codes])
        except DamagedFile as error:
            raise OtherModel(f"decoded to nothing that was stored: {NOT_PORTABLE}") from error
        if zlib.crc32(pictures.tobytes()) != block.checksum:
            raise OtherModel(f"decoded pictures do not have the stored checksum: {NOT_PORTABLE}")
        return pictures

    return Payload(kind, model, shape[2], shape[:2], 1, to_block, to_pictures)


def _open(num: int, num_classes: NumClasses) -> Array:
    """Labels of `num` pictures that say nothing."""
    labels = jnp.zeros((num, len(num_classes)) if isinstance(num_classes, tuple) else (num,), jnp.int32)
    return open_labels(labels, num_classes) if num_classes else labels
