import numpy as np
import pytest
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import Arrays, Stream, cache_dir, data_hash, num_rows
from jimgen.errors import UserError


@pytest.fixture(autouse=True)
def _cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def folder(tmp_path):
    rng = np.random.default_rng(0)
    for class_name in ("cat", "dog"):
        (tmp_path / "pets" / class_name).mkdir(parents=True)
        for number in range(12):
            picture = rng.integers(0, 256, (10, 14, 3), np.uint8)
            Image.fromarray(picture).save(tmp_path / "pets" / class_name / f"{number}.png")
    return tmp_path / "pets"


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("digit", "digits"), ("fashion-mnist", "fashion_mnist"), ("fodler:x", "folder:PATH"), ("npx:x", "npz:PATH")],
)
def test_an_unknown_name_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(UserError, match=f"did you mean {nearest}"):
        load(name)


def test_a_bare_path_is_answered_with_its_kind(folder):
    with pytest.raises(UserError, match=f"did you mean folder:{folder}"):
        load(str(folder))


@pytest.mark.parametrize("arguments", [{"size": 0}, {"fit": "stretch"}, {"channels": 2}])
def test_impossible_arguments(arguments):
    with pytest.raises(UserError, match=next(iter(arguments))):
        load("digits", **arguments)


def test_fitting_changes_shape_and_hash_but_not_labels():
    stored, padded = load("digits"), load("digits", size=12, fit="pad", channels=3)
    assert padded.spec.shape == (12, 12, 3) == padded.train.images.shape[1:]
    np.testing.assert_array_equal(padded.train.images[:, 2:10, 2:10, 1], stored.train.images[..., 0])
    assert padded.train.images[:, :2].max() == 0
    np.testing.assert_array_equal(padded.test.labels, stored.test.labels)
    assert padded.spec.hash != stored.spec.hash == load("digits").spec.hash
    assert load("digits", size=16).spec.shape == (16, 16, 1)


def test_the_hash_covers_images_labels_shape_and_order_of_splits():
    images, labels = np.arange(8, dtype=np.uint8).reshape(2, 2, 2, 1), np.array([0, 1], np.int32)
    split, other = Arrays(images, labels), Arrays(images[::-1], labels)
    hashes = {
        data_hash(split, split),
        data_hash(split, other),
        data_hash(other, split),
        data_hash(Arrays(images, labels[::-1]), split),
        data_hash(Arrays(images.reshape(2, 4, 1, 1), labels), split),
    }
    assert len(hashes) == 5 and all(len(value) == 64 for value in hashes)


def test_a_stream_reads_the_rows_that_arrays_hold(folder):
    resident = load(f"folder:{folder}", size=8)
    streamed = load(f"folder:{folder}", size=8, resident_bytes=0)
    assert isinstance(resident.train, Arrays) and isinstance(streamed.train, Stream)
    assert streamed.spec._replace(hash="") == resident.spec._replace(hash="")
    assert streamed.spec.hash == load(f"folder:{folder}", size=8, resident_bytes=0).spec.hash
    assert streamed.spec.hash != load(f"folder:{folder}", size=9, resident_bytes=0).spec.hash
    for ours, theirs in ((resident.train, streamed.train), (resident.test, streamed.test)):
        assert num_rows(theirs) == num_rows(ours) == len(theirs)
        for row in range(len(theirs)):
            image, label = theirs.read(row)
            np.testing.assert_array_equal(image, ours.images[row])
            assert label == ours.labels[row]


def test_resident_bytes_counts_both_splits_once_fitted(folder):
    assert isinstance(load(f"folder:{folder}", size=8, resident_bytes=24 * 8 * 8 * 3).train, Arrays)
    assert isinstance(load(f"folder:{folder}", size=8, resident_bytes=24 * 8 * 8 * 3 - 1).test, Stream)


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_a_cut_off_picture_is_left_out_and_named(folder, resident_bytes):
    broken = folder / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])  # the header is whole
    for _ in range(2):  # the second time a stream remembers
        pets = load(f"folder:{folder}", resident_bytes=resident_bytes)
        assert pets.spec.num_train + pets.spec.num_test == 23
        assert len(pets.skipped) == 1 and str(broken) in pets.skipped[0]
    rows = [pets.train.read(row) for row in range(len(pets.train))] if resident_bytes == 0 else []
    assert all(image.shape == (10, 14, 3) for image, _ in rows)
    with pytest.raises(UserError, match=r"unreadable pictures: 1; the first is .*3\.png"):
        load(f"folder:{folder}", resident_bytes=resident_bytes, strict=True)


@pytest.mark.parametrize("text", ["", "[]", "[" * 100_000, '{"x": "a"}', '{"-1": "a"}', '{"1000": "a"}'])
def test_what_is_remembered_of_a_stream_and_damaged_is_found_again(folder, tmp_path, monkeypatch, text):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    broken = folder / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    first = load(f"folder:{folder}", resident_bytes=0)
    for remembered in (tmp_path / "cache").iterdir():
        remembered.write_text(text)
    again = load(f"folder:{folder}", resident_bytes=0)
    assert again.spec == first.spec and again.skipped == first.skipped and len(first.skipped) == 1


def test_the_cache_folder_must_be_one(tmp_path, monkeypatch):
    (tmp_path / "file").touch()
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "file"))
    with pytest.raises(UserError, match="JIMGEN_CACHE"):
        cache_dir()
