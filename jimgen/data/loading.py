"""`load` finds a data set by name.

A source (digits.py, fashion_mnist.py, tfds_source.py, folder.py, npz.py) hands over its rows as they are stored. `load`
fits every picture to one shape, keeps the splits in memory if they are small enough, and hashes what came out.
"""

import contextlib
import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Literal, NamedTuple

import numpy as np

from jimgen.data import images as pictures
from jimgen.data.archive import holds_arrays, read_arrays
from jimgen.data.dataset import (
    Arrays,
    Dataset,
    DataSpec,
    Source,
    Stream,
    cache_dir,
    data_hash,
    num_rows,
    read_all,
    read_in_threads,
    runs,
    select,
)
from jimgen.data.layout import held_out
from jimgen.data.paths import find
from jimgen.errors import UserError
from jimgen.files import read_json, shown, write_atomically, write_npz

NAMES = ("digits", "fashion_mnist", "tfds:NAME", "folder:PATH", "npz:PATH")


def load(
    name: str,
    *,
    size: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    channels: Literal[1, 3] | None = None,
    bits: int | None = None,
    strict: bool = False,
    data_dir: str | None = None,
    download: bool = False,
    resident_bytes: int = 2**30,
) -> Dataset:
    """Finds a data set by name. The network is never used unless `download` is true.

    Args:
        name: `digits` (scikit-learn, 8x8 grey), `fashion_mnist` (28x28 grey), `tfds:NAME` (a prepared TFDS set of
            images), `folder:PATH` (pictures, a subfolder per class; PATH may be a .zip), `npz:PATH` (arrays, MedMNIST's
            field names).
        size: height and width of every picture; None keeps the stored size, which must then be the same for all.
        fit: "resize" stretches to size x size by bicubic interpolation; "pad" centres the picture, unscaled, on black.
        channels: 1 converts to luma, 3 repeats grey; None keeps 1 if every picture is grey, else 3.
        bits: of folders: how many bits a grey picture of 16 uses, 8 to 16; None as its header says, else 16. Pictures
            of 12 bits in 16 are nearly black without.
        strict: an unreadable picture is an error, instead of being left out and listed in `skipped`.
        data_dir: where TFDS keeps its prepared sets. Default: TFDS_DATA_DIR, else ~/tensorflow_datasets.
        download: let TFDS download and prepare a set that is missing.
        resident_bytes: train and test are `Arrays` if both together take at most this many bytes once fitted, else each
            is a `Stream`. Sources that are arrays already (digits, fashion_mnist, npz) stay so at any size.

    Returns:
        A Dataset: images uint8 [n, h, w, c] in [0, 255], labels int32 in [0, num_classes). A set without labels has one
        class, and labels 0.

    Raises:
        UserError: an unknown name, a set that is missing or malformed, pictures that do not fit `size`.
    """
    if size is not None and size < 1:
        raise UserError(f"size is {size}: give the height and width in pixels, for example 64")
    if fit not in ("resize", "pad"):
        raise UserError(f"fit is {fit!r}: choose 'resize' or 'pad'")
    if channels not in (None, 1, 3):
        raise UserError(f"channels is {channels}: choose 1 (grey) or 3 (RGB), or leave it out")
    if bits is not None and not 8 <= bits <= 16:
        raise UserError(f"bits is {bits}: choose 8 to 16, or leave it out")

    source = _open(name, data_dir=data_dir, download=download, bits=bits)
    shape = _fitted_shape(name, source.shape, size, channels)
    _require_fit(name, source, size, fit)
    fitting = _Fitting(shape, fit, bits, functools.partial(pictures.fit_images, size=size, fit=fit, channels=shape[2]))
    stored = [split for split in (source.train, source.test) if split is not None]
    resident = sum(num_rows(split) for split in stored) * int(np.prod(shape)) <= resident_bytes
    parts = [_readable(split, fitting, resident) for split in stored]
    skipped = [*source.skipped, *(fault for part in parts for fault in part.faults)]
    if strict and skipped:
        raise UserError(
            f"{name}: unreadable pictures: {len(skipped)}; the first is {skipped[0]}\n"
            "Fix or remove them, or leave out strict to go on without them"
        )
    _require_every_class(name, parts[0], source.class_names, skipped)
    splits = [part.split for part in parts]
    if source.test is None:
        is_test = np.array(held_out(parts[0].names), bool)
        splits = [_take(splits[0], np.flatnonzero(rows)) for rows in (~is_test, is_test)]
    train, test = (_fit_stream(split, fitting) if isinstance(split, Stream) else split for split in splits)
    if not num_rows(train) or not num_rows(test):
        first = f"; the first that cannot be read: {skipped[0]}" if skipped else ""
        raise UserError(
            f"{name} has {num_rows(train)} readable pictures for train and {num_rows(test)} for test; each needs one"
            + first
        )
    spec = DataSpec(
        name=shown(name),
        shape=shape,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        num_train=num_rows(train),
        num_test=num_rows(test),
        hash=data_hash(train, test),
    )
    return Dataset(spec, train, test, tuple(skipped), source.notes)


