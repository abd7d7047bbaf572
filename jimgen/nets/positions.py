"""Positions of tokens on a grid, and embeddings of them: rotary, or fixed sines and cosines."""

import jax.numpy as jnp
import numpy as np
from jax import Array


def grid_positions(height: int, width: int) -> Array:
    """Row and column of each token of a grid read row by row: float32 [height * width, 2]."""
    return jnp.stack(jnp.meshgrid(jnp.arange(height), jnp.arange(width), indexing="ij"), -1).reshape(-1, 2) * 1.0


def rotary_angles(positions: Array, head_dim: int, base: float) -> tuple[Array, Array]:
    """Cosines and sines of the rotations of each token: positions [..., t, 2] -> [..., t, 1, head_dim / 2] each.

    The first half of the pairs rotates with the row, the second with the column, by position * base^(-i / n), i < n =
    head_dim / 4 (Su et al., RoFormer, arXiv:2104.09864, equation 15, on each axis).
    """
    frequencies = base ** (-np.arange(head_dim // 4) / (head_dim // 4))
    angles = positions[..., None] * jnp.asarray(frequencies, positions.dtype).reshape((1,) * positions.ndim + (-1,))
    angles = angles.reshape(*positions.shape[:-1], 1, head_dim // 2)
    return jnp.cos(angles), jnp.sin(angles)


def rotate(x: Array, angles: tuple[Array, Array]) -> Array:
    """Rotates each pair (x_i, x_(i + d/2)) of x [b, t, heads, d] by its token's angle."""
    cosine, sine = (a if a.ndim == 4 else a[None] for a in angles)
    first, second = jnp.split(x, 2, axis=-1)
    return jnp.concatenate([first * cosine - second * sine, first * sine + second * cosine], axis=-1)


def sincos_embedding(positions: Array, width: int) -> Array:
    """Fixed sines and cosines of rows, then of columns: positions float [t, 2] -> [t, width]; 4 divides the width."""
    if width % 4:
        raise ValueError(f"sines and cosines on two axes need a width that is a multiple of 4, got {width}")
    frequencies = jnp.asarray(10_000.0 ** (-np.arange(width // 4) / (width // 4)), positions.dtype)
    angles = positions[:, :, None] * frequencies[None, None]
    return jnp.concatenate([jnp.sin(angles), jnp.cos(angles)], axis=-1).reshape(-1, width)
