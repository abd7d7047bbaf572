import contextlib
import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
from medical_files import NAME, noise, ramp, save_dicom, save_report

from jimgen.data.dicom import in_order, is_dicom, read_header, read_planes
from jimgen.data.images import UnreadableImage
from jimgen.data.members import Member, list_members
from jimgen.data.slices import Levels
from jimgen.errors import UserError

pytest.importorskip("pydicom")


def member(path):
    return Member(path.name, str(path), path.stat().st_size, "", str(path))


def values_of(path):
    (found,) = read_planes(member(path))
    return found.values


def test_values_are_rescaled(tmp_path):
    """CT stores Hounsfield units with an offset."""
    pixels = np.array([[0, 1024], [2048, 4095]], np.uint16)
    path = save_dicom(tmp_path / "a.dcm", pixels, RescaleSlope=2, RescaleIntercept=-1024)
    np.testing.assert_array_equal(values_of(path), [[-1024, 1024], [3072, 7166]])
    signed = save_dicom(tmp_path / "b.dcm", np.array([[-5, 7]], np.int16))
    np.testing.assert_array_equal(values_of(signed), [[-5, 7]])


def test_a_table_of_values_takes_the_place_of_slope_and_intercept(tmp_path):
    from pydicom import Dataset

    table = Dataset()
    table.LUTDescriptor, table.LUTData, table.ModalityLUTType = [3, 0, 16], [100, 10, 1000], "US"
    table["LUTDescriptor"].VR = table["LUTData"].VR = "US"
    path = save_dicom(tmp_path / "a.dcm", np.array([[0, 1, 2, 9]], np.uint8), ModalityLUTSequence=[table])
    np.testing.assert_array_equal(values_of(path), [[100, 10, 1000, 1000]])


@pytest.mark.parametrize(
    ("tags", "levels"),
    [
        ({}, None),
        ({"WindowCenter": 40, "WindowWidth": 400}, Levels(-160, 239)),
        ({"WindowCenter": [40, 300], "WindowWidth": [400, 1500]}, Levels(-160, 239)),
        ({"WindowCenter": 128, "WindowWidth": 256}, Levels(0, 255)),
        ({"WindowCenter": 40, "WindowWidth": 400, "VOILUTFunction": "LINEAR_EXACT"}, Levels(-160, 240)),
        ({"WindowCenter": 0.5, "WindowWidth": 0.5}, Levels(0.25, 0.75)),
        ({"WindowCenter": 40, "WindowWidth": 0}, None),
        ({"WindowCenter": 40}, None),
    ],
)
def test_the_first_window_of_the_file(tmp_path, tags, levels):
    (found,) = read_planes(member(save_dicom(tmp_path / "a.dcm", ramp(), **tags)))
    assert found.levels == levels and not found.inverted


def test_monochrome1_is_inverted_and_padding_was_not_measured(tmp_path):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelPaddingValue": 7}
    (found,) = read_planes(member(save_dicom(tmp_path / "a.dcm", np.array([[7, 8]], np.uint16), **tags)))
    assert found.inverted
    np.testing.assert_array_equal(found.values, [[np.nan, 8]])


@pytest.mark.parametrize(
    ("tags", "spacing"),
    [
        ({}, (1, 1)),
        ({"PixelSpacing": [2, 0.5]}, (2, 0.5)),
        ({"ImagerPixelSpacing": [3, 1]}, (3, 1)),
        ({"PixelSpacing": [0, 0], "ImagerPixelSpacing": [3, 1]}, (3, 1)),
        ({"PixelAspectRatio": [2, 1]}, (2, 1)),
    ],
)
def test_the_spacing_of_rows_and_columns(tmp_path, tags, spacing):
    assert read_planes(member(save_dicom(tmp_path / "a.dcm", ramp(), **tags)))[0].spacing == spacing


# Axial, and sagittal slices of a patient whose left is at larger x.
@pytest.mark.parametrize(("turn", "axis"), [([1, 0, 0, 0, 1, 0], 2), ([0, 1, 0, 0, 0, -1], 0)])
def test_slices_are_ordered_by_position_along_the_normal(tmp_path, turn, axis):
    """Neither by name nor by number, and by value: -10 comes before 5."""
    normal = np.cross(turn[:3], turn[3:])[axis]
    for number, at in enumerate([5, -10, 30, 20]):
        place = [0, 0, 0]
        place[axis] = at
        tags = {"ImagePositionPatient": place, "ImageOrientationPatient": turn, "InstanceNumber": number}
        save_dicom(tmp_path / f"{number}.dcm", ramp(), **tags)
    headers = [read_header(file) for file in list_members(tmp_path)]
    assert len({header.series for header in headers}) == 1
    names = [header.file.name for header in in_order(reversed(headers))]
    assert names[:: int(normal)] == ["1.dcm", "0.dcm", "3.dcm", "2.dcm"]


