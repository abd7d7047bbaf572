"""Arrays in an .npz file: MedMNIST's field names, or the `images` and `labels` that `jimgen sample` writes."""

import difflib
import os
from collections.abc import Mapping
from typing import NamedTuple

import numpy as np

from jimgen.alpha import premultiply
from jimgen.data import labels as numbers
from jimgen.data.archive import array_names, read_arrays
from jimgen.data.dataset import UNLABELLED, Arrays, Source
from jimgen.data.paths import find, not_there
from jimgen.errors import UserError
from jimgen.files import shown, some_of

FIELDS = (
    *("images", "labels", "class_names"),
    *(f"{split}_{kind}" for split in ("train", "test", "val") for kind in ("images", "labels")),
)


class Split(NamedTuple):
    images: np.ndarray  # uint8 [n, h, w, c]
    stored: np.ndarray | None  # labels as stored
    field: str  # name of the labels


def open_npz(path: str) -> Source:
    """The splits of an .npz file, in memory.

    The file has `train_images` and `test_images` (else `val_images`), or only `images` or `train_images`, of which
    every tenth row, counted from the last, is test. Images are uint8 [n, h, w] or [n, h, w, 1, 3 or 4]; 4 channels are
    straight RGBA. Labels (`train_labels`, ...) are integers [n] or [n, 1], counted from 0, or one-hot rows [n, k]. The
    number of classes is that of `class_names`, else of the training labels, which must then have no gap. Without
    labels, or with several per row, the set is unlabelled; `notes` says so in the latter case, and names unread fields.
    Pickles are never read.

    Raises:
        UserError: the file is missing or not an .npz, a field is missing or has a wrong dtype or shape, a label is out
            of range, or a class has no training image.
    """
    fields = _read_fields(path)
    held_out = next((split for split in ("test", "val") if f"{split}_images" in fields), None)
    if "images" in fields or "train_images" in fields and held_out is None:
        prefix = "" if "images" in fields else "train_"
        images, stored, field = _split(path, fields, prefix)
        read = {f"{prefix}images", f"{prefix}labels"}
        held_back = (len(images) - 1 - np.arange(len(images))) % 10 == 0
        if held_back.all():
            raise UserError(f"npz:{path}: one image is not enough; give two or more, one is kept for test")
        train, test = (
            Split(images[rows], None if stored is None else stored[rows], field) for rows in (~held_back, held_back)
        )
    else:
        names = ("train", held_out or "test")
        train, test = (_split(path, fields, f"{split}_") for split in names)
        read = {f"{split}_{kind}" for split in names for kind in ("images", "labels")}
        if (train.stored is None) != (test.stored is None):
            missing = train.field if train.stored is None else test.field
            raise UserError(f"npz:{path} has no field {missing!r}, though the other split has labels")
        if train.images.shape[1:] != test.images.shape[1:]:
            sizes = f"train images are {train.images.shape[1:]}, test images {test.images.shape[1:]}"
            raise UserError(f"npz:{path}: {sizes}")

    train_labels, test_labels, class_names, notes = _labels(path, train, test, fields.get("class_names"))
    if unread := fields.keys() - read - {"class_names"}:
        notes += (f"npz:{path}: not read: {some_of(sorted(unread))}",)
    return Source(
        train=Arrays(train.images, train_labels),
        test=Arrays(test.images, test_labels),
        class_names=class_names,
        shape=train.images.shape[1:],
        notes=notes,
    )


