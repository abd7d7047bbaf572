"""Arrays in an .npz file: MedMNIST's field names, or the `images` and `labels` that `jimgen sample` writes."""

import difflib
import os
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np

from jimgen.alpha import premultiply
from jimgen.data import labels as numbers
from jimgen.data.archive import array_names, read_arrays
from jimgen.data.dataset import UNLABELLED, Arrays, Attribute, Source
from jimgen.data.paths import find, not_there
from jimgen.errors import UserError
from jimgen.files import shown, some_of

KINDS = ("images", "labels", "attributes")  # of the fields of a split
NAMES = ("class_names", "attribute_names", "attribute_values")  # fields for all splits
FIELDS = (*KINDS, *(f"{split}_{kind}" for split in ("train", "test", "val") for kind in KINDS), *NAMES)


class Split(NamedTuple):
    images: np.ndarray  # uint8 [n, h, w, c]
    stored: np.ndarray | None  # labels as stored
    attributes: np.ndarray | None  # int [n, a]
    rows: np.ndarray  # int [n], rows of the fields
    prefix: str  # of the names of the fields: "train_", ...

    @property
    def field(self) -> str:
        """Name of the labels."""
        return f"{self.prefix}labels"


def open_npz(path: str) -> Source:
    """The splits of an .npz file, in memory.

    The file has `train_images` and `test_images` (else `val_images`), or only `images` or `train_images`, of which
    every tenth row, counted from the last, is test. Images are uint8 [n, h, w] or [n, h, w, 1, 3 or 4]; 4 channels are
    straight RGBA. Labels (`train_labels`, ...) are integers [n] or [n, 1], counted from 0, or one-hot rows [n, k]. The
    number of classes is that of `class_names`, else of the training labels, which must then have no gap. Without
    labels, or with several per row, the set is unlabelled; `notes` says so in the latter case, and names unread fields.
    Pickles are never read.

    Attributes (`train_attributes`, ...) are integers [n, a], counted from 0, with `attribute_names` text [a] and
    perhaps `attribute_values` text [a, most], padded with "".

    Raises:
        UserError: the file is missing or not an .npz, a field is missing or has a wrong dtype or shape, a label or an
            attribute is out of range, names of attributes are missing or occur twice, or a class has no training image.
    """
    fields = _read_fields(path)
    held_out = next((split for split in ("test", "val") if f"{split}_images" in fields), None)
    if "images" in fields or "train_images" in fields and held_out is None:
        prefix = "" if "images" in fields else "train_"
        whole = _split(path, fields, prefix)
        read = {f"{prefix}{kind}" for kind in KINDS}
        held_back = (len(whole.images) - 1 - whole.rows) % 10 == 0
        if held_back.all():
            raise UserError(f"npz:{path}: one image is not enough; give two or more, one is kept for test")
        train, test = (
            Split(*(None if array is None else array[rows] for array in whole[:4]), prefix)  # pyright: ignore
            for rows in (~held_back, held_back)
        )
    else:
        names = ("train", held_out or "test")
        train, test = (_split(path, fields, f"{split}_") for split in names)
        read = {f"{split}_{kind}" for split in names for kind in KINDS}
        for kind, of_train, of_test in (
            ("labels", train.stored, test.stored),
            ("attributes", train.attributes, test.attributes),
        ):
            if (of_train is None) != (of_test is None):
                missing = f"{(train if of_train is None else test).prefix}{kind}"
                raise UserError(f"npz:{path} has no field {missing!r}, though the other split has {kind}")
        if train.images.shape[1:] != test.images.shape[1:]:
            sizes = f"train images are {train.images.shape[1:]}, test images {test.images.shape[1:]}"
            raise UserError(f"npz:{path}: {sizes}")

    train_labels, test_labels, class_names, notes = _labels(path, train, test, fields.get("class_names"))
    attributes = _attributes(path, train, test, fields)
    if unread := fields.keys() - read - set(NAMES):
        notes += (f"npz:{path}: not read: {some_of(sorted(unread))}",)
    return Source(
        train=Arrays(train.images, _columns(train_labels, train.attributes)),
        test=Arrays(test.images, _columns(test_labels, test.attributes)),
        class_names=class_names,
        shape=train.images.shape[1:],
        notes=notes,
        attributes=attributes,
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
        class_names = _texts(named, f"npz:{path}: class_names")
    elif train.stored.ndim == 2 and train.stored.shape[1] > 1:  # the length of a one-hot row is the number of classes
        class_names = tuple(str(label) for label in range(train.stored.shape[1]))
    else:
        counted, rows = _counted(train, test, of_train, of_test)
        class_names = numbers.class_names(counted, where, rows=rows)
    of_train = numbers.checked(of_train, where, len(class_names), train.rows)
    of_test = numbers.checked(of_test, f"npz:{path}: {test.field}", len(class_names), test.rows)
    return of_train, of_test, class_names, ()


def _counted(train: Split, test: Split, of_train: np.ndarray, of_test: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """The labels that decide which classes there are, and their rows in the field: those of train, and of test too if
    both are of one field, which is split here."""
    if train.prefix != test.prefix:
        return of_train, train.rows
    return np.concatenate([of_train, of_test]), np.concatenate([train.rows, test.rows])


def _texts(stored: np.ndarray, where: str) -> tuple[str, ...]:
    try:
        return tuple(shown(os.fsdecode(name) if isinstance(name, bytes) else name) for name in stored.ravel())
    except ValueError as error:  # numbers that are not characters
        raise UserError(f"{where} is not text ({error})") from error


def _columns(classes: np.ndarray, attributes: np.ndarray | None) -> np.ndarray:
    """Labels int32 [n], or [n, 1 + a] with attributes."""
    return classes if attributes is None else np.column_stack([classes, attributes]).astype(np.int32)


def attributes_of(path: str, fields: Mapping[str, np.ndarray]) -> tuple[Attribute, ...]:
    """The attributes of the fields `images` and `attributes`; () without the latter.

    Raises:
        UserError: as `open_npz`.
    """
    split = _split(path, fields, "")
    return _attributes(path, split, split, fields)


def attribute_fields(attributes: Sequence[Attribute]) -> dict[str, np.ndarray]:
    """The fields `attribute_names` and `attribute_values` of a file; none without attributes."""
    if not attributes:
        return {}
    most = max(len(attribute.values) for attribute in attributes)
    padded = [[*attribute.values, *[""] * (most - len(attribute.values))] for attribute in attributes]
    names = np.array([attribute.name for attribute in attributes])
    return {"attribute_names": names, "attribute_values": np.array(padded)}


def _attributes(path: str, train: Split, test: Split, fields: Mapping[str, np.ndarray]) -> tuple[Attribute, ...]:
    """The attributes with the names of their values.

    Raises:
        UserError: names are missing, too many or too few, occur twice or are "class"; or a value is out of range.
    """
    if train.attributes is None or test.attributes is None:
        return ()
    field, count = f"npz:{path}: {train.prefix}attributes", train.attributes.shape[1]
    if "attribute_names" not in fields:
        raise UserError(f"{field} have no names: add attribute_names, text [{count}], such as ['hair', 'glasses']")
    names = _texts(fields["attribute_names"], f"npz:{path}: attribute_names")
    if len(names) != count:
        raise UserError(f"npz:{path}: attribute_names has {len(names)} names, and {field} {count} columns")
    numbers.check_attribute_names(names, f"npz:{path}: attribute_names")
    found = []
    for column, name in enumerate(names):
        of_train, of_test = train.attributes[:, column], test.attributes[:, column]
        if "attribute_values" in fields:
            values = _values(fields["attribute_values"], column, name, count, f"npz:{path}: attribute_values")
        else:
            counted, rows = _counted(train, test, of_train, of_test)
            where = f"{field}[:, {column}] ({shown(name)})"
            values = numbers.class_names(counted, where, rows=rows, listed="attribute_values")
        for split, stored in ((train, of_train), (test, of_test)):
            outside = (stored < 0) | (stored >= len(values))
            if outside.any():
                at = int(np.argmax(outside))
                where = f"npz:{path}: {split.prefix}attributes[{split.rows[at]}, {column}] ({shown(name)})"
                raise UserError(f"{where} is {stored[at]}, out of the range 0..{len(values) - 1}")
        found.append(Attribute(name, values))
    return tuple(found)


def _values(stored: np.ndarray, column: int, name: str, count: int, where: str) -> tuple[str, ...]:
    """The names in one row of `attribute_values`, without the padding."""
    if stored.ndim != 2 or len(stored) != count:
        raise UserError(f"{where} has shape {stored.shape}, expected [{count}, most]: a row for each attribute")
    padded = _texts(stored[column], where)
    values = padded[: max((place + 1 for place, value in enumerate(padded) if value), default=0)]
    if not values or "" in values or len(set(values)) < len(values):
        raise UserError(f"{where}, row {column} ({name}): names are missing or occur twice; padding '' goes to the end")
    return values


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
    images = _images(path, fields, f"{prefix}images")
    stored, attributes = fields.get(f"{prefix}labels"), fields.get(f"{prefix}attributes")
    split = Split(images, stored, attributes, np.arange(len(images)), prefix)
    if split.stored is not None:
        check_labels(split.stored, len(images), f"npz:{path}: {split.field}")
    if split.attributes is not None:
        where = f"npz:{path}: {prefix}attributes"
        if split.attributes.dtype.kind not in "iu":
            raise UserError(f"{where} is {split.attributes.dtype}, expected integers")
        if split.attributes.ndim != 2 or len(split.attributes) != len(images) or not split.attributes.size:
            raise UserError(f"{where} has shape {split.attributes.shape}, expected [{len(images)}, attributes]")
    return split


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
