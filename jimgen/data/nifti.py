"""NIfTI volumes as planes, in the orientation in which radiologists show them."""

import gzip
import re
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen.data.images import UnreadableImage, content_faults
from jimgen.data.members import Member
from jimgen.data.slices import Plane

SUFFIXES = (".nii", ".nii.gz")
AXES = ("sagittal", "coronal", "axial")  # of a volume whose axes point right, to the front and up


class Planes(NamedTuple):
    """The slices of a volume."""

    planes: list[Plane]
    volumes: int  # in the file; the first is read


def is_nifti(file: Member) -> bool:
    """Whether a file is NIfTI by its suffix."""
    return file.name.lower().endswith(SUFFIXES)


def patient_of(name: str) -> str:
    """The patient by a file's name: `sub-XX` at its start, as in BIDS, else the whole name without its suffix."""
    stem = re.sub(r"\.nii(\.gz)?$", "", name.rpartition("/")[2], flags=re.IGNORECASE)
    subject = re.match(r"sub-[A-Za-z0-9]+", stem)
    return subject[0] if subject else stem


def read_volume(file: Member, axis: str) -> Planes:
    """The slices across an axis of the volume in canonical (RAS) orientation.

    They are ordered from left to right, from back to front, or from below to above. The patient's right is on the left
    of axial and coronal slices, the front on the left of sagittal ones.

    Args:
        file: the file; of several volumes in it the first is read.
        axis: "sagittal", "coronal" or "axial".
    Raises:
        UnreadableImage: the file is damaged, or has colours or complex numbers.
        UserError: the file may not be read, or memory is short.
    """
    import nibabel
    from nibabel.imageglobals import LoggingOutputSuppressor

    assert isinstance(file.found, str), "members of archives have no path"
    path = Path(file.found)
    with content_faults(file.where, lambda _: "not NIfTI, or damaged"), LoggingOutputSuppressor():
        num_bytes = _content_length(path)
        image: Any = nibabel.load(path)
        shape, kind = image.shape, image.header.get_data_dtype()
        if kind.kind not in "iuf":
            raise UnreadableImage(f"{file.where}: colours or complex numbers: only grey volumes are read")
        if len(shape) < 2 or min(shape) < 1 or _product(shape) * kind.itemsize > num_bytes:
            raise ValueError("truncated")
        with np.errstate(all="ignore"):
            values = np.asarray(image.dataobj[(..., *[0] * (len(shape) - 3))], np.float32)
        values = values.reshape(*values.shape, *[1] * (3 - values.ndim))
        upright = nibabel.as_closest_canonical(nibabel.Nifti1Image(values, image.affine))  # pyright: ignore
        zooms, volume = upright.header.get_zooms(), np.asarray(upright.dataobj)
    across = AXES.index(axis)
    wide, tall = (zooms[other] for other in range(3) if other != across)
    planes = [Plane(np.flip(plane).T, (float(tall), float(wide))) for plane in np.moveaxis(volume, across, 0)]
    return Planes(planes, _product(shape[3:]))


def _product(sides: tuple[int, ...]) -> int:
    product = 1  # in Python's integers: a damaged header may have any numbers
    for side in sides:
        product *= int(side)
    return product


def _content_length(path: Path) -> int:
    """Bytes of a file once unpacked. Reads a packed one to its end, where its checksum is, in small parts.

    Raises: what gzip raises for a damaged file.
    """
    if path.suffix.lower() != ".gz":
        return path.stat().st_size
    total = 0
    with gzip.open(path) as content:
        while part := content.read(2**20):
            total += len(part)
    return total
