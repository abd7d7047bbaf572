"""Arrays in an .npz file: MedMNIST's field names, or the `images` and `labels` that `jimgen sample` writes."""

import difflib
import zipfile
import zlib
from pathlib import Path

import numpy as np

from jimgen.data.dataset import UNLABELLED, Arrays, Source
from jimgen.errors import UserError


def open_npz(path: str) -> Source:
    """The splits of an .npz file, in memory.

    Either `train_images` and `test_images` (else `val_images`), or `images` alone, of which every tenth row, counted
    back from the last, is test. Images are uint8 [n, h, w] or [n, h, w, 1 or 3]. Labels (`train_labels`, ...) are
    integers [n] or [n, 1], counted from 0; `class_names`, else the largest label of train, says how many classes there
    are. With no labels at all, or several to a row ([n, k]), the set is taken as unlabelled. Pickles are never read.

    Raises:
      UserError: no such file, not an .npz, a field missing or of a wrong dtype or shape, a label out of range.
    """
    fields = _read_fields(path)
    if "images" in fields:
        images, labels = _images(path, fields, "images"), fields.get("labels")
        _check_rows(path, images, labels, "labels")
        test = (len(images) - 1 - np.arange(len(images))) % 10 == 0
        if test.all():
            raise UserError(f"npz:{path}: one image is not enough; give two or more, one is kept for test")
        raw = [(images[rows], None if labels is None else labels[rows], "labels") for rows in (~test, test)]
    else:
        held_out = "test" if "test_images" in fields or "val_images" not in fields else "val"
        raw = []
        for split in ("train", held_out):
            images, labels = _images(path, fields, f"{split}_images"), fields.get(f"{split}_labels")
            _check_rows(path, images, labels, f"{split}_labels")
            raw.append((images, labels, f"{split}_labels"))
        if (raw[0][1] is None) != (raw[1][1] is None):
            missing = next(name for _, labels, name in raw if labels is None)
            raise UserError(f"npz:{path} has no field {missing!r}, though the other split has labels")

    (train_images, train_labels, train_name), (test_images, test_labels, test_name) = raw
    if train_images.shape[1:] != test_images.shape[1:]:
        raise UserError(f"npz:{path}: train images are {train_images.shape[1:]}, test images {test_images.shape[1:]}")
    if train_labels is None or test_labels is None or train_labels.size != len(train_images):
        class_names = UNLABELLED
        train_labels, test_labels = (np.zeros(len(images), np.int32) for images in (train_images, test_images))
    else:
        class_names = _class_names(path, fields.get("class_names"), train_labels, train_name)
        train_labels = _labels(path, train_labels, train_name, len(class_names))
        test_labels = _labels(path, test_labels, test_name, len(class_names))
    return Source(
        train=Arrays(train_images, train_labels),
        test=Arrays(test_images, test_labels),
        class_names=class_names,
        shape=train_images.shape[1:],
    )


def _read_fields(path: str) -> dict[str, np.ndarray]:
    file = Path(path).expanduser()
    if file.is_dir():
        raise UserError(f"npz:{path} is a folder; did you mean folder:{path}?")
    if not file.exists():
        siblings = [entry.name for entry in file.parent.glob("*.npz")] if file.parent.is_dir() else []
        nearest = difflib.get_close_matches(file.name, siblings, n=1)
        guess = f"; did you mean npz:{file.parent / nearest[0]}?" if nearest else ""
        raise UserError(f"npz:{path}: there is no such file{guess}")
    try:
        if not zipfile.is_zipfile(file):  # np.load would take it for a pickle
            raise zipfile.BadZipFile("it is not a zip archive")
        # np.load leaves a file that it cannot read open, hence the handle.
        with file.open("rb") as handle, np.load(handle, allow_pickle=False) as fields:
            return {name: fields[name] for name in fields.files}
    except (OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        raise UserError(f"npz:{path} cannot be read ({error}); write it with numpy.savez, without objects") from error


def _images(path: str, fields: dict[str, np.ndarray], name: str) -> np.ndarray:
    if name not in fields:
        nearest = difflib.get_close_matches(name, [field for field in fields if "image" in field], n=1, cutoff=0.5)
        guess = f"; is {nearest[0]!r} meant?" if nearest else "."
        raise UserError(
            f"npz:{path} has no field {name!r}{guess} It has {', '.join(fields) or 'none'};\n"
            "wanted are train_images and test_images, or images alone (and the same for labels)"
        )
    images = fields[name]
    if images.dtype != np.uint8:
        raise UserError(f"npz:{path}: {name} is {images.dtype}, expected uint8: scale it to 0..255 and round")
    if images.ndim == 3:
        images = images[..., None]
    if images.ndim != 4 or images.shape[-1] not in (1, 3) or 0 in images.shape:
        raise UserError(f"npz:{path}: {name} has shape {fields[name].shape}, expected [n, h, w] or [n, h, w, 1 or 3]")
    return images


def _check_rows(path: str, images: np.ndarray, labels: np.ndarray | None, name: str) -> None:
    if labels is None:
        return
    if labels.dtype.kind not in "iu":
        raise UserError(f"npz:{path}: {name} is {labels.dtype}, expected integers")
    if labels.ndim not in (1, 2) or len(labels) != len(images) or labels.size == 0:
        raise UserError(f"npz:{path}: {name} has shape {labels.shape}, expected {len(images)} labels")


def _class_names(path: str, names: np.ndarray | None, train_labels: np.ndarray, field: str) -> tuple[str, ...]:
    if names is not None:
        return tuple(str(name) for name in names.ravel())
    num_classes = int(train_labels.max()) + 1
    if num_classes > max(len(train_labels), 2):
        raise UserError(f"npz:{path}: {field} go up to {num_classes - 1}; number the classes 0, 1, 2, ... without gaps")
    return tuple(str(label) for label in range(num_classes))


def _labels(path: str, labels: np.ndarray, field: str, num_classes: int) -> np.ndarray:
    labels = labels.ravel()
    outside = (labels < 0) | (labels >= num_classes)
    if outside.any():
        row = int(np.argmax(outside))
        raise UserError(f"npz:{path}: {field}[{row}] is {labels[row]}, out of the range 0..{num_classes - 1} of train")
    return labels.astype(np.int32)
