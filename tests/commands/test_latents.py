"""Commands on the latent space of a run: project, directions; and truncation when sampling."""

import numpy as np
import pytest
from drawn_files import arrays_of, size_of
from PIL import Image

from jimgen import data
from jimgen.apps.directions import load
from jimgen.commands import latents
from jimgen.evaluation import agreement
from jimgen.runs.load import load_run


@pytest.fixture
def pictures(folders, jimgen, tmp_path):
    """Two images that the run drew, at twice its size, as files."""
    jimgen("sample", folders["dcgan"], "--num", 2, "--out", tmp_path / "own.npz")
    paths = [tmp_path / f"{i}.png" for i in range(2)]
    for image, path in zip(arrays_of(tmp_path / "own.npz")[0], paths, strict=True):
        Image.fromarray(image[..., 0].repeat(2, 0).repeat(2, 1)).save(path)
    return paths


def test_project_prints_residuals_and_writes_rows_and_arrays(folders, jimgen, pictures, tmp_path, monkeypatch):
    """A line for each picture, whose result does not depend on the others; also where not all are searched at once."""
    given = ["project", folders["dcgan"], *pictures, "--steps", 20, "--starts", 2]
    said = jimgen(*given, "--out", tmp_path / "x.npz").splitlines()
    assert len(said) == 3 and said[1].startswith(f"{pictures[1]}  z: PSNR ") and said[2] == str(tmp_path / "x.npz")
    with np.load(tmp_path / "x.npz") as saved:
        arrays = dict(saved)
    names = {"images", "z_images", "z", "z_mse", "z_psnr", "z_distance", "names"}
    assert arrays.keys() == names and arrays["names"].tolist() == [str(path) for path in pictures]
    assert arrays["z"].shape == (2, 4) and arrays["z_images"].shape == arrays["images"].shape == (2, 16, 16, 1)
    np.testing.assert_allclose(arrays["z_psnr"], 10 * np.log10(4 / arrays["z_mse"]), rtol=1e-4)
    assert f"{arrays['z_psnr'][1]:.2f} dB" in said[1]
    monkeypatch.setattr(latents, "AT_A_TIME", 2)
    jimgen(*given[:2], *pictures[::-1], pictures[1], *given[4:], "--out", tmp_path / "three.npz")
    with np.load(tmp_path / "three.npz") as saved:
        np.testing.assert_allclose(saved["z"], arrays["z"][[1, 0, 1]], atol=1e-3)
    jimgen(*given, "--out", tmp_path / "x.png")
    assert size_of(tmp_path / "x.png") == ((2 * 17 - 1) * 3, (2 * 17 - 1) * 3)


def test_project_begins_at_the_encoder_of_a_vae(folders, jimgen, tmp_path):
    """A digit is reconstructed no worse than by `reconstruct`, whose squared error is part of what is minimised."""
    Image.fromarray(data.load("digits").test.images[0, ..., 0]).save(tmp_path / "digit.png")
    given = ["project", folders["vae"], tmp_path / "digit.png", "--label", data.load("digits").test.labels[0]]
    errors = []
    for steps in (1, 60):
        jimgen(*given, "--steps", steps, "--out", tmp_path / "x.npz")
        with np.load(tmp_path / "x.npz") as saved:
            errors.append(float(saved["z_mse"][0]))
            assert saved["labels"].shape == (1,) and saved["images"].shape == (1, 8, 8, 3)
    assert errors[1] < errors[0]


