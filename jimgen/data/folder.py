"""A folder or zip archive of pictures, with or without a subfolder per class."""

import os
from collections.abc import Collection, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np

from jimgen.data import images as pictures
from jimgen.data.archive import holds_arrays
from jimgen.data.dataset import Example, Row, Source, Stream, stream_of
from jimgen.data.folder_labels import LABEL_FILES, Labels, Layout, labels_of
from jimgen.data.index import recall
from jimgen.data.layout import TEST_NAMES, class_of, class_order, split_of, split_pair
from jimgen.data.members import Member, list_members, suffix
from jimgen.data.paths import find, not_there
from jimgen.errors import UserError
from jimgen.files import shown, some_of

WORTH_AN_INDEX = 1000  # files; the headers of fewer are read in no time
Shape = tuple[int, int, int]  # (height, width, channels)


def open_folder(path: str, *, reading: pictures.Reading = pictures.PLAIN) -> Source:
    """The pictures under `path`, as streams, in the order of their names.

    Classes are the subfolders that contain pictures (at any depth), in natural order: 2 before 10. Pictures directly in
    `path` are one class. Folders are splits by their names, in upper or lower case: `train` or `training`, and the
    first of `test`, `testing`, `val`, `valid`, `validation`, `dev`, `eval`, `evaluation` that has classes if train has
    them, and none otherwise. Other folders beside them are not read, and `notes` names them. Without a test folder
    `load` takes a tenth as test, by sha1 of the relative name.

    A zip archive is read in place, by the same rules; one folder around all of its content is ignored. Labels in a
    `labels.csv` (see label_table.py) or in a `dataset.json` as StyleGAN writes it take precedence over folders.

    Hidden files and folders, and files without a picture's suffix, are ignored. `skipped` names pictures of unsupported
    formats and files whose header cannot be read; `load` finds files that are damaged after the header.

    Args:
        path: path of a folder or zip archive.
        reading: see `images.decode`.
    Raises:
        UserError: the folder is missing or may not be read, has no pictures or no readable header, has pictures beside
            class folders, splits without train, labels in one split alone, or a test class that train lacks.
    """
    where, root = f"folder:{shown(path)}", _root(path)
    members = members_of(root)
    if any(member.name == "records.json" for member in members):
        raise UserError(f"{where} holds records, not pictures; did you mean records:{shown(path)}?")
    layout = layout_of(pictures_of(members, where), where)
    labels = labels_of(layout, members, where)
    skipped, shapes, streams = [], set(), []
    for split, side in ((layout.train, "train"), (layout.test or [], "test")):
        readable, place = [], f"{os.path.realpath(root)}\t{side}"
        for file, shape in zip(split, _read_shapes(split, place), strict=True):
            if isinstance(shape, pictures.UnreadableImage):
                skipped.append(str(shape))
            else:
                readable.append((file, shape))
                shapes.add(shape)
        streams.append(_stream(readable, labels, reading, place))
    train, test = streams
    if not shapes:
        raise UserError(f"{where}: none of the {len(skipped)} pictures can be read; the first: {skipped[0]}")
    heights, widths, channels = zip(*shapes, strict=True)
    height, width = (heights[0], widths[0]) if len(set(zip(heights, widths, strict=True))) == 1 else (None, None)
    return Source(
        train=train,
        test=None if layout.test is None else test,
        class_names=labels.class_names,
        shape=(height, width, max(channels)),
        skipped=tuple(skipped),
        notes=layout.notes + labels.notes,
        attributes=labels.attributes,
    )


def _root(path: str) -> Path:
    root = find(path)
    if root is None:
        raise not_there(path, "folder")
    if root.is_dir():
        return root
    if holds_arrays(root):
        raise UserError(f"folder:{shown(path)} is a file of arrays; did you mean npz:{shown(path)}?")
    if root.suffix.lower() != ".zip":
        raise UserError(
            f"folder:{shown(path)} is a file, not a folder or a .zip; did you mean folder:{shown(root.parent)}?"
        )
    return root


