"""The labels that images are drawn for: classes in turn, as often as in training, or given values of attributes."""

from collections.abc import Mapping, Sequence
from types import MappingProxyType

import numpy as np

from jimgen.data.dataset import Arrays, Dataset, DataSpec, labels_of, num_rows, read_rows
from jimgen.data.labels import classes_of
from jimgen.evaluation.reference import chosen_rows

Given = Mapping[int, int]  # values by column of the labels, both counted from 0
NONE: Given = MappingProxyType({})


def class_labels(num: int, weights: Sequence[float]) -> np.ndarray:
    """Labels int32 [num] of which every prefix has the classes nearly in proportion to `weights`.

    Equal weights give the classes in turn: 0, 1, ..., 0, 1, .... Place i goes to the class that is furthest behind its
    share, so a larger set begins with the smaller one.

    Raises:
        ValueError: weights are negative, not finite or all zero.
    """
    share = np.asarray(weights, np.float64)
    if share.ndim != 1 or not np.isfinite(share).all() or (share < 0).any() or not share.sum() > 0:
        raise ValueError(f"class weights must be finite, not negative and not all zero, got {list(weights)}")
    share = share / share.sum()
    if (share == share[0]).all():
        return np.arange(num, dtype=np.int32) % len(share)
    labels, given = np.empty(num, np.int32), np.zeros(len(share))
    for i in range(num):
        labels[i] = np.argmax(share * (i + 1) - given)
        given[labels[i]] += 1
    return labels


def training_labels(dataset: Dataset) -> np.ndarray:
    """Labels int32 [n] or [n, columns] of the training split."""
    if isinstance(dataset.train, Arrays) or dataset.train.rows is not None:
        return labels_of(dataset.train)
    total = num_rows(dataset.train)  # a stream that decodes images to read labels: a few thousand suffice
    return read_rows(dataset.train, chosen_rows(total, min(total, 5000)))[1]


def class_frequencies(dataset: Dataset) -> np.ndarray:
    """The frequency of each class in the training split: float64 [num_classes] with sum 1."""
    classes = classes_of(training_labels(dataset))
    return np.bincount(classes, minlength=dataset.spec.num_classes) / len(classes)


def column_in_turn(spec: DataSpec, given: Given = NONE) -> int:
    """The column whose values balanced sets and sample grids show in turn: the class or, where there is but one and no
    value is given, the first attribute with a choice. So what is not given is left open."""
    free = (i for i, column in enumerate(spec.columns) if len(column.values) > 1)
    return 0 if given else next(free, 0)


def balanced_labels(spec: DataSpec, num: int, given: Given = NONE, turn: int | None = None) -> np.ndarray:
    """Labels of `num` images: one column's values in turn, the given ones as given, the others "any".

    Args:
        spec: what the labels mean.
        num: number of images.
        given: values by column.
        turn: the column in turn; default: that of `column_in_turn`.
    Returns: int32 [num], or [num, columns] where the data have attributes.
    """
    turn = column_in_turn(spec, given) if turn is None else turn
    sizes = [len(column.values) for column in spec.columns]
    labels = np.tile(np.asarray([size if size > 1 else 0 for size in sizes], np.int32), (num, 1))
    for column, value in ({turn: np.arange(num) % sizes[turn]} | dict(given)).items():
        labels[:, column] = value
    return labels if spec.attributes else labels[:, 0]


def frequent_labels(dataset: Dataset, num: int, seed: int, given: Given = NONE) -> np.ndarray:
    """Labels of `num` images as in the training split.

    Classes come in their proportions. Of data with attributes, whole rows of labels are drawn at random, among those
    with the given values; where there are none, given values replace those of any row. A larger set begins with the
    smaller one.

    Returns: int32 [num] or [num, columns].
    """
    if not dataset.spec.attributes:
        return np.full(num, given[0], np.int32) if given else class_labels(num, class_frequencies(dataset).tolist())
    rows = training_labels(dataset)
    columns, values = list(given), list(given.values())
    alike = rows[(rows[:, columns] == values).all(axis=1)]
    rows = alike if len(alike) else rows
    labels = rows[(np.random.default_rng(seed).random(num) * len(rows)).astype(np.int64)].copy()
    labels[:, columns] = values
    return labels
