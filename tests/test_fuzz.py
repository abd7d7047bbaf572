"""Damaged files of every kind give the right result or a UserError."""

import subprocess
import sys
import tempfile
import time

import pytest
from small_runs import ROOT

from jimgen.errors import UserError


@pytest.fixture
def fuzz(monkeypatch, tmp_path):
    monkeypatch.syspath_prepend(str(ROOT / "benchmarks"))
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    import fuzz

    return fuzz


# A read that fails leaves half-run coroutines of Orbax behind, which complain when they are collected.
@pytest.mark.filterwarnings("ignore")
def test_a_few_inputs_of_every_kind(fuzz, tmp_path):
    for kind in fuzz.KINDS:
        for number in range(3):
            found = fuzz.try_input(kind, number, seed=1, work=tmp_path / "inputs")
            assert found.ending in fuzz.FINE, found


def test_the_same_seed_makes_the_same_inputs(fuzz, tmp_path):
    for kind in ("png", "npz", "metrics"):
        made = []
        for i, number in enumerate((5, 5, 6)):
            folder = tmp_path / f"{kind}{i}"
            fuzz.make_input(kind, number, 7, folder)
            files = [path for path in sorted(folder.rglob("*")) if path.is_file()]
            made.append([path.read_bytes() for path in files if "checkpoints" not in path.parts])
        assert made[0] == made[1] != made[2]


def fail(error: BaseException):
    raise error


@pytest.mark.parametrize(
    ("read", "ending"),
    [
        (lambda path: path.read_text(), "right"),
        (lambda path: "other text", "wrong"),
        (lambda path: fail(UserError("the file is damaged")), "UserError"),
        (lambda path: fail(UserError("x" * 5000)), "message"),
        (lambda path: fail(KeyError("x")), "exception"),
        (lambda path: fail(SystemExit(1)), "exception"),
        (lambda path: path.write_text("more") and "text", "changed"),
        (lambda path: path.with_name("b").mkdir() or "text", "changed"),
        (lambda path: time.sleep(5), "hang"),
        (lambda path: sum(i for i in range(10**10)), "hang"),
    ],
)
def test_each_kind_of_finding_is_found(fuzz, monkeypatch, tmp_path, read, ending):
    """With a reader that has one fault."""
    monkeypatch.setattr(fuzz, "SECONDS", 0.3)
    monkeypatch.setattr(fuzz, "PATIENCE", 1)
    path = tmp_path / "a"
    path.write_text("text")
    trial = fuzz.Trial(lambda: read(path), lambda text: None if text == "text" else fail(fuzz.Wrong("other text")))
    assert fuzz.judge(trial, tmp_path)[0] == ending


READS_TOO_MUCH = """
import sys, pathlib, numpy, fuzz
fuzz.MEMORY = 2**26
trial = fuzz.Trial(lambda: numpy.ones(2**24).sum(), lambda found: None)
print(*fuzz.judge(trial, pathlib.Path(sys.argv[1])))
"""


def test_too_much_memory_is_found(tmp_path):
    """In a new process: in this one, earlier tests may have used more, or left garbage that is freed meanwhile."""
    command = [sys.executable, "-c", READS_TOO_MUCH, tmp_path]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT / "benchmarks", check=False)
    assert done.stdout.startswith("memory 0.1 GiB"), done.stdout + done.stderr


def test_a_sound_file_that_is_refused_is_a_finding(fuzz, tmp_path):
    trial = fuzz.Trial(lambda: fail(UserError("cannot read it")), lambda found: None, must_read=True)
    assert fuzz.judge(trial, tmp_path)[0] == "refused"


@pytest.mark.slow
def test_the_command_ends_with_a_table(tmp_path):
    command = [sys.executable, ROOT / "benchmarks" / "fuzz.py", "--inputs", "200", "--minutes", "5"]
    done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, check=False)
    assert done.returncode == 0 and "200 inputs" in done.stdout, done.stdout + done.stderr