def _open(name: str, *, data_dir: str | None, download: bool, bits: int | None) -> Source:
    # Each source imports its own library, so that a run on one does not wait for the others'.
    kind, _, argument = name.partition(":")
    if name == "digits":
        from jimgen.data.digits import open_digits

        return open_digits()
    if name == "fashion_mnist":
        from jimgen.data.fashion_mnist import open_fashion_mnist

        return open_fashion_mnist(data_dir=data_dir, download=download)
    if kind == "tfds" and argument:
        from jimgen.data.tfds_source import open_tfds

        return open_tfds(argument, data_dir=data_dir, download=download)
    if kind == "folder" and argument:
        from jimgen.data.folder import open_folder

        return open_folder(argument, bits=bits)
    if kind == "npz" and argument:
        from jimgen.data.npz import open_npz

        return open_npz(argument)

    if path := find(name):
        kind = "folder" if path.is_dir() or path.suffix.lower() == ".zip" else None
        kind = "npz" if holds_arrays(path) else kind
        nearest = f"{kind}:{name}" if kind else None
    else:
        kinds = {known.partition(":")[0]: known for known in NAMES}
        nearest = kinds.get(next(iter(difflib.get_close_matches(kind, kinds)), ""))
    guess = f"; did you mean {nearest}?" if nearest else ""
    raise UserError(f"unknown data set {shown(name)!r}{shown(guess)}\nThe names are {', '.join(NAMES)}")


def _fitted_shape(
    name: str, stored: tuple[int | None, int | None, int], size: int | None, channels: int | None
) -> tuple[int, int, int]:
    height, width, stored_channels = stored
    if size is not None:
        height = width = size
    if height is None or width is None:
        raise UserError(f"{name}: the pictures differ in size; give one for all, for example --size 64")
    return height, width, channels or stored_channels


class _Fitting(NamedTuple):
    """How pictures are brought to one shape."""

    shape: tuple[int, int, int]
    fit: str
    bits: int | None
    apply: Callable[[np.ndarray], np.ndarray]


class _Part(NamedTuple):
    """The readable rows of what a source holds."""

    split: Arrays | Stream  # fitted, if it is arrays
    names: list[str]  # of picture files
    labels: np.ndarray | None  # of picture files
    faults: list[str]  # of those left out


def _require_fit(name: str, source: Source, size: int | None, fit: Literal["resize", "pad"]) -> None:
    """Raises UserError where pictures cannot be brought to the size, as their headers tell: no batch may find out."""
    faults, count = [], 0
    for split, where in ((source.train, "train"), (source.test, "test")):
        if not isinstance(split, Stream) or split.rows is None and split.size is None:
            continue  # of one size, which arrays have; fitting them tells
        for row, stored in enumerate(_sizes(split)):
            if reason := pictures.misfit(*stored, size, fit):
                faults.append(f"{split.rows[row].where if split.rows else f'row {row} of {where}'}: {reason}")
        count += len(split)
    if faults:
        raise UserError(
            f"{name}: {len(faults)} of {count} pictures cannot be brought to size {size}; the first is {faults[0]}, or "
            f"take {'them' if len(faults) > 1 else 'it'} out"
        )