def test_without_positions_instance_numbers_order_slices(tmp_path):
    for name, number in (("a", 10), ("b", 9), ("c", 11), ("d", None)):
        save_dicom(tmp_path / f"{name}.dcm", ramp(), **({} if number is None else {"InstanceNumber": number}))
    headers = [read_header(file) for file in list_members(tmp_path)]
    assert [header.file.name[0] for header in in_order(headers)] == ["b", "a", "c", "d"]


def test_other_series_planes_sizes_and_spacings_are_other_volumes(tmp_path):
    save_dicom(tmp_path / "a.dcm", ramp())
    save_dicom(tmp_path / "b.dcm", ramp(), series="1.2.4")
    save_dicom(tmp_path / "c.dcm", ramp(), ImageOrientationPatient=[1, 0, 0, 0, 0, -1])
    save_dicom(tmp_path / "d.dcm", ramp(side=5))
    save_dicom(tmp_path / "e.dcm", ramp(), PixelSpacing=[2, 1])
    save_dicom(tmp_path / "f.dcm", np.stack([ramp(), ramp()]))
    assert len({read_header(file).series for file in list_members(tmp_path)}) == 6


def test_frames_are_read_as_stored_or_by_their_positions(tmp_path):
    from pydicom import Dataset

    frames = np.stack([ramp(level) for level in (10, 60, 110)])
    plain = save_dicom(tmp_path / "a.dcm", frames)
    np.testing.assert_array_equal([one.values for one in read_planes(member(plain))], frames)

    def item(**tags):
        found = Dataset()
        for name, value in tags.items():
            setattr(found, name, value)
        return found

    each = [
        item(
            PlanePositionSequence=[item(ImagePositionPatient=[0, 0, at])],
            PixelValueTransformationSequence=[item(RescaleSlope=slope, RescaleIntercept=0)],
            FrameVOILUTSequence=[item(WindowCenter=slope, WindowWidth=2)],
        )
        for at, slope in ((20, 1), (0, 2), (10, 3))
    ]
    shared = item(
        PixelMeasuresSequence=[item(PixelSpacing=[2, 1])],
        PlaneOrientationSequence=[item(ImageOrientationPatient=[1, 0, 0, 0, 1, 0])],
    )
    tags = {"SharedFunctionalGroupsSequence": [shared], "PerFrameFunctionalGroupsSequence": each}
    found = read_planes(member(save_dicom(tmp_path / "b.dcm", frames, **tags)))
    np.testing.assert_array_equal([one.values for one in found], [2.0 * frames[1], 3.0 * frames[2], frames[0]])
    assert [one.levels for one in found] == [Levels(1, 2), Levels(2, 3), Levels(0, 1)]
    assert {one.spacing for one in found} == {(2, 1)}


def test_patients_are_known_by_id_else_by_study(tmp_path):
    def patient(**tags):
        return read_header(member(save_dicom(tmp_path / "a.dcm", ramp(), **tags))).patient

    assert (patient(patient="p 7 "), patient(patient=None), patient(patient="")) == ("p 7", "1.2", "1.2")


def test_files_without_a_suffix_are_known_by_their_mark(tmp_path):
    save_dicom(tmp_path / "IM000001", ramp())
    save_dicom(tmp_path / "1.2.840.1", ramp())
    (tmp_path / "x.dcm").write_text("short")
    (tmp_path / "notes").write_text("no" * 100)
    (tmp_path / "empty").touch()
    assert {file.name for file in list_members(tmp_path) if is_dicom(file)} == {"IM000001", "1.2.840.1", "x.dcm"}


@pytest.mark.parametrize(
    ("tags", "reason"),
    [
        ({"Modality": "SEG"}, "a map of regions or of dose"),
        ({"Modality": "RTDOSE"}, "a map of regions or of dose"),
        ({"SamplesPerPixel": 3, "PhotometricInterpretation": "RGB"}, "in colour: .* convert it to PNG"),
        ({"PhotometricInterpretation": "PALETTE COLOR"}, "in colour"),
        ({"PhotometricInterpretation": None}, "not DICOM, or damaged"),
        ({"Rows": 65535, "Columns": 65535}, "too many pixels"),
    ],
)
def test_files_that_are_no_grey_picture(tmp_path, tags, reason):
    path = save_dicom(tmp_path / "a.dcm", ramp(), **tags)
    with pytest.raises(UnreadableImage, match=f"{path}: .*{reason}"):
        read_header(member(path))


