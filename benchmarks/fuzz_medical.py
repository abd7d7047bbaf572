"""Damaged DICOM files and NIfTI volumes."""

from pathlib import Path
from typing import Any

import numpy as np
from fuzz_mutations import damage
from fuzz_trial import Trial, require
from numpy.random import Generator

from jimgen.data import load
from jimgen.data.dataset import num_rows, read_rows

SECRET = "Doe^Jane"  # a name in the headers; no message may tell it


def medical(folder: Path, rng: Generator) -> Trial:
    """Series of several patients beside a volume, some damaged. The others must be read, in memory and streamed."""
    root, whole, damaged = folder / "set", [], 0
    root.mkdir()
    for patient in range(int(rng.integers(3, 6))):
        for place in range(int(rng.integers(1, 4))):
            pixels = rng.integers(50, 256, (8, 8)).astype(np.uint8)
            path = root / f"{patient}-{place}.dcm"
            _save_dicom(path, pixels, patient, place, is_packed=rng.random() < 0.3)
            if rng.random() < 0.3:
                path.write_bytes(damage(path.read_bytes(), rng))
                damaged += 1
            else:
                whole.append(pixels)
    path = root / f"sub-x.{rng.choice(['nii', 'nii.gz'])}"
    volume = _save_nifti(path, rng)
    if rng.random() < 0.5:
        path.write_bytes(damage(path.read_bytes(), rng))
        damaged += 1
    else:
        whole += volume

    def read() -> Any:
        name = f"medical:{root}:window=127.5,255"
        return load(name, size=8), load(name, size=8, resident_bytes=0)

    def check(found: Any) -> None:
        inside, streamed = found
        rows = [read_rows(split, range(num_rows(split))) for split in (inside.train, inside.test)]
        again = [read_rows(split, range(num_rows(split))) for split in (streamed.train, streamed.test)]
        require(
            all(np.array_equal(x, y) for a, b in zip(rows, again, strict=True) for x, y in zip(a, b, strict=True)),
            "streamed rows differ",
        )
        images = np.concatenate([images for images, _ in rows])
        require(images.dtype == np.uint8 and images.shape[1:] == (8, 8, 1), f"{images.dtype} {images.shape}")
        for pixels in whole:
            require(bool((images[..., 0] == pixels).all(axis=(1, 2)).any()), "an undamaged slice is not there")
        require(damaged > 0 or len(images) == len(whole), f"{len(images)} of {len(whole)} slices")
        require(SECRET not in repr((inside.spec, inside.left_out, inside.skipped)), "a message tells a name")

    return Trial(read, check, must_read=damaged == 0)


def _save_dicom(path: Path, pixels: np.ndarray, patient: int, place: int, *, is_packed: bool) -> None:
    from pydicom import Dataset, FileMetaDataset
    from pydicom.uid import UID, ExplicitVRLittleEndian, RLELossless

    data = Dataset()
    data.file_meta = FileMetaDataset()
    data.file_meta.TransferSyntaxUID = ExplicitVRLittleEndian
    data.SOPClassUID = data.file_meta.MediaStorageSOPClassUID = UID("1.2.840.10008.5.1.4.1.1.2")
    data.SOPInstanceUID = data.file_meta.MediaStorageSOPInstanceUID = UID(f"1.2.3.{patient}.{place}")
    data.PatientName, data.PatientID, data.Modality = SECRET, f"{SECRET} {patient}", "CT"
    data.StudyInstanceUID, data.SeriesInstanceUID = f"1.2.{patient}", f"1.2.{patient}.1"
    data.ImagePositionPatient, data.ImageOrientationPatient = [0, 0, 3 * place], [1, 0, 0, 0, 1, 0]
    data.PixelSpacing, data.InstanceNumber = [1, 1], place
    data.RescaleSlope, data.RescaleIntercept = 1, 0
    data.WindowCenter, data.WindowWidth = 128, 256
    data.Rows, data.Columns = pixels.shape
    data.SamplesPerPixel, data.PhotometricInterpretation, data.PixelRepresentation = 1, "MONOCHROME2", 0
    data.BitsAllocated, data.BitsStored, data.HighBit = 8, 8, 7
    data.PixelData = pixels.tobytes()
    data["PixelData"].VR = "OB"
    if is_packed:
        data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path, enforce_file_format=True)


def _save_nifti(path: Path, rng: Generator) -> list[np.ndarray]:
    """Saves a volume with its axes in any direction. Returns its axial slices."""
    import nibabel

    values = rng.integers(50, 256, (8, 8, int(rng.integers(1, 5)))).astype(np.uint8)
    flips = rng.choice([-1, 1], 3)
    stored = values[tuple(slice(None, None, int(flip)) for flip in flips)]
    nibabel.save(nibabel.Nifti1Image(stored, np.diag([*flips, 1.0])), path)  # pyright: ignore
    return [np.flip(plane).T for plane in np.moveaxis(values, 2, 0)]
