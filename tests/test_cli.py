"""The command `jimgen`: what one does with a run, and what one is told when that cannot be done."""

import io
import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from small_runs import EXPERIMENTS, contents, load_experiment, rows_of, tiny_config

from jimgen import __version__, cli, data
from jimgen.errors import UserError
from jimgen.evaluation.reference import load_reference
from jimgen.runs import train
from jimgen.runs.load import load_run

DRAWING = ("sample", "reconstruct", "interpolate", "inpaint")


@pytest.fixture(scope="module")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny run of each family; the VAE knows labels and has two channels of grey doubled into colour."""
    root = tmp_path_factory.mktemp("runs")
    options = {"dcgan": {"size": 16}, "vae": {"conditional": True, "channels": 3}, "flow": {"num_steps": 2}}
    for name, changed in options.items():
        config = tiny_config(name, root / name, **changed)
        train.run(config, load_experiment(name).build)
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


def arrays_of(path: Path) -> tuple[np.ndarray, np.ndarray | None]:
    """Images, and labels or None."""
    with np.load(path) as saved:
        assert {"images"} <= set(saved.files) <= {"images", "labels"} and saved["images"].dtype == np.uint8
        labels = saved.get("labels")
        assert labels is None or labels.dtype == np.int32
        return saved["images"], labels


def size_of(path: Path) -> tuple[int, int]:
    """Width and height of a picture."""
    with Image.open(path) as image:
        return image.size


def save_mask(path: Path, rows: list[list[int]]) -> Path:
    """A mask of 8x8: each given value fills a block of its own."""
    values = np.array(rows, np.uint8)
    Image.fromarray(values.repeat(8 // len(values), 0).repeat(8 // len(values[0]), 1)).save(path)
    return path


@pytest.mark.parametrize(("name", "shape"), [("dcgan", (16, 16, 1)), ("vae", (8, 8, 3))])
def test_sample_writes_the_same_set_for_the_same_seed(folders, jimgen, tmp_path, name, shape):
    """npz: uint8 images, of a conditional run with int32 labels, the classes in turn; a larger set begins with it."""
    paths = [tmp_path / f"{i}.npz" for i in range(4)]
    for path, num, seed in zip(paths, (13, 13, 5, 13), (1, 1, 1, 2), strict=True):
        said = jimgen("sample", folders[name], "--num", num, "--seed", seed, "--out", path)
        assert str(path) in said
    (first, labels), (again, _), (fewer, _), (other, _) = map(arrays_of, paths)
    assert first.shape == (13, *shape)
    assert labels is None if name == "dcgan" else labels.tolist() == [i % 10 for i in range(13)]
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first[:5], fewer)
    assert (first != other).any()
    assert len({image.tobytes() for image in first}) == 13


def test_sample_draws_a_grid_with_a_class_a_column(folders, jimgen):
    said = jimgen("sample", folders["vae"], "--num", 20)
    assert str(folders["vae"] / "sample.png") in said
    with Image.open(folders["vae"] / "sample.png") as image:
        assert image.size == ((10 * 9 - 1) * 6, (2 * 9 - 1) * 6)


@pytest.mark.parametrize(("num", "columns", "rows"), [(1, 1, 1), (3, 3, 1), (15, 10, 2), (400, 20, 20)])
def test_a_grid_holds_as_many_tiles_as_were_asked_for(folders, jimgen, tmp_path, num, columns, rows):
    """Never a grey tile for an image that no one asked for; many images make a sheet near square."""
    jimgen("sample", folders["vae"], "--num", num, "--out", tmp_path / "x.png")
    assert size_of(tmp_path / "x.png") == ((columns * 9 - 1) * 6, (rows * 9 - 1) * 6)


def test_a_sheet_of_very_many_images_is_capped_and_said_so(folders, jimgen, tmp_path):
    """1024 tiles at most; what was left out is told, and .npz holds all."""
    said = jimgen("sample", folders["vae"], "--num", 20_000, "--out", tmp_path / "x.png")
    assert "shows the first 1024 of 20000" in said and ".npz" in said
    assert size_of(tmp_path / "x.png") == ((30 * 9 - 1) * 6, (35 * 9 - 1) * 6)
    said = jimgen("interpolate", folders["vae"], "--num", 300, "--steps", 10, "--out", tmp_path / "x.png")
    assert "shows the first 102 of 300" in said and size_of(tmp_path / "x.png")[1] == (102 * 9 - 1) * 6


def test_runs_that_know_no_labels_write_none(folders, jimgen, hook, tmp_path, monkeypatch):
    """Neither arrays nor folders: CAS of the file trains on the same pseudo-labels as that of the run itself."""
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


def test_unlabelled_data_give_no_labels(folders, jimgen, refused, tmp_path):
    """A set of one class, whatever the config says; of reconstructions too."""
    images = np.random.default_rng(0).integers(0, 256, (24, 8, 8), np.uint8)
    np.savez(tmp_path / "x.npz", train_images=images, test_images=images[:8])
    config = tiny_config("vae", tmp_path / "vae", data=f"npz:{tmp_path / 'x.npz'}")
    train.run(config, load_experiment("vae").build)
    for command in ("sample", "reconstruct"):
        jimgen(command, tmp_path / "vae", "--num", 3, "--out", tmp_path / "out.npz")
        assert arrays_of(tmp_path / "out.npz")[1] is None
    assert "have no classes" in refused("sample", tmp_path / "vae", "--label", "0")
    flow = load_run(folders["flow"])
    assert flow.config.conditional and flow.conditional
    assert not flow._replace(spec=flow.spec._replace(num_classes=1, class_names=("all",))).conditional


@pytest.mark.parametrize("command", ["sample", "interpolate", "inpaint"])
def test_seeds_of_64_bits_are_told_apart(folders, jimgen, refused, tmp_path, command):
    """2^32 is not 0, and 2^63 - 1 is none of both; seeds outside 0 to 2^63 - 1 are refused."""
    run = {"sample": "dcgan", "interpolate": "dcgan", "inpaint": "flow"}[command]
    given = [command, folders[run]]
    if command == "inpaint":
        Image.fromarray(np.arange(64, dtype=np.uint8).reshape(8, 8)).save(tmp_path / "x.png")
        given += [tmp_path / "x.png", "--mask", save_mask(tmp_path / "mask.png", [[255, 0]])]
    found = []
    for seed in (0, 2**32, 2**63 - 1):
        jimgen(*given, "--num", 1, "--seed", seed, "--out", tmp_path / "x.npz")
        found.append(arrays_of(tmp_path / "x.npz")[0].tobytes())
    assert len(set(found)) == 3
    for seed in (-1, 2**63, 10**30):
        assert f"--seed {seed}: must lie within 0" in refused(*given, f"--seed={seed}")


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


@pytest.mark.parametrize(("num", "columns", "rows"), [(1, 1, 2), (15, 10, 4), (25, 10, 6), (500, 10, 60)])
def test_reconstruct_shows_every_image_that_was_asked_for(folders, jimgen, tmp_path, num, columns, rows):
    """Also those of a last row that is not full; and as many as there are, 299, where more were asked for."""
    from jimgen import data

    said = jimgen("reconstruct", folders["vae"], "--num", num, "--out", tmp_path / "x.png")
    assert ("no more can be reconstructed" in said) == (num > 299)
    with Image.open(tmp_path / "x.png") as image:
        sheet = np.asarray(image)[::6, ::6]
    assert sheet.shape[:2] == (rows * 9 - 1, columns * 9 - 1)
    y, x = divmod(min(num, 299) - 1, 10)
    last = sheet[2 * y * 9 :, x * 9 :][:8, :8, 0]
    np.testing.assert_array_equal(last, data.load("digits").test.images[min(num, 299) - 1, :, :, 0])


@pytest.mark.parametrize("name", ["dcgan", "vae"])
def test_interpolate_walks_from_one_image_to_another(folders, jimgen, tmp_path, name):
    """A row a pair; a walk of two steps shows the ends of one of five."""
    for steps in (2, 5):
        out = tmp_path / f"{steps}.npz"
        jimgen("interpolate", folders[name], "--num", 3, "--steps", steps, "--seed", 4, "--out", out)
    (ends, _), (walk, labels) = (arrays_of(tmp_path / f"{steps}.npz") for steps in (2, 5))
    assert walk.shape[0] == 15
    assert labels is None if name == "dcgan" else labels.tolist() == [0] * 5 + [1] * 5 + [2] * 5
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
    assert written["metrics"]["fd[tiny@8]"]["value"] == values["fd[tiny@8]"]
    assert values["test/flow_loss"] == rows_of(folders["flow"])[-1]["test/flow_loss"]
    page = (folders["flow"] / "report.html").read_text()
    assert "Gaussian per class" in page and "nearest neighbours" in page and "Share of samples" in page
    compared = json.loads(jimgen("compare", folders["flow"]).splitlines()[-1])
    assert compared["flow"]["fd[tiny@8]"] == {"mean": values["fd[tiny@8]"], "half_width": None, "n": 1}


def test_evaluate_a_set_against_stored_statistics(jimgen, refused, hook, tmp_path):
    """The same figure as from the data; statistics of another number are refused."""

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
    jimgen(*given[:3], "--mask", save_mask(tmp_path / "01.png", [[1, 0]]), "--num", 3, "--out", tmp_path / "01.npz")
    np.testing.assert_array_equal(arrays_of(tmp_path / "01.npz")[0], filled)  # a mask of 0 and 1


@pytest.mark.parametrize(
    ("rows", "message"),
    [
        ([[0]], "has no white (known) pixel: its values lie within 0 and 0"),
        ([[255]], "has no black (missing) pixel"),
        ([[1]], "has no black (missing) pixel"),
        ([[0, 100]], "has no white (known) pixel: its values lie within 0 and 100"),
    ],
)
def test_a_mask_that_leaves_nothing_to_do_or_nothing_to_go_by_is_refused(folders, refused, tmp_path, rows, message):
    Image.fromarray(np.zeros((8, 8), np.uint8)).save(tmp_path / "x.png")
    mask = save_mask(tmp_path / "mask.png", rows)
    given = ["inpaint", folders["flow"], tmp_path / "x.png", "--mask", mask]
    assert message in refused(*given, "--out", tmp_path / "out.png")
    assert not (tmp_path / "out.png").exists()


@pytest.fixture
def never_drawn(monkeypatch):
    """Runs that must not even be loaded."""

    def load_run(*arguments, **options):
        raise AssertionError("loaded before the place of the results was checked")

    monkeypatch.setattr("jimgen.runs.load.load_run", load_run)
    monkeypatch.setattr("jimgen.runs.subject.load_run", load_run)


@pytest.mark.usefixtures("never_drawn")
@pytest.mark.parametrize(
    "command", ["sample", "reconstruct", "interpolate", "inpaint", "evaluate", "reference", "report"]
)
def test_where_results_cannot_go_is_told_before_anything_is_computed(folders, refused, tmp_path, command):
    """Other endings, folders in place of files and files in place of folders, full folders, closed ones."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "x.png").mkdir()
    (tmp_path / "x.npz").mkdir()
    source = "digits" if command == "reference" else folders["vae"]
    given = [command, source, *(["x.png", "--mask", "x.png"] if command == "inpaint" else []), "--out"]
    wrong = {"full/file/x.npz": "cannot write to"}
    if command in DRAWING:
        wrong |= {"x.jpg": "ends in .png", "x.tar.gz": "ends in .png", "x.png": "is a folder", "x.npz": "is a folder"}
    if command == "sample":
        wrong |= {"full": "is there already", "full/file/x": "cannot write to"}
    if command == "evaluate":
        wrong = {"full/file": "is a file", "full/file/y": "cannot write to"}
    if command == "report":
        wrong |= {"full": "is a folder"}
    for name, message in wrong.items():
        assert message in refused(*given, tmp_path / name), name
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["file", "full", "x.npz", "x.png"]