def members_of(root: Path) -> list[Member]:
    """`list_members`, without a folder around all members of an archive.

    Raises:
        UserError: as `list_members`.
    """
    members = list_members(root)
    return members if root.is_dir() else _without_wrapper(members)


def pictures_of(members: Sequence[Member], where: str) -> list[Member]:
    """The members that are pictures by their names, including unsupported formats.

    Raises:
        UserError: there are none.
    """
    known = pictures.picture_suffixes() | pictures.FOREIGN_SUFFIXES
    found = [member for member in members if suffix(member.name) in known]
    if not found:
        others = f"; other files: {some_of([member.name for member in members])}" if members else ""
        raise UserError(f"{where} holds no pictures (looked for .png, .jpg, .webp, .tif and other formats{others})")
    return found


def _without_wrapper(members: list[Member]) -> list[Member]:
    """Removes the one folder that holds all pictures of an archive, if it contains folders or labels."""
    tops = {class_of(member.name) for member in members if suffix(member.name) in pictures.picture_suffixes()}
    top = tops.pop() if len(tops) == 1 else None
    if top is None or split_of(top):
        return members
    within = [m._replace(name=m.name.removeprefix(f"{top}/")) for m in members if class_of(m.name) == top]
    worth = any(class_of(member.name) or member.name.lower() in LABEL_FILES for member in within)
    return within if worth else members


def layout_of(files: list[Member], where: str) -> Layout:
    """Train and test by the names of the outermost folders: see `open_folder`.

    Raises:
        UserError: train is missing, a split occurs twice, or only one split has labels.
    """
    tops = class_order(top for file in files if (top := class_of(file.name)))
    within: dict[str, list[Member]] = {top: [] for top in tops}
    for file in files:
        if top := class_of(file.name):
            within[top].append(file)
    splits: dict[str, list[str]] = {}
    for top in tops:
        if kind := split_of(top):
            splits.setdefault(kind, []).append(top)
    is_split = "train" in splits and (len(splits) > 1 or list(tops) == splits["train"])
    if not is_split:
        _require_classes(within, splits, where)
        named = [f"{top}/" for tops in splits.values() for top in tops]
        return Layout(
            files, None, notes=(f"{where}: taken for a class, not a split: {some_of(named)}",) if named else ()
        )
    if twice := next((folders for folders in splits.values() if len(folders) > 1), None):
        raise UserError(f"{where} has both {twice[0]}/ and {twice[1]}/: keep one of them")
    (train,) = splits["train"]
    if len(splits) == 1:
        return Layout(within[train], None, below=f"{train}/")
    tests = [splits[kind][0] for kind in TEST_NAMES if kind in splits]
    labelled = _has_classes(within[train], train)
    test = next((top for top in tests if _has_classes(within[top], top) == labelled), None)
    if test is None:
        has, lacks = (train, tests[0]) if labelled else (tests[0], train)
        raise UserError(
            f"{where}: {shown(has)}/ has a folder for each class, {shown(lacks)}/ has pictures without: sort them into "
            f"class folders, or move {shown(tests[0])}/ elsewhere (without it a tenth of {shown(train)}/ is test)"
        )
    unread = [f"{top}/" for top in tops if top not in (train, test)]
    unread += [file.name for file in files if class_of(file.name) is None]
    notes = (f"{where}: train is {train}/, test is {test}/; not read: {some_of(unread)}",) if unread else ()
    return Layout(within[train], within[test], f"{train}/", f"{test}/", notes)


def _has_classes(files: Sequence[Member], top: str) -> bool:
    return any(class_of(file.name.removeprefix(f"{top}/")) for file in files)


