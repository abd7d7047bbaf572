"""Commands that measure images: evaluate, compare, reference."""

import inspect
import json
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
from drawn_files import arrays_of, size_of
from PIL import Image
from small_runs import rows_of

from jimgen import cli, data
from jimgen.commands import metrics as commands
from jimgen.errors import UserError
from jimgen.evaluation.measure import NAMES
from jimgen.evaluation.reference import load_reference
from jimgen.runs.subject import default_folder


def test_evaluate_ends_with_one_line_of_json_and_fills_the_report(folders, jimgen, hook):
    """A run of 8x8 digits; its page shows the metrics, and `compare` lists them."""
    arguments = ["--num", 60, "--metrics", "fd,prdc", "--extractors", hook]
    said = jimgen("evaluate", folders["flow"], *arguments).splitlines()
    values = json.loads(said[-1])
    assert any("fd[tiny@8]" in line for line in said[:-1])  # the table names the extractor
    assert values["num"] == 60 and values["fd[tiny@8]"] > 0 and 0 <= values["precision[tiny@8]"] <= 1
    written = json.loads((folders["flow"] / "evaluation" / "evaluation.json").read_text())
    assert written["metrics"]["fd[tiny@8]"]["value"] == values["fd[tiny@8]"]
    assert values["test/flow_loss"] == rows_of(folders["flow"])[-1]["test/flow_loss"]
    page = (folders["flow"] / "report.html").read_text()
    assert "Gaussian per class" in page and "nearest neighbours" in page and "Share of samples" in page
    compared = json.loads(jimgen("compare", folders["flow"]).splitlines()[-1])
    assert compared["flow"]["fd[tiny@8]"] == {"mean": values["fd[tiny@8]"], "half_width": None, "n": 1}


def test_evaluate_a_set_against_stored_statistics(jimgen, refused, hook, tmp_path):
    """The metrics are those from the data; statistics of another count are refused."""

    images = data.load("digits").test.images[:80]
    np.savez(tmp_path / "set.npz", images=images)
    for num in (80, 70):
        asked = ["reference", "digits", "--extractor", hook, "--num", num, "--out", tmp_path / f"{num}.npz"]
        assert f"{num} images of digits" in jimgen(*asked)
    base = ["evaluate", tmp_path / "set.npz", "--data", "digits", "--num", 80, "--metrics", "fd", "--extractors", hook]
    plain = json.loads(jimgen(*base).splitlines()[-1])
    stored = json.loads(jimgen(*base, "--reference", tmp_path / "80.npz").splitlines()[-1])
    assert stored == plain
    assert "count 70 there, 80 here" in refused(*base, "--reference", tmp_path / "70.npz")
    assert "which prdc need" in refused(*base, "--reference", tmp_path / "80.npz", "--metrics", "prdc")


def test_evaluate_loads_real_images_as_the_run_did_field_by_field(folders, jimgen, monkeypatch, tmp_path):
    """A flag changes only its own field: --fit works without --size, and --size keeps the run's fit."""
    loaded = []

    def load(name, **options):
        loaded.append((name, options["size"], options["fit"], options["channels"]))
        raise UserError("seen")

    saved = json.loads((folders["dcgan"] / "config.json").read_text())
    run = tmp_path / "run"
    shutil.copytree(folders["dcgan"], run)
    saved["config"] |= {"fit": "pad", "channels": 1}
    (run / "config.json").write_text(json.dumps(saved))
    monkeypatch.setattr(data, "load", load)
    monkeypatch.setattr("jimgen.runs.subject.draw_images", lambda *arguments: None)
    for flags, expected in {
        (): ("digits", (16, 16), "pad", 1),
        ("--fit", "resize"): ("digits", (16, 16), "resize", 1),
        ("--size", "8"): ("digits", (8, 8), "pad", 1),
        ("--channels", "3"): ("digits", (16, 16), "pad", 3),
        ("--data", "fashion_mnist"): ("fashion_mnist", (16, 16), "pad", 1),
        ("--data", "fashion_mnist", "--fit", "resize", "--size", "8"): ("fashion_mnist", (8, 8), "resize", 1),
        ("--data", ""): ("", (16, 16), "pad", 1),
    }.items():
        with pytest.raises(SystemExit):
            jimgen("evaluate", run, "--num", 20, *flags)
        assert loaded.pop() == expected and not loaded


def test_runs_that_know_no_labels_write_none(folders, jimgen, hook, tmp_path, monkeypatch):
    """Neither arrays nor folders: CAS of the file uses the same pseudo-labels as CAS of the run itself."""
    trained = []

    def score(images, labels, *rest, **options):
        trained.append((images.tobytes(), labels.tolist()))
        return {"accuracy": 0.5, "per_class": None}

    monkeypatch.setattr("jimgen.evaluation.measure.classification_accuracy_score", score)
    sets = {"run": folders["dcgan"], "npz": tmp_path / "set.npz", "folder": tmp_path / "set"}
    for out in (sets["npz"], sets["folder"]):
        jimgen("sample", folders["dcgan"], "--num", 50, "--classes", "frequency", "--out", out)
    assert arrays_of(sets["npz"])[1] is None
    assert sorted(path.name for path in sets["folder"].iterdir()) == [f"{i:06d}.png" for i in range(50)]
    measured = []
    for name, path in sets.items():
        trained.clear()
        asked = ["--data", "digits", "--size", 16, "--num", 50, "--metrics", "cas", "--extractors", hook]
        found = json.loads(jimgen("evaluate", path, *asked, "--out", tmp_path / name).splitlines()[-1])
        assert found["cas_pseudo_labels"] == 50 and "cas" not in found
        measured.append(trained[0])
    assert measured[0] == measured[1] == measured[2]
    assert size_of(tmp_path / "npz" / "extremes.png") == ((10 * 17 - 1) * 3, (6 * 17 - 1) * 3)  # 25 best, then 25 worst


def test_evaluations_lie_beside_what_was_evaluated(tmp_path, monkeypatch):
    """Also beside the current folder; and a dot in a folder's name does not cut it."""
    (tmp_path / "set.v1").mkdir()
    monkeypatch.chdir(tmp_path / "set.v1")
    expected = tmp_path / "set.v1-evaluation"
    assert default_folder(Path(".")) == default_folder(tmp_path / "set.v1") == expected
    assert default_folder(Path("..")) == tmp_path.with_name(f"{tmp_path.name}-evaluation")
    assert default_folder(tmp_path / "x.npz") == tmp_path / "x-evaluation"


def test_data_of_a_command_are_read_as_told_and_what_is_left_out_is_said(jimgen, hook, tmp_path, monkeypatch, capsys):
    for number in range(8):
        (tmp_path / "set").mkdir(exist_ok=True)
        Image.fromarray(np.full((8, 8), 500 * number, np.uint16)).save(tmp_path / "set" / f"{number}.png")
    (tmp_path / "set" / "x.heic").touch()
    name = f"folder:{tmp_path / 'set'}"
    monkeypatch.setattr(sys, "argv", ["jimgen", "reference", name, "--out", str(tmp_path / "x.npz")])
    sys.argv += ["--extractor", hook, "--bits", "12"]
    cli.main()
    assert "1 picture(s) left out, the first: " in (said := capsys.readouterr().err) and "x.heic" in said
    assert load_reference(tmp_path / "x.npz").source.data_hash == data.load(name, bits=12).spec.hash


def test_the_help_of_evaluate_names_every_metric():
    listed = inspect.getdoc(commands.evaluate)
    assert all(name in listed for name in NAMES)
