"""Label arrays, from npz files or dataset.json, as classes."""

import numpy as np

from jimgen.errors import UserError


def classes_of(labels: np.ndarray) -> np.ndarray:
    """The classes [n] of labels [n] or [n, columns]."""
    return labels if labels.ndim == 1 else labels[:, 0]


def flat(labels: np.ndarray) -> np.ndarray | None:
    """Labels [n] of labels [n], [n, 1] or one-hot rows [n, k]; None if a row has several labels."""
    if labels.ndim == 1 or labels.shape[1] == 1:
        return labels.reshape(-1)
    is_one_hot = np.isin(labels, (0, 1)).all() and (labels.sum(axis=1) == 1).all()
    return labels.argmax(axis=1) if is_one_hot else None


def class_names(labels: np.ndarray, where: str) -> tuple[str, ...]:
    """Names of the classes in labels int [n]: "0", "1", ... up to the largest.

    Raises:
        UserError: a label is below 0, or a number up to the largest has no label.
    """
    counts = np.unique(labels)
    if counts[0] < 0:
        row = int(np.argmax(labels < 0))
        raise UserError(f"{where}[{row}] is {labels[row]}, out of the range: the classes are 0, 1, 2, ...")
    if not np.array_equal(counts, np.arange(len(counts))):
        missing = next(number for number, label in enumerate(counts) if number != label)
        raise UserError(
            f"{where} go up to {counts[-1]}, and none is {missing}: number the classes 0, 1, 2, ... "
            "without gaps, or list them all in `class_names`"
        )
    return tuple(str(label) for label in counts)


def checked(labels: np.ndarray, where: str, num_classes: int) -> np.ndarray:
    """Labels int [n] as int32 [n].

    Raises:
        UserError: a label is outside [0, num_classes).
    """
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(np.argmax(outside))
        raise UserError(f"{where}[{row}] is {labels[row]}, out of the range 0..{num_classes - 1} of train")
    return labels.astype(np.int32)