def test_endings_may_be_in_capitals_and_home_is_expanded(folders, jimgen, monkeypatch, tmp_path):
    monkeypatch.setenv("HOME", str(tmp_path))
    for name in ("x.PNG", "X.Npz"):
        assert str(tmp_path / name) in jimgen("sample", folders["vae"], "--num", 2, "--out", f"~/{name}")
    assert size_of(tmp_path / "x.PNG") == ((2 * 9 - 1) * 6, 8 * 6) and len(arrays_of(tmp_path / "X.Npz")[0]) == 2


def test_evaluate_loads_real_images_as_the_run_did_field_by_field(folders, jimgen, monkeypatch, tmp_path):
    """A flag changes its own field alone: --fit is heard without --size, and --size leaves the run's fit."""
    from jimgen import data

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
    monkeypatch.setattr("jimgen.evaluation.evaluate.draw_images", lambda *arguments: None)
    for flags, expected in {
        (): ("digits", 16, "pad", 1),
        ("--fit", "resize"): ("digits", 16, "resize", 1),
        ("--size", "8"): ("digits", 8, "pad", 1),
        ("--channels", "3"): ("digits", 16, "pad", 3),
        ("--data", "fashion_mnist"): ("fashion_mnist", 16, "pad", 1),
        ("--data", "fashion_mnist", "--fit", "resize", "--size", "8"): ("fashion_mnist", 8, "resize", 1),
        ("--data", ""): ("", 16, "pad", 1),
    }.items():
        with pytest.raises(SystemExit):
            jimgen("evaluate", run, "--num", 20, *flags)
        assert loaded.pop() == expected and not loaded


