"""Tiny runs for all tests of commands, and the command line as a function."""

import fcntl
import os
import shutil
import sys
from pathlib import Path

import pytest
from small_runs import load_experiment, tiny_config

from jimgen import cli
from jimgen.runs import train

RUNS = {
    "dcgan": {"size": 16},
    "vae": {"conditional": True, "channels": 3},
    "flow": {"num_steps": 2},
    "hierarchical_vae": {},
    "codec": {},
}


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """A tiny run of each family; the VAE is trained with labels, on grey repeated as colour.

    The first process trains them, and each process has its own copies.
    """
    base = tmp_path_factory.getbasetemp()
    trained = (base.parent if "PYTEST_XDIST_WORKER" in os.environ else base) / "trained_for_commands"
    trained.mkdir(exist_ok=True)
    with (trained / "lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        for name, options in RUNS.items():
            if not (trained / name / "report.html").exists():
                train.run(tiny_config(name, trained / name, **options), load_experiment(name).build)
    root = tmp_path_factory.mktemp("runs")
    return {name: Path(shutil.copytree(trained / name, root / name)) for name in RUNS}


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


@pytest.fixture
def hook(tmp_path):
    """A custom extractor in a file."""
    (tmp_path / "hook.py").write_text("from tiny import tiny_extractor\n")
    return f"{tmp_path / 'hook.py'}:tiny_extractor"


@pytest.fixture
def never_drawn(monkeypatch):
    """Makes it an error to load a run."""

    def load_run(*arguments, **options):
        raise AssertionError("loaded before the path of the results was checked")

    monkeypatch.setattr("jimgen.runs.subject.load_run", load_run)  # first: its import would copy the other one
    monkeypatch.setattr("jimgen.runs.load.load_run", load_run)
