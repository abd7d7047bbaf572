"""`load` finds a data set by name.

A source (digits.py, fashion_mnist.py, tfds_source.py, folder.py, npz.py) hands over its rows as they are stored. `load`
fits every picture to one shape, keeps the splits in memory if they are small enough, and hashes what came out.
"""

import difflib
import functools
import hashlib
import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Literal

import numpy as np

from jimgen.data import images as pictures
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
)
from jimgen.errors import UserError

NAMES = ("digits", "fashion_mnist", "tfds:NAME", "folder:PATH", "npz:PATH")


def load(
    name: str,
    *,
    size: int | None = None,
    fit: Literal["resize", "pad"] = "resize",
    channels: Literal[1, 3] | None = None,
    strict: bool = False,
    data_dir: str | None = None,
    download: bool = False,
    resident_bytes: int = 2**30,
) -> Dataset:
    """Finds a data set by name. The network is never used unless `download` is true.

    Args:
      name: `digits` (scikit-learn, 8x8 grey), `fashion_mnist` (28x28 grey), `tfds:NAME` (a prepared TFDS set of
        images), `folder:PATH` (pictures, a subfolder per class), `npz:PATH` (arrays, MedMNIST's field names).
      size: height and width of every picture; None keeps the stored size, which must then be the same for all.
      fit: "resize" stretches to size x size by bicubic interpolation; "pad" centres the picture, unscaled, on black.
      channels: 1 converts to luma, 3 repeats grey; None keeps 1 if every picture is grey, else 3.
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

    source = _open(name, data_dir=data_dir, download=download)
    shape = _fitted_shape(name, source.shape, size, channels)
    fit_images = functools.partial(pictures.fit_images, size=size, fit=fit, channels=shape[2])
    num_bytes = (num_rows(source.train) + num_rows(source.test)) * int(np.prod(shape))
    skipped = list(source.skipped)

    def fitted(split: Arrays | Stream) -> Arrays | Stream:
        if isinstance(split, Arrays):
            parts = runs(range(len(split.images)), 2048)  # resizing works in float32: not on all at once
            images = np.concatenate([fit_images(split.images[run.start : run.stop]) for run in parts])
            return Arrays(images, split.labels.astype(np.int32))
        stream = _fit_stream(split, fit_images, f"{shape} {fit}")
        if num_bytes <= resident_bytes:
            split, unreadable = read_all(stream, shape)
        else:
            split, unreadable = _leave_out_unreadable(stream)
        skipped.extend(unreadable)
        if num_rows(split) == 0:
            raise UserError(f"{name}: no readable picture is left in a split; the first fault: {skipped[0]}")
        return split

    train, test = fitted(source.train), fitted(source.test)
    if strict and skipped:
        raise UserError(
            f"{name}: unreadable pictures: {len(skipped)}; the first is {skipped[0]}\n"
            "Mend or remove them, or leave out strict to go on without them"
        )
    spec = DataSpec(
        name=name,
        shape=shape,
        num_classes=len(source.class_names),
        class_names=source.class_names,
        num_train=num_rows(train),
        num_test=num_rows(test),
        hash=data_hash(train, test),
    )
    return Dataset(spec, train, test, tuple(skipped))


def _open(name: str, *, data_dir: str | None, download: bool) -> Source:
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

        return open_folder(argument)
    if kind == "npz" and argument:
        from jimgen.data.npz import open_npz

        return open_npz(argument)

    if Path(name).expanduser().exists():
        nearest = f"npz:{name}" if name.endswith(".npz") else f"folder:{name}"
    else:
        kinds = {known.partition(":")[0]: known for known in NAMES}
        nearest = kinds.get(next(iter(difflib.get_close_matches(kind, kinds)), ""))
    guess = f"; did you mean {nearest}?" if nearest else ""
    raise UserError(f"unknown data set {name!r}{guess}\nThe names are {', '.join(NAMES)}")


def _fitted_shape(
    name: str, stored: tuple[int | None, int | None, int], size: int | None, channels: int | None
) -> tuple[int, int, int]:
    height, width, stored_channels = stored
    if size is not None:
        height = width = size
    if height is None or width is None:
        raise UserError(f"{name}: the pictures differ in size; give one for all, for example --size 64")
    return height, width, channels or stored_channels


def _fit_stream(stream: Stream, fit_images: Callable[[np.ndarray], np.ndarray], fitted_to: str) -> Stream:
    def read(row: int) -> tuple[np.ndarray, int]:
        image, label = stream.read(row)
        return fit_images(image), label

    return Stream(read, stream.num_rows, f"{fitted_to}\n{stream.identity}", stream.files)


def _leave_out_unreadable(stream: Stream) -> tuple[Stream, list[str]]:
    """Reads every row of a stream of files once. That takes as long as an epoch, so the faults are remembered."""
    if stream.files is None:
        return stream, []
    memory = cache_dir() / f"unreadable-{hashlib.sha256(stream.files.encode()).hexdigest()}.json"
    if memory.exists():
        faults = {int(row): fault for row, fault in json.loads(memory.read_text()).items()}
    else:
        results = enumerate(read_in_threads(stream))
        faults = {row: str(result) for row, result in results if isinstance(result, pictures.UnreadableImage)}
        part = memory.with_suffix(f".{os.getpid()}")
        part.write_text(json.dumps(faults))
        part.replace(memory)
    rows = np.delete(np.arange(len(stream)), list(faults))
    identity = "\n".join([stream.identity, "without rows", *map(str, faults)])
    return Stream(lambda row: stream.read(int(rows[row])), len(rows), identity), list(faults.values())