def test_project_tells_what_it_cannot_read_or_fit(folders, refused, pictures, tmp_path):
    (tmp_path / "text.png").write_text("no picture")
    Image.fromarray(np.zeros((1, 1), np.uint8)).save(tmp_path / "dot.png")
    for run, given, message in (
        ("dcgan", [tmp_path / "none.png"], "none.png"),
        ("dcgan", [pictures[0], tmp_path / "text.png"], "text.png"),
        ("dcgan", [tmp_path / "dot.png"], "dot.png: "),
        ("dcgan", [], "at least one picture"),
        ("dcgan", [pictures[0], "--steps", "0"], "--steps 0: must be at least 1"),
        ("dcgan", [pictures[0], "--label", "3"], "was trained without labels"),
        ("vae", pictures, "say which one the pictures show"),
        ("flow", pictures, "has no latent space"),
    ):
        assert message in refused("project", folders[run], *given, "--out", tmp_path / "out.png"), message
    assert not (tmp_path / "out.png").exists()


def test_directions_of_classes_by_a_classifier_of_the_data(folders, jimgen, refused, tmp_path, monkeypatch):
    """What the classifier finds is replaced by the brightness of the image, which the codes tell."""
    seen = []

    def found_values(images, dataset, steps):
        seen.append((images.shape, dataset.spec.name))
        level = images.astype(float).mean((1, 2, 3))
        return (level > np.median(level)).astype(int)[:, None] * 7

    monkeypatch.setattr(agreement, "found_values", found_values)
    given = ["directions", folders["dcgan"], "--num", 80, "--rows", 2]
    said = jimgen(*given, "--by", "class=7", "class!=7", "--out", tmp_path / "x.png").splitlines()
    assert seen == [((80, 16, 16, 1), "digits")]
    assert said[0].startswith("class=7: accuracy ") and "50.0% of images show it" in said[1]
    assert said[2:] == [str(tmp_path / "x.png"), str(tmp_path / "x.npz")]
    assert size_of(tmp_path / "x.png") == ((7 * 17 - 1) * 3, (4 * 17 - 1) * 3)
    more, less = load(tmp_path / "x.npz", load_run(folders["dcgan"]).method.space, 4)
    np.testing.assert_allclose(more.vector, -less.vector, atol=1e-5)
    assert more.quality == pytest.approx(less.quality) and more.quality > 0.7
    given += ["--out", tmp_path / "y.png", "--by"]
    for by, message in (
        (["class=7", "class!=7", "--orthogonal"], "its direction is that of the others"),
        (["class=3"], "class=3: 0 of 80 images show it"),
        (["hair=red"], "there is no attribute 'hair'"),
        (["class"], "expected attribute=value"),
    ):
        assert message in refused(*given, *by), message
    assert "has no latent space" in refused("directions", folders["flow"], "--by", "class=1")
    assert not (tmp_path / "y.png").exists()


def test_the_classifier_of_data_with_classes_alone_has_one_column(tmp_path, monkeypatch):
    class Trained(Exception):
        pass

    def train_classifier(images, labels, *, num_classes, steps):
        raise Trained(labels.shape, num_classes, steps)

    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    monkeypatch.setattr(agreement, "train_classifier", train_classifier)
    dataset = data.load("digits")
    with pytest.raises(Trained) as trained:
        agreement.found_values(dataset.test.images, dataset, 12)
    assert trained.value.args == ((1498, 1), (10,), 12)


def test_truncation_of_samples(folders, jimgen, refused, tmp_path):
    """0 draws one image, the mean's; 1 changes nothing; .5 lies between."""
    drawn = {}
    for psi in (None, 0, 0.5, 1):
        change = [] if psi is None else ["--change", f"truncation={psi}"]
        jimgen("sample", folders["dcgan"], "--num", 6, *change, "--out", tmp_path / "x.npz")
        drawn[psi] = arrays_of(tmp_path / "x.npz")[0].astype(int)
    np.testing.assert_array_equal(drawn[1], drawn[None])
    assert np.ptp(drawn[0], axis=0).max() == 0
    varied = [drawn[psi].std(0).mean() for psi in (0, 0.5, 1)]
    assert varied[0] == 0 < varied[1] < varied[2]
    assert "--truncation -1" in refused("sample", folders["dcgan"], "--change", "truncation=-1")