def test_a_report_has_no_picture(tmp_path):
    with pytest.raises(UnreadableImage, match="no picture: a report"):
        read_header(member(save_report(tmp_path / "report.dcm")))


def test_a_missing_decoder_is_an_error_that_names_its_package(tmp_path, monkeypatch):
    """It would be wrong to leave out files that a package can read."""
    from pydicom.uid import JPEGLSLossless

    path = save_dicom(tmp_path / "a.dcm", ramp())
    rewrite(path, JPEGLSLossless)
    base = sys.modules["pydicom.pixels.decoders.base"]
    missing = type("Decoder", (), {"is_available": False})
    monkeypatch.setattr(base, "get_decoder", lambda syntax: missing)
    with pytest.raises(UserError, match=rf"{path} is compressed as JPEG-LS .*\npip install pylibjpeg") as error:
        read_header(member(path))
    assert not isinstance(error.value, UnreadableImage)


def test_a_form_that_nothing_decodes_is_left_out(tmp_path):
    path = save_dicom(tmp_path / "a.dcm", ramp())
    for syntax, name in (("1.2.840.10008.1.2.4.102", "MPEG-4"), ("1.9.9.9", "a private form")):
        rewrite(path, syntax)
        with pytest.raises(UnreadableImage, match=f"compressed as {name}.*not supported"):
            read_header(member(path))


def rewrite(path, syntax):
    """The same content under another transfer syntax: only its header can be read."""
    from pydicom import dcmread
    from pydicom.encaps import encapsulate

    data = dcmread(path)
    data.file_meta.TransferSyntaxUID = syntax
    data.PixelData = encapsulate([b"\0\0"])
    data["PixelData"].is_undefined_length = True
    data.save_as(path)


def test_run_length_compression_is_read(tmp_path):
    from pydicom import dcmread
    from pydicom.uid import RLELossless

    pixels = noise(0, (3, 6, 6))
    path = save_dicom(tmp_path / "a.dcm", pixels)
    data = dcmread(path)
    data.compress(RLELossless, generate_instance_uid=False)
    data.save_as(path)
    np.testing.assert_array_equal([one.values for one in read_planes(member(path))], pixels)


def test_truncated_files_are_unreadable(tmp_path):
    """Wherever the end is; and nothing of the header is in a message."""
    whole = save_dicom(tmp_path / "a.dcm", noise(1, (16, 16)), patient="secret").read_bytes()
    path, unread = tmp_path / "b.dcm", 0
    for length in [*range(0, len(whole) - 1, 7), len(whole) - 1]:
        path.write_bytes(whole[:length])
        with contextlib.suppress(UnreadableImage):
            read_header(member(path))
        with pytest.raises(UnreadableImage) as error:
            read_planes(member(path))
        unread += 1
        assert str(error.value).startswith(f"{path}: ") and "secret" not in str(error.value)
        assert NAME not in str(error.value)
    assert unread > 20


def test_warnings_of_the_library_with_values_are_not_shown(tmp_path, capfd, caplog):
    path = save_dicom(tmp_path / "a.dcm", ramp(), InstanceNumber=1234567)
    path.write_bytes(path.read_bytes().replace(b"1234567 ", NAME.encode()[:8]))
    assert read_header(member(path)).instance == float("inf")
    read_planes(member(path))
    assert capfd.readouterr() == ("", "") and not caplog.records


def real(name):
    """A file that pydicom ships."""
    import pydicom

    path = Path(pydicom.__file__).parent / "data" / "test_files" / name
    if not path.is_file():
        pytest.skip("pydicom is installed without its test files")
    return path


def test_a_real_scan_in_hounsfield_units():
    values = values_of(real("CT_small.dcm"))
    assert values.shape == (128, 128) and (values.min(), values.max()) == (-896, 1167)


@pytest.mark.parametrize("form", ["RLE", "bigendian", "implicit", "expb", "padded", "jp2klossless"])
def test_a_real_scan_is_the_same_in_every_form(form):
    np.testing.assert_array_equal(values_of(real(f"MR_small_{form}.dcm")), values_of(real("MR_small.dcm")))


def test_a_truncated_real_scan():
    with pytest.raises(UnreadableImage, match="its pixels are damaged or missing"):
        read_planes(member(real("MR_truncated.dcm")))


def test_a_real_scan_that_needs_another_decoder_names_its_package():
    """12 bits in lossy JPEG, which Pillow does not read."""
    if importlib.util.find_spec("pylibjpeg") or importlib.util.find_spec("gdcm"):
        pytest.skip("such a decoder is installed")
    with pytest.raises(UnreadableImage, match="JPEG-lossy.dcm: .* needs pip install pylibjpeg"):
        read_planes(member(real("JPEG-lossy.dcm")))
