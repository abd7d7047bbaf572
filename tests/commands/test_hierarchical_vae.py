"""Commands on a hierarchical VAE: what its levels hold, and the likelihood of test images."""

import json

import numpy as np
import pytest
from drawn_files import size_of

from jimgen.data.dataset import read_rows
from jimgen.evaluation import likelihood


def test_levels_shows_each_image_with_more_and_more_of_its_latents(folders, jimgen, tmp_path):
    """Columns: the image, one that keeps nothing of it, one for each level."""
    run = folders["hierarchical_vae"]
    said = jimgen("levels", run, "--num", 2, "--out", tmp_path / "levels.npz").splitlines()
    assert said[0] == "columns: the image, kept nothing, and 16, and 16, and 2x2x4, and 2x2x4, and 2x2x4"
    with np.load(tmp_path / "levels.npz") as saved:
        images = saved["images"].reshape(2, 7, 8, 8, 1)
    assert (images[:, 1] != images[:, 6]).any()
    jimgen("levels", run, "--num", 2)
    assert size_of(run / "levels.png") == ((7 * 9 - 1) * 6, (2 * 9 - 1) * 6)


def test_likelihood_prints_and_writes_bounds_with_their_protocol(folders, jimgen, refused):
    run = folders["hierarchical_vae"]
    said = jimgen("likelihood", run, "--samples", 3, "--num", 5, "--chunk", 4).splitlines()
    last, saved = json.loads(said[-1]), json.loads((run / "likelihood.json").read_text())
    assert last.items() >= {"samples": 3, "num": 5, "seed": 777, "split": "test", "data": "digits"}.items()
    assert saved["metrics"] == {name: last[name] for name in saved["metrics"]} and saved["step"] == 2
    nats = {bound: last[f"nats[binarised,{bound}]"] for bound in ("ELBO", "IWAE-3")}
    assert nats["IWAE-3"] < nats["ELBO"] and 1 <= last["effective_samples"] <= 3
    np.testing.assert_allclose(last["bits_per_dim[binarised,ELBO]"], nats["ELBO"] / (64 * np.log(2)), rtol=1e-5)
    assert set(saved["standard_errors"]) == set(saved["metrics"])
    assert "--num 9000" in refused("likelihood", run, "--num", 9000)


def test_an_interrupted_likelihood_keeps_the_images_that_are_done(folders, jimgen, tmp_path, monkeypatch):
    """The first of two chunks is on disk when the second one fails, as if it had been all that was asked for.

    An earlier result stays, until a whole one replaces it.
    """
    run, asked = folders["hierarchical_vae"], ("--samples", 3, "--chunk", 4)
    jimgen("likelihood", run, *asked, "--num", 4, "--out", tmp_path / "four.json")
    reads = iter([read_rows])

    def interrupted(*args):
        return next(reads, _interrupt)(*args)

    monkeypatch.setattr(likelihood, "read_rows", interrupted)
    expected = (tmp_path / "four.json").read_text()
    with pytest.raises(KeyboardInterrupt):
        jimgen("likelihood", run, *asked, "--num", 8, "--out", tmp_path / "four.json")
    found = json.loads((tmp_path / "four.partial.json").read_text())
    assert found["num"] == 4 and found["metrics"] == json.loads(expected)["metrics"]
    assert (tmp_path / "four.json").read_text() == expected
    monkeypatch.undo()
    jimgen("likelihood", run, *asked, "--num", 4, "--out", tmp_path / "four.json")
    assert not (tmp_path / "four.partial.json").exists()


def _interrupt(*args):
    raise KeyboardInterrupt


def test_other_methods_have_neither(folders, refused):
    assert "has no levels of latents" in refused("levels", folders["vae"])
    assert "has no importance weights" in refused("likelihood", folders["dcgan"])
