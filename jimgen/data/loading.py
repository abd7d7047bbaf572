"""`load` finds a data set by name.

A source (digits.py, fashion_mnist.py, tfds_source.py, folder.py, npz.py, records.py, medical.py) returns its rows as
they are stored. `load` fits every picture to one shape, keeps the splits in memory if they are small enough, and hashes
the result.
"""

import difflib
import hashlib
import os
import re
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import NamedTuple

import numpy as np

from jimgen.alpha import Colour
from jimgen.data import images as pictures
from jimgen.data.archive import holds_arrays, read_arrays
from jimgen.data.attributes import combination_by_name, show
from jimgen.data.dataset import (
    CLASS,
    Arrays,
    Attribute,
    Dataset,
    DataSpec,
    Example,
    Source,
    Stream,
    cache_dir,
    data_hash,
    labels_of,
    num_rows,
    read_in_threads,
    runs,
    select,
)
from jimgen.data.decoded import read_all_once
from jimgen.data.fitting import (
    AT_A_TIME,
    Channels,
    Crop,
    Fit,
    Fitting,
    Resample,
    fit_images,
    fitting_of,
    misfit,
)
from jimgen.data.index import recall
from jimgen.data.labels import classes_of
from jimgen.data.layout import held_out
from jimgen.data.paths import find
from jimgen.data.random_crops import random_crops, whole_note
from jimgen.data.recipes import RECIPES, open_recipe
from jimgen.errors import UserError
from jimgen.files import shown, write_npz
from jimgen.sizes import size_text

NAMES = (
    *("digits", "fashion_mnist", "tfds:NAME", "folder:PATH", "npz:PATH", "records:PATH", "medical:PATH"),
    *RECIPES.values(),
)


