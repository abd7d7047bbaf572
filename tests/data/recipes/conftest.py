import numpy as np
import pytest
from made_up_packages import make_environments, make_root


@pytest.fixture(scope="session")
def made_up_root(tmp_path_factory):
    return make_root(tmp_path_factory.mktemp("root"))


@pytest.fixture
def clean_cache(tmp_path, monkeypatch):
    """Starts a new, empty cache at every call."""
    count = 0

    def start():
        nonlocal count
        count += 1
        folder = tmp_path / f"cache{count}"
        folder.mkdir()
        make_environments(folder, np.random.default_rng(1))
        monkeypatch.setenv("JIMGEN_CACHE", str(folder))
        return folder

    start()
    return start


@pytest.fixture
def root(made_up_root, monkeypatch, tmp_path):
    """All packages, made up; nothing is found elsewhere."""
    monkeypatch.setenv("JIMGEN_DATA_ROOT", str(made_up_root))
    monkeypatch.chdir(tmp_path)
    return made_up_root


@pytest.fixture
def nothing_installed(monkeypatch, tmp_path):
    monkeypatch.setenv("JIMGEN_DATA_ROOT", str(tmp_path))
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
