"""The command `jimgen`: runs, report, doctor and train; and messages about bad input, for all commands."""

import io
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from small_runs import EXPERIMENTS, contents

from jimgen import __version__, cli, data
from jimgen.errors import UserError

DRAWING = ("sample", "reconstruct", "interpolate", "inpaint", "project", "directions")
NEEDS = {"inpaint": ["x.png", "--mask", "x.png"], "project": ["x.png"], "directions": ["--by", "class=1"]}


@pytest.mark.usefixtures("never_drawn")
@pytest.mark.parametrize("command", [*DRAWING, "evaluate", "reference", "report"])
def test_where_results_cannot_go_is_told_before_anything_is_computed(folders, refused, tmp_path, command):
    """Wrong endings, folders instead of files, files instead of folders, folders that are not empty."""
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "file").write_text("mine")
    (tmp_path / "x.png").mkdir()
    (tmp_path / "x.npz").mkdir()
    source = "digits" if command == "reference" else folders["vae"]
    given = [command, source, *NEEDS.get(command, []), "--out"]
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


def test_report_of_several_runs(folders, jimgen, tmp_path):
    said = jimgen("report", *folders.values(), "--out", tmp_path / "page.html")
    page = (tmp_path / "page.html").read_text()
    assert str(tmp_path / "page.html") in said and ">dcgan<" in page and ">vae<" in page


def test_report_elsewhere_only_reads_the_runs(folders, jimgen, tmp_path):
    """No file of the runs changes, so that other people's runs can be shown; the page still has the curves."""
    run = tmp_path / "run"
    shutil.copytree(folders["dcgan"], run, ignore=shutil.ignore_patterns("plots"))
    before = contents(run)
    jimgen("report", run, "--out", tmp_path / "page.html")
    assert contents(run) == before and not (run / "plots").exists()
    assert "Training curves: losses" in (tmp_path / "page.html").read_text()


def test_a_run_that_may_only_be_read(folders, jimgen, refused, never_drawn, ordinary_user):
    """Its page can be written elsewhere; results inside it are refused before anything is computed."""
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


def test_runs_lists_step_and_metrics(folders, jimgen):
    lines = jimgen("runs", folders["vae"].parent).splitlines()
    assert [os.path.basename(line.split("  ")[0]) for line in lines] == sorted(folders)
    of = dict(zip(sorted(folders), lines, strict=True))
    assert "dcgan  digits  step 2 of 2" in of["dcgan"] and "generator/loss" in of["dcgan"]
    assert "vae  digits  step 2 of 2" in of["vae"] and "test/nats_given_label[binarised,ELBO]" in of["vae"]


def test_names_that_are_not_utf8_are_printed_with_their_bytes(tmp_path, monkeypatch):
    """A terminal or pipe in UTF-8 cannot print them otherwise, and a traceback would not help."""
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


def test_doctor_names_versions_devices_and_data(jimgen, monkeypatch):
    """Fashion-MNIST is not decoded here, which takes half a minute."""
    load = data.load

    def without_fashion_mnist(name):
        if name == "fashion_mnist":
            raise UserError("install it")
        return load(name)

    monkeypatch.setattr(data, "load", without_fashion_mnist)
    said = jimgen("doctor")
    assert "jax " in said and "device 7: " in said and "data digits: 1498 + 299 images [8, 8, 1]" in said
    assert "data fashion_mnist: not here. install it" in said


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
        (["inpaint", "{vae}", "{none}/x.png", "--mask", "{none}/y.png"], "say what the picture shows"),
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
