import contextlib
import gzip
from pathlib import Path

import numpy as np
import pytest
from medical_files import noise, save_nifti

from jimgen.data.images import UnreadableImage
from jimgen.data.members import Member
from jimgen.data.nifti import AXES, is_nifti, patient_of, read_volume

nibabel = pytest.importorskip("nibabel")


def member(path):
    return Member(path.name, str(path), path.stat().st_size, "", str(path))


def values_of(path, axis="axial"):
    return np.stack([plane.values for plane in read_volume(member(path), axis).planes])


def test_slices_are_shown_as_radiologists_do(tmp_path):
    """Values are 100 x + 10 y + z of a voxel, whose axes point to the patient's right, to the front and up."""
    x, y, z = np.mgrid[:2, :3, :4]
    path = save_nifti(tmp_path / "a.nii", (100 * x + 10 * y + z).astype(np.int16))
    axial, coronal, sagittal = (values_of(path, axis) for axis in ("axial", "coronal", "sagittal"))
    assert (axial.shape, coronal.shape, sagittal.shape) == ((4, 3, 2), (3, 4, 2), (2, 4, 3))
    # The first slice is the lowest; its first row is the front, and its first column the right.
    assert axial[0].tolist() == [[120, 20], [110, 10], [100, 0]]
    assert coronal[0].tolist() == [[103, 3], [102, 2], [101, 1], [100, 0]]
    assert sagittal[0].tolist() == [[23, 13, 3], [22, 12, 2], [21, 11, 1], [20, 10, 0]]


@pytest.mark.parametrize("axis", AXES)
@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1), (1, 2, 0), (1, 0, 2)])
@pytest.mark.parametrize("flips", [(1, 1, 1), (-1, 1, 1), (1, -1, -1), (-1, -1, -1)])
def test_the_same_body_looks_the_same_however_its_axes_are_stored(tmp_path, axis, order, flips):
    body = noise(0, (3, 4, 5))
    zooms = np.array([1.0, 2.0, 3.0])
    plain = save_nifti(tmp_path / "a.nii", body, np.diag([*zooms, 1]))
    stored = body[tuple(slice(None, None, flip) for flip in flips)].transpose(order)
    affine = np.eye(4)
    affine[:3, :3] = np.diag(zooms * flips)[:, list(order)]
    affine[:3, 3] = [
        0 if flip > 0 else zoom * (side - 1) for flip, zoom, side in zip(flips, zooms, body.shape, strict=True)
    ]
    turned = save_nifti(tmp_path / "b.nii.gz", np.ascontiguousarray(stored), affine)
    one, other = (read_volume(member(path), axis).planes for path in (plain, turned))
    for ours, theirs in zip(one, other, strict=True):
        np.testing.assert_array_equal(ours.values, theirs.values)
        assert ours.spacing == theirs.spacing


def test_spacings_are_those_of_rows_and_columns(tmp_path):
    path = save_nifti(tmp_path / "a.nii", noise(0, (3, 4, 5)), np.diag([1.0, 2.0, 3.0, 1]))
    spacings = [read_volume(member(path), axis).planes[0].spacing for axis in ("axial", "coronal", "sagittal")]
    assert spacings == [(2, 1), (3, 1), (3, 2)]


def test_slope_and_intercept_and_several_volumes(tmp_path):
    image = nibabel.Nifti1Image(np.arange(48, dtype=np.int16).reshape(2, 3, 4, 2), np.eye(4))
    image.header.set_slope_inter(2, -10)
    image.to_filename(tmp_path / "a.nii")
    found = read_volume(member(tmp_path / "a.nii"), "axial")
    assert found.volumes == 2 and found.planes[0].values[-1, -1] == -10
    assert np.stack([plane.values for plane in found.planes]).max() == 2 * 46 - 10
    flat = save_nifti(tmp_path / "flat.nii", np.arange(6, dtype=np.int16).reshape(2, 3))
    assert values_of(flat).shape == (1, 3, 2)


def test_what_is_no_grey_volume(tmp_path):
    colours = np.zeros((2, 2, 2), [(name, "u1") for name in "RGB"])
    for values in (colours, np.zeros((2, 2, 2), np.complex64)):
        path = save_nifti(tmp_path / "a.nii", values)
        with pytest.raises(UnreadableImage, match=f"{path}: colours or complex"):
            read_volume(member(path), "axial")


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_truncated_files_are_unreadable(tmp_path, ending, capfd):
    whole = save_nifti(tmp_path / f"a.{ending}", noise(0, (8, 8, 8))).read_bytes()
    path = tmp_path / f"b.{ending}"
    for length in [*range(0, len(whole) - 1, 17), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with pytest.raises(UnreadableImage, match=f"{path}: not NIfTI, or damaged"):
            read_volume(member(path), "axial")
    assert capfd.readouterr() == ("", "")


def test_wrong_bytes_in_a_packed_file_are_noticed(tmp_path):
    """By the checksum at its end."""
    path = save_nifti(tmp_path / "a.nii.gz", noise(0, (8, 8, 8)))
    whole, right, found = path.read_bytes(), values_of(path), 0
    for place in range(20, len(whole), 11):
        path.write_bytes(whole[:place] + bytes([whole[place] ^ 16]) + whole[place + 1 :])
        with contextlib.suppress(UnreadableImage):
            np.testing.assert_array_equal(values_of(path), right)
            found += 1
    assert found == 0


@pytest.mark.parametrize("ending", ["nii", "nii.gz"])
def test_a_header_that_promises_too_much_costs_no_memory(tmp_path, ending):
    header = nibabel.Nifti1Header()
    header.set_data_dtype(np.float64)
    header.set_data_shape((30000, 30000, 30000))
    content = header.binaryblock + bytes(400)
    path = tmp_path / f"a.{ending}"
    path.write_bytes(gzip.compress(content) if ending.endswith("gz") else content)
    with pytest.raises(UnreadableImage, match="damaged"):
        read_volume(member(path), "axial")


@pytest.mark.parametrize(
    ("name", "patient"),
    [
        ("sub-01_T1w.nii.gz", "sub-01"),
        ("sub-01/anat/sub-01_ses-2_T1w.nii.gz", "sub-01"),
        ("sub-A7.nii", "sub-A7"),
        ("class/case_12.nii.gz", "case_12"),
        ("scan.v2.NII.GZ", "scan.v2"),
        ("subject.nii", "subject"),
    ],
)
def test_the_patient_is_in_the_name(name, patient):
    assert patient_of(name) == patient and is_nifti(Member(name, name, 0, "", name))


@pytest.mark.parametrize(
    ("name", "volumes", "shape"), [("anatomical.nii", 1, (25, 41, 33)), ("example4d.nii.gz", 2, (24, 96, 128))]
)
def test_real_scans(name, volumes, shape):
    path = Path(nibabel.__file__).parent / "tests" / "data" / name
    if not path.is_file():
        pytest.skip("nibabel is installed without its test files")
    assert read_volume(member(path), "axial").volumes == volumes
    assert values_of(path).shape == shape
