"""Medical pictures: a folder of DICOM files and NIfTI volumes as grey slices, split by patient.

Nothing here prints what a header says: names, dates and numbers of patients never reach a message or a file.
"""

import hashlib
import os
import re
import threading
from collections import defaultdict
from collections.abc import Callable, Iterable, Sequence
from functools import lru_cache, partial
from importlib import util
from typing import NamedTuple

import numpy as np

from jimgen.data import dicom, nifti
from jimgen.data.dataset import UNLABELLED, Row, Source, Stream, stream_of
from jimgen.data.images import UnreadableImage
from jimgen.data.layout import class_of, class_order, held_out, require_one_kind, split_of
from jimgen.data.members import Member, list_members
from jimgen.data.paths import find, not_there
from jimgen.data.slices import Levels, Plane, grey_slices, split_of_slice
from jimgen.errors import UserError
from jimgen.files import expanded, read_errors, shown, some_of

INSTALL = "pip install -e '.[medical]'"
FORM = "medical:PATH[:axis=coronal][:window=LEVEL,WIDTH]"
KEPT_BYTES = 2**31  # slices kept in memory as 8 bits; volumes beyond it are read again for each slice


class Options(NamedTuple):
    """What a name says beside the path."""

    axis: str | None = None  # of NIfTI volumes; None is axial
    levels: Levels | None = None  # instead of the files' windows


class Report(NamedTuple):
    """What reading a volume left out."""

    skipped: tuple[str, ...] = ()
    empty: int = 0  # slices that show nearly nothing
    more: int = 0  # files with further volumes


class Volume(NamedTuple):
    """Neighbouring slices of one body."""

    name: str  # of its first file, relative
    where: str  # that name in messages
    patient: str
    read: Callable[[], tuple[list[np.ndarray], Report]]  # slices uint8 [h, w, 1]; they may differ in size


class Slice(NamedTuple):
    """A row of the data set."""

    volume: int
    place: int
    size: tuple[int, int]
    digest: str  # of its pixels


def open_medical(argument: str) -> Source:
    """The slices of all DICOM files and NIfTI volumes at a path, as streams of uint8 [h, w, 1].

    DICOM files of one series are a volume; so is a file of several frames, and a NIfTI file. A slice that shows nearly
    nothing is left out (see `grey_slices`). Folders at the top are classes, unless each holds another patient. A tenth
    of the patients, at least one, is test, by sha1 of their ids; of one patient, blocks of slices (`split_of_slice`).

    `skipped` names files that are damaged, in colour, or without a picture.

    Args:
        argument: path of a folder or of a file, and options: see FORM. axis is axial (the default), coronal or
            sagittal; window is the level and the width of the window.
    Raises:
        UserError: a package or the path is missing, an option is wrong, a file needs a package to decode it, nothing is
            left, or patients cannot be split.
    """
    path, options = _parsed(argument)
    where = f"medical:{shown(path)}"
    if not all(util.find_spec(module) for module in ("pydicom", "nibabel")):
        raise UserError(f"{where} needs packages that are not installed; install them:\n{INSTALL}")
    volumes, unread, notes = _volumes(_members(path, where), options, where)
    slices, kept, reports = _read_once(volumes)
    skipped = (*unread, *(fault for report in reports for fault in report.skipped))
    notes += _notes(reports, where)
    if not slices:
        raise UserError(f"{where}: no slice is left; the first left out: {[*skipped, *notes][0]}")
    class_names, classes, more = _classes(volumes, slices, where)
    train, test, still_more = _split(volumes, slices, classes, where)
    labels = [class_names.index(name) for name in classes]
    read, sizes, place = _reader(volumes, kept), {row.size for row in slices}, os.path.realpath(expanded(path))
    return Source(
        train=_stream(train, labels, volumes, read, f"{place}\ttrain"),
        test=_stream(test, labels, volumes, read, f"{place}\ttest"),
        class_names=tuple(map(shown, class_names)),
        shape=(*sizes.pop(), 1) if len(sizes) == 1 else (None, None, 1),
        skipped=skipped,
        notes=notes + more + still_more,
    )


def _parsed(argument: str) -> tuple[str, Options]:
    path, *given = re.split(r":(?=[a-z]+=)", argument)
    options = Options()
    for option in given:
        name, _, value = option.partition("=")
        if name == "axis" and value in nifti.AXES:
            options = options._replace(axis=value)
        elif name == "window" and (levels := _levels(value)):
            options = options._replace(levels=levels)
        else:
            raise UserError(
                f"medical:{shown(argument)}: cannot read {shown(option)!r}: write {FORM}, with an axis of "
                f"{', '.join(nifti.AXES)} and a width above 0, as in window=40,400"
            )
    return path, options


