"""Random crops of data sets: what training may see, and what stays as it was."""

import numpy as np
import pytest
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import Arrays, Stream, read_rows
from jimgen.data.fitting import Fitting, fit_images


@pytest.fixture(autouse=True)
def own_cache(monkeypatch, tmp_path):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))


@pytest.fixture
def pictures(tmp_path):
    """A folder of 30 pictures of two classes and many sizes; in each, red counts rows and green columns."""
    for i in range(30):
        height, width = 12 + i % 5, 20 - i % 7
        y, x = np.mgrid[:height, :width]
        pixels = np.stack([y * 8, x * 8, np.full_like(x, i)], -1).astype(np.uint8)
        path = tmp_path / "set" / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        Image.fromarray(pixels).save(path)
    return f"folder:{tmp_path / 'set'}"


@pytest.mark.parametrize("resident_bytes", [2**30, 0], ids=["in memory", "decoded each time"])
def test_windows_of_full_size_are_parts_of_their_picture(pictures, resident_bytes):
    """Nothing is resized where the size of the windows is that of the pictures' shorter side."""
    data = load(pictures, size=12, crop="random", resident_bytes=resident_bytes)
    plain = load(pictures, size=12, resident_bytes=resident_bytes)
    assert isinstance(data.train, Stream) and isinstance(data.test, Arrays if resident_bytes else Stream)
    seen = set()
    for row in (row for row in range(len(data.train)) if data.train.rows[row].size[0] == 12):
        for seed in range(20):
            image, label = data.train.draw(row, np.random.default_rng(seed))
            top, left = image[0, 0, :2] // 8
            y, x = np.mgrid[:12, :12]
            np.testing.assert_array_equal(image[..., 0], (y + top) * 8)
            np.testing.assert_array_equal(image[..., 1], (x + left) * 8)
            assert label == data.train.read(row)[1]
            seen.add(int(left))
    assert len(seen) > 5
    centred, labels = read_rows(data.train, range(len(data.train)))
    expected, expected_labels = read_rows(plain.train, range(len(data.train)))
    np.testing.assert_array_equal(centred, expected)
    np.testing.assert_array_equal(labels, expected_labels)
    every = range(data.spec.num_test)
    np.testing.assert_array_equal(read_rows(data.test, every)[0], read_rows(plain.test, every)[0])
    assert data.spec.hash != plain.spec.hash and data.spec._replace(hash="") == plain.spec._replace(hash="")


def test_the_hash_of_random_crops_does_not_depend_on_where_they_are_kept(pictures):
    options = {"size": (8, 12), "crop": "random", "crop_scale": 0.5}
    kept, decoded = (load(pictures, **options, resident_bytes=most) for most in (2**30, 4096))
    for row in range(3):
        draws = [data.train.draw(row, np.random.default_rng(row))[0] for data in (kept, decoded)]
        np.testing.assert_array_equal(*draws)
        assert draws[0].shape == (8, 12, 3)
    assert kept.spec.hash != load(pictures, **options | {"crop_scale": 0.6}).spec.hash


def test_a_damaged_picture_is_left_out_of_random_crops_too(pictures, tmp_path):
    (tmp_path / "set" / "a" / "0.png").write_bytes((tmp_path / "set" / "a" / "0.png").read_bytes()[:60])
    data, plain = load(pictures, size=8, crop="random"), load(pictures, size=8)
    assert len(data.skipped) == 1 and data.skipped == plain.skipped and data.spec.num_train == plain.spec.num_train


def test_arrays_are_cropped_at_random_too(tmp_path):
    images = np.random.default_rng(0).integers(0, 256, (20, 9, 9, 3), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, test_images=images[:4])
    data = load(f"npz:{tmp_path / 'x.npz'}", size=8, crop="random", crop_scale=0.4)
    image, label = data.train.draw(3, np.random.default_rng(0))
    assert image.shape == (8, 8, 3) and label == 0
    np.testing.assert_array_equal(data.test.images, fit_images(images[:4], Fitting((8, 8))))


@pytest.mark.parametrize(("size", "scale", "noted"), [(8, 1.0, True), (8, 0.5, False), ((8, 4), 1.0, False)])
def test_crops_that_show_whole_pictures_are_noted(tmp_path, size, scale, noted):
    np.savez(tmp_path / "x.npz", images=np.zeros((20, 16, 16), np.uint8))
    for i in range(20):
        Image.new("L", (12 + i, 12 + i), i).save(tmp_path / f"{i}.png")
    for name in (f"npz:{tmp_path / 'x.npz'}", f"folder:{tmp_path}"):
        notes = load(name, size=size, crop="random", crop_scale=scale).notes
        assert any("whole pictures" in note for note in notes) == noted
        assert not any("whole pictures" in note for note in load(name, size=size).notes)
