"""A flow over images that are larger than those that it was trained on, by overlapping tiles."""

from collections.abc import Callable

import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.sampling.solvers import Velocity


def tiled(
    velocity_of: Callable[[Array], Velocity],
    labels: Array,
    size: tuple[int, int],
    tile: tuple[int, int],
    overlap: float = 0.5,
) -> Velocity:
    """The velocity of a large image: the mean of those of the tiles that contain a pixel, weighted by a window.

    Tiles agree where they overlap at every step, so no seam arises that would have to be hidden in the end.

    Args:
        velocity_of: labels [m, ...] -> velocity of tiles [m, *tile, c].
        labels: [n, ...] of the images; each holds for all tiles of its image.
        size: (h, w) of the images, at least those of a tile.
        tile: (h, w) of the tiles.
        overlap: least share of its side that a tile has in common with the next, in [0, 1).
    Returns: a velocity of images [n, *size, c].
    Raises: ValueError for images smaller than a tile, or an overlap outside [0, 1).
    References: Bar-Tal et al., MultiDiffusion, arXiv:2302.08113, equation 5.
    """
    if not 0 <= overlap < 1:
        raise ValueError(f"expected an overlap in [0, 1), got {overlap}")
    tops, lefts = (starts(*sides, overlap) for sides in zip(size, tile, strict=True))
    corners = [(top, left) for top in tops for left in lefts]
    window = np.outer(*(_window(side) for side in tile))
    total = np.zeros(size)
    for top, left in corners:
        total[top : top + tile[0], left : left + tile[1]] += window
    velocity = velocity_of(jnp.repeat(labels, len(corners), axis=0))

    def combined(x: Array, t: Array) -> Array:
        parts = [x[:, top : top + tile[0], left : left + tile[1]] for top, left in corners]
        tiles = jnp.stack(parts, axis=1)
        found = velocity(tiles.reshape(-1, *tiles.shape[2:]), t).reshape(tiles.shape)
        found = found * jnp.asarray(window, x.dtype)[None, None, ..., None]
        out = jnp.zeros_like(x)
        for i, (top, left) in enumerate(corners):
            out = out.at[:, top : top + tile[0], left : left + tile[1]].add(found[:, i])
        return out / jnp.asarray(total, x.dtype)[None, ..., None]

    return combined


def starts(side: int, tile: int, overlap: float) -> list[int]:
    """First pixels of evenly spread tiles that cover a side."""
    if side < tile:
        raise ValueError(f"an image side of {side} is less than that of a tile, {tile}")
    stride = max(1, int(tile * (1 - overlap)))
    stride -= stride > 2 and stride % 2 == 0  # odd, so that the patches of a net do not line up in all tiles
    num = 1 + -(-(side - tile) // stride)
    return np.rint(np.linspace(0, side - tile, num)).astype(int).tolist()


def _window(side: int) -> np.ndarray:
    """Weights of a tile's pixels, 1 in the middle and falling linearly towards both ends, where they stay above 0."""
    places = np.arange(side) + 0.5
    return 2 * np.minimum(places, side - places) / side
