"""compress, decompress, codec-info."""

import shutil

import numpy as np
import pytest
from drawn_files import size_of
from PIL import Image

pytest.importorskip("constriction")


@pytest.fixture
def pictures(tmp_path):
    """Grey 8x8, twice, colour 5x9, and half transparent 8x8."""
    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    shapes = {"a": (8, 8), "b é": (8, 8), "c": (5, 9, 3), "d": (8, 8, 4)}
    for name, shape in shapes.items():
        Image.fromarray(rng.integers(256, size=shape).astype(np.uint8)).save(folder / f"{name}.png")
    return folder


def test_pictures_come_back_under_their_names_in_their_size(folders, jimgen, pictures, tmp_path):
    file = tmp_path / "x.jgc"
    said = jimgen("compress", folders["codec"], pictures, "--out", file, "--rate", 5)
    assert f"4 pictures, {file.stat().st_size} bytes" in said
    said = jimgen("codec-info", file)
    assert "4 pictures in 3 blocks" in said and "3 of 8x8 with 1 channel, rate 5" in said and "a, b é, c, d" in said
    jimgen("decompress", file, "--run", folders["codec"], "--out", tmp_path / "out")
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["a.png", "b é.png", "c.png", "d.png"]
    assert size_of(tmp_path / "out" / "c.png") == (9, 5) and Image.open(tmp_path / "out" / "d.png").mode == "L"


def test_the_same_file_from_the_same_pictures_and_a_smaller_one_without_names(folders, jimgen, pictures, tmp_path):
    for name, flags in {"x": (), "y": (), "z": ("--no-names",)}.items():
        jimgen("compress", folders["codec"], pictures / "a.png", pictures / "d.png", "--out", tmp_path / name, *flags)
    x, y, z = ((tmp_path / name).read_bytes() for name in "xyz")
    assert x == y and len(z) < len(x)
    jimgen("decompress", tmp_path / "z", "--run", folders["codec"], "--out", tmp_path / "out")
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == ["00000.png", "00001.png"]


def test_what_cannot_be_compressed_is_refused(folders, refused, pictures, tmp_path):
    out = ("--out", tmp_path / "x.jgc")
    (tmp_path / "empty").mkdir()
    (tmp_path / "text.png").write_text("no picture")
    (tmp_path / "more").mkdir()
    shutil.copy(pictures / "a.png", tmp_path / "more" / "A.png")
    assert "holds no pictures" in refused("compress", folders["codec"], tmp_path / "empty", *out)
    assert "not a picture" in refused("compress", folders["codec"], tmp_path / "text.png", *out)
    (tmp_path / "nested" / "inner").mkdir(parents=True)
    assert "files and folders: inner" in refused("compress", folders["codec"], tmp_path / "nested", *out)
    assert "No such file" in refused("compress", folders["codec"], tmp_path / "none.png", *out)
    (tmp_path / "foreign").mkdir()
    shutil.copy(pictures / "a.png", tmp_path / "foreign" / "a.png")
    (tmp_path / "foreign" / "b.heic").write_text("a format that needs a plugin")
    assert "b.heic" in refused("compress", folders["codec"], tmp_path / "foreign", *out)
    long = tmp_path / f"{'n' * 201}.png"
    shutil.copy(pictures / "a.png", long)
    assert "more than 200 bytes" in refused("compress", folders["codec"], long, *out)
    assert "one name" in refused("compress", folders["codec"], pictures / "a.png", tmp_path / "more", *out)
    assert "rates 0 (smallest files) to 6" in refused("compress", folders["codec"], pictures, "--rate", 7, *out)
    assert "experiments/codec.py compresses" in refused("compress", folders["flow"], pictures, *out)
    Image.new("L", (4096, 1025)).save(tmp_path / "large.png")
    assert "make them smaller" in refused("compress", folders["codec"], tmp_path / "large.png", *out)
    assert not (tmp_path / "x.jgc").exists()


def test_a_file_of_another_model_or_damaged_is_refused(folders, jimgen, refused, pictures, tmp_path):
    file, out = tmp_path / "x.jgc", ("--run", folders["codec"], "--out", tmp_path / "out")
    jimgen("compress", folders["codec"], pictures / "a.png", "--out", file)
    data = file.read_bytes()
    file.write_bytes(data[:-1])
    assert "damaged or cut off" in refused("decompress", file, *out)
    assert "damaged or cut off" in refused("codec-info", file)
    file.write_bytes(b"RIFF" + data)
    assert "not a file of `jimgen compress`" in refused("decompress", file, *out)
    from jimgen.apps.codec.container import pack, unpack

    file.write_bytes(pack(unpack(data)._replace(model=b"another!")))
    assert "is of model 616e6f7468657221" in refused("decompress", file, *out)
    assert "cannot read" in refused("codec-info", tmp_path / "none.jgc")
    assert not (tmp_path / "out").exists()


def test_black_and_white_pictures_come_back_exactly_by_a_hierarchical_vae(folders, jimgen, refused, tmp_path):
    """In one file of bits-back code; a picture with greys would not be lossless."""
    rng, run = np.random.default_rng(0), folders["hierarchical_vae"]
    wanted = {f"{i}": 255 * rng.integers(0, 2, (8, 8)).astype(np.uint8) for i in range(3)}
    (tmp_path / "in").mkdir()
    for name, pixels in wanted.items():
        Image.fromarray(pixels).save(tmp_path / "in" / f"{name}.png")
    jimgen("compress", run, tmp_path / "in", "--out", tmp_path / "x.jgc")
    assert "kind bits_back" in jimgen("codec-info", tmp_path / "x.jgc")
    jimgen("decompress", tmp_path / "x.jgc", "--run", run, "--out", tmp_path / "out")
    for name, pixels in wanted.items():
        np.testing.assert_array_equal(np.asarray(Image.open(tmp_path / "out" / f"{name}.png")), pixels)
    Image.fromarray(np.full((8, 8), 7, np.uint8)).save(tmp_path / "grey.png")
    Image.new("L", (9, 8)).save(tmp_path / "wide.png")
    assert "different sizes: 8x9 and 8x8" in refused(
        "compress", run, tmp_path / "wide.png", "--out", tmp_path / "y.jgc"
    )
    assert "0 or 255" in refused("compress", run, tmp_path / "grey.png", "--out", tmp_path / "y.jgc")
    Image.fromarray(np.full((8, 8), 65535, np.uint16)).save(tmp_path / "deep.png")
    assert "more than 8 bits" in refused("compress", run, tmp_path / "deep.png", "--out", tmp_path / "y.jgc")
    frames = [Image.new("L", (8, 8), level) for level in (0, 255)]
    frames[0].save(tmp_path / "film.gif", save_all=True, append_images=frames[1:])
    assert "several frames" in refused("compress", run, tmp_path / "film.gif", "--out", tmp_path / "y.jgc")
