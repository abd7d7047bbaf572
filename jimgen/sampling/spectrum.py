"""The spectrum of a linear operator on small images, with which conjugate gradients need few steps."""

import math
from collections.abc import Callable
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from jax import Array

MOST_VALUES = 64 * 64  # of an image whose spectrum is computed: 64 MiB of eigenvectors, in about half a minute


class Spectrum(NamedTuple):
    """H^T H = V diag(s) V^T of an operator H on images [h, w, c], taken as vectors."""

    vectors: Array  # V, float32 [h w c, k], orthonormal columns
    values: Array  # s > 0, float32 [k]

    def solve(self, x: Array, weight: Array) -> Array:
        """(weight H^T H + I)^-1 x, of an image [h, w, c] and weight >= 0 []."""
        inside = jnp.einsum("pk,p->k", self.vectors, x.reshape(-1))
        change = (1 / (1 + weight * self.values) - 1) * inside
        return x + jnp.einsum("pk,k->p", self.vectors, change).reshape(x.shape)


def spectrum_of(operator: Callable[[Array], Array], shape: tuple[int, int, int]) -> Spectrum:
    """The spectrum of an operator on images of a shape (h, w, c), by the smaller one of H^T H and H H^T.

    Raises:
        ValueError: images have more than `MOST_VALUES` values.
    """
    size = math.prod(shape)
    if size > MOST_VALUES:
        raise ValueError(f"images of {size} values: spectra are computed for at most {MOST_VALUES}")
    transposed = np.asarray(jax.jit(operator)(jnp.eye(size).reshape(size, *shape))).reshape(size, -1)  # H^T
    is_wide = transposed.shape[1] < size
    values, vectors = np.linalg.eigh(transposed.T @ transposed if is_wide else transposed @ transposed.T)
    kept = values > 1e-6 * values.max()
    values, vectors = values[kept], vectors[:, kept]
    if is_wide:
        vectors = transposed @ vectors / np.sqrt(values)
    return Spectrum(jnp.asarray(vectors, jnp.float32), jnp.asarray(values, jnp.float32))
