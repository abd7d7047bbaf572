"""The command that restores pictures."""

import numpy as np
import pytest
from drawn_files import save_mask
from PIL import Image

from jimgen import data
from jimgen.apps import restoration
from jimgen.apps.restoration_by_codes import CodeSteps
from jimgen.apps.tomography import num_detectors
from jimgen.commands.restore import labels_of_draws
from jimgen.errors import UserError

FEW = ("--num", 2, "--steps", 2)
restoration_steps = restoration.Steps


@pytest.fixture(scope="module")
def digit():
    return data.load("digits").test.images[0]


@pytest.fixture
def picture(digit, tmp_path):
    Image.fromarray(digit[..., 0]).save(tmp_path / "digit.png")
    return tmp_path / "digit.png"


@pytest.fixture(autouse=True)
def short_searches(monkeypatch):
    """Of VAEs and GANs."""
    few = CodeSteps(starts=2, search=2, chain=2)
    monkeypatch.setattr(restoration, "Steps", lambda flow: restoration_steps(flow, few))


@pytest.mark.parametrize("task", ["denoise", "enlarge", "deblur", "ct"])
def test_a_flow_restores_what_it_damaged(folders, jimgen, picture, digit, tmp_path, task):
    """The arrays hold the picture, what is observed, the draws, their mean and their standard deviation."""
    given = ["restore", folders["flow"], picture, "--task", task, "--simulate", "--views", 6, *FEW, "--sigma", 20]
    said = jimgen(*given, "--out", tmp_path / "x.npz")
    assert "PSNR: observed" in said and "single draws" in said
    with np.load(tmp_path / "x.npz") as arrays:
        found = {name: arrays[name] for name in arrays}
    np.testing.assert_array_equal(found["picture"], digit)
    assert found["images"].shape == (2, 8, 8, 1) and found["observed"].shape == (8, 8, 1)
    np.testing.assert_allclose(found["mean"], found["images"].mean(0), atol=1e-4)
    np.testing.assert_allclose(found["std"], found["images"].std(0, ddof=1), atol=1e-4)
    assert (found["images"][0] != found["images"][1]).any()


def test_a_vae_restores_colours(folders, jimgen, tmp_path):
    """As a folder of pictures."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (8, 8, 3), np.uint8)).save(tmp_path / "x.png")
    jimgen(
        "restore",
        folders["vae"],
        tmp_path / "x.png",
        "--task",
        "colourise",
        "--label",
        1,
        "--num",
        2,
        "--out",
        tmp_path / "out",
    )
    assert sorted(path.name for path in (tmp_path / "out").iterdir()) == [
        "draw_000.png",
        "draw_001.png",
        "mean.png",
        "observed.png",
        "std.png",
    ]
    observed = np.asarray(Image.open(tmp_path / "out" / "observed.png"))
    assert observed.shape == (8, 8, 3) and (observed == observed[..., :1]).all()


def test_filling_in_keeps_what_is_known(folders, jimgen, picture, digit, tmp_path):
    mask = save_mask(tmp_path / "mask.png", [[255, 0]])
    jimgen("restore", folders["flow"], picture, "--task", "inpaint", "--mask", mask, *FEW, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        np.testing.assert_array_equal(arrays["images"][:, :, :4], np.stack([digit[:, :4]] * 2))
        assert arrays["std"][:, :4].max() == 0


def test_a_larger_picture_keeps_its_size(folders, jimgen, tmp_path):
    """By tiles; the sheet has the observed, the mean, the deviation and the draws."""
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (12, 20), np.uint8)).save(tmp_path / "x.png")
    said = jimgen("restore", folders["flow"], tmp_path / "x.png", "--task", "denoise", "--own-size", *FEW)
    assert str(folders["flow"] / "restore.png") in said and "PSNR" not in said
    with Image.open(folders["flow"] / "restore.png") as sheet:
        assert sheet.size == ((3 * 21 - 1) * 4, (2 * 13 - 1) * 4)


def test_a_small_picture_is_enlarged_to_the_runs_size(folders, jimgen, tmp_path):
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (4, 4), np.uint8)).save(tmp_path / "x.png")
    jimgen("restore", folders["flow"], tmp_path / "x.png", "--task", "enlarge", *FEW, "--out", tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["images"].shape == (2, 8, 8, 1)


def test_a_sinogram_is_reconstructed(folders, jimgen, refused, tmp_path):
    sinogram = np.random.default_rng(0).uniform(0, 4, (6, num_detectors(8, 8)))
    np.savez(tmp_path / "scan.npz", sinogram=sinogram)
    given = ["restore", folders["flow"], tmp_path / "scan.npz", "--task", "ct", *FEW, "--out", tmp_path / "x.npz"]
    jimgen(*given, "--views", 6)
    with np.load(tmp_path / "x.npz") as arrays:
        assert arrays["images"].shape == (2, 8, 8, 1)
    assert "[7, 12] for --views 7 and 8x8 pixels, got [6, 12]" in refused(*given, "--views", 7)


@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        ("flow", ["--task", "inpaint"], "--task inpaint needs --mask"),
        ("flow", ["--task", "deblur", "--mask", "x.png"], "--mask is for inpaint, not for deblur"),
        ("flow", ["--task", "enlarge", "--factor", "3"], "--factor 3: must divide the run's size of 8x8"),
        ("flow", ["--task", "enlarge", "--factor", "3", "--simulate"], "a factor of 3 does not divide"),
        ("flow", ["--task", "denoise", "--sigma", "0"], "--sigma 0: must be above 0"),
        ("flow", ["--task", "denoise", "--simulate"], "say how much noise to add, for example --sigma 25"),
        ("vae", ["--task", "ct", "--label", "0"], "a sinogram needs a run on grey ones"),
        ("flow", ["--task", "colourise"], "colourise needs a run on colours"),
        ("flow", ["--task", "deblur", "--blur", "-1"], "expected a standard deviation > 0"),
        ("flow", ["--task", "denoise", "--num", "0"], "--num 0: must be at least 1"),
        ("vae", ["--task", "denoise", "--sigma", "9"], "say what the picture shows, for example --label 0"),
        ("dcgan", ["--task", "denoise", "--sigma", "9", "--own-size"], "only flows work by tiles"),
    ],
)
def test_what_makes_no_sense_is_refused(folders, refused, picture, tmp_path, run, flags, message):
    assert message in refused("restore", folders[run], picture, *flags, "--out", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


def test_a_run_that_never_hid_labels_must_be_told_one():
    from types import SimpleNamespace

    spec = SimpleNamespace(
        num_classes=3, attributes=(), columns=[SimpleNamespace(values=("a", "b", "c"))], conditions=3
    )
    run = SimpleNamespace(folder="run", spec=spec, conditional=True, method=SimpleNamespace(hides_labels=False))
    with pytest.raises(UserError, match="say what the picture shows, for example --label 0"):
        labels_of_draws(run, 2, None, ())
    assert labels_of_draws(run, 2, 1, ()).tolist() == [1, 1]
    run.method.hides_labels = True
    assert labels_of_draws(run, 2, None, ()).tolist() == [3, 3]