def load(
    name: str,
    *,
    size: int | tuple[int, int] | None = None,
    fit: Fit = "crop",
    channels: Channels | None = None,
    background: str | Colour = "black",
    resample: Resample = "bicubic",
    bits: int | None = None,
    crop: Crop = "centre",
    crop_scale: float = 1.0,
    without: Sequence[str] = (),
    strict: bool = False,
    data_dir: str | None = None,
    download: bool = False,
    resident_bytes: int = 2**30,
) -> Dataset:
    """Finds a data set by name. The network is never used unless `download` is true.

    Args:
        name: `digits` (scikit-learn, 8x8 grey), `fashion_mnist` (28x28 grey), `tfds:NAME` (a prepared TFDS set of
            images), `folder:PATH` (pictures, a subfolder per class; PATH may be a .zip), `npz:PATH` (arrays, MedMNIST's
            field names), `records:PATH` (what `jimgen pack` wrote), `medical:PATH` (DICOM and NIfTI files; see
            `open_medical`), or a recipe (`jimgen data` lists them): `faces:avataaars`, `phantom:ct`, ...
        size: side of the square, or (height, width), of every picture; None keeps the stored size, which must then be
            the same for all.
        fit: "crop" cuts out the largest centred window of that aspect ratio, and resizes it; "resize" stretches the
            whole picture; "pad" centres the picture, unscaled, on the background.
        channels: 1 converts to luma, 3 repeats grey, 4 keeps transparency as premultiplied RGBA (see jimgen/alpha.py);
            None keeps 1 if every picture is grey, else 3.
        background: colour under transparent pixels unless there are 4 channels, and around padded pictures: black,
            white, #rrggbb or a tuple.
        resample: "bicubic", or "nearest" for pixel art.
        bits: number of bits used in 16-bit grey pictures of a folder, 8 to 16; None takes it from the header, else 16.
            Pictures that use 12 bits look nearly black without it.
        crop: "random" makes the train split a Stream whose `draw` returns random windows; `read`, and the test split,
            stay centred. Pictures are kept decoded if they fit into `resident_bytes`.
        crop_scale: least size of a random window as a fraction of the largest one.
        without: combinations of attributes to leave out of training, as "hair=red+glasses!=none"; what a model
            makes of them then shows whether it can combine what it has learned. The test split keeps them.
        strict: raise an error for an unreadable picture, instead of leaving it out and listing it in `skipped`.
        data_dir: folder of TFDS's prepared sets. Default: TFDS_DATA_DIR, else ~/tensorflow_datasets.
        download: let TFDS download and prepare a set that is missing.
        resident_bytes: both splits become `Arrays` if together they take at most this many bytes once fitted, else each
            is a `Stream`. Sources that are arrays already (digits, fashion_mnist, npz) stay arrays at any size.
    Returns:
        A Dataset: images uint8 [n, h, w, c] in [0, 255], labels int32 [n] in [0, num_classes), or [n, columns] with
        attributes (see `DataSpec`). A set without labels has one class, and all its labels are 0.
    Raises:
        UserError: the name is unknown, the set is missing or malformed, pictures do not fit `size`; or see
            `fitting_of`.
    """
    fitting = fitting_of(size, fit, channels, background, resample, bits, crop, crop_scale)
    source = _open(name, fitting, data_dir=data_dir, download=download)
    target = _Target(_fitted_shape(name, source.shape, fitting), fitting)
    _require_fit(name, source, fitting)
    stored = [split for split in (source.train, source.test) if split is not None]
    resident = sum(num_rows(split) for split in stored) * int(np.prod(target.shape)) <= resident_bytes
    drawn = fitting.crop == "random"
    parts = [_readable(split, target, resident, drawn and split is source.train) for split in stored]
    skipped = [*source.skipped, *(fault for part in parts for fault in part.faults)]
    if strict and skipped:
        raise UserError(
            f"{name}: unreadable pictures: {len(skipped)}; the first is {skipped[0]}\n"
            "Fix or remove them, or leave out strict to go on without them"
        )
    _require_every_class(name, parts[0], source.class_names, skipped)
    train, test = _train_and_test(parts)
    train = _without(train, source, without)
    if not num_rows(train) or not num_rows(test):
        first = f"; the first that cannot be read: {skipped[0]}" if skipped else ""
        raise UserError(
            f"{name} has {num_rows(train)} readable pictures for train and {num_rows(test)} for test; each needs one"
            + first
        )
    counts = (num_rows(train), num_rows(test))
    train = random_crops(train, fitting, target.shape, resident_bytes) if drawn else _fitted(train, target, resident)
    test, classes = _fitted(test, target, resident), source.class_names
    named = (shown(name), target.shape, len(classes), classes)
    spec = DataSpec(*named, *counts, data_hash(train, test), source.attributes)
    notes = source.notes + whole_note(source, fitting, target.shape[:2])
    return Dataset(spec, train, test, tuple(skipped), notes)


def _without(train: Arrays | Stream, source: Source, combinations: Sequence[str]) -> Arrays | Stream:
    """The training split without rows that show one of the combinations."""
    if not combinations:
        return train
    columns = (Attribute(CLASS, source.class_names), *source.attributes)
    wanted = [combination_by_name(columns, text, "--without") for text in combinations]
    labels = labels_of(train)
    kept = ~np.any([show(labels, combination) for combination in wanted], axis=0)
    if not kept.any():
        raise UserError(f"--without {' '.join(combinations)}: no training picture is left")
    return _take(train, np.flatnonzero(kept))


