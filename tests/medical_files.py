"""Small DICOM files and NIfTI volumes."""

from pathlib import Path
from typing import Any

import numpy as np

NAME = "Doe^Jane"  # must not appear in any message


def save_dicom(
    path: Path, pixels: np.ndarray, patient: str | None = "p1", *, series: str = "1.2.3", **tags: Any
) -> Path:
    """A grey file: pixels uint8 or (u)int16 [h, w] or [frames, h, w]; tags by keyword, None leaves one out."""
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import ExplicitVRLittleEndian, generate_uid

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = "1.2.840.10008.5.1.4.1.1.7"
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = generate_uid(entropy_srcs=[str(path)])
    data.PatientName, data.StudyInstanceUID, data.SeriesInstanceUID, data.Modality = NAME, "1.2", series, "CT"
    if patient is not None:
        data.PatientID = patient
    data.Rows, data.Columns = pixels.shape[-2:]
    if pixels.ndim == 3:
        data.NumberOfFrames = len(pixels)
    bits = 8 * pixels.dtype.itemsize
    data.SamplesPerPixel, data.PhotometricInterpretation = 1, "MONOCHROME2"
    data.BitsAllocated, data.BitsStored, data.HighBit = bits, bits, bits - 1
    data.PixelRepresentation = int(pixels.dtype.kind == "i")
    data.PixelData = pixels.tobytes() + bytes(pixels.nbytes % 2)
    data["PixelData"].VR = "OB" if bits == 8 else "OW"
    for name, value in tags.items():
        if value is None:
            delattr(data, name)
        else:
            setattr(data, name, value)
    path.parent.mkdir(parents=True, exist_ok=True)
    data.save_as(path, enforce_file_format=True)
    return path


def save_report(path: Path) -> Path:
    """A DICOM file without pixels."""
    from pydicom import dcmread

    save_dicom(path, np.zeros((2, 2), np.uint8))
    data = dcmread(path)
    for name in ("PixelData", "Rows", "Columns"):
        delattr(data, name)
    data.save_as(path)
    return path


def save_nifti(path: Path, values: np.ndarray, affine: np.ndarray | None = None) -> Path:
    """A volume; without an affine its axes point right, to the front and up, 1 mm a voxel."""
    import nibabel

    path.parent.mkdir(parents=True, exist_ok=True)
    nibabel.save(nibabel.Nifti1Image(values, np.eye(4) if affine is None else affine), path)
    return path


def ramp(level: int = 100, side: int = 4) -> np.ndarray:
    """Distinct levels from `level` on, uint8 [side, side]."""
    return (level + np.arange(side * side)).reshape(side, side).astype(np.uint8)


def noise(seed: int, shape: tuple[int, ...] = (4, 4)) -> np.ndarray:
    """Levels 50 to 249, uint8."""
    return np.random.default_rng(seed).integers(50, 250, shape).astype(np.uint8)
