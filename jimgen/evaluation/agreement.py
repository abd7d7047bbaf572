"""Whether images show what was asked for: a classifier of every attribute, trained on real images, judges them."""

import contextlib
import hashlib
import json
from typing import Any

import numpy as np

from jimgen.conditions import column_sizes
from jimgen.data.dataset import Dataset, DataSpec, cache_dir, num_rows, read_rows
from jimgen.errors import UserError
from jimgen.evaluation.classifier import load_weights, pad_to_strides, predict, save_weights, train_classifier
from jimgen.evaluation.reference import chosen_rows

STEPS = 600  # train steps of the classifier
MOST_IMAGES = 50_000  # training images that it sees


def agreement(
    images: np.ndarray, labels: np.ndarray | None, dataset: Dataset, *, steps: int | None = None
) -> dict[str, float]:
    """The share of images, in percent, in which a classifier finds the value that the labels say.

    One classifier with logits for all columns learns from the training split; its own accuracy on real test images is
    the highest share that a generator can expect. It is trained once for a data set, and cached.

    Args:
        images: uint8 [n, h, w, c], of the data's shape.
        labels: int32 [n, columns]; a value that is "any" does not count.
        dataset: real images with attributes.
        steps: train steps of the classifier; by default STEPS. Values that are rare take more.
    Returns: By "agreement[NAME]" of each attribute, and of the class if there are several; and "agreement[all]": of
        images in which all that was asked for is found. Attributes that no label says are left out.
    Raises:
        UserError: see `require_asked`.
    """
    spec, counts = dataset.spec, require_asked(labels, dataset)
    right = found_values(images, dataset, steps or STEPS) == labels
    shares = {
        f"agreement[{column.name}]": 100 * float(right[counts[:, i], i].mean())
        for i, column in enumerate(spec.columns)
        if counts[:, i].any()
    }
    asked = counts.any(axis=1)
    return shares | {"agreement[all]": 100 * float((right | ~counts)[asked].all(axis=1).mean())}


def require_asked(labels: np.ndarray | None, dataset: Dataset) -> np.ndarray:
    """Where labels int32 [n, columns] ask for a value that can be right or wrong: bool [n, columns].

    Raises:
        UserError: the data have no attributes, or the labels no values.
    """
    spec = dataset.spec
    if not spec.attributes:
        raise UserError(f"agreement needs attributes, and {spec.name} has none: leave it out of --metrics")
    if labels is None or labels.ndim == 1:
        raise UserError(
            f"agreement needs images with labels of the attributes of {spec.name}: those of a run with --conditional"
        )
    sizes = np.asarray([len(column.values) for column in spec.columns])
    asked = (labels < sizes) & (sizes > 1)
    if not asked.any():
        raise UserError("agreement needs images that were drawn for values of attributes: use --classes frequency")
    return asked


def found_values(images: np.ndarray, dataset: Dataset, steps: int) -> np.ndarray:
    """The value of each column that the classifier finds in images uint8 [n, h, w, c]: int64 [n, columns]."""
    logits, _ = predict(_classifier(dataset, steps), pad_to_strides(images))
    ends = np.cumsum(_sizes(dataset.spec))
    return np.stack([part.argmax(axis=1) for part in np.split(logits, ends[:-1], axis=1)], axis=1)


def _classifier(dataset: Dataset, steps: int) -> dict[str, Any]:
    """The variables of the classifier, from the cache where it is there."""
    wanted = [dataset.spec.hash, _sizes(dataset.spec), steps, MOST_IMAGES]
    path = cache_dir() / "attributes" / f"{hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:32]}.npz"
    with contextlib.suppress(UserError):  # missing or damaged: train it
        return load_weights(path)[0]
    total = num_rows(dataset.train)
    images, labels = read_rows(dataset.train, chosen_rows(total, min(total, MOST_IMAGES)))
    labels = labels.reshape(len(labels), -1)  # a class alone is one column
    variables = train_classifier(pad_to_strides(images), labels, num_classes=_sizes(dataset.spec), steps=steps)
    save_weights(path, variables, {"data": dataset.spec.name, "steps": steps})
    return load_weights(path)[0]  # as rounded there, so that the first result is that of the next ones


def _sizes(spec: DataSpec) -> tuple[int, ...]:
    return column_sizes(spec.conditions)