def _open(name: str, fitting: Fitting, *, data_dir: str | None, download: bool) -> Source:
    # Each source imports its own library, so that a run on one does not wait for the others'.
    kind, _, argument = name.partition(":")
    reading = fitting.reading
    if name == "digits":
        from jimgen.data.digits import open_digits

        return open_digits()
    if name == "fashion_mnist":
        from jimgen.data.fashion_mnist import open_fashion_mnist

        return open_fashion_mnist(data_dir=data_dir, download=download)
    if kind == "tfds" and argument:
        from jimgen.data.tfds_source import open_tfds

        return open_tfds(argument, data_dir=data_dir, download=download, reading=reading)
    if kind == "folder" and argument:
        from jimgen.data.folder import open_folder

        return open_folder(argument, reading=reading)
    if kind == "npz" and argument:
        from jimgen.data.npz import open_npz

        return open_npz(argument)
    if kind == "medical" and argument:
        from jimgen.data.medical import open_medical

        return open_medical(argument)
    if kind in RECIPES:
        return open_recipe(kind, argument, fitting.size)
    if kind == "records" and argument:
        from jimgen.data.records import open_records

        return open_records(argument)

    if path := find(name):
        kind = "folder" if path.is_dir() or path.suffix.lower() == ".zip" else None
        kind = "npz" if holds_arrays(path) else kind
        kind = "records" if path.is_dir() and (path / "records.json").is_file() else kind
        nearest = f"{kind}:{name}" if kind else None
    else:
        kinds = {re.split(r"[:\[]", known)[0]: known.partition("[")[0] for known in NAMES}
        nearest = kinds.get(next(iter(difflib.get_close_matches(kind, kinds)), ""))
    guess = f"; did you mean {nearest}?" if nearest else ""
    raise UserError(f"unknown data set {shown(name)!r}{shown(guess)}\nThe names are {', '.join(NAMES)}")


def _fitted_shape(name: str, stored: tuple[int | None, int | None, int], fitting: Fitting) -> tuple[int, int, int]:
    height, width = stored[:2] if fitting.size is None else fitting.size
    if height is None or width is None:
        raise UserError(f"{name}: the pictures differ in size; give one for all, for example --size 64")
    return height, width, fitting.channels or min(stored[2], 3)


class _Target(NamedTuple):
    """The shape of the result, and the way to it."""

    shape: tuple[int, int, int]
    fitting: Fitting

    def fit(self, images: np.ndarray) -> np.ndarray:
        return fit_images(images, self.fitting._replace(channels=self.shape[2]))


class _Part(NamedTuple):
    """The readable rows of one split of a source."""

    split: Arrays | Stream  # fitted only if it is Arrays, and not for random crops
    names: list[str]  # names of picture files
    classes: np.ndarray | None  # int [n], of picture files
    faults: list[str]  # reasons for the rows left out


def _train_and_test(parts: list[_Part]) -> list[Arrays | Stream]:
    """Both splits; a source of one part is split by `held_out`."""
    splits = [part.split for part in parts]
    if len(parts) == 1:
        is_test = np.array(held_out(parts[0].names), bool)
        splits = [_take(splits[0], np.flatnonzero(rows)) for rows in (~is_test, is_test)]
    return splits


def _require_fit(name: str, source: Source, fitting: Fitting) -> None:
    """Raises UserError if headers show pictures that cannot be brought to the size, before training begins."""
    faults, count = [], 0
    for split, where in ((source.train, "train"), (source.test, "test")):
        if not isinstance(split, Stream) or split.rows is None and split.size is None:
            continue  # all rows have one size: fitting the first one tells
        for row, stored in enumerate(_sizes(split)):
            if reason := misfit(*stored, fitting.size, fitting.fit):
                faults.append(f"{split.rows[row].where if split.rows else f'row {row} of {where}'}: {reason}")
        count += len(split)
    if faults:
        assert fitting.size is not None
        raise UserError(
            f"{name}: {len(faults)} of {count} pictures cannot be brought to size {size_text(fitting.size)}; the first "
            f"is {faults[0]}, or take {'them' if len(faults) > 1 else 'it'} out"
        )