def _levels(text: str) -> Levels | None:
    """Black and white of "LEVEL,WIDTH"; None for another text."""
    try:
        level, width = (float(number) for number in text.split(","))
    except ValueError:
        return None
    return Levels(level - width / 2, level + width / 2) if np.isfinite([level, width]).all() and width > 0 else None


def _members(path: str, where: str) -> list[Member]:
    root = find(path)
    if root is None:
        raise not_there(path, "medical")
    if root.suffix.lower() == ".zip":
        raise UserError(f"{where}: archives are not read: unpack it and give the folder")
    if root.is_dir():
        return list_members(root)
    with read_errors(root):
        return [Member(root.name, shown(root), os.stat(root).st_size, "", str(root))] if root.is_file() else []


def _volumes(
    members: Sequence[Member], options: Options, where: str
) -> tuple[list[Volume], list[str], tuple[str, ...]]:
    """Volumes in the order of the names of their files, what was left out, and notes."""
    volumes, skipped, notes = [], [], ()
    series: dict[tuple, list[dicom.Header]] = defaultdict(list)
    axis = options.axis or "axial"
    for file in members:
        if nifti.is_nifti(file):
            read = partial(_read_nifti, file, axis, options.levels)
            volumes.append(Volume(file.name, file.where, nifti.patient_of(file.name), read))
        elif dicom.is_dicom(file):
            try:
                header = dicom.read_header(file)
            except UnreadableImage as error:
                skipped.append(str(error))
            else:
                series[class_of(file.name), header.patient, header.series].append(header)
    for headers in series.values():
        files = [header.file for header in dicom.in_order(headers)]
        read = partial(_read_dicom, files, options.levels)
        volumes.append(Volume(files[0].name, files[0].where, headers[0].patient, read))
    if not volumes and not skipped:
        others = f"; other files: {some_of([member.name for member in members])}" if members else ""
        raise UserError(f"{where} holds neither DICOM files nor NIfTI volumes (.nii, .nii.gz){others}")
    if options.axis and series:
        notes = (f"{where}: axis={axis} is that of NIfTI volumes; DICOM slices stay as they were taken",)
    return sorted(volumes, key=lambda volume: volume.name), skipped, notes


def _read_nifti(file: Member, axis: str, levels: Levels | None) -> tuple[list[np.ndarray], Report]:
    try:
        planes, count = nifti.read_volume(file, axis)
        return _grey(planes, levels, file, (), int(count > 1))
    except UnreadableImage as error:
        return [], Report((str(error),))


def _read_dicom(files: Sequence[Member], levels: Levels | None) -> tuple[list[np.ndarray], Report]:
    planes, skipped = [], []
    for file in files:
        try:
            planes += dicom.read_planes(file)
        except UnreadableImage as error:
            skipped.append(str(error))
    return _grey(planes, levels, files[0], tuple(skipped), 0)


def _grey(
    planes: list[Plane], levels: Levels | None, file: Member, skipped: tuple[str, ...], more: int
) -> tuple[list[np.ndarray], Report]:
    try:
        slices = grey_slices(planes, levels)
    except ValueError as error:
        return [], Report((*skipped, f"{file.where}: {error}"))
    return slices, Report(skipped, len(planes) - len(slices), more)


def _read_once(volumes: Sequence[Volume]) -> tuple[list[Slice], dict[int, list[np.ndarray]], list[Report]]:
    """What all volumes hold, and the pixels of the first ones that take KEPT_BYTES together."""
    slices: list[Slice] = []
    kept: dict[int, list[np.ndarray]] = {}
    reports, room = [], KEPT_BYTES
    for number, volume in enumerate(volumes):
        images, report = volume.read()
        reports.append(report)
        room -= sum(image.nbytes for image in images)
        if room >= 0:
            kept[number] = images
        for place, image in enumerate(images):
            digest = hashlib.sha256(f"{image.shape}".encode() + image.tobytes()).hexdigest()
            slices.append(Slice(number, place, image.shape[:2], digest))
    return slices, kept, reports


def _reader(volumes: Sequence[Volume], kept: dict[int, list[np.ndarray]]) -> Callable[[Slice], np.ndarray]:
    """A function that returns the pixels of a slice. Several threads may call it."""
    lock = threading.Lock()
    most = 1 + (os.cpu_count() or 1)  # each thread may be at another volume
    recent = lru_cache(maxsize=most)(lambda number: volumes[number].read()[0])

    def read(row: Slice) -> np.ndarray:
        if row.volume in kept:
            return kept[row.volume][row.place]
        with lock:  # neighbours are asked for at once: each volume is read by one thread
            images = recent(row.volume)
        if row.place >= len(images):
            raise UserError("medical pictures have changed since they were first read: start again")
        return images[row.place]

    return read


