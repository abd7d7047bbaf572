"""The Python files of an experiment: finding them, copying them into a run's folder, and loading the copy."""

import ast
import contextlib
import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from types import ModuleType

from jimgen.errors import UserError
from jimgen.files import read_errors
from jimgen.runs.compatibility import names_importable
from jimgen.runs.folder import EXPERIMENT, MODULES


def copy_experiment(source: Path, folder: Path) -> None:
    """Copies an experiment into a run's folder as experiment.py, and into modules/ what it imports from beside it."""
    if source.resolve() == (folder / EXPERIMENT).resolve():  # it is being run from there
        return
    shutil.copyfile(source, folder / EXPERIMENT)
    shutil.rmtree(folder / MODULES, ignore_errors=True)
    for path in local_modules(source):
        (folder / MODULES).mkdir(exist_ok=True)
        if path.is_dir():
            shutil.copytree(path, folder / MODULES / path.name, ignore=shutil.ignore_patterns("__pycache__", ".*"))
        else:
            shutil.copyfile(path, folder / MODULES / path.name)


def local_modules(source: Path) -> list[Path]:
    """The files and packages beside a Python file that it imports, directly or through each other, sorted.

    Python looks beside the script first, so these are what `python SOURCE` imports. jimgen itself is not among them.
    """
    folder, found, waiting = source.parent, set(), [source]
    while waiting:
        for name in _imported_names(waiting.pop()):
            for path in (folder / name, folder / f"{name}.py"):
                is_package = path.is_dir() and (path / "__init__.py").is_file()
                if name != "jimgen" and path not in found and path != source and (is_package or path.is_file()):
                    found.add(path)
                    waiting += sorted(path.rglob("*.py")) if is_package else [path]
                    break
    return sorted(found)


def _imported_names(source: Path) -> set[str]:
    """The first parts of all names that a Python file imports absolutely."""
    nodes = list(ast.walk(ast.parse(source.read_bytes())))
    names = {alias.name for node in nodes if isinstance(node, ast.Import) for alias in node.names}
    names |= {node.module for node in nodes if isinstance(node, ast.ImportFrom) and not node.level and node.module}
    return {name.partition(".")[0] for name in names}


def load_experiment(folder: Path) -> ModuleType:
    """Runs a run's copy of its experiment, with the modules that belong to it.

    Raises:
        UserError: it imports what is not there, or cannot be run.
    """
    path = folder / EXPERIMENT
    spec = importlib.util.spec_from_file_location("jimgen_run_experiment", path)
    assert spec and spec.loader
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    try:
        with _importable(folder / MODULES), names_importable():
            spec.loader.exec_module(module)
    except ImportError as error:
        raise UserError(_missing(path, error)) from error
    except OSError:
        with read_errors(path):
            raise
    except Exception as error:  # it is code: it may raise anything
        raise UserError(f"{path} cannot be run ({type(error).__name__}: {error}): restore it from a copy") from error
    if not (hasattr(module, "Config") and hasattr(module, "build")):
        raise UserError(f"{path} is not an experiment: it has no Config or no build. Restore it from a copy.")
    return module


def _missing(path: Path, error: ImportError) -> str:
    name = (error.name or "").partition(".")[0]
    if name == "jimgen":
        return (
            f"{path} was written for another version of jimgen: {error}. Install that version (its commit is in "
            "environment.json), or put today's file of that experiment in its place."
        )
    return (
        f"{path} imports what is not here: {error}. Install {name or 'it'}, or put {name or 'its file'}.py into "
        f"{path.parent / MODULES}."
    )


@contextlib.contextmanager
def _importable(folder: Path) -> Iterator[None]:
    """Lets a folder's modules be imported within the block, and not be taken for others of the same names."""
    names = {path.stem for path in folder.iterdir()} if folder.is_dir() else set()

    def ours() -> dict[str, ModuleType]:
        return {name: found for name, found in sys.modules.items() if name.partition(".")[0] in names}

    others = ours()
    for name in others:
        del sys.modules[name]
    sys.path.insert(0, str(folder))
    try:
        yield
    finally:
        sys.path.remove(str(folder))
        for name in ours():
            del sys.modules[name]
        sys.modules.update(others)
