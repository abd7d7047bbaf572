"""A run on transparent pictures that are not square: training, sample, inpaint, evaluate, report."""

import json

import numpy as np
import pytest
from drawn_files import arrays_of
from PIL import Image
from small_runs import load_experiment, rows_of, tiny_config

from jimgen.alpha import WHITE, composite, unpremultiply
from jimgen.data.fitting import Fitting, fit_images
from jimgen.data.images import Reading, decode
from jimgen.evaluation.generated import read_generated
from jimgen.pictures import CHECKS
from jimgen.runs import train

HOOK = """
import numpy as np
from tiny import tiny_extractor

def colours():
    return tiny_extractor(channels=3, forward=lambda x: (x.mean((1, 2)), x.std((1, 2))))
"""


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Sprites 14x20, opaque in the middle and half so around it; under full transparency hides white."""
    root = tmp_path_factory.mktemp("sprites")
    rng = np.random.default_rng(0)
    for i in range(44):
        rgba = np.full((14, 20, 4), (255, 255, 255, 0), np.uint8)
        rgba[3:11, 4:16] = (*rng.integers(0, 256, 3), 128)
        rgba[5:9, 6:14, 3] = 255
        path = root / "ab"[i % 2] / f"{i}.png"
        path.parent.mkdir(exist_ok=True)
        Image.fromarray(rgba).save(path)
    return root


@pytest.fixture(scope="module")
def run(folder, tmp_path_factory):
    root = tmp_path_factory.mktemp("transparent")
    (root / "hook.py").write_text(HOOK)
    options = {"size": (8, 12), "channels": 4, "background": "white", "flip": True, "crop": "random"}
    quality = {"quality_every": 2, "quality_num": 30, "quality_extractor": f"{root / 'hook.py'}:colours"}
    config = tiny_config("flow", root / "run", data=f"folder:{folder}", **options, **quality)
    train.run(config, load_experiment("flow").build)
    return root / "run"


def test_pictures_of_a_set_are_png_and_npz_with_straight_alpha(run, jimgen, tmp_path):
    for name in ("set", "set.npz"):
        jimgen("sample", run, "--num", 6, "--out", tmp_path / name)
    images, labels = arrays_of(tmp_path / "set.npz")
    assert images.shape == (6, 8, 12, 4) and labels.tolist() == [0, 1] * 3
    with Image.open(tmp_path / "set" / "0001" / "000003.png") as picture:
        assert picture.mode == "RGBA"
        np.testing.assert_array_equal(np.asarray(picture), images[3])
    keeping = Reading(alpha=True)
    both = [read_generated(tmp_path / name, reading=keeping).images for name in ("set", "set.npz")]
    np.testing.assert_array_equal(*both)
    np.testing.assert_array_equal(unpremultiply(both[0])[..., 3], images[..., 3])
    over = read_generated(tmp_path / "set", reading=Reading(WHITE)).images
    assert over.shape == (6, 8, 12, 3) and np.abs(composite(both[0], WHITE).astype(int) - over).max() <= 1


def test_sheets_show_a_checkerboard(run, jimgen, tmp_path):
    jimgen("sample", run, "--num", 4, "--out", tmp_path / "x.png")
    sizes = []
    for path in (tmp_path / "x.png", run / "samples" / "real.png"):
        with Image.open(path) as sheet:
            assert sheet.mode == "RGB"
            sizes.append(sheet.size)
    with Image.open(run / "samples" / "real.png") as sheet:
        assert set(np.asarray(sheet)[0, [0, 6], 0].tolist()) == set(CHECKS)
    assert sizes[0] == ((2 * 13 - 1) * 6, (2 * 9 - 1) * 6)


def test_the_run_is_measured_on_its_background(run, jimgen, tmp_path):
    """So are sets, where the flags say the same; another background gives other metrics, and states itself."""
    hook = f"{run.parent / 'hook.py'}:colours"
    assert any("quality/fd[tiny@8]" in row for row in rows_of(run))
    asked = ["--num", 30, "--metrics", "fd", "--extractors", hook]
    own = json.loads(jimgen("evaluate", run, *asked).splitlines()[-1])
    found = json.loads((run / "evaluation" / "evaluation.json").read_text())["data"]
    assert found["background"] == "#ffffff" and found["shape"] == [8, 12, 3]
    assert "Gaussian per class" in (run / "report.html").read_text()
    jimgen("sample", run, "--num", 30, "--out", tmp_path / "set.npz")
    real = ["--data", json.loads((run / "config.json").read_text())["config"]["data"], "--size", "8x12"]
    for flags, same in ((["--background", "white"], True), (["--background", "#00ff00"], False)):
        given = ["evaluate", tmp_path / "set.npz", *asked, *real, "--channels", 4, *flags]
        value = json.loads(jimgen(*given).splitlines()[-1])["fd[tiny@8]"]
        assert (abs(value - own["fd[tiny@8]"]) < 1) == same


def test_inpaint_keeps_what_is_known_with_its_alpha(run, folder, jimgen, tmp_path):
    mask = np.full((14, 20), 255, np.uint8)
    mask[:, :10] = 0
    Image.fromarray(mask).save(tmp_path / "mask.png")
    path = folder / "a" / "0.png"
    jimgen("inpaint", run, path, "--mask", tmp_path / "mask.png", "--num", 2, "--out", tmp_path / "x.npz")
    images, _ = arrays_of(tmp_path / "x.npz")
    expected = unpremultiply(fit_images(decode(path, alpha=True), Fitting((8, 12), channels=4)))
    np.testing.assert_array_equal(images[:, :, 8:], np.stack([expected[:, 8:]] * 2))
    assert (images[0] != images[1]).any()


@pytest.mark.parametrize(
    ("flags", "message"),
    [
        (["--background", "blue"], "background 'blue' is no colour"),
        (["--size", "9x12", "--channels", "4"], "8, 12"),
    ],
)
def test_flags_that_do_not_fit_are_told(run, refused, flags, message):
    hook = f"{run.parent / 'hook.py'}:colours"
    assert message in refused("evaluate", run, "--num", 30, "--metrics", "fd", "--extractors", hook, *flags)