def _sizes(stream: Stream) -> list[tuple[int, int]]:
    """The (height, width) of all rows by their headers; cached where reading them takes long."""
    if stream.rows is not None:
        return [row.size for row in stream.rows]
    assert stream.size is not None
    memory = cache_dir() / f"sizes-{hashlib.sha256(stream.identity.encode()).hexdigest()}.npz"
    try:
        return [(int(height), int(width)) for height, width in read_arrays(memory, ["sizes"])["sizes"]]
    except (UserError, KeyError, ValueError):
        pass  # missing or damaged: read the headers again
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = [list(pool.map(stream.size, rows)) for rows in runs(range(len(stream)), 2048)]
    sizes = [size for part in parts for size in part]
    write_npz(memory, {"sizes": np.array(sizes, np.int32)})
    return sizes


def _require_every_class(name: str, train: _Part, class_names: tuple[str, ...], skipped: list[str]) -> None:
    """Raises UserError if all picture files of a class were left out."""
    if train.classes is None or not len(train.classes):
        return
    counts = np.bincount(train.classes, minlength=len(class_names))
    if not counts.all():
        lost = class_names[int(np.argmin(counts))]
        first = next((fault for fault in skipped if f"/{lost}/" in fault), [*skipped, "there is none"][0])
        raise UserError(
            f"{name}: no picture of the class {lost!r} can be read; the first: {first}\nFix them, or take the class out"
        )


def _fitted(split: Arrays | Stream, target: _Target, resident: bool) -> Arrays | Stream:
    """A split of `_train_and_test`, of which streams are not fitted yet."""
    if isinstance(split, Arrays):
        return split
    stream = _fit_stream(split, target)
    return read_all_once(stream, target.shape)[0] if resident else stream


def _fit_stream(stream: Stream, target: _Target) -> Stream:
    def read(row: int) -> Example:
        image, label = stream.read(row)
        where = stream.rows[row].where if stream.rows else f"row {row}"
        try:
            fitted = target.fit(image)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if fitted.shape != target.shape:
            raise UserError(f"{where} is {list(fitted.shape)}, expected {list(target.shape)}: give a size for all")
        return fitted, label

    identity = f"{target.shape} {target.fitting.identity}\n{stream.identity}"
    return Stream(read, stream.num_rows, identity, stream.rows, place=stream.place)


def _readable(split: Arrays | Stream, target: _Target, resident: bool, as_stored: bool) -> _Part:
    """The readable rows of a split: as fitted Arrays if `resident` or stored as arrays, else as a Stream; `as_stored`:
    neither fitted nor read into memory."""
    if isinstance(split, Arrays):
        labels, images = split.labels.astype(np.int32), split.images
        if not as_stored:
            parts = runs(range(len(images)), AT_A_TIME)
            images = np.concatenate([target.fit(images[run.start : run.stop]) for run in parts])
        return _Part(Arrays(images, labels), [], None, [])
    if resident and not as_stored:
        found, faults = read_all_once(_fit_stream(split, target), target.shape)
    else:
        found, faults = split, _unreadable_rows(split)
    kept = np.delete(np.arange(num_rows(split)), list(faults))
    rows = [split.rows[row] for row in kept] if split.rows else []
    classes = classes_of(np.array([row.label for row in rows], np.int64)) if rows else None
    return _Part(_take(found, kept) if faults else found, [row.name for row in rows], classes, list(faults.values()))


def _take(split: Arrays | Stream, rows: np.ndarray) -> Arrays | Stream:
    return Arrays(*(array[rows] for array in split)) if isinstance(split, Arrays) else select(split, rows.tolist())


def _unreadable_rows(stream: Stream) -> dict[int, str]:
    """Reads every row of a stream of files once. That takes as long as an epoch, so the faults are cached."""
    if not stream.rows:
        return {}

    def read(rows: list[int]) -> list[str]:
        results = read_in_threads(select(stream, rows))
        return [str(result) if isinstance(result, pictures.UnreadableImage) else "" for result in results]

    stamps = [row.stamp for row in stream.rows]
    faults = recall("faults", stream.place, stamps, read, lambda fault: isinstance(fault, str))
    return {row: fault for row, fault in enumerate(faults) if fault}
