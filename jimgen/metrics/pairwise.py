"""Functions shared by metrics over pairs of features: checked float64 features, squared distances, blocks of rows.

Distances and kernels run in JAX, on an accelerator if there is one. They are float64, because |x|^2 + |y|^2 - 2 x.y
cancels for x near y, and the nearest neighbours determine the metrics.
"""

import jax.numpy as jnp
import numpy as np
from jax import Array
from numpy.typing import ArrayLike

BLOCK_SIZE = 2048  # rows of each side: 32 MiB of float64 per block


def as_features(features: ArrayLike, name: str, *, at_least: int = 1) -> np.ndarray:
    """The features as float64 [n, d]. Raises ValueError unless n >= at_least, d >= 1 and all are finite."""
    checked = np.asarray(features, np.float64)
    if checked.ndim != 2 or checked.shape[1] < 1:
        raise ValueError(f"expected {name} [n, d], one row per image, got shape {list(checked.shape)}")
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
    """Cuts [n, ...] into (first row, at most `size` rows minus the origin, on the device), in order.

    Distances are more accurate if the origin lies among the rows. If it is a row, ties are preserved: differences of
    integers, and of float32 in float64, are exact. Raises ValueError if size < 1.
    """
    if size < 1:
        raise ValueError(f"expected a block size of at least 1, got {size}")
    # Cut on the host, because JAX would compile a slice for every shape.
    return [(start, jnp.asarray(array[start : start + size] - origin)) for start in range(0, len(array), size)]


def squared_distances(x: Array, y: Array) -> Array:
    """|x_i - y_j|^2 = |x_i|^2 + |y_j|^2 - 2 x_i.y_j: x [m, d], y [n, d] -> [m, n], >= 0."""
    ones = jnp.ones(x.shape[1], x.dtype)  # products with ones are several times faster on CPU than sums over rows
    squares = ((x * x) @ ones)[:, None] + ((y * y) @ ones)[None, :]
    return jnp.maximum(squares - 2 * x @ y.T, 0)  # rounding could make the distance of a copy negative
