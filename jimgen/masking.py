"""Random masks for training: which pixels of an image are known, and which are missing.

A kind of mask is a function (PRNG key, (h, w)) -> bool [h, w], True = known, of images of any size.
"""

from collections.abc import Callable

import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise

Size = tuple[int, int]
Kind = Callable[[Array, Size], Array]

NUM_STEPS = 8  # of a stroke
THICKNESS = (0.04, 0.12)  # range of half a stroke's thickness, as a part of the image's shorter side


def nothing(key: Array, size: Size) -> Array:
    """No pixel is known: the model learns to draw whole images."""
    return jnp.zeros(size, bool)


def rectangle(key: Array, size: Size) -> Array:
    """A rectangle is missing: each side uniform from a quarter of the image's to all of it, at the centre or anywhere.

    Half of the rectangles lie at the centre. At least one pixel is missing.
    """
    keys = jax.random.split(key, 3)
    sides = jax.random.uniform(keys[0], (2,), minval=0.25, maxval=1.0)
    at = jnp.where(jax.random.bernoulli(keys[1]), 0.5, jax.random.uniform(keys[2], (2,)))
    inside = []
    for axis, length in enumerate(size):
        side = jnp.maximum(jnp.round(sides[axis] * length), 1.0)
        start = jnp.round(at[axis] * (length - side))
        places = jnp.arange(length)
        inside.append((places >= start) & (places < start + side))
    return ~(inside[0][:, None] & inside[1][None, :])


def half(key: Array, size: Size) -> Array:
    """The left, right, upper or lower half is missing; of an odd side, the smaller part."""
    side = jax.random.randint(key, (), 0, 4)
    rows, columns = (jnp.broadcast_to(places, size) for places in jnp.indices(size, sparse=True))
    height, width = size[0] // 2, size[1] // 2
    missing = jnp.stack([columns < width, columns >= size[1] - width, rows < height, rows >= size[0] - height])
    return ~missing[side]


def strokes(key: Array, size: Size) -> Array:
    """A thick stroke is missing, along a random walk of straight steps whose corners stay within the image."""
    keys = jax.random.split(key, 3)
    moves = jax.random.normal(keys[0], (NUM_STEPS, 2)) / 3
    start = jax.random.uniform(keys[1], (1, 2))
    lengths = jnp.asarray([size])
    walk = jnp.abs((start + jnp.cumsum(jnp.concatenate([start * 0, moves]), axis=0) + 1) % 2 - 1)  # reflected at edges
    corners = walk * (lengths - 1)
    low, high = THICKNESS
    thickness = jnp.maximum(jax.random.uniform(keys[2], minval=low, maxval=high) * min(size), 0.75)
    pixels = jnp.stack(jnp.meshgrid(*(jnp.arange(length) for length in size), indexing="ij"), axis=-1)[None]
    ends = corners[:, None, None]  # [steps + 1, 1, 1, 2]
    along = ends[1:] - ends[:-1]
    from_start = pixels - ends[:-1]
    share = (from_start * along).sum(-1) / jnp.maximum(
        jnp.square(along).sum(-1), 1e-6
    )  # of a step, at its nearest point
    distance = jnp.square(from_start - jnp.clip(share, 0.0, 1.0)[..., None] * along).sum(-1)
    return (distance > jnp.square(thickness)).all(0)


def pixels(key: Array, size: Size) -> Array:
    """Each pixel is missing with the same probability, which is uniform from 50% to 95% for each image."""
    keys = jax.random.split(key)
    return jax.random.uniform(keys[0], size) > jax.random.uniform(keys[1], minval=0.5, maxval=0.95)


MIXTURE: tuple[tuple[float, Kind], ...] = ((1, nothing), (6, rectangle), (3, half), (3, strokes), (3, pixels))


def random_masks(key: Array, index: Array, size: Size, mixture: tuple[tuple[float, Kind], ...] = MIXTURE) -> Array:
    """Draws a mask for each example from a mixture of kinds, by the example's own key.

    Args:
        key, index: PRNG key and the place of each example in the global batch, int32 [b].
        size: (h, w).
        mixture: pairs of a weight > 0 and a kind; a kind is drawn in proportion to its weight.
    Returns: bool [b, h, w], True = known.
    """
    log_weights = jnp.log(jnp.asarray([weight for weight, _ in mixture]))

    def draw(key: Array) -> Array:
        chosen, *keys = jax.random.split(key, len(mixture) + 1)
        kinds = [kind(key, size) for key, (_, kind) in zip(keys, mixture, strict=True)]
        return jnp.stack(kinds)[jax.random.categorical(chosen, log_weights)]

    return jax.vmap(draw)(noise.example_keys(key, index))