def test_evaluations_lie_beside_what_was_evaluated(tmp_path, monkeypatch):
    """Also beside the folder that one is in; and a name with a dot is not cut, as others may begin with it."""
    from jimgen.evaluation.evaluate import default_folder

    (tmp_path / "set.v1").mkdir()
    monkeypatch.chdir(tmp_path / "set.v1")
    expected = tmp_path / "set.v1-evaluation"
    assert default_folder(Path(".")) == default_folder(tmp_path / "set.v1") == expected
    assert default_folder(Path("..")) == tmp_path.with_name(f"{tmp_path.name}-evaluation")
    assert default_folder(tmp_path / "x.npz") == tmp_path / "x-evaluation"


def test_report_of_several_runs(folders, jimgen, tmp_path):
    said = jimgen("report", *folders.values(), "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert str(tmp_path / "page.html") in said and ">dcgan<" in page and ">vae<" in page


def test_report_elsewhere_only_reads_the_runs(folders, jimgen, tmp_path):
    """Not a file of theirs changes, so that runs of others can be shown; the curves are on the page all the same."""
    run = tmp_path / "run"
    shutil.copytree(folders["dcgan"], run, ignore=shutil.ignore_patterns("plots"))
    before = contents(run)
    jimgen("report", run, "--out", tmp_path / "page.html")
    assert contents(run) == before and not (run / "plots").exists()
    assert "Training curves: losses" in (tmp_path / "page.html").read_text()


def test_a_run_that_may_only_be_read(folders, jimgen, refused, never_drawn, ordinary_user):
    """Its page can be written elsewhere; what would go into it is refused before anything is computed."""
    home, become = ordinary_user
    shutil.copytree(folders["dcgan"], home / "run")
    with become():
        for path in (home / "run", *(home / "run").rglob("*")):
            path.chmod(0o555 if path.is_dir() else 0o444)
        page = home / "page.html"
        assert str(page) in jimgen("report", home / "run", "--out", page) and "Training curves" in page.read_text()
        for command in ("report", "sample", "interpolate", "evaluate"):
            assert "Permission denied" in refused(command, home / "run")
        for path in (home / "run", *(home / "run").rglob("*")):
            path.chmod(0o755 if path.is_dir() else 0o644)


def test_version(jimgen):
    assert jimgen("--version") == f"jimgen {__version__}\n"


def test_runs_lists_step_and_figures(folders, jimgen):
    lines = jimgen("runs", folders["vae"].parent).splitlines()
    assert len(lines) == 3
    assert "dcgan  digits  step 2 of 2" in lines[0] and "generator/loss" in lines[0]
    assert "vae  digits  step 2 of 2" in lines[2] and "test/nats_given_label[binarised,ELBO]" in lines[2]


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


def test_names_that_are_not_utf8_are_printed_with_their_bytes(tmp_path, monkeypatch):
    """A terminal or pipe in UTF-8 takes no others, and a traceback is no answer."""
    run = tmp_path / os.fsdecode(b"caf\xe9")
    run.mkdir()
    (run / "config.json").write_text("{}")
    (run / "experiment.py").touch()
    terminal = io.TextIOWrapper(io.BytesIO(), encoding="utf-8", errors="strict")
    monkeypatch.setattr(sys, "stdout", terminal)
    monkeypatch.setattr(sys, "argv", ["jimgen", "runs", str(tmp_path)])
    cli.main()
    terminal.flush()
    assert f"{tmp_path}/caf\\udce9".encode() in terminal.buffer.getvalue()


def test_doctor_names_versions_devices_and_data(jimgen):
    said = jimgen("doctor")
    assert "jax " in said and "device 7: " in said and "data digits: 1498 + 299 images [8, 8, 1]" in said


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["sample", "{none}"], "is not a run"),
        (["sample", "{dcgan}", "--num", "0"], "--num 0: must be at least 1"),
        (["sample", "{dcgan}", "--num", str(10**12), "--out", "{none}/x.npz"], "must be at most 2147483647"),
        (["interpolate", "{dcgan}", "--steps", "1025"], "holds at most 1024 images"),
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
        (["evaluate", "{flow}", "--num", "30", "--metrics", "is", "--extractors", "{hook}"], "Give a larger --num"),
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
def test_bad_input_is_told_and_nothing_written(folders, refused, hook, tmp_path, arguments, message):
    places = {**folders, "none": tmp_path / "none", "hook": hook}
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
