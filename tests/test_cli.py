"""The command `jimgen`: what one does with a run, and what one is told when that cannot be done."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import EXPERIMENTS, contents, load_experiment, rows_of, tiny_config

from jimgen import cli, experiment


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny run of each family; the VAE knows labels and has two channels of grey doubled into colour."""
    root = tmp_path_factory.mktemp("runs")
    options = {"dcgan": {"size": 16}, "vae": {"conditional": True, "channels": 3}, "flow": {"num_steps": 2}}
    for name, changed in options.items():
        config = tiny_config(name, root / name, **changed)
        experiment.run(config, load_experiment(name).build)
    return {name: root / name for name in options}


@pytest.fixture
def jimgen(monkeypatch, capsys):
    """Runs the command line; returns what it prints."""

    def run(*arguments) -> str:
        monkeypatch.setattr(sys, "argv", ["jimgen", *map(str, arguments)])
        capsys.readouterr()
        cli.main()
        return capsys.readouterr().out

    return run


@pytest.fixture
def refused(jimgen, capsys):
    """Runs a command line that must end with status 2; returns its message of one or two lines."""

    def run(*arguments) -> str:
        with pytest.raises(SystemExit) as stop:
            jimgen(*arguments)
        message = capsys.readouterr().err
        assert stop.value.code == 2 and message.startswith("error: ") and len(message.strip().splitlines()) <= 2
        return message

    return run


def arrays_of(path: Path) -> tuple[np.ndarray, np.ndarray]:
    with np.load(path) as saved:
        assert set(saved.files) == {"images", "labels"}
        assert saved["images"].dtype == np.uint8 and saved["labels"].dtype == np.int32
        return saved["images"], saved["labels"]


@pytest.mark.parametrize(("name", "shape"), [("dcgan", (16, 16, 1)), ("vae", (8, 8, 3))])
def test_sample_writes_the_same_set_for_the_same_seed(folders, jimgen, tmp_path, name, shape):
    """npz: uint8 images and int32 labels, the classes in turn; the first ones do not depend on the number."""
    paths = [tmp_path / f"{i}.npz" for i in range(4)]
    for path, num, seed in zip(paths, (13, 13, 5, 13), (1, 1, 1, 2), strict=True):
        said = jimgen("sample", folders[name], "--num", num, "--seed", seed, "--out", path)
        assert str(path) in said
    (first, labels), (again, _), (fewer, _), (other, _) = map(arrays_of, paths)
    assert first.shape == (13, *shape) and labels.tolist() == [i % 10 for i in range(13)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:5], fewer)
    assert (first != other).any()
    assert len({image.tobytes() for image in first}) == 13


def test_sample_draws_a_grid_with_a_class_a_column(folders, jimgen):
    said = jimgen("sample", folders["vae"], "--num", 20)
    assert str(folders["vae"] / "sample.png") in said
    with Image.open(folders["vae"] / "sample.png") as image:
        assert image.size == ((10 * 9 - 1) * 6, (2 * 9 - 1) * 6)


def test_sample_of_one_class(folders, jimgen, tmp_path):
    """The label reaches the net: the same latents give other images."""
    for label in (0, 9):
        jimgen("sample", folders["vae"], "--num", 3, "--label", label, "--out", tmp_path / f"{label}.npz")
    (zeros, labels), (nines, _) = (arrays_of(tmp_path / f"{label}.npz") for label in (0, 9))
    assert labels.tolist() == [0, 0, 0] and (zeros != nines).any()


def test_reconstruct_of_the_test_images(folders, jimgen, tmp_path):
    """Pairs of rows as a picture, or the reconstructions with the labels of the test set."""
    from jimgen import data

    jimgen("reconstruct", folders["vae"], "--num", 12, "--out", tmp_path / "x.npz")
    images, labels = arrays_of(tmp_path / "x.npz")
    assert images.shape == (12, 8, 8, 3)
    test = data.load("digits").test
    np.testing.assert_array_equal(labels, test.labels[:12])
    jimgen("reconstruct", folders["vae"], "--num", 20, "--out", tmp_path / "x.png")
    with Image.open(tmp_path / "x.png") as image:
        sheet = np.asarray(image)
    assert sheet.shape == ((4 * 9 - 1) * 6, (10 * 9 - 1) * 6, 3)
    np.testing.assert_array_equal(sheet[: 8 * 6 : 6, : 8 * 6 : 6, 0], test.images[0, :, :, 0])


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_interpolate_walks_from_one_image_to_another(folders, jimgen, tmp_path, name):
    """A row a pair; a walk of two steps shows the ends of one of five."""
    for steps in (2, 5):
        out = tmp_path / f"{steps}.npz"
        jimgen("interpolate", folders[name], "--num", 3, "--steps", steps, "--seed", 4, "--out", out)
    (ends, _), (walk, labels) = (arrays_of(tmp_path / f"{steps}.npz") for steps in (2, 5))
    assert walk.shape[0] == 15 and labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
    walk, ends = (images.astype(int).reshape(3, -1, *images.shape[1:]) for images in (walk, ends))
    assert np.abs(walk[:, [0, -1]] - ends).max() <= 1
    assert (walk[:, 0] != walk[:, -1]).any()


