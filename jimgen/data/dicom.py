"""DICOM files: what their headers say, and their frames as planes.

Messages name files and kinds of faults, never a value of a header: that could be a patient's name.
"""

import contextlib
import math
import warnings
from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
from PIL import Image

from jimgen.data.images import UnreadableImage, content_faults
from jimgen.data.members import Member, suffix
from jimgen.data.slices import Levels, Plane
from jimgen.errors import UserError
from jimgen.files import read_errors

if TYPE_CHECKING:
    from pydicom import Dataset

SUFFIXES = (".dcm", ".dicom", ".ima")
NOT_PICTURES = ("SEG", "RTDOSE")  # modalities with pixels that are maps of regions, or of dose
DECODERS = "pip install pylibjpeg pylibjpeg-libjpeg pylibjpeg-openjpeg"
_MARK, _MARK_AT = b"DICM", 128
_SPACINGS = ("PixelSpacing", "ImagerPixelSpacing", "NominalScannedPixelSpacing", "PixelAspectRatio")


class Header(NamedTuple):
    """What decides to which volume a file belongs, and where it lies in it."""

    file: Member
    patient: str  # PatientID, else StudyInstanceUID; never shown
    series: tuple[Any, ...]  # equal for files of one volume
    along: float | None  # position along the normal of the slices; None if unknown, or of several frames
    instance: float


def is_dicom(file: Member) -> bool:
    """Whether a file is DICOM by its suffix or by its mark: scanners write files without a suffix.

    Raises:
        UserError: the file may not be read.
    """
    if suffix(file.name) in SUFFIXES:
        return True
    with read_errors(file.where), open(_path(file), "rb") as content:
        content.seek(_MARK_AT)
        return content.read(len(_MARK)) == _MARK


def read_header(file: Member) -> Header:
    """Reads what a file says before its pixels.

    Raises:
        UnreadableImage: the file is damaged or not DICOM, has no pixels, or pixels that are not a grey picture.
        UserError: the file may not be read, or needs a package to decode its pixels, which the message names.
    """
    with _opened(file, header_only=True) as data:
        _require_grey(data, file.where)
        _require_decoder(data, file.where)
        frames, shape = int(data.get("NumberOfFrames") or 1), (int(data.Rows), int(data.Columns))
        study, series = (str(data.get(name) or "") for name in ("StudyInstanceUID", "SeriesInstanceUID"))
        spacing, turn = _spacing(data, 0), _numbers(data.get("ImageOrientationPatient"), 6)
        alike = (study, series, shape, *(tuple(round(x, 2) for x in values) for values in (spacing, turn)))
        instance = _numbers(data.get("InstanceNumber"), 1)
        return Header(
            file=file,
            patient=str(data.get("PatientID") or "").strip() or study,
            series=alike if frames == 1 else (*alike, file.name),
            along=_along(data, 0) if frames == 1 else None,
            instance=instance[0] if instance else math.inf,
        )


def in_order(headers: Iterable[Header]) -> list[Header]:
    """The files of one volume by position along the normal, else by instance number, else by name."""
    headers = list(headers)
    placed = all(header.along is not None for header in headers)
    return sorted(headers, key=lambda one: (one.along if placed else 0, one.instance, one.file.name))


def read_planes(file: Member) -> list[Plane]:
    """The frames of a file, in order of position if all of them have one, else as stored.

    Raises:
        UnreadableImage: the pixels are damaged or missing.
        UserError: the file may not be read, or memory is short.
    """
    from pydicom.pixels.utils import iter_pixels

    with _opened(file, header_only=False) as data:
        _require_grey(data, file.where)
        _require_decoder(data, file.where)
        planes = [_plane(pixels, data, frame) for frame, pixels in enumerate(iter_pixels(data))]
        if not planes:
            raise ValueError("no frames")
        places = [place for frame in range(len(planes)) if (place := _along(data, frame)) is not None]
        return [planes[frame] for frame in np.argsort(places, kind="stable")] if len(places) == len(planes) else planes


@contextlib.contextmanager
def _opened(file: Member, *, header_only: bool) -> "Iterator[Dataset]":
    import pydicom
    from pydicom.config import disable_value_validation

    def reason(error: Exception) -> str:
        if header_only:
            return "not DICOM, or damaged"
        undecoded = isinstance(error, RuntimeError)  # by every decoder
        return "its pixels are damaged or " + (f"of a form that needs {DECODERS}" if undecoded else "missing")

    # Without validation and warnings: both print values.
    with content_faults(file.where, reason), warnings.catch_warnings(), disable_value_validation():
        warnings.simplefilter("ignore")
        yield pydicom.dcmread(_path(file), stop_before_pixels=header_only)


def _path(file: Member) -> Path:
    assert isinstance(file.found, str), "members of archives have no path"
    return Path(file.found)


