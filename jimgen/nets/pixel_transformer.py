"""A transformer over patches and a small net for each pixel: exact likelihoods of images in one pass.

Sub-pixels are read in one order: patches row by row; in a patch pixels row by row; in a pixel its channels. A causal
trunk of a token a patch sees all patches before it. The head sees, for each sub-pixel, what the trunk says to it and
the window of pixels around it, as far as they come before it (PixelCNN; van den Oord et al., arXiv:1601.06759). So an
attention over all pixels becomes one over patches and a few dense layers.
"""

import math
from typing import Any, NamedTuple

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array, lax

from jimgen.nets.embeddings import patchify, unpatchify
from jimgen.nets.layers import Dtype, at_least_float32, normal_02, xavier
from jimgen.nets.transformer import Backbone, Cache, Norm, causal_mask, grid_positions

NEIGHBOURS = ((-1, -1), (-1, 0), (-1, 1))  # rows and columns from a patch to those above it


class Decoding(NamedTuple):
    """What has been computed of the sub-pixels so far."""

    cache: Cache  # of the trunk
    given: Array  # [b, p, head_width]: what the trunk says to each sub-pixel of the current patch


class PixelTransformer(nn.Module):
    """Levels int32 [b, n] in 0..levels-1, in the order of this file -> logits [b, n, levels], each from those before.

    The output layer starts at zero: uniform, log2(levels) bits a dimension.
    """

    image_shape: tuple[int, int, int]
    patch: int
    backbone: Backbone
    num_classes: int = 0  # 0: labels are ignored; the label num_classes stands for none
    head_width: int = 128
    head_depth: int = 1  # residual blocks
    reach: int = 3  # of the window: pixels to each side
    embedding: int = 8  # features of a level
    levels: int = 256
    dtype: Dtype = jnp.float32

    @property
    def num_places(self) -> int:
        """n, sub-pixels of an image."""
        return math.prod(self.image_shape)

    @property
    def places_per_patch(self) -> int:
        return self.patch**2 * self.image_shape[2]

    @property
    def grid(self) -> tuple[int, int]:
        """Rows and columns of patches. Raises ValueError where they do not divide the image."""
        height, width, _ = self.image_shape
        if self.patch < 1 or height % self.patch or width % self.patch:
            fits = [p for p in range(1, min(height, width) + 1) if not (height % p or width % p)]
            raise ValueError(f"patches of {self.patch} do not divide {height}x{width} images: use one of {fits}")
        return height // self.patch, width // self.patch

    def setup(self) -> None:
        width = self.backbone.width
        dense: Any = {"kernel_init": xavier, "dtype": self.dtype}
        self.table = self.param("table", _cosines, (self.levels, self.embedding))
        self.stem = nn.Dense(width, use_bias=False, **dense)
        self.place = self.param("place", normal_02, (math.prod(self.grid), width))
        if self.num_classes:
            self.label = nn.Embed(self.num_classes + 1, width, embedding_init=normal_02)
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
        """All places at once.

        Args:
            levels: int32 [b, n].
            labels: int32 [b] in 0..num_classes.
            dropout_keys: as of Backbone.
        Returns:
            Logits [b, n, levels], float32 at least.
        Raises:
            ValueError: another number of places, or patches that do not divide the image.
        """
        b, (rows, columns) = levels.shape[0], self.grid
        if levels.shape != (b, self.num_places):
            raise ValueError(f"expected levels [b, {self.num_places}], got {list(levels.shape)}")
        patches = self._features(levels.reshape(b, rows, columns, -1))
        padded = jnp.pad(patches, ((0, 0), (1, 0), (1, 1), (0, 0)))
        near = [padded[:, 1 + r : 1 + r + rows, 1 + c : 1 + c + columns] for r, c in NEIGHBOURS]
        # And the patch before, which at the start of a row is the last of the row above.
        flat = patches.reshape(b, rows * columns, -1)
        previous = jnp.pad(flat, ((0, 0), (1, 0), (0, 0)))[:, :-1]
        near = jnp.concatenate([previous, *(x.reshape(flat.shape) for x in near)], -1)
        x = self._tokens(near, self.place[None], labels)
        mask = causal_mask(rows * columns)
        state = self.backbone(x, positions=grid_positions(rows, columns), mask=mask, dropout_keys=dropout_keys)
        given = self.state(state).reshape(b, -1, self.head_width)
        return self._head(given, self._windows(levels).reshape(b, self.num_places, -1))

    def empty(self, batch_size: int) -> Decoding:
        """The start of decoding."""
        cache = self.backbone.empty_cache(batch_size, math.prod(self.grid))
        return Decoding(cache, jnp.zeros((batch_size, self.places_per_patch, self.head_width), self.dtype))

    def decode(self, decoding: Decoding, levels: Array, i: Array, labels: Array) -> tuple[Array, Decoding]:
        """The logits of place i alone, for i = 0, 1, .. in turn.

        Args:
            decoding: from `empty`, or of place i - 1.
            levels: int32 [b, n], of which only those before i are looked at.
            i: int32 [].
            labels: int32 [b].
        Returns:
            Logits [b, levels], and what decoding place i + 1 takes.
        """
        patch, place = i // self.places_per_patch, i % self.places_per_patch
        # Not lax.cond: flax's own keeps the parameters in sight. The decoding is an operand, so that the branch that is
        # not taken sees an unknown number of tokens outside jit too: a full cache has no room, and needs none.
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
        """What the trunk says to each place of a patch."""
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
        """The features around each place, zero where they come later or lie outside: [b, patches, p, features]."""
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
        """What the trunk says [..., head_width] and windows [..., features] -> logits [..., levels]."""
        y = at_least_float32(given + self.window(window))
        for norm, up, down in zip(self.norms, self.up, self.down, strict=False):
            y += down(nn.gelu(up(norm(y).astype(self.dtype)), approximate=True))
        y = self.norms[-1](y).astype(self.dtype)
        # One matrix in two parts, both linear: the second moves the logits of like levels together, from the start.
        kernel = self.output + self.smooth @ jnp.asarray(_cosine_table(self.levels, self.embedding).T, jnp.float32)
        bias = self.output_bias.reshape((1,) * (y.ndim - 1) + (-1,))
        return at_least_float32(y @ kernel.astype(self.dtype)) + bias


