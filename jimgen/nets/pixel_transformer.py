"""A causal transformer over patches with a small head per sub-pixel: exact likelihoods of images in one pass.

Sub-pixels are ordered by patch (row by row), then by pixel in the patch (row by row), then by channel. A causal trunk
with one token per patch attends to all earlier patches. For each sub-pixel, the head combines an output of the trunk
with the earlier pixels in a window around it (PixelCNN; van den Oord et al., arXiv:1601.06759). This replaces attention
over all pixels by attention over patches and a few dense layers.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.conditions import NumClasses
from jimgen.nets.attention import causal_mask
from jimgen.nets.embeddings import grid_shape, patchify, unpatchify
from jimgen.nets.labels import LabelEmbedding
from jimgen.nets.layers import Dtype, Norm, along_last, at_least_float32, normal_02, xavier
from jimgen.nets.positions import grid_positions
from jimgen.nets.transformer import Backbone, Cache

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1))  # offsets (row, column) from a patch to those above it


class Decoding(NamedTuple):
    """The state of decoding."""

    cache: Cache  # of the trunk
    given: Array  # [b, p, head_width]: the trunk's output for each sub-pixel of the current patch


class PixelTransformer(nn.Module):
    """Levels int32 [b, n] in 0..levels-1, in the order above -> logits [b, n, levels], each from earlier levels.

    The output layer starts at zero, which gives uniform probabilities: log2(levels) bits per dimension.
    """

    image_shape: tuple[int, int, int]
    patch: int
    backbone: Backbone
    num_classes: NumClasses = 0  # 0: labels are ignored
    head_width: int = 128
    head_depth: int = 1  # residual blocks
    reach: int = 3  # pixels of the window to each side
    embedding: int = 8  # features per level
    levels: int = 256
    dtype: Dtype = jnp.float32

    @property
    def num_places(self) -> int:
        """n, the number of sub-pixels of an image."""
        return math.prod(self.image_shape)

    @property
    def places_per_patch(self) -> int:
        return self.patch**2 * self.image_shape[2]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches. Raises ValueError if they do not divide the image."""
        return grid_shape(self.image_shape[:2], self.patch)

    def setup(self) -> None:
        width = self.backbone.width
        dense: Any = {"kernel_init": xavier, "dtype": self.dtype}
        self.table = self.param("table", _cosines, (self.levels, self.embedding))
        self.stem = nn.Dense(width, use_bias=False, **dense)
        self.place = self.param("place", normal_02, (math.prod(self.grid), width))
        if self.num_classes:
            self.label = LabelEmbedding(self.num_classes, width)
        self.state = nn.Dense(self.places_per_patch * self.head_width, **dense)
        self.window = nn.Dense(self.head_width, use_bias=False, **dense)
        self.up = [nn.Dense(2 * self.head_width, **dense) for _ in range(self.head_depth)]
        self.down = [nn.Dense(self.head_width, **dense) for _ in range(self.head_depth)]
        self.norms = [Norm() for _ in range(self.head_depth + 1)]
        zeros = nn.initializers.zeros
        self.output = self.param("output", zeros, (self.head_width, self.levels))
        self.smooth = self.param("smooth", zeros, (self.head_width, self.embedding))
        self.output_bias = self.param("output_bias", zeros, (self.levels,))

    def __call__(self, levels: Array, labels: Array, dropout_keys: Array | None = None) -> Array:
        """Computes the logits of all places at once.

        Args:
            levels: int32 [b, n].
            labels: int32 [b] or [b, columns]; see jimgen/conditions.py.
            dropout_keys: see Backbone.
        Returns: Logits [b, n, levels], in float32 or higher.
        Raises:
            ValueError: for another number of places, or patches that do not divide the image.
        """
        b, (rows, columns) = levels.shape[0], self.grid
        if levels.shape != (b, self.num_places):
            raise ValueError(f"expected levels [b, {self.num_places}], got {list(levels.shape)}")
        patches = self._features(levels.reshape(b, rows, columns, -1))
        padded = jnp.pad(patches, ((0, 0), (1, 0), (1, 1), (0, 0)))
        near = [padded[:, 1 + r : 1 + r + rows, 1 + c : 1 + c + columns] for r, c in NEIGHBOURS]
        # Also the previous patch; at the start of a row this is the last patch of the row above.
        flat = patches.reshape(b, rows * columns, -1)
        previous = jnp.pad(flat, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        near = jnp.concatenate([previous, *(x.reshape(flat.shape) for x in near)], -1)
        x = self._tokens(near, self.place[None], labels)
        mask = causal_mask(rows * columns)
        state = self.backbone(x, positions=grid_positions(rows, columns), mask=mask, dropout_keys=dropout_keys)
        given = self.state(state).reshape(b, -1, self.head_width)
        return self._head(given, self._windows(levels).reshape(b, self.num_places, -1))

    def empty(self, batch_size: int) -> Decoding:
        """The initial state of decoding."""
        cache = self.backbone.empty_cache(batch_size, math.prod(self.grid))
        return Decoding(cache, jnp.zeros((batch_size, self.places_per_patch, self.head_width), self.dtype))

    def decode(self, decoding: Decoding, levels: Array, i: Array, labels: Array) -> tuple[Array, Decoding]:
        """Computes the logits of place i only; call it for i = 0, 1, .. in turn.

        Args:
            decoding: the state from `empty`, or from place i - 1.
            levels: int32 [b, n]; only levels before i are used.
            i: int32 [].
            labels: int32 [b] or [b, columns].
        Returns: Logits [b, levels], and the state for place i + 1.
        """
        patch, place = i // self.places_per_patch, i % self.places_per_patch
        # flax's cond, because lax.cond cannot access parameters. The state is an operand, so that its number of tokens
        # is a tracer outside jit too: else a full cache would raise in the branch that is not taken.
        given, cache = nn.cond(
            place == 0,
            lambda net, before: net._next_patch(before.cache, levels, patch, labels),
            lambda net, before: (before.given, before.cache),
            self,
            decoding,
        )
        logits = self._head(given[:, place], self._window(levels, patch, place))
        return logits, Decoding(cache, given)

    def _next_patch(self, cache: Cache, levels: Array, patch: Array, labels: Array) -> tuple[Array, Cache]:
        """The trunk's output for each place of a patch."""
        b, (rows, columns) = levels.shape[0], self.grid
        row, column = patch // columns, patch % columns
        patches = levels.reshape(b, rows * columns, -1)
        places = [(patch - 1, patch > 0)]
        for r, c in NEIGHBOURS:
            inside = (row + r >= 0) & (column + c >= 0) & (column + c < columns)
            places.append((patch + r * columns + c, inside))
        near = []
        for index, there in places:
            index = jnp.where(there, index, 0)
            near.append(jnp.where(there, self._features(patches[:, index]), 0))
        x = self._tokens(jnp.concatenate(near, -1)[:, None], self.place[patch][None, None], labels)
        position = jnp.stack([row, column])[None].astype(jnp.float32)
        state, cache = self.backbone.decode(x, cache, positions=position)
        return self.state(state).reshape(b, self.places_per_patch, self.head_width), cache

    def _windows(self, levels: Array) -> Array:
        """The features around each place, zero for later and outside pixels: [b, patches, p, features]."""
        height, width, channels = self.image_shape
        offsets, before = _known_offsets(self.patch, channels, self.reach)
        b, k, r = levels.shape[0], len(offsets), self.reach
        images = unpatchify(levels.reshape(b, -1, self.places_per_patch), (height, width), self.patch)
        padded = jnp.pad(self._features(images), ((0, 0), (r, r), (r, r), (0, 0)))
        near = [padded[:, r + dy : r + dy + height, r + dx : r + dx + width] for dy, dx in offsets]
        near = patchify(jnp.concatenate(near, -1), self.patch)
        near = near.reshape(b, -1, self.patch**2, 1, k * channels, self.embedding)
        before = before.reshape(1, 1, self.patch**2, channels, k * channels, 1)
        return jnp.where(before, near, 0).reshape(b, near.shape[1], self.places_per_patch, -1)

    def _window(self, levels: Array, patch: Array, place: Array) -> Array:
        """`_windows` of one place: [b, features]."""
        height, width, channels = self.image_shape
        offsets, before = _known_offsets(self.patch, channels, self.reach)
        b, r = levels.shape[0], self.reach
        pixel = place // channels
        y = patch // self.grid[1] * self.patch + pixel // self.patch
        x = patch % self.grid[1] * self.patch + pixel % self.patch
        images = unpatchify(levels.reshape(b, -1, self.places_per_patch), (height, width), self.patch)
        padded = jnp.pad(images, ((0, 0), (r, r), (r, r), (0, 0)), constant_values=-1)
        near = lax.dynamic_slice(padded, (0, y, x, 0), (b, 2 * r + 1, 2 * r + 1, channels))
        near = jnp.concatenate([near[:, r + dy, r + dx] for dy, dx in offsets], -1)
        seen = jnp.asarray(before)[place][None] & (near >= 0)
        features = self._features(near).reshape(b, -1, self.embedding)
        return jnp.where(seen[:, :, None], features, 0).reshape(b, -1)

    def _features(self, levels: Array) -> Array:
        """[..., m] -> [..., m * embedding]."""
        return self.table.astype(self.dtype)[levels].reshape(*levels.shape[:-1], -1)

    def _tokens(self, near: Array, place: Array, labels: Array) -> Array:
        x = at_least_float32(self.stem(near)) + place
        return x + self.label(labels)[:, None] if self.num_classes else x

    def _head(self, given: Array, window: Array) -> Array:
        """The trunk's output [..., head_width] and windows [..., features] -> logits [..., levels]."""
        y = at_least_float32(given + self.window(window))
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            y += down(nn.gelu(up(norm(y).astype(self.dtype)), approximate=True))
        y = self.norms[-1](y).astype(self.dtype)
        # The kernel has two linear parts: the second makes the logits of similar levels learn together from the start.
        kernel = self.output + self.smooth @ jnp.asarray(_cosine_table(self.levels, self.embedding).T, jnp.float32)
        return at_least_float32(y @ kernel.astype(self.dtype)) + along_last(self.output_bias, y)


def _known_offsets(patch: int, channels: int, reach: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """Offsets (row, column) of pixels that come before some place of a patch, and a mask of those before each place.

    The mask is bool [places of a patch, offsets * channels].
    """
    steps = range(-reach, reach + 1)
    places = [(y, x, c) for y in range(patch) for x in range(patch) for c in range(channels)]

    def is_before(place: tuple[int, int, int], dy: int, dx: int, channel: int) -> bool:
        y, x, c = place
        other = y + dy, x + dx
        patches = other[0] // patch, other[1] // patch  # relative to the patch of the place
        return patches < (0, 0) or patches == (0, 0) and (*other, channel) < (y, x, c)

    before = {
        (dy, dx): [[is_before(place, dy, dx, channel) for channel in range(channels)] for place in places]
        for dy in steps
        for dx in steps
    }
    offsets = [offset for offset, found in before.items() if np.any(found)]
    return offsets, np.concatenate([before[offset] for offset in offsets], axis=1)


def _cosine_table(levels: int, size: int) -> np.ndarray:
    """cos(pi k (l + 1/2) / levels) for k = 1..size: [levels, size]; the first is almost linear in the level."""
    return np.cos(np.pi * np.arange(1, size + 1)[None] * (np.arange(levels)[:, None] + 0.5) / levels)


def _cosines(key: Array, shape: tuple[int, int]) -> Array:
    """An initialiser of embeddings with similar features for similar levels."""
    return jnp.asarray(_cosine_table(*shape), jnp.float32)