def _sizes(stream: Stream) -> list[tuple[int, int]]:
    """The sizes of all rows by their headers; remembered where that takes long."""
    if stream.rows is not None:
        return [row.size for row in stream.rows]
    assert stream.size is not None
    memory = cache_dir() / f"sizes-{hashlib.sha256(stream.identity.encode()).hexdigest()}.npz"
    try:
        return [(int(height), int(width)) for height, width in read_arrays(memory, ["sizes"])["sizes"]]
    except (UserError, KeyError, ValueError):
        pass  # not there, or damaged: read again
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        parts = [list(pool.map(stream.size, rows)) for rows in runs(range(len(stream)), 2048)]
    sizes = [size for part in parts for size in part]
    write_npz(memory, {"sizes": np.array(sizes, np.int32)})
    return sizes


def _require_every_class(name: str, train: _Part, class_names: tuple[str, ...], skipped: list[str]) -> None:
    """Raises UserError where all picture files of a class were left out: it would stay a class without pictures."""
    if train.labels is None or not len(train.labels):
        return
    counts = np.bincount(train.labels, minlength=len(class_names))
    if not counts.all():
        lost = class_names[int(np.argmin(counts))]
        first = next((fault for fault in skipped if f"/{lost}/" in fault), [*skipped, "there is none"][0])
        raise UserError(
            f"{name}: no picture of the class {lost!r} can be read; the first: {first}\nFix them, or take the class out"
        )


def _fit_stream(stream: Stream, fitting: _Fitting) -> Stream:
    def read(row: int) -> tuple[np.ndarray, int]:
        image, label = stream.read(row)
        where = stream.rows[row].where if stream.rows else f"row {row}"
        try:
            fitted = fitting.apply(image)
        except UserError as error:
            raise UserError(f"{where}: {error}") from error
        if fitted.shape != fitting.shape:
            raise UserError(f"{where} is {list(fitted.shape)}, expected {list(fitting.shape)}: give a size for all")
        return fitted, label

    identity = f"{fitting.shape} {fitting.fit}" + (f" {fitting.bits} bits" if fitting.bits else "")
    return Stream(read, stream.num_rows, f"{identity}\n{stream.identity}", stream.rows)


def _readable(split: Arrays | Stream, fitting: _Fitting, resident: bool) -> _Part:
    """What can be read of a split: fitted arrays if it is to be `resident` or is arrays already, else the stream."""
    if isinstance(split, Arrays):
        parts = runs(range(len(split.images)), 2048)  # resizing works in float32: not on all at once
        images = np.concatenate([fitting.apply(split.images[run.start : run.stop]) for run in parts])
        return _Part(Arrays(images, split.labels.astype(np.int32)), [], None, [])
    if resident:
        found, faults = read_all(_fit_stream(split, fitting), fitting.shape)
    else:
        found, faults = split, _unreadable_rows(split)
    kept = np.delete(np.arange(num_rows(split)), list(faults))
    rows = [split.rows[row] for row in kept] if split.rows else []
    labels = np.array([row.label for row in rows], np.int64) if split.rows else None
    return _Part(_take(found, kept) if faults else found, [row.name for row in rows], labels, list(faults.values()))


def _take(split: Arrays | Stream, rows: np.ndarray) -> Arrays | Stream:
    return Arrays(*(array[rows] for array in split)) if isinstance(split, Arrays) else select(split, rows.tolist())


def _unreadable_rows(stream: Stream) -> dict[int, str]:
    """Reads every row of a stream of files once. That takes as long as an epoch, so the faults are remembered."""
    if not stream.rows:
        return {}
    files = "\n".join(row.stamp for row in stream.rows)
    memory = cache_dir() / f"unreadable-{hashlib.sha256(files.encode(errors='surrogateescape')).hexdigest()}.json"
    with contextlib.suppress(UserError, ValueError):  # damaged: read again
        remembered = read_json(memory, fix="remove it")
        if remembered is not None and all(0 <= int(row) < len(stream) for row in remembered):
            return {int(row): str(fault) for row, fault in remembered.items()}
    results = enumerate(read_in_threads(stream))
    faults = {row: str(result) for row, result in results if isinstance(result, pictures.UnreadableImage)}
    write_atomically(memory, json.dumps(faults))
    return faults