def _require_grey(data: "Dataset", where: str) -> None:
    """Raises UnreadableImage unless there is a grey picture."""
    if not data.get("Rows") or not data.get("Columns"):
        raise UnreadableImage(f"{where}: no picture: a report, directory, plan or the like")
    if str(data.get("Modality")) in NOT_PICTURES:
        raise UnreadableImage(f"{where}: no picture: a map of regions or of dose")
    if int(data.get("SamplesPerPixel") or 1) != 1 or not str(data.PhotometricInterpretation).startswith("MONOCHROME"):
        raise UnreadableImage(f"{where}: in colour: only grey pictures are read; convert it to PNG for folder:PATH")
    if int(data.Rows) * int(data.Columns) > (Image.MAX_IMAGE_PIXELS or np.inf):
        raise UnreadableImage(f"{where}: too many pixels: make it smaller")


def _require_decoder(data: "Dataset", where: str) -> None:
    """Raises UserError if a package is missing that decodes the pixels, UnreadableImage if there is none."""
    from pydicom.pixels.decoders.base import get_decoder

    syntax = data.file_meta.TransferSyntaxUID
    known = syntax.name if syntax.name != str(syntax) else "a private form"
    try:
        decoder = get_decoder(syntax)
    except NotImplementedError as error:
        raise UnreadableImage(f"{where}: compressed as {known}, which is not supported") from error
    if not decoder.is_available:
        raise UserError(f"{where} is compressed as {known}, which needs a package to decode:\n{DECODERS}")


def _plane(pixels: np.ndarray, data: "Dataset", frame: int) -> Plane:
    """A frame by its rescale slope and intercept, or by its table, with its window."""
    from pydicom.pixels.processing import apply_modality_lut

    if data.get("ModalityLUTSequence"):
        values = np.asarray(apply_modality_lut(pixels, data), np.float32)
    else:
        rescale = "PixelValueTransformationSequence"
        slope = _numbers(_said(data, frame, rescale, "RescaleSlope"), 1) or (1.0,)
        intercept = _numbers(_said(data, frame, rescale, "RescaleIntercept"), 1) or (0.0,)
        values = pixels.astype(np.float32) * np.float32(slope[0]) + np.float32(intercept[0])
    if padding := _numbers(data.get("PixelPaddingValue"), 1):
        values[pixels == padding[0]] = np.nan
    inverted = str(data.PhotometricInterpretation) == "MONOCHROME1"
    return Plane(values, _spacing(data, frame), _levels(data, frame), inverted)


def _levels(data: "Dataset", frame: int) -> Levels | None:
    """The first window of a frame (DICOM PS3.3, C.11.2.1.2); a sigmoid is read as a straight line."""
    names = ("WindowCenter", "WindowWidth")
    centre, width = (_numbers(_said(data, frame, "FrameVOILUTSequence", name))[:1] for name in names)
    if not centre or not width or width[0] <= 0:
        return None
    function = str(_said(data, frame, "FrameVOILUTSequence", "VOILUTFunction") or "LINEAR")
    if function == "LINEAR" and width[0] >= 1:  # of whole numbers: the first and the last of the width's
        return Levels(centre[0] - width[0] / 2, centre[0] + width[0] / 2 - 1)
    return Levels(centre[0] - width[0] / 2, centre[0] + width[0] / 2)


def _spacing(data: "Dataset", frame: int) -> tuple[float, float]:
    """Distances of rows and of columns; (1, 1) if they are unknown."""
    found = (_numbers(_said(data, frame, "PixelMeasuresSequence", name), 2) for name in _SPACINGS)
    rows, columns = next((spacing for spacing in found if spacing and min(spacing) > 0), (1.0, 1.0))
    return rows, columns


def _along(data: "Dataset", frame: int) -> float | None:
    """The position of a frame along the normal of its plane, in mm; None if it is unknown."""
    turn = _numbers(_said(data, frame, "PlaneOrientationSequence", "ImageOrientationPatient"), 6)
    place = _numbers(_said(data, frame, "PlanePositionSequence", "ImagePositionPatient"), 3)
    return float(np.dot(np.cross(turn[:3], turn[3:]), place)) if turn and place else None


def _said(data: "Dataset", frame: int, sequence: str, name: str) -> Any:
    """A value from the functional groups of a frame, else of all frames, else from the file itself; None without it."""
    each, shared = data.get("PerFrameFunctionalGroupsSequence"), data.get("SharedFunctionalGroupsSequence")
    groups = [each[frame]] if each and frame < len(each) else []
    groups += [shared[0]] if shared else []
    for group in groups:
        items = group.get(sequence)
        if items and items[0].get(name) is not None:
            return items[0].get(name)
    return data.get(name)


def _numbers(value: Any, count: int | None = None) -> tuple[float, ...]:
    """The numbers in a value; () unless all are finite and there are `count` of them, where it is given."""
    values = value if isinstance(value, Sequence) and not isinstance(value, str) else [value]
    try:
        numbers = tuple(float(number) for number in values)
    except (TypeError, ValueError):
        return ()
    return numbers if all(map(math.isfinite, numbers)) and count in (None, len(numbers)) else ()
