import threading
from pathlib import Path

import numpy as np
import pytest
from medical_files import NAME, noise, save_dicom, save_nifti, save_report

from jimgen.data import load, medical
from jimgen.data.dataset import Stream, read_rows
from jimgen.data.medical import open_medical, patients_of_test
from jimgen.errors import UserError

pytest.importorskip("pydicom")
pytest.importorskip("nibabel")

WINDOW = {"WindowCenter": 128, "WindowWidth": 256}  # levels stay as they are


@pytest.fixture(autouse=True)
def _own_cache(tmp_path_factory, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path_factory.mktemp("cache")))


def save_patients(root, count, slices=3, first=0):
    """A series for each patient; the level of its pixels is 50 + 5 times his number."""
    for number in range(first, first + count):
        for place in range(slices):
            pixels = np.full((6, 6), 50 + 5 * number, np.uint8)
            pixels[0, 0] = place
            path = root / f"s{number}" / f"{place}.dcm" if slices > 1 else root / f"{number}.dcm"
            save_dicom(path, pixels, f"patient {number}", series=f"1.{number}", InstanceNumber=place, **WINDOW)
    return root


def patients_of(split):
    """The numbers of the patients in a split of `save_patients`."""
    return set((split.images[:, 3, 3, 0].astype(int) - 50) // 5)


def test_patients_are_never_on_both_sides(tmp_path):
    save_patients(tmp_path / "set", 30)
    data = load(f"medical:{tmp_path}/set")
    train, test = patients_of(data.train), patients_of(data.test)
    assert not train & test and train | test == set(range(30)) and 1 <= len(test) <= 8
    assert data.spec.shape == (6, 6, 1) and data.spec.num_train + data.spec.num_test == 90
    assert data.spec.class_names == ("all",) and data.skipped == ()


def test_adding_patients_moves_none_between_the_splits(tmp_path):
    root = save_patients(tmp_path, 25, slices=1)
    before = load(f"medical:{root}")
    save_patients(root, 15, slices=1, first=25)
    after = load(f"medical:{root}")
    assert patients_of(before.train) < patients_of(after.train) and patients_of(before.test) <= patients_of(after.test)


def test_a_patient_of_several_studies_and_kinds_of_files_stays_together(tmp_path):
    """The series lie in different folders, and one is a NIfTI file called by the patient's number."""
    for number in range(12):
        for study in range(2):
            path = tmp_path / f"{study}-{number}.dcm"
            save_dicom(path, noise(number + 100 * study, (6, 6)), f"p{number}", series=f"1.{study}.{number}", **WINDOW)
        save_nifti(tmp_path / f"p{number}.nii.gz", noise(200 + number, (6, 6, 1)))
    source = open_medical(str(tmp_path))
    sides = {}
    for stream, side in ((source.train, "train"), (source.test, "test")):
        for row in stream.rows:
            number = row.where.rpartition("/")[2].partition(".")[0].split("-")[-1].removeprefix("p")
            sides.setdefault(number, set()).add(side)
    assert len(sides) == 12 and all(len(found) == 1 for found in sides.values())
    assert len(source.train.rows) + len(source.test.rows) == 36


def test_the_patients_of_test():
    def rows(**classes):
        return [(name, patient) for name, patients in classes.items() for patient in patients]

    many = [f"p{number}" for number in range(200)]
    assert 8 <= len(patients_of_test(rows(all=many))) <= 40
    assert len(patients_of_test(rows(all="ab"))) == 1
    assert patients_of_test(rows(x="a", y="bc")) <= {"b", "c"}  # the only one of a class is in train
    assert patients_of_test(rows(x="a", y="ab")) == {"b"}
    assert patients_of_test(rows(x="a", y="b")) == set()
    in_test = sorted(patients_of_test(rows(all=many)))
    assert len(patients_of_test(rows(x=in_test[:2], y=many)) & set(in_test[:2])) == 1  # a class keeps one for train


def test_of_one_patient_blocks_of_slices_are_test(tmp_path):
    body = np.full((6, 6, 72), 50, np.uint8) + np.arange(72, dtype=np.uint8)
    save_nifti(tmp_path / "head.nii.gz", body)
    for name in (f"medical:{tmp_path}", f"medical:{tmp_path}/head.nii.gz"):  # a folder, or its only file
        data = load(f"{name}:window=128,256")
        levels = [np.rint(split.images[:, 0, 0, 0] * (256 / 255)) - 50 for split in (data.train, data.test)]
        np.testing.assert_array_equal(levels[1], np.arange(36, 48))
        np.testing.assert_array_equal(levels[0], [*range(34), *range(50, 72)])
        assert len(data.notes) == 1 and "all of one patient" in data.notes[0]


def test_one_patient_with_too_few_slices(tmp_path):
    save_patients(tmp_path, 1)
    with pytest.raises(UserError, match="no slice for test: one patient with too few"):
        load(f"medical:{tmp_path}")


def test_the_order_of_slices_is_that_of_their_positions(tmp_path):
    places = np.random.default_rng(0).permutation(20)
    for number, place in enumerate(places.tolist()):
        position = {"ImagePositionPatient": [0, 0, 3 * place], "ImageOrientationPatient": [1, 0, 0, 0, 1, 0]}
        save_dicom(tmp_path / f"{number}.dcm", np.full((4, 4), 100 + place, np.uint8), **position, **WINDOW)
    data = load(f"medical:{tmp_path}")
    kept = data.train.images[:, 0, 0, 0].tolist()
    assert kept == sorted(kept) and data.test.images[:, 0, 0, 0].tolist() == [109, 110, 111]


def test_a_window_in_the_name_comes_before_that_of_the_files(tmp_path):
    for number in range(2):
        pixels = np.array([[0, 1024, 1064, 1264, 1100 + 50 * number]], np.uint16)
        tags = {"RescaleIntercept": -1024, "RescaleSlope": 1, "WindowCenter": 1000, "WindowWidth": 2000}
        save_dicom(tmp_path / f"{number}.dcm", pixels, f"p{number}", **tags)
    data = load(f"medical:{tmp_path}:window=40,400")
    assert data.train.images[0, 0, :4, 0].tolist() == [0, 102, 128, 255]
    other = load(f"medical:{tmp_path}")
    assert other.train.images[0, 0, :4, 0].tolist() == [0, 0, 5, 31]
    assert other.spec.hash != data.spec.hash and data.spec.name == f"medical:{tmp_path}:window=40,400"


def test_the_axis_in_the_name_is_that_of_nifti_volumes(tmp_path):
    for number in range(2):
        save_nifti(tmp_path / f"sub-{number}_T1w.nii", noise(number, (3, 4, 5)))
    shapes = {}
    for axis in ("axial", "coronal", "sagittal"):
        data = load(f"medical:{tmp_path}:axis={axis}:window=128,256")
        shapes[axis] = (data.spec.num_train, data.spec.shape)
    assert shapes == {"axial": (5, (4, 3, 1)), "coronal": (4, (5, 3, 1)), "sagittal": (3, (5, 4, 1))}
    assert load(f"medical:{tmp_path}").spec.shape == (4, 3, 1)
    save_dicom(tmp_path / "a.dcm", noise(9), **WINDOW)
    assert "axis=axial is that of NIfTI" in load(f"medical:{tmp_path}:axis=axial", size=4).notes[0]


@pytest.mark.parametrize(
    "option",
    ["axis=oblique", "axis=", "window=40", "window=40,0", "window=nan,4", "window=a,b", "crop=3", "window=1,2,3"],
)
def test_wrong_options_are_answered_with_the_form(tmp_path, option):
    with pytest.raises(UserError, match=rf"cannot read '{option}': write medical:PATH\[:axis=coronal\]"):
        load(f"medical:{tmp_path}:{option}")


def test_a_path_may_contain_colons(tmp_path):
    save_patients(tmp_path / "a:b", 2, slices=1)
    assert load(f"medical:{tmp_path}/a:b:window=128,256").spec.num_train == 1


def test_inverted_files_and_square_pixels(tmp_path):
    tags = {"PhotometricInterpretation": "MONOCHROME1", "PixelSpacing": [2, 1], **WINDOW}
    for number in range(2):
        save_dicom(tmp_path / f"{number}.dcm", np.full((3, 6), 55 + number, np.uint8), f"p{number}", **tags)
    data = load(f"medical:{tmp_path}")
    assert data.spec.shape == (6, 6, 1)
    assert {int(split.images.max()) for split in (data.train, data.test)} == {200, 199}


def test_frames_of_one_file_are_slices(tmp_path):
    for number in range(3):
        save_dicom(tmp_path / f"{number}.dcm", noise(number, (5, 4, 4)), f"p{number}", **WINDOW)
    spec = load(f"medical:{tmp_path}").spec
    assert spec.num_train + spec.num_test == 15 and spec.num_test % 5 == 0


def test_folders_are_classes_in_natural_order(tmp_path):
    for name in ("10", "9"):
        for number in range(8):
            save_dicom(tmp_path / name / "deep" / f"{number}.dcm", noise(number + int(name) * 50), f"{name} {number}")
    data = load(f"medical:{tmp_path}")
    assert data.spec.class_names == ("9", "10") and set(data.train.labels) == {0, 1}
    assert data.spec.num_train + data.spec.num_test == 16


def test_folders_that_hold_one_patient_each_are_no_classes(tmp_path):
    """As in BIDS, and as archives export DICOM."""
    for number in range(4):
        save_nifti(tmp_path / f"sub-{number}" / "anat" / f"sub-{number}_T1w.nii", noise(number, (4, 4, 3)))
    data = load(f"medical:{tmp_path}")
    assert data.spec.class_names == ("all",) and data.spec.num_train + data.spec.num_test == 12
    assert "each folder holds one patient" in data.notes[0]


def test_classes_of_one_patient_are_classes(tmp_path):
    for name in ("t1", "t2"):
        save_nifti(tmp_path / name / "sub-1.nii", noise(len(name) + ord(name[1]), (4, 4, 30)))
    assert load(f"medical:{tmp_path}").spec.class_names == ("t1", "t2")


def test_folders_that_cannot_be_a_data_set(tmp_path):
    (tmp_path / "empty").mkdir()
    (tmp_path / "neither").mkdir()
    (tmp_path / "neither" / "notes.txt").write_text("no scan")
    save_report(tmp_path / "reports" / "a.dcm")
    for split in ("train", "test"):
        save_patients(tmp_path / "splits" / split, 2)
    save_patients(tmp_path / "mixed" / "class", 2)
    save_dicom(tmp_path / "mixed" / "loose.dcm", noise(0))
    for number in range(2):
        save_dicom(tmp_path / "black" / f"{number}.dcm", np.zeros((4, 4), np.uint8), f"p{number}")
    for name, patients in (("a", "12"), ("b", "3")):
        for patient in patients:
            save_dicom(tmp_path / "lost" / name / patient, noise(int(patient)) * (name == "a"), patient)
    (tmp_path / "x.zip").touch()
    for name, message in {
        "empty": "holds neither DICOM files nor NIfTI volumes",
        "neither": r"neither .*; other files: notes\.txt",
        "reports": "no slice is left; the first left out: .*a.dcm: no picture: a report",
        "splits": "train/.* look like splits",
        "mixed": "both pictures",
        "black": "no slice is left; .*show nearly nothing: 2",
        "lost": "no slice of the class 'b' is left",
        "x.zip": "unpack it",
        "emtpy": "no such folder; did you mean medical:.*empty",
        "neither/notes.txt": "neither DICOM",
    }.items():
        with pytest.raises(UserError, match=message):
            load(f"medical:{tmp_path / name}")


def test_what_cannot_be_read_is_left_out_and_named(tmp_path):
    root = save_patients(tmp_path / "set", 6)
    save_report(root / "s1" / "report.dcm")
    broken = root / "s2" / "1.dcm"
    broken.write_bytes(broken.read_bytes()[:-4])
    (root / "s3" / "scan.nii.gz").write_bytes(b"not packed")
    (root / "s3" / "notes.txt").write_text("not a scan")
    save_dicom(root / "s4" / "colour.dcm", noise(0), SamplesPerPixel=3, PhotometricInterpretation="RGB")
    data = load(f"medical:{root}")
    assert data.spec.num_train + data.spec.num_test == 6 * 3 - 1
    assert [fault.removeprefix(f"{root}/").partition(": ")[0] for fault in data.skipped] == [
        *("s1/report.dcm", "s4/colour.dcm", "s2/1.dcm", "s3/scan.nii.gz")
    ]
    with pytest.raises(UserError, match="unreadable pictures: 4"):
        load(f"medical:{root}", strict=True)


def test_no_message_tells_a_name_or_a_number_of_a_patient(tmp_path):
    for number in range(4):
        for place in range(4):
            save_dicom(tmp_path / f"{number}{place}.dcm", noise(10 * number + place), f"SECRET{number}")
    save_report(tmp_path / "report.dcm")
    (tmp_path / "broken.dcm").write_bytes((tmp_path / "00.dcm").read_bytes()[:-4])
    data = load(f"medical:{tmp_path}")
    told = repr(data.spec) + repr(data.left_out) + repr(data.skipped)
    assert data.skipped and "SECRET" not in told and NAME not in told
    for stream in (open_medical(str(tmp_path)).train, open_medical(str(tmp_path)).test):
        assert isinstance(stream, Stream) and "SECRET" not in stream.identity + repr(stream.rows)


def test_copies_of_train_are_left_out_of_test(tmp_path):
    """One scan under two numbers, as after two anonymisations."""
    patients = [f"p{number}" for number in range(40)]
    in_test = sorted(patients_of_test(("all", patient) for patient in patients))
    for number, patient in enumerate(patients):
        pixels = noise(100 if patient in (in_test[0], "p0") else number, (6, 6))
        save_dicom(tmp_path / f"{number}.dcm", pixels, patient, **WINDOW)
    data = load(f"medical:{tmp_path}")
    assert (
        "p0" not in in_test and data.spec.num_test == len(in_test) - 1 > 0 and data.spec.num_train == 40 - len(in_test)
    )
    assert data.notes == (f"medical:{tmp_path}: slices of test left out, as train has their pixels too: 1",)


@pytest.mark.parametrize("kept", [2**31, 100, 0])
def test_streams_read_the_same_from_memory_and_from_the_files(tmp_path, monkeypatch, kept):
    root = save_patients(tmp_path / "set", 8, slices=4)
    save_nifti(root / "s9" / "sub-9.nii.gz", noise(0, (6, 6, 9)))
    inside = load(f"medical:{root}", size=4)
    monkeypatch.setattr(medical, "KEPT_BYTES", kept)
    stream = load(f"medical:{root}", size=4, resident_bytes=0)
    assert isinstance(stream.train, Stream)
    for name in ("train", "test"):
        split = getattr(stream, name)
        images, labels = read_rows(split, range(len(split)))
        np.testing.assert_array_equal(images, getattr(inside, name).images)
        np.testing.assert_array_equal(labels, getattr(inside, name).labels)
    found = {}
    threads = [threading.Thread(target=lambda i=i: found.update({i: stream.train.read(i)[0]})) for i in range(12)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, image in found.items():
        np.testing.assert_array_equal(image, inside.train.images[i])


def test_random_crops_and_sizes_that_differ(tmp_path):
    for number in range(4):
        save_dicom(tmp_path / f"{number}.dcm", noise(number, (8, 8 + number)), f"p{number}", **WINDOW)
    with pytest.raises(UserError, match="differ in size"):
        load(f"medical:{tmp_path}")
    data = load(f"medical:{tmp_path}", size=4, crop="random", crop_scale=0.5)
    assert data.train.draw(0, np.random.default_rng(0))[0].shape == (4, 4, 1)
    with pytest.raises(UserError, match=r"0\.dcm, slice 1: a picture of 8x8 does not fit"):
        load(f"medical:{tmp_path}", size=7, fit="pad")


def test_the_error_for_missing_packages_tells_how_to_install_them(tmp_path, monkeypatch):
    monkeypatch.setattr(medical.util, "find_spec", lambda module: None)
    with pytest.raises(UserError, match=r"pip install -e '\.\[medical\]'"):
        load(f"medical:{tmp_path}")


def test_pictures_of_a_folder_point_to_this_reader(tmp_path):
    save_dicom(tmp_path / "a.dcm", noise(0))
    with pytest.raises(UserError, match=r"\.dcm is not supported; read it by medical:PATH"):
        load(f"folder:{tmp_path}")


def test_a_file_that_may_not_be_read_is_an_error_that_names_it(ordinary_user):
    root, become = ordinary_user
    save_patients(root / "set", 3)
    path = root / "set" / "s1" / "1.dcm"
    with become():
        path.chmod(0)
        with pytest.raises(UserError, match=f"cannot read {path}: Permission denied"):
            load(f"medical:{root}/set")
        path.chmod(0o700)
        load(f"medical:{root}/set")


def test_real_studies():
    """Those that pydicom ships: three patients' CT and MR, beside directories without pixels."""
    import pydicom

    root = Path(pydicom.__file__).parent / "data" / "test_files" / "dicomdirtests"
    if not root.is_dir():
        pytest.skip("pydicom is installed without its test files")
    data = load(f"medical:{root}", size=16)
    assert data.spec.num_train + data.spec.num_test == 31 and data.spec.class_names == ("all",)
    assert all("no picture" in fault for fault in data.skipped)