def _known_offsets(patch: int, channels: int, reach: int) -> tuple[list[tuple[int, int]], np.ndarray]:
    """The pixels around a pixel, as rows and columns from it, that some place has before it; and which each has.

    The second is bool [places of a patch, offsets * channels].
    """
    steps = range(-reach, reach + 1)
    places = [(y, x, c) for y in range(patch) for x in range(patch) for c in range(channels)]

    def is_before(place: tuple[int, int, int], dy: int, dx: int, channel: int) -> bool:
        y, x, c = place
        other = y + dy, x + dx
        patches = other[0] // patch, other[1] // patch  # from the place's own patch
        return patches < (0, 0) or patches == (0, 0) and (*other, channel) < (y, x, c)

    before = {
        (dy, dx): [[is_before(place, dy, dx, channel) for channel in range(channels)] for place in places]
        for dy in steps
        for dx in steps
    }
    offsets = [offset for offset, found in before.items() if np.any(found)]
    return offsets, np.concatenate([before[offset] for offset in offsets], axis=1)


def _cosine_table(levels: int, size: int) -> np.ndarray:
    """cos(pi k (l + 1/2) / levels) for k = 1..size: [levels, size]; the first is the level's own value, nearly."""
    return np.cos(np.pi * np.arange(1, size + 1)[None] * (np.arange(levels)[:, None] + 0.5) / levels)


def _cosines(key: Array, shape: tuple[int, int]) -> Array:
    """An embedding that starts with like features for like levels."""
    return jnp.asarray(_cosine_table(*shape), jnp.float32)
