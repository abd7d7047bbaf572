"""What labels tell nets: a class, or values of several attributes, each of which may be left open.

Labels are int32 [n] with values in [0, num_classes) where a class is all there is. Where pictures have attributes, they
are int32 [n, columns], and `num_classes` is a tuple: the number of values of each column. The value after the last one
of a column, its number of values, means "any": nothing is said. A net whose `num_classes` is a number reads the class
alone, also of labels with several columns.
"""

import jax
import jax.numpy as jnp
from jax import Array

from jimgen import noise

NumClasses = int | tuple[int, ...]  # 0: labels say nothing


def column_sizes(num_classes: NumClasses) -> tuple[int, ...]:
    """The number of values of each column of labels; () where labels say nothing."""
    if isinstance(num_classes, tuple):
        return num_classes
    return (num_classes,) if num_classes else ()


def columns_of(labels: Array) -> list[Array]:
    """The columns [n] of labels [n] or [n, columns]."""
    return [labels] if labels.ndim == 1 else [labels[:, i] for i in range(labels.shape[1])]


def are_open(labels: Array, num_classes: NumClasses) -> Array:
    """Whether labels say "any" in every column: bool [n]."""
    same = labels == open_labels(labels, num_classes)
    return same if labels.ndim == 1 else same.all(axis=1)


def is_conditional(num_classes: NumClasses) -> bool:
    """Whether samples of a net with this `num_classes` depend on labels."""
    return any(size > 1 for size in column_sizes(num_classes))


def open_labels(labels: Array, num_classes: NumClasses) -> Array:
    """Labels like `labels` that say "any" in every column."""
    return jnp.broadcast_to(jnp.asarray(num_classes, labels.dtype), labels.shape)


def drop_labels(labels: Array, key: Array, index: Array, probability: float, num_classes: NumClasses) -> Array:
    """Hides labels in training, so that a net also learns what it draws where they are left open.

    A class is hidden with `probability`. Of several columns, all are hidden with `probability`; else, in half of the
    examples, each by itself at a rate that is uniform on [0, 1] for each example, so that the number of columns that
    remain is uniform too.

    Args:
        labels: int32 [b] or [b, columns].
        key, index: PRNG key and the place of each example in the global batch, int32 [b].
        probability: 0 to hide nothing.
        num_classes: 0 where the net knows no labels: all become 0.
    Returns: int32, of the shape of labels.
    """
    if not num_classes:
        return jnp.zeros_like(labels)
    if not probability:
        return labels
    if not isinstance(num_classes, tuple):
        hidden = noise.uniform(key, index) < probability
        return jnp.where(hidden.reshape(-1, *[1] * (labels.ndim - 1)), open_labels(labels, num_classes), labels)
    whole, part, rate = (noise.uniform(jax.random.fold_in(key, i), index)[:, None] for i in range(3))
    each = noise.uniform(jax.random.fold_in(key, 3), index, (labels.shape[1],))
    hidden = (whole < probability) | (part < 0.5) & (each < rate)
    return jnp.where(hidden, open_labels(labels, num_classes), labels)
