"""A folder of pictures, with a subfolder per class or without."""

import difflib
import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import numpy as np

from jimgen.data import images as pictures
from jimgen.data.dataset import UNLABELLED, Source, Stream
from jimgen.errors import UserError

SUFFIXES = (".bmp", ".gif", ".jpeg", ".jpg", ".pbm", ".pgm", ".png", ".ppm", ".tif", ".tiff", ".webp")
TEST_NAMES = ("test", "val", "validation")


class Picture(NamedTuple):
    path: Path
    name: str  # relative to the data set's folder, with forward slashes
    label: int


def open_folder(path: str) -> Source:
    """The pictures under `path`, as streams, in the order of their names.

    Classes are the subfolders that hold pictures (at any depth), sorted by name; pictures directly in `path` are one
    class. `train/` and `test/` (else `val/`, else `validation/`) are honoured; without the latter a tenth is
    test, by sha1 of the relative name, so that adding pictures moves none from one split to the other. Hidden files and
    folders, and files without a picture's suffix, are not looked at. A file whose header cannot be read is left out
    here; `load` finds those that are broken further on.

    Raises:
      UserError: no such folder, not a folder, no pictures, fewer than two, pictures beside class folders, a test class
        that train lacks, no readable header.
    """
    root = Path(path).expanduser()
    _check_is_folder(root, path)
    test_root = next((root / name for name in TEST_NAMES if (root / name).is_dir()), None)
    if (root / "train").is_dir() and test_root:
        train_names = _by_class(root / "train")
        class_names = tuple(sorted(train_names))
        test_names = _by_class(test_root)
        if unknown := sorted(set(test_names) - set(class_names)):
            raise UserError(f"folder:{path}: {test_root.name}/ has a class that train/ lacks: {unknown[0]!r}")
        train, test = (_listed(names, class_names, root) for names in (train_names, test_names))
    else:
        names = _by_class(root)
        if list(names) == ["train"]:  # train/ without test/: its subfolders are the classes
            names = _by_class(root / "train")
        class_names = tuple(sorted(names))
        train, test = _split(_listed(names, class_names, root))
    if not train or not test:
        raise UserError(f"folder:{path} has {len(train)} pictures for train and {len(test)} for test; each needs one")

    skipped, shapes, streams = [], set(), []
    for split in (train, test):
        readable = []
        for picture, shape in zip(split, _read_shapes(split), strict=True):
            if isinstance(shape, pictures.UnreadableImage):
                skipped.append(str(shape))
            else:
                readable.append(picture)
                shapes.add(shape)
        streams.append(_stream(readable))
    if not shapes:
        raise UserError(f"folder:{path}: none of the {len(skipped)} pictures can be read; the first: {skipped[0]}")

    heights, widths, channels = zip(*shapes, strict=True)
    height, width = (heights[0], widths[0]) if len(set(zip(heights, widths, strict=True))) == 1 else (None, None)
    return Source(*streams, class_names=class_names, shape=(height, width, max(channels)), skipped=tuple(skipped))


def _check_is_folder(root: Path, path: str) -> None:
    if root.is_dir():
        return
    if root.exists():
        mend = f"npz:{path}" if root.suffix == ".npz" else f"folder:{root.parent}"
        raise UserError(f"folder:{path} is a file, not a folder; did you mean {mend}?")
    siblings = [entry.name for entry in root.parent.iterdir() if entry.is_dir()] if root.parent.is_dir() else []
    nearest = difflib.get_close_matches(root.name, siblings, n=1)
    guess = f"; did you mean folder:{root.parent / nearest[0]}?" if nearest else f" (looked in {root.parent.resolve()})"
    raise UserError(f"folder:{path}: there is no such folder{guess}")


def _by_class(folder: Path) -> dict[str, list[Path]]:
    """Picture files by class name."""
    by_class = {entry.name: _picture_files(entry, "**/*") for entry in folder.iterdir() if _is_class_folder(entry)}
    by_class = {name: files for name, files in by_class.items() if files}
    loose = _picture_files(folder, "*")
    if loose and by_class:
        raise UserError(
            f"{folder} holds both pictures ({loose[0].name}) and folders of pictures ({min(by_class)}/); "
            "move the loose pictures into a class folder"
        )
    if not loose and not by_class:
        raise UserError(f"{folder} holds no pictures (looked for {' '.join(SUFFIXES)})")
    return by_class or {UNLABELLED[0]: loose}


def _is_class_folder(entry: Path) -> bool:
    return entry.is_dir() and not entry.name.startswith((".", "__"))  # __MACOSX and the like


def _picture_files(folder: Path, pattern: str) -> list[Path]:
    files = (entry for entry in folder.glob(pattern) if entry.suffix.lower() in SUFFIXES and entry.is_file())
    return [file for file in files if not any(part.startswith(".") for part in file.relative_to(folder).parts)]


def _listed(by_class: dict[str, list[Path]], class_names: tuple[str, ...], root: Path) -> list[Picture]:
    listed = [
        Picture(file, file.relative_to(root).as_posix(), class_names.index(class_name))
        for class_name, files in by_class.items()
        for file in files
    ]
    return sorted(listed, key=lambda picture: picture.name)


def _split(listed: list[Picture]) -> tuple[list[Picture], list[Picture]]:
    digests = [int(hashlib.sha1(picture.name.encode()).hexdigest(), 16) for picture in listed]
    is_test = [digest % 10 == 0 for digest in digests]
    if len(listed) > 1 and len(set(is_test)) == 1:  # a tiny folder: one picture goes to the side that is empty
        is_test[digests.index(min(digests))] ^= True
    train = [picture for picture, held_out in zip(listed, is_test, strict=True) if not held_out]
    test = [picture for picture, held_out in zip(listed, is_test, strict=True) if held_out]
    return train, test


def _read_shapes(split: list[Picture]) -> list[tuple[int, int, int] | pictures.UnreadableImage]:
    def read(picture: Picture) -> tuple[int, int, int] | pictures.UnreadableImage:
        try:
            return pictures.read_shape(picture.path)
        except pictures.UnreadableImage as error:
            return error

    with ThreadPoolExecutor(os.cpu_count()) as pool:
        return list(pool.map(read, split))


def _stream(split: list[Picture]) -> Stream:
    def read(row: int) -> tuple[np.ndarray, int]:
        return pictures.decode(split[row].path), split[row].label

    stats = [picture.path.stat() for picture in split]
    pairs = list(zip(split, stats, strict=True))
    identity = "\n".join(f"{picture.name}\t{stat.st_size}\t{picture.label}" for picture, stat in pairs)
    files = [f"{picture.path.resolve()}\t{stat.st_size}\t{stat.st_mtime_ns}" for picture, stat in pairs]
    return Stream(read, len(split), identity, "\n".join(files))
