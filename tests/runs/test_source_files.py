"""An experiment and the files beside it, copied into its run."""

import sys

import pytest

from jimgen.errors import UserError
from jimgen.runs.source_files import copy_experiment, load_experiment, local_modules

EXPERIMENT = "import json, numpy\nimport helper\nfrom parts.net import WIDTH\nConfig, build = dict, helper.VALUE\n"


@pytest.fixture
def source(tmp_path):
    """An experiment that imports a file, which imports another one, and a package."""
    folder = tmp_path / "mine"
    (folder / "parts").mkdir(parents=True)
    for name, text in {
        "experiment_a.py": EXPERIMENT,
        "helper.py": "from further import VALUE\n",
        "further.py": "VALUE = 3\nimport jimgen\n",
        "unused.py": "",
        "parts/__init__.py": "",
        "parts/net.py": "from . import inner\nWIDTH = inner.WIDTH\n",
        "parts/inner.py": "WIDTH = 8\nimport deep\n",
        "deep.py": "",
        "json/notes.txt": "a folder that is no package",
        "jimgen/__init__.py": "",
    }.items():
        (folder / name).parent.mkdir(exist_ok=True)
        (folder / name).write_text(text)
    return folder / "experiment_a.py"


def test_what_an_experiment_imports_from_beside_it_is_found(source):
    names = [path.name for path in local_modules(source)]
    assert names == ["deep.py", "further.py", "helper.py", "parts"]


def test_a_copy_is_whole_by_itself(source, tmp_path):
    """It still loads when the original is gone, and leaves no module or path behind."""
    run = tmp_path / "run"
    run.mkdir()
    copy_experiment(source, run)
    source.parent.rename(tmp_path / "gone")
    before, paths = set(sys.modules), list(sys.path)
    module = load_experiment(run)
    assert module.build == 3 and module.WIDTH == 8
    assert set(sys.modules) - before <= {"jimgen_run_experiment"} and sys.path == paths


def test_two_runs_have_modules_of_the_same_name(source, tmp_path, monkeypatch):
    """Neither sees the other's, nor one that the process has imported before."""
    for value in (3, 4):
        (source.parent / "further.py").write_text(f"VALUE = {value}\n")
        (tmp_path / f"run{value}").mkdir()
        copy_experiment(source, tmp_path / f"run{value}")
    other = type(sys)("further")
    monkeypatch.setitem(sys.modules, "further", other)
    assert [load_experiment(tmp_path / f"run{value}").build for value in (3, 4, 3)] == [3, 4, 3]
    assert sys.modules["further"] is other


def test_copying_again_takes_what_is_no_longer_imported_away(source, tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    copy_experiment(source, run)
    source.write_text("Config = build = None\n")
    copy_experiment(source, run)
    assert not (run / "modules").exists()
    copy_experiment(run / "experiment.py", run / ".")  # it is being run from its own folder
    assert load_experiment(run).build is None


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (
            "import no_such_thing",
            "imports what is not here: No module named 'no_such_thing'. Install no_such_thing, or",
        ),
        ("from jimgen.nets import resnet", "another version of jimgen: cannot import name 'resnet'"),
        ("import jimgen.resnet", "another version of jimgen: No module named 'jimgen.resnet'"),
        ("def f(", r"cannot be run \(SyntaxError"),
        ("1 / 0", r"cannot be run \(ZeroDivisionError"),
        ("x = 1", "it has no Config or no build"),
        ("\0", "cannot be run"),
    ],
)
def test_an_experiment_that_cannot_be_loaded_says_why(tmp_path, text, message):
    (tmp_path / "experiment.py").write_text(text)
    with pytest.raises(UserError, match=message):
        load_experiment(tmp_path)
