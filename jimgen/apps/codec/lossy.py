"""The lossy kind: rounded latents of a run of experiments/codec.py, coded by integer tables.

No floating-point number decides about a bit, so a file gives the same latents everywhere. The nets that make and read
latents compute in floating point: decoded pixels may differ by a level between machines.
"""

from collections.abc import Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from jimgen.apps.codec import entropy_model as entropy
from jimgen.apps.codec.container import Block, Kind
from jimgen.apps.codec.errors import DamagedFile, OtherModel
from jimgen.apps.codec.identity import identity
from jimgen.apps.codec.payload import Payload
from jimgen.data.batches import scale_images
from jimgen.methods.codec import LARGEST_LATENT, Codec
from jimgen.nets.codec import PATCH, Latents
from jimgen.train_step import Variables

_PIXELS_AT_A_TIME = 2**16  # in the nets


def lossy(codec: Codec, variables: Variables, channels: int) -> Payload:
    """The payload of a codec with its variables; `channels` are those of its pictures.

    Raises:
        UnusableModel: weights or tables are not finite, or too large.
    """
    identity(variables["analysis"])  # it is not part of the identity below, but must be finite too
    model = entropy.entropy_model(variables, codec.channels, codec.num_rates)
    encode, decode = jax.jit(codec.encode), jax.jit(codec.decode)

    def to_block(pictures: np.ndarray, rate: int) -> Block:
        num, height, width, _ = pictures.shape
        rows, columns = -height % PATCH, -width % PATCH
        padded = np.pad(pictures, ((0, 0), (0, rows), (0, columns), (0, 0)), mode="edge")
        parts = [
            encode(variables, scale_images(jnp.asarray(padded[chosen])), jnp.full(size, rate))
            for chosen, size in _chunks(num, padded.shape[1] * padded.shape[2])
        ]
        latents = Latents(*(np.concatenate([np.asarray(x) for x in part])[:num] for part in zip(*parts, strict=True)))
        latents = Latents(*(np.clip(x, -LARGEST_LATENT, LARGEST_LATENT) for x in latents))
        code = entropy.encode_latents(model, latents, rate)
        block = Block(num, (height, width, channels), rate, entropy.checksum(latents), (code,))
        _latents_of(block)
        return block

    def to_pictures(block: Block) -> np.ndarray:
        latents, (height, width, _) = _latents_of(block), block.shape
        found = [
            decode(variables, Latents(*(jnp.asarray(x[chosen]) for x in latents)), jnp.full(size, block.rate))
            for chosen, size in _chunks(block.num, height * width)
        ]
        images = np.concatenate([np.asarray(x) for x in found])[: block.num, :height, :width]
        return np.rint((images + 1) * 127.5).astype(np.uint8)

    def _latents_of(block: Block) -> Latents:
        if block.shape[2] != channels or len(block.parts) != 1:
            raise DamagedFile(f"a block of {block.shape[2]} channels in {len(block.parts)} parts: not of this model")
        latents = entropy.decode_latents(model, block.parts[0], block.num, block.shape[:2], block.rate)
        if entropy.checksum(latents) != block.checksum:
            raise OtherModel("decoded latents do not have the stored checksum: the file is damaged, or not of this run")
        return latents

    decoder = identity(variables["synthesis"], model.priors, model.tables.frequencies)
    return Payload(Kind.LATENTS, decoder, channels, None, codec.num_rates, to_block, to_pictures)


def _chunks(num: int, pixels: int) -> Iterator[tuple[Any, int]]:
    """Indices of a few pictures at a time, all of one number, so that the nets compile once; the last may repeat."""
    size = min(num, max(1, _PIXELS_AT_A_TIME // pixels))
    for start in range(0, num, size):
        yield np.minimum(np.arange(start, start + size), num - 1), size
