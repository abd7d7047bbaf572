"""How labels enter nets: as one-hot vectors beside other inputs, or as embeddings. See jimgen/conditions.py."""

import flax.linen as nn
import jax.numpy as jnp
import numpy as np
from jax import Array

from jimgen.conditions import NumClasses, column_sizes, columns_of, open_labels
from jimgen.nets.layers import Initializer, normal_02


def with_labels(x: Array, labels: Array, num_classes: NumClasses) -> Array:
    """Appends one-hot labels to x [b, d], those of each column side by side; "any" is all zeros.

    Args:
        x: float [b, d].
        labels: int32 [b] or [b, columns].
        num_classes: k, or the number of values of each column, k in all; 0 returns x itself.
    Returns: [b, d + k].
    """
    if not num_classes:
        return x
    columns = columns_of(labels) if isinstance(num_classes, tuple) else columns_of(labels)[:1]
    pairs = zip(columns, column_sizes(num_classes), strict=True)
    return jnp.concatenate([x, *(nn.one_hot(column, size, dtype=x.dtype) for column, size in pairs)], axis=-1)


class LabelEmbedding(nn.Module):
    """Labels int32 [b] or [b, columns] -> float32 [b, width], the sum of an embedding of the value of each column.

    The value after the last one of a column, "any", has an embedding too; without `has_any` it adds nothing.
    """

    num_classes: NumClasses  # 0: one embedding, of label 0
    width: int
    has_any: bool = True
    embedding_init: Initializer = normal_02

    @nn.compact
    def __call__(self, labels: Array) -> Array:
        shape = num_rows(self.num_classes, self.has_any), self.width
        return embed(self.param("embedding", self.embedding_init, shape), labels, self.num_classes, self.has_any)


def num_rows(num_classes: NumClasses, has_any: bool = True) -> int:
    """The number of rows of a table of embeddings, those of the columns one after another."""
    return sum(size + has_any for size in column_sizes(num_classes) or (0,))


def embed(table: Array, labels: Array, num_classes: NumClasses, has_any: bool = True) -> Array:
    """The sum over the columns of labels of the rows of their values.

    Args:
        table: float [num_rows(num_classes, has_any), width].
        labels: int32 [b] or [b, columns].
        num_classes: as of `LabelEmbedding`.
        has_any: whether the value "any" has a row; else it adds nothing.
    Returns: [b, width].
    """
    if isinstance(num_classes, tuple):
        rows = [size + has_any for size in num_classes]
        found = jnp.take(table, labels + np.cumsum([0, *rows[:-1]])[None], axis=0, mode="clip")
    else:
        labels = columns_of(labels)[0]
        found = jnp.take(table, labels, axis=0, mode="clip")
    if not has_any:
        found = jnp.where((labels < open_labels(labels, num_classes))[..., None], found, 0)
    return found if found.ndim == 2 else found.sum(axis=1)
