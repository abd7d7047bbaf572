"""Few real images of each class, with validation images beside them, drawn by seed."""

import hashlib
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from jimgen.alpha import BLACK, Colour
from jimgen.data.dataset import Arrays, Dataset, DataSpec, Stream, labels_of, num_rows, read_rows
from jimgen.data.labels import classes_of
from jimgen.errors import UserError
from jimgen.evaluation.opaque import opaque_dataset
from jimgen.files import some_of

LEAST_HELD_OUT = 10  # validation images of each class
AT_A_TIME = 1000  # images that are read at once


class Pools(NamedTuple):
    """Real images to draw from."""

    spec: DataSpec  # of the data that test and validation images belong to
    few: DataSpec | None  # of the data whose training images are the few real ones, if not the same
    background: Colour  # under transparent images
    is_transparent: bool  # whether there are any
    real: Arrays | Stream  # few of each class become training images
    real_classes: np.ndarray  # int32 [n]
    rest: Arrays | Stream  # validation images come from here
    rest_classes: np.ndarray  # int32 [m]
    free: np.ndarray  # bool [m], rows of rest that may be validation images
    test: Arrays  # with its classes, int32 [k]

    def held_out_per_class(self, count: int) -> int:
        """Validation images of each class beside `count` training images of each: as many, and at least 10; fewer than
        `count` where the smallest class has no more.

        Raises:
            UserError: a class has fewer than `count` images, or fewer than 10 others.
        """
        if count < 1:
            raise UserError(f"{count} real images per class: give 1 or more")
        num_classes = self.spec.num_classes
        there = np.bincount(self.real_classes, minlength=num_classes)
        others = np.bincount(self.rest_classes[self.free], minlength=num_classes) - (0 if self.few else count)
        for name, own, beside in zip(self.spec.class_names, there, others, strict=True):
            if own < count or beside < LEAST_HELD_OUT:
                left = f", which leaves {beside} for validation, {LEAST_HELD_OUT} are needed" if own >= count else ""
                raise UserError(
                    f"{count} real images per class are too many: class {name} has {own} training images{left}"
                )
        return int(min(max(count, LEAST_HELD_OUT), others.min()))


def pools_of(dataset: Dataset, few: Dataset | None = None, background: Colour = BLACK) -> Pools:
    """The images of a data set to draw from: training images of its training split, or of that of `few`.

    Validation images come from its training split, without any that equals a training image of `few`, pixel by pixel.
    Where labels have several columns, the class counts. Transparent images lie over the background.

    Raises:
        UserError: the data have one class only, or those of `few` have other classes, another shape or test images.
    """
    if dataset.spec.num_classes < 2:
        raise UserError(f"{dataset.spec.name} has no classes: a classifier needs at least two")
    seen = opaque_dataset(dataset, background)
    test, test_labels = read_rows(seen.test, range(num_rows(seen.test)))
    classes = classes_of(labels_of(seen.train))
    pools = Pools(
        spec=seen.spec,
        few=None,
        background=background,
        is_transparent=dataset.spec.shape[-1] == 4,
        real=seen.train,
        real_classes=classes,
        rest=seen.train,
        rest_classes=classes,
        free=np.ones(len(classes), bool),
        test=Arrays(test, classes_of(test_labels)),
    )
    return pools if few is None else _with_few(pools, few)


def _with_few(pools: Pools, few: Dataset) -> Pools:
    """Pools with the training images of `few` in place of their own."""
    seen, spec = opaque_dataset(few, pools.background), pools.spec
    if (seen.spec.class_names, seen.spec.shape) != (spec.class_names, spec.shape):
        raise UserError(
            f"{few.spec.name} and {spec.name} differ: {list(seen.spec.shape)} of {some_of(seen.spec.class_names)} and "
            f"{list(spec.shape)} of {some_of(spec.class_names)}; an .npz names its classes in class_names"
        )
    own = _digests(seen.train)
    if same := int(np.isin(_digests(pools.test), own).sum()):
        raise UserError(f"{same} test images of {spec.name} are training images of {few.spec.name}: leave them out")
    return pools._replace(
        few=few.spec,
        real=seen.train,
        real_classes=classes_of(labels_of(seen.train)),
        free=~np.isin(_digests(pools.rest), own),
    )


def draw(pools: Pools, count: int, seed: int) -> tuple[Arrays, Arrays]:
    """Training images, `count` of each class, and validation images, `held_out_per_class(count)` of each.

    The same seed draws the same images, and a larger `count` the smaller one's training images and more.

    Raises:
        UserError: as `held_out_per_class`.
    """
    rows, held_out = draw_rows(pools, count, seed)
    real, validation = read_rows(pools.real, rows), read_rows(pools.rest, held_out)
    return Arrays(real[0], pools.real_classes[rows]), Arrays(validation[0], pools.rest_classes[held_out])


def draw_rows(pools: Pools, count: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """The rows of `draw`: of `pools.real`, int64 [count * classes], and of `pools.rest`."""
    held_out = pools.held_out_per_class(count)
    rows = _rows_of_each_class(pools.real_classes, count, pools.spec.num_classes, [seed, 0])
    free = pools.free.copy()
    if not pools.few:
        free[rows] = False
    candidates = np.flatnonzero(free)
    chosen = _rows_of_each_class(pools.rest_classes[candidates], held_out, pools.spec.num_classes, [seed, 1])
    return rows, candidates[chosen]


def _rows_of_each_class(classes: np.ndarray, count: int, num_classes: int, seed: Sequence[int]) -> np.ndarray:
    """`count` random rows of each class, class by class: int64 [count * num_classes]."""
    rows = [
        np.random.default_rng([*seed, label]).permutation(np.flatnonzero(classes == label))[:count]
        for label in range(num_classes)
    ]
    return np.concatenate(rows)


def _digests(split: Arrays | Stream) -> np.ndarray:
    """A hash of the pixels of each image, bytes [n]."""
    total = num_rows(split)
    parts = (read_rows(split, range(i, min(i + AT_A_TIME, total)))[0] for i in range(0, total, AT_A_TIME))
    return np.array([hashlib.sha256(image.tobytes()).hexdigest() for part in parts for image in part])
