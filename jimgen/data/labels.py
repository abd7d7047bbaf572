"""Label arrays, from npz files or dataset.json, as classes."""

from collections.abc import Sequence

import numpy as np

from jimgen.data.dataset import CLASS
from jimgen.errors import UserError
from jimgen.files import shown


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The classes [n] of labels [n] or [n, columns]."""
    return labels if labels.ndim == 1 else labels[:, 0]


def flat(labels: np.ndarray) -> np.ndarray | None:
    """Labels [n] of labels [n], [n, 1] or one-hot rows [n, k]; None if a row has several labels."""
    if labels.ndim == 1 or labels.shape[1] == 1:
        return labels.reshape(-1)
    is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
    return labels.argmax(axis=1) if is_one_hot else None


def class_names(
    labels: np.ndarray, where: str, *, rows: np.ndarray | None = None, listed: str = "class_names"
) -> tuple[str, ...]:
    """Names of the classes in labels int [n]: "0", "1", ... up to the largest.

    `rows` int [n] are the places of the labels in what they were read from, if other than 0, 1, ...; `listed` is the
    field that could name the classes.

    Raises:
        UserError: a label is below 0, or a number up to the largest has no label.
    """
    counts = np.unique(labels)
    if counts[0] < 0:
        at = int(np.argmax(labels < 0))
        row = at if rows is None else rows[at]
        raise UserError(f"{where}[{row}] is {labels[at]}, out of the range: count from 0")
    if not np.array_equal(counts, np.arange(len(counts))):
        missing = next(number for number, label in enumerate(counts) if number != label)
        raise UserError(
            f"{where} go up to {counts[-1]}, and none is {missing}: number them 0, 1, 2, ... "
            f"without gaps, or list them all in `{listed}`"
        )
    return tuple(str(label) for label in counts)


def checked(labels: np.ndarray, where: str, num_classes: int, rows: np.ndarray | None = None) -> np.ndarray:
    """Labels int [n] as int32 [n]. `rows` is that of `class_names`.

    Raises:
        UserError: a label is outside [0, num_classes).
    """
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        at = int(np.argmax(outside))
        row = at if rows is None else rows[at]
        raise UserError(f"{where}[{row}] is {labels[at]}, out of the range 0..{num_classes - 1} of train")
    return labels.astype(np.int32)


def check_attribute_names(names: Sequence[str], where: str) -> None:
    """Raises UserError for names that are empty, occur twice, or are "class", the name of column 0 of the labels."""
    for place, name in enumerate(names):
        if not name.strip():
            raise UserError(f"{where}: name {place + 1} is empty: give every attribute a name")
        if name == CLASS:
            raise UserError(f"{where}: an attribute cannot be called {CLASS!r}, which is in labels: rename it")
        if name in names[:place]:
            raise UserError(f"{where}: {shown(name)!r} is there twice: give every attribute its own name")
