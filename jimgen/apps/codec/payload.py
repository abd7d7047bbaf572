"""What a kind of coding is to the container: functions between pictures and blocks."""

from collections.abc import Callable
from typing import NamedTuple

import numpy as np

from jimgen.apps.codec.container import Block, Kind


class Payload(NamedTuple):
    """A way to code pictures by one model. Pictures are uint8 [n, h, w, c], premultiplied where c is 4."""

    kind: Kind
    model: bytes  # 8 bytes, from `identity`
    channels: int
    size: tuple[int, int] | None  # (height, width) of the only pictures that it takes; None for any
    num_rates: int
    encode: Callable[[np.ndarray, int], Block]  # (pictures of one shape, rate); decodes its own code before it returns
    decode: Callable[[Block], np.ndarray]  # raises DamagedFile or OtherModel for what `encode` does not write