def _labels(
    path: str, train: Split, test: Split, named: np.ndarray | None
) -> tuple[np.ndarray, np.ndarray, tuple[str, ...], tuple[str, ...]]:
    """int32 labels of train and test, class names and notes."""
    zeros = (np.zeros(len(train.images), np.int32), np.zeros(len(test.images), np.int32))
    if train.stored is None or test.stored is None:
        return *zeros, UNLABELLED, ()
    of_train, of_test = numbers.flat(train.stored), numbers.flat(test.stored)
    if of_train is None or of_test is None:
        return *zeros, UNLABELLED, (f"npz:{path}: {train.field} has several labels for an image: taken as unlabelled",)
    where = f"npz:{path}: {train.field}"
    if named is not None:
        try:
            class_names = tuple(shown(os.fsdecode(name) if isinstance(name, bytes) else name) for name in named.ravel())
        except ValueError as error:  # numbers that are not characters
            raise UserError(f"npz:{path}: class_names is not text ({error})") from error
    elif train.stored.ndim == 2 and train.stored.shape[1] > 1:  # the length of a one-hot row is the number of classes
        class_names = tuple(str(label) for label in range(train.stored.shape[1]))
    else:
        ours = train.field == test.field  # one field that is split here
        class_names = numbers.class_names(np.concatenate([of_train, of_test]) if ours else of_train, where)
    of_train = numbers.checked(of_train, where, len(class_names))
    return of_train, numbers.checked(of_test, f"npz:{path}: {test.field}", len(class_names)), class_names, ()


def _read_fields(path: str) -> dict[str, np.ndarray]:
    file = find(path)
    if file is None:
        raise not_there(path, "npz")
    if file.is_dir():
        raise UserError(f"npz:{path} is a folder; did you mean folder:{path}?")
    names = array_names(file)
    if not names and file.suffix.lower() == ".zip":
        raise UserError(f"npz:{path} holds no arrays; did you mean folder:{path}?")
    return read_arrays(file, FIELDS) | {name: np.zeros(0) for name in names if name not in FIELDS}


def _split(path: str, fields: Mapping[str, np.ndarray], prefix: str) -> Split:
    images, stored, field = _images(path, fields, f"{prefix}images"), fields.get(f"{prefix}labels"), f"{prefix}labels"
    if stored is not None:
        check_labels(stored, len(images), f"npz:{path}: {field}")
    return Split(images, stored, field)


def _images(path: str, fields: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    if name not in fields:
        likely = [field for field in fields if "image" in field and field not in FIELDS]
        nearest = difflib.get_close_matches(name, likely, n=1, cutoff=0.5)
        guess = f"; is {nearest[0]!r} meant?" if nearest else "."
        raise UserError(
            f"npz:{path} has no field {name!r}{guess} It has {some_of(fields)};\n"
            "expected are train_images and test_images, or images alone (and the same for labels)"
        )
    return checked_images(fields[name], f"npz:{path}: {name}")


def checked_images(stored: np.ndarray, where: str) -> np.ndarray:
    """Images uint8 [n, h, w] or [n, h, w, 1, 3 or 4] as [n, h, w, c]; straight RGBA as premultiplied RGBA.

    Raises:
        UserError: the dtype or shape differs, or there are no images.
    """
    if stored.dtype != np.uint8:
        raise UserError(f"{where} is {stored.dtype}, expected uint8: scale it to 0..255 and round")
    images = stored[..., None] if stored.ndim == 3 else stored
    if images.ndim != 4 or images.shape[-1] not in (1, 3, 4) or 0 in images.shape:
        raise UserError(f"{where} has shape {stored.shape}, expected [n, h, w] or [n, h, w, 1, 3 or 4]")
    return premultiply(images) if images.shape[-1] == 4 else images


def check_labels(labels: np.ndarray, num: int, where: str) -> None:
    """Raises UserError unless they are integers [num] or [num, 1], or rows [num, k] that may be one-hot."""
    if labels.dtype.kind not in "iu" and not (labels.dtype.kind in "bf" and labels.ndim == 2 and labels.shape[1] > 1):
        raise UserError(f"{where} is {labels.dtype}, expected integers")
    if labels.ndim not in (1, 2) or len(labels) != num or labels.size == 0:
        raise UserError(f"{where} has shape {labels.shape}, expected {num} labels")