def _require_classes(within: Mapping[str, list[Member]], splits: Mapping[str, Sequence[str]], where: str) -> None:
    """Refuses class folders that look like splits."""
    if within and sum(len(tops) for tops in splits.values()) == len(within):
        some = next(iter(within))
        raise UserError(
            f"{where} has {some_of(f'{top}/' for top in within)}, but no train/: rename one, or give the path of one "
            f"({where}/{shown(some)}) and a tenth of it is test"
        )
    if pair := split_pair(tuple(within)):
        train, test = map(shown, pair)
        raise UserError(
            f"{where}: {train}/ and {test}/ have names of splits, not of classes: name them train/ and test/"
        )
    classes = {top: {class_of(file.name.removeprefix(f"{top}/")) for file in files} for top, files in within.items()}
    if within and all(_are_splits(folders) for folders in classes.values()):
        top = shown(next(iter(within)))
        if len(within) == 1:
            raise UserError(f"{where} holds {top}/ alone, which is split; did you mean {where}/{top}?")
        raise UserError(f"{where}: the class folders are split, such as {top}/; put the splits above: train/{top}/")
    for kind, (top, *_) in splits.items():
        others = [other for other in within if other != top and classes[other] == classes[top] != {None}]
        if others:
            raise UserError(
                f"{where}: {shown(top)}/ and {shown(others[0])}/ hold the same class folders; if they are splits, "
                f"rename {shown(others[0])}/ to {'test' if kind == 'train' else 'train'}/"
            )


def _are_splits(folders: Collection[str | None]) -> bool:
    kinds = {split_of(folder) for folder in folders if folder}
    return "train" in kinds and len(kinds - {None}) > 1


def read_picture(file: Member, *, reading: pictures.Reading = pictures.PLAIN) -> np.ndarray:
    """`images.decode` of a file.

    Raises:
        UnreadableImage: as `images.decode`, or the format is not supported.
    """
    _require_known(file)
    return pictures.decode(file.content, name=file.where, **reading._asdict())


def _require_known(file: Member) -> None:
    if suffix(file.name) not in pictures.picture_suffixes():
        fix = "read it by medical:PATH" if suffix(file.name) == ".dcm" else "convert it to PNG or JPEG"
        raise pictures.UnreadableImage(f"{file.where}: {suffix(file.name)} is not supported; {fix}")


def _read_shapes(files: Sequence[Member], place: str) -> list[Shape | pictures.UnreadableImage]:
    """The shapes by the headers; those of files that have not changed since the last time are in an index."""

    def read(file: Member) -> Shape | pictures.UnreadableImage:
        try:
            _require_known(file)
            return pictures.read_shape(file.content, name=file.where)
        except pictures.UnreadableImage as error:
            return error

    def read_run(files: list[Member]) -> list[Shape | pictures.UnreadableImage]:
        return [read(file) for file in files]

    def read_rows(rows: list[int]) -> list[Shape | pictures.UnreadableImage]:
        parts = [[files[row] for row in rows[start : start + 64]] for start in range(0, len(rows), 64)]
        with ThreadPoolExecutor(os.cpu_count()) as pool:
            return [shape for part in pool.map(read_run, parts) for shape in part]

    if len(files) < WORTH_AN_INDEX:
        return read_rows(list(range(len(files))))
    found = recall("shapes", place, [file.stamp for file in files], read_rows, _is_shape)
    return [shape if isinstance(shape, pictures.UnreadableImage) else tuple(shape) for shape in found]


def _is_shape(value: object) -> bool:
    return isinstance(value, list) and len(value) == 3 and all(isinstance(side, int) and side > 0 for side in value)


def _stream(
    readable: Sequence[tuple[Member, tuple[int, int, int]]], labels: Labels, reading: pictures.Reading, place: str
) -> Stream:
    rows = [
        Row(file.name, file.where, file.num_bytes, shape[:2], labels.label(file.name), f"{file.stamp}\t{reading.bits}")
        for file, shape in readable
    ]

    def read(row: int) -> Example:
        return read_picture(readable[row][0], reading=reading), rows[row].label

    return stream_of(rows, read, place)
