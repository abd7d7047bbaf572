"""Pictures to the bytes of a file and back, by any payload."""

from collections.abc import Iterator, Sequence
from itertools import groupby

import numpy as np

from jimgen.apps.codec.container import Block, Container, pack, unpack
from jimgen.apps.codec.errors import OtherModel
from jimgen.apps.codec.payload import Payload
from jimgen.errors import UserError

PIXELS_IN_A_BLOCK = 2**20


def compress(payload: Payload, pictures: Sequence[np.ndarray], rate: int, names: Sequence[str] | None = None) -> bytes:
    """The bytes of a file. Consecutive pictures of one shape share a block, and so the last bytes of its code.

    Args:
        payload: how pictures are coded.
        pictures: uint8 [h, w, c] each, of the payload's channels and size.
        rate: in [0, payload.num_rates).
        names: names of the pictures, to be stored.
    Raises:
        UserError: no pictures, a rate or a picture that the payload does not take, or too many pixels.
    """
    if not pictures:
        raise UserError("no pictures: give at least one")
    if not 0 <= rate < payload.num_rates:
        rates = f"rates 0 (smallest files) to {payload.num_rates - 1}" if payload.num_rates > 1 else "rate 0 alone"
        raise UserError(f"--rate {rate}: the run has {rates}")
    for picture in pictures:
        if picture.shape[2] != payload.channels or (payload.size and picture.shape[:2] != payload.size):
            wanted = [*(payload.size or ("any height", "any width")), payload.channels]
            raise UserError(f"a picture {list(picture.shape)}: the run compresses pictures {wanted}")
    groups: list[Sequence[np.ndarray]] = []
    for shape, group in groupby(pictures, key=np.shape):
        same, step = list(group), max(1, PIXELS_IN_A_BLOCK // (shape[0] * shape[1]))
        groups += [same[start : start + step] for start in range(0, len(same), step)]
    empty = tuple(Block(len(group), group[0].shape, 0, 0, ()) for group in groups)
    container = Container(payload.kind, payload.model, empty, tuple(names) if names is not None else None)
    pack(container)  # what is too large is told before anything slow
    return pack(container._replace(blocks=tuple(payload.encode(np.stack(group), rate) for group in groups)))


def decompress(payload: Payload, data: bytes) -> Iterator[tuple[str, np.ndarray]]:
    """Names and pictures uint8 [h, w, c] of a file, in order; without stored names they are numbers: 00000, 00001, ...

    Raises:
        DamagedFile, TooLarge: see `container.unpack`.
        OtherModel: the file is of another kind, or of another model.
    """
    container = unpack(data)
    require_model(payload, container)
    names = iter(container.names or [f"{i:05d}" for i in range(container.num)])
    for block in container.blocks:
        for picture in payload.decode(block):
            yield next(names), picture


def require_model(payload: Payload, container: Container) -> None:
    """Raises OtherModel for a container that another model wrote."""
    if container.kind != payload.kind:
        kinds = container.kind.name.lower(), payload.kind.name.lower()
        raise OtherModel(f"the file holds {kinds[0]}, and this run codes {kinds[1]}: use the run that wrote it")
    if container.model != payload.model:
        ids = container.model.hex(), payload.model.hex()
        raise OtherModel(f"the file is of model {ids[0]}, and this run is {ids[1]}: use the run that wrote it")