def _notes(reports: Iterable[Report], where: str) -> tuple[str, ...]:
    notes = []
    if more := sum(report.more for report in reports):
        notes.append(f"{where}: files with several volumes, of which the first is read: {more}")
    if empty := sum(report.empty for report in reports):
        notes.append(f"{where}: slices left out, as they show nearly nothing: {empty}")
    return tuple(notes)


def _classes(
    volumes: Sequence[Volume], slices: Sequence[Slice], where: str
) -> tuple[tuple[str, ...], list[str], tuple[str, ...]]:
    """The names of classes, the class of each slice, by the outermost folders, and notes.

    Raises:
        UserError: there are pictures beside folders, folders called like splits, or a class of which nothing is left.
    """
    require_one_kind([volume.name for volume in volumes], where)
    tops = [class_of(volume.name) or UNLABELLED[0] for volume in volumes]
    if len(set(tops)) > 1 and "train" in map(split_of, tops):
        raise UserError(
            f"{where}: {some_of(f'{top}/' for top in class_order(tops))} look like splits, and the split is by "
            "patient: put all patients into one folder, or give the path of one"
        )
    patients: dict[str, set[str]] = defaultdict(set)
    for number in {row.volume for row in slices}:
        patients[tops[number]].add(volumes[number].patient)
    several = len(set.union(*patients.values())) > 1
    if class_of(volumes[0].name) is None:
        return UNLABELLED, [UNLABELLED[0]] * len(slices), ()
    if all(len(ids) == 1 for ids in patients.values()) and (several or len(patients) == 1):
        note = f"{where}: no labels, as each folder holds one patient"
        return UNLABELLED, [UNLABELLED[0]] * len(slices), (note,)
    classes = [tops[row.volume] for row in slices]
    if lost := class_order(set(tops) - set(classes)):
        raise UserError(f"{where}: no slice of the class {shown(lost[0])!r} is left: take the class out")
    return class_order(tops), classes, ()


def _split(
    volumes: Sequence[Volume], slices: Sequence[Slice], classes: Sequence[str], where: str
) -> tuple[list[tuple[int, Slice]], list[tuple[int, Slice]], tuple[str, ...]]:
    """Numbered slices of train and of test, and notes.

    Raises:
        UserError: one of them is empty.
    """
    notes, patients = [], [volumes[row.volume].patient for row in slices]
    if len(set(patients)) == 1:
        counts = np.bincount([row.volume for row in slices])
        sides = [split_of_slice(row.place, int(counts[row.volume])) for row in slices]
        notes.append(
            f"{where}: all of one patient: test is blocks of neighbouring slices, which shows nothing of others"
        )
        fix = "one patient with too few neighbouring slices: add patients"
    else:
        held = patients_of_test(zip(classes, patients, strict=True))
        sides = ["test" if patient in held else "train" for patient in patients]
        fix = "each patient is the only one of a class: add patients, or give the path of one class"
    rows = list(enumerate(slices))
    train, test = ([rows[i] for i, found in enumerate(sides) if found == side] for side in ("train", "test"))
    known = {row.digest for _, row in train}
    new = [(i, row) for i, row in test if row.digest not in known]
    if len(new) < len(test):
        notes.append(f"{where}: slices of test left out, as train has their pixels too: {len(test) - len(new)}")
        fix = "train has the pixels of all slices of test: add patients"
    if not train or not new:
        raise UserError(f"{where}: no slice for {'test' if train else 'train'}: {fix}")
    return train, new, tuple(notes)


def patients_of_test(rows: Iterable[tuple[str, str]]) -> set[str]:
    """The patients of test, by sha1 of their ids: a tenth, at least one, and never all of a class.

    Args:
        rows: class and patient of slices.
    Returns: none, if every patient is the only one of a class.
    """
    members: dict[str, set[str]] = defaultdict(set)
    for name, patient in rows:
        members[name].add(patient)
    alone = {patient for ids in members.values() if len(ids) == 1 for patient in ids}
    others = sorted(set.union(*members.values()) - alone)
    chosen = {patient for patient, is_test in zip(others, held_out(others), strict=True) if is_test or len(others) == 1}
    for ids in members.values():
        if ids <= chosen:
            chosen.remove(max(ids, key=lambda patient: hashlib.sha1(patient.encode(errors="replace")).hexdigest()))
    return chosen


def _stream(
    rows: Sequence[tuple[int, Slice]],
    labels: Sequence[int],
    volumes: Sequence[Volume],
    read: Callable[[Slice], np.ndarray],
    place: str,
) -> Stream:
    """A stream of slices, known by their pixels."""
    known = [
        Row(
            name=row.digest,
            where=f"{volumes[row.volume].where}, slice {row.place + 1}",
            num_bytes=row.size[0] * row.size[1],
            size=row.size,
            label=labels[i],
            stamp=row.digest,
        )
        for i, row in rows
    ]
    return stream_of(known, lambda number: (read(rows[number][1]), known[number].label), place)