def test_sample_writes_a_folder_of_pictures_by_class_or_by_frequency(folders, jimgen, tmp_path):
    """Frequencies of the training digits are nearly equal, so both sets hold about two images a class."""
    for classes in ("balanced", "frequency"):
        out = tmp_path / classes
        assert str(out) in jimgen("sample", folders["vae"], "--num", 20, "--classes", classes, "--out", out)
        assert len(list(out.rglob("*.png"))) == 20
    assert [len(list((tmp_path / "balanced" / f"{label:04d}").iterdir())) for label in range(10)] == [2] * 10


def test_sample_with_a_changed_config(folders, jimgen, tmp_path):
    """The same weights and latents, read as means, not as logits; the run itself stays as it was."""
    before = contents(folders["vae"])
    for name, more in {"own": [], "same": ["likelihood=bernoulli"], "other": ["likelihood=gaussian"]}.items():
        changed = ["--change", *more] if more else []
        jimgen("sample", folders["vae"], "--num", 4, *changed, "--out", tmp_path / f"{name}.npz")
    own, same, other = (arrays_of(tmp_path / f"{name}.npz")[0] for name in ("own", "same", "other"))
    assert (own == same).all() and (own != other).any()
    assert contents(folders["vae"]) == before


@pytest.fixture
def hook(tmp_path):
    """An extractor of one's own, as a file."""
    (tmp_path / "hook.py").write_text("from tiny import tiny_extractor\n")
    return f"{tmp_path / 'hook.py'}:tiny_extractor"


def test_evaluate_ends_with_one_line_of_json_and_fills_the_report(folders, jimgen, hook):
    """A run of 8x8 digits; its page shows the figures, and `compare` puts it beside itself."""
    arguments = ["--num", 60, "--metrics", "fd,prdc", "--extractors", hook]
    said = jimgen("evaluate", folders["flow"], *arguments).splitlines()
    values = json.loads(said[-1])
    assert any("fd[tiny@8]" in line for line in said[:-1])  # the table names the extractor
    assert values["num"] == 60 and values["fd[tiny@8]"] > 0 and 0 <= values["precision[tiny@8]"] <= 1
    written = json.loads((folders["flow"] / "evaluation" / "evaluation.json").read_text())
    assert written["figures"]["fd[tiny@8]"]["value"] == values["fd[tiny@8]"]
    assert values["test/flow_loss"] == rows_of(folders["flow"])[-1]["test/flow_loss"]
    page = (folders["flow"] / "report.html").read_text()
    assert "Gaussian per class" in page and "nearest neighbours" in page and "Share of samples" in page
    compared = json.loads(jimgen("compare", folders["flow"]).splitlines()[-1])
    assert compared["flow"]["fd[tiny@8]"] == {"mean": values["fd[tiny@8]"], "half_width": None, "n": 1}


def test_evaluate_a_set_against_stored_statistics(jimgen, refused, hook, tmp_path):
    """The same figure as from the data; statistics of another number are refused."""
    from jimgen import data

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


def test_inpaint_keeps_what_is_known(folders, jimgen, tmp_path):
    """The left half of a digit stays as it is; the right half differs from one way to another."""
    from jimgen import data

    digit = data.load("digits").test.images[0]
    Image.fromarray(digit[..., 0]).save(tmp_path / "digit.png")
    mask = np.zeros((8, 8), np.uint8)
    mask[:, :4] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    given = ["inpaint", folders["flow"], tmp_path / "digit.png", "--mask", tmp_path / "mask.png", "--num", 3]
    jimgen(*given, "--out", tmp_path / "x.npz")
    filled, _ = arrays_of(tmp_path / "x.npz")
    assert filled.shape == (3, 8, 8, 1)
    np.testing.assert_array_equal(filled[:, :, :4], np.broadcast_to(digit[:, :4], (3, 8, 4, 1)))
    assert len({image.tobytes() for image in filled}) == 3
    assert str(folders["flow"] / "inpaint.png") in jimgen(*given)


