"""What metrics over pairs of features share: checked float64 features, squared distances, blocks that bound memory.

Distances and kernels run through JAX, so that an accelerator does them, in float64: |x|^2 + |y|^2 - 2 x.y cancels where
x is near y, and the near ones are those that decide.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

BLOCK_SIZE = 2048  # rows of either side: 32 MiB of float64 a block


def as_features(features: ArrayLike, name: str, *, at_least: int = 1) -> np.ndarray:
    """The features as float64 [n, d]. Raises ValueError unless n >= at_least, d >= 1 and all are finite."""
    checked = np.asarray(features, np.float64)
    if checked.ndim != 2 or checked.shape[1] < 1:
        raise ValueError(f"expected {name} [n, d], one row an image, got shape {list(checked.shape)}")
    if len(checked) < at_least:
        raise ValueError(f"expected at least {at_least} rows in {name}, got {len(checked)}")
    if not np.isfinite(checked).all():
        rows = int((~np.isfinite(checked)).any(axis=1).sum())
        raise ValueError(f"{rows} of the {len(checked)} rows in {name} hold NaN or infinity")
    return checked


def require_same_dims(**features: np.ndarray) -> None:
    """Raises ValueError unless all [n, d] have the same d."""
    dims = {name: array.shape[-1] for name, array in features.items()}
    if len(set(dims.values())) > 1:
        listed = ", ".join(f"{name} {d}" for name, d in dims.items())
        raise ValueError(f"expected features of the same dimension, got {listed}: do they come from one extractor?")


def blocks(array: np.ndarray, size: int, origin: np.ndarray | float = 0.0) -> list[tuple[int, Array]]:
    """(first row, at most `size` rows on the device, less the origin) of [n, ...], in order.

    Distances keep their digits where the origin lies among the rows. One that is a row keeps ties: differences of
    integers, and of float32 in float64, are exact. Raises ValueError where size < 1.
    """
    if size < 1:
        raise ValueError(f"expected a block size of at least 1, got {size}")
    # Cut on the host: JAX would compile a slice for every shape.
    return [(start, jnp.asarray(array[start : start + size] - origin)) for start in range(0, len(array), size)]


def squared_distances(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2 = |x_i|^2 + |y_j|^2 - 2 x_i.y_j, of [m, d] and [n, d]: [m, n], >= 0."""
    ones = jnp.ones(x.shape[1], x.dtype)  # products with it are several times faster on CPU than sums of rows
    squares = ((x * x) @ ones)[:, None] + ((y * y) @ ones)[None, :]
    return jnp.maximum(squares - 2 * x @ y.T, 0)  # rounding must not make a copy's distance negative
