"""Damaged files of `jimgen compress`: each gives a typed error, or the right pictures.

    python benchmarks/fuzz.py --kinds codec --inputs 10000

The nets are stand-ins that take no time: what a damaged file can reach before its checksums stop it is the container,
the integer prior and the range coder. Most inputs get a right checksum of the file after the damage, so that they reach
these.
"""

import functools
import zlib
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from fuzz_mutations import HUGE, damage, truncate
from fuzz_trial import Trial, require
from jax import Array
from numpy.random import Generator

from jimgen.apps.codec.container import Container, Kind, pack, unpack
from jimgen.apps.codec.files import compress, decompress
from jimgen.apps.codec.lossy import lossy
from jimgen.apps.codec.payload import Payload
from jimgen.methods.codec import NUM_SYMBOLS, NUM_TABLES, Codec, logistic_tables
from jimgen.nets.codec import Channels, Latents, Prior

_CHANNELS = Channels(2, 2)
_RATES, _HIDDEN = 3, 8


def codec(folder: Path, rng: Generator) -> Trial:
    """A file of a few small pictures, damaged in its bytes, in a field of its container, or in a part of its code."""
    num, names = int(rng.integers(1, 6)), rng.random() < 0.5
    pictures = [rng.integers(256, size=(8, 12, 1)).astype(np.uint8) for _ in range(num)]
    data = compress(_payload(), pictures, int(rng.integers(_RATES)), [f"{i}é" for i in range(num)] if names else None)
    wanted = list(decompress(_payload(), data))
    path = folder / "pictures.jgc"
    match rng.integers(8):
        case 0:
            path.write_bytes(data)
            return Trial(functools.partial(_read, path), functools.partial(_is, wanted), must_read=True)
        case 1:
            path.write_bytes(damage(data, rng))
        case 2:
            path.write_bytes(truncate(data, rng))
        case 3 | 4:
            path.write_bytes(_signed(damage(data[:-4], rng)))
        case 5:
            path.write_bytes(_signed(truncate(data[:-4], rng)))
        case _:
            path.write_bytes(_other_container(unpack(data), rng))
    return Trial(functools.partial(_read, path), functools.partial(_is_or_is_valid, wanted))


def _read(path: Path) -> list[tuple[str, np.ndarray]]:
    return list(decompress(_payload(), path.read_bytes()))


def _is(wanted: list[tuple[str, np.ndarray]], found: list[tuple[str, np.ndarray]]) -> None:
    require([name for name, _ in found] == [name for name, _ in wanted], "other names")
    require(all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True)), "other pictures")


def _is_or_is_valid(wanted: list[tuple[str, np.ndarray]], found: list[tuple[str, np.ndarray]]) -> None:
    """Pictures are never other ones: their latents have a checksum. What no checksum covers once that of the file is
    right (names, size, rate) may have changed to another valid value."""
    same = len(found) == len(wanted) and all(np.array_equal(a, b) for (_, a), (_, b) in zip(found, wanted, strict=True))
    sizes = {picture.shape for _, picture in found} == {picture.shape for _, picture in wanted}
    require(same or not sizes or len(found) != len(wanted), "other pictures of the same size")
    require(all(name and "/" not in name for name, _ in found), "a name that leaves the folder")


def _signed(body: bytes) -> bytes:
    return body + zlib.crc32(body).to_bytes(4, "little")


def _other_container(container: Container, rng: Generator) -> bytes:
    """A container with another field, or another code; without checks where `pack` refuses it."""
    block, huge = container.blocks[0], int(HUGE[rng.integers(len(HUGE))])
    part = block.parts[0]
    changes: list[dict[str, Any]] = [
        {"num": huge},
        {"num": block.num + 1},
        {"shape": (huge, *block.shape[1:])},
        {"shape": (block.shape[0], huge, block.shape[2])},
        {"shape": (*block.shape[:2], int(rng.choice([0, 2, 3, 4])))},
        {"shape": (16, 4, 1)},
        {"rate": int(rng.choice([1, 2, 3, 255, huge]))},
        {"bit_depth": int(rng.choice([0, 1, 16, huge]))},
        {"checksum": huge},
        {"parts": ()},
        {"parts": (part, part)},
        {"parts": (rng.bytes(len(part)),)},
        {"parts": (part[: 4 * int(rng.integers(len(part) // 4 + 1))],)},
        {"parts": (damage(part, rng),)},
        {"parts": (b"\xff" * len(part),)},
        {"parts": (bytes(len(part)),)},
    ]
    changed = container._replace(blocks=(block._replace(**changes[rng.integers(len(changes))]),))
    if rng.random() < 0.1:
        changed = changed._replace(kind=Kind(int(rng.integers(3))))
    if rng.random() < 0.1:
        changed = changed._replace(names=("../x",) * block.num)
    return _packed_unchecked(changed)


def _packed_unchecked(container: Container) -> bytes:
    from unittest import mock

    with mock.patch("jimgen.apps.codec.container._check"):
        return pack(container)


@functools.cache
def _payload() -> Payload:
    """A lossy payload with stand-ins for the nets, and a prior of random weights."""
    rng = np.random.default_rng(0)

    def prior(channels: int, above: int) -> dict[str, Any]:
        net = Prior(channels, above, _RATES, _HIDDEN)
        grids = jnp.zeros((1, 2, 2, channels)), jnp.zeros((1, 1, 1, above)) if above else None
        shapes = jax.eval_shape(net.init, jax.random.key(0), *grids, jnp.zeros(1, jnp.int32))
        return jax.tree.map(lambda x: 0.3 * rng.standard_normal(x.shape), shapes)

    def encode(variables: Any, images: Array, rate: Array) -> Latents:
        b, h, w, _ = images.shape
        blocks = images.reshape(b, h // 4, 4, w // 4, 4)
        fine = jnp.stack([jnp.round(7 * blocks[:, :, 0, :, 0]), jnp.round(40 * blocks[:, :, 3, :, 3])], -1)
        rows, columns = -(-h // 8), -(-w // 8)
        coarse = jnp.round(3 * images[:, ::8, ::8])[:, :rows, :columns].repeat(2, axis=-1)
        return Latents(coarse.astype(jnp.int32), fine.astype(jnp.int32))

    def decode(variables: Any, latents: Latents, rate: Array) -> Array:
        fine = latents.fine[..., :1].repeat(4, axis=1).repeat(4, axis=2)
        return jnp.clip(fine / 7, -1, 1)

    variables = {
        "analysis": {},
        "synthesis": {},
        "prior_coarse": prior(_CHANNELS.coarse, 0),
        "prior_fine": prior(_CHANNELS.fine, _CHANNELS.coarse),
        "tables": {"counts": np.zeros((NUM_TABLES, NUM_SYMBOLS)), "logistic": logistic_tables()},
    }
    return lossy(Codec(None, encode, decode, _RATES, _CHANNELS), variables, 1)  # pyright: ignore[reportArgumentType]