def test_report_of_several_runs(folders, jimgen, tmp_path):
    said = jimgen("report", *folders.values(), "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert str(tmp_path / "page.html") in said and ">dcgan<" in page and ">vae<" in page


def test_runs_lists_step_and_figures(folders, jimgen):
    lines = jimgen("runs", folders["vae"].parent).splitlines()
    assert len(lines) == 3
    assert "dcgan  digits  step 2 of 2" in lines[0] and "generator/loss" in lines[0]
    assert "vae  digits  step 2 of 2" in lines[2] and "test/nats_given_label[binarised,ELBO]" in lines[2]


def test_doctor_names_versions_devices_and_data(jimgen):
    said = jimgen("doctor")
    assert "jax " in said and "device 7: " in said and "data digits: 1498 + 299 images [8, 8, 1]" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "{none}"], "is not a run"),
        (["sample", "{dcgan}", "--num", "0"], "--num 0: must be at least 1"),
        (["sample", "{vae}", "--label", "10"], "--label 10 is out of range"),
        (["sample", "{vae}", "--label", "-1"], "--label -1 is out of range"),
        (["sample", "{dcgan}", "--label", "1"], "was trained without labels"),
        (["sample", "{dcgan}", "--out", "{none}/x.jpg"], "ends in .png (a grid) or .npz"),
        (["sample", "{dcgan}", "--out", "{vae}/config.json/x.png"], "cannot write"),
        (["reconstruct", "{dcgan}"], "cannot reconstruct"),
        (["reconstruct", "{vae}", "--out", "{none}/x.gif"], "ends in .png (a grid) or .npz"),
        (["interpolate", "{dcgan}", "--steps", "0"], "--steps 0: must be at least 1"),
        (["interpolate", "{vae}", "--label", "10"], "--label 10 is out of range"),
        (["interpolate", "{none}"], "is not a run"),
        (["evaluate", "{none}"], "neither an .npz file nor a folder"),
        (["evaluate", "{dcgan}", "--metrics", "fid"], "unknown metrics fid"),
        (["evaluate", "{dcgan}", "--num", "20", "--extractors", "vgg"], "unknown extractor 'vgg'"),
        (["evaluate", "{dcgan}", "--num", "20", "--data", "digits", "--size", "8"], "bring them to one size"),
        (["compare", "{dcgan}"], "has no evaluation yet"),
        (["reference", "digits", "--out", "{none}/x.json"], "ends in .npz"),
        (["sample", "{dcgan}", "--best"], "keeps no best checkpoint"),
        (["inpaint", "{vae}", "{none}/x.png", "--mask", "{none}/y.png"], "cannot inpaint"),
        (["inpaint", "{flow}", "{none}/x.png", "--mask", "{none}/y.png"], "x.png"),
        (["report", "{none}"], "is not a folder"),
        (["report"], "at least one run"),
        (["runs", "{none}"], "no runs in"),
        (["train", "dcgna"], "did you mean dcgan?"),
        (["train", "{none}/x.py"], "there is no experiment"),
    ],
)
def test_bad_input_is_told_and_nothing_written(folders, refused, tmp_path, arguments, message):
    places = {**folders, "none": tmp_path / "none"}
    before = {name: contents(folder) for name, folder in folders.items()}
    assert message in refused(*(argument.format(**places) for argument in arguments))
    assert {name: contents(folder) for name, folder in folders.items()} == before
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["smaple", "run"], "sample"), (["sample", "run", "--nmu", "3"], "--num"), (["train"], "dcgan, vae")],
)
def test_unknown_commands_and_flags_end_with_status_2(jimgen, capsys, arguments, message):
    with pytest.raises(SystemExit) as stop:
        jimgen(*arguments)
    assert stop.value.code == 2
    assert message in capsys.readouterr().err


def test_train_starts_the_experiment_with_its_flags(jimgen, monkeypatch):
    started = []
    monkeypatch.setattr(cli.os, "execv", lambda program, arguments: started.append(arguments))
    jimgen("train", "vae", "--steps", "3")
    jimgen("train", EXPERIMENTS / "dcgan.py", "--help")
    (_, first, *flags), (_, second, help_flag) = started
    assert Path(first).resolve() == EXPERIMENTS / "vae.py" and flags == ["--steps", "3"]
    assert Path(second).resolve() == EXPERIMENTS / "dcgan.py" and help_flag == "--help"


@pytest.mark.parametrize("arguments", [["--help"], ["sample", "--help"], ["runs", "--help"]])
def test_help_imports_nothing_heavy(arguments):
    """--help names the commands without JAX, NumPy or matplotlib."""
    code = (
        "import sys; sys.argv = ['jimgen', *sys.argv[1:]]\n"
        "from jimgen import cli\n"
        "try:\n    cli.main()\n"
        "except SystemExit as stop:\n    assert not stop.code\n"
        "print('heavy:', sorted({'jax', 'numpy', 'matplotlib', 'flax', 'PIL'} & set(sys.modules)))"
    )
    found = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True, check=True)
    assert "heavy: []" in found.stdout
    assert (arguments[0] if len(arguments) > 1 else "reconstruct") in found.stdout
