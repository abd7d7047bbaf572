"""Compiled programs are kept where they can be, and nothing fails where they cannot."""

import os
import subprocess
import sys

import jax
import pytest
from small_runs import ROOT

from jimgen.runs.compilation_cache import MAX_AGE_DAYS, keep_compiled_programs

PROGRAM = """
import jax
from jimgen.runs.compilation_cache import keep_compiled_programs

keep_compiled_programs()
events = []
jax.monitoring.register_event_listener(lambda event, **_: events.append(event))
step = jax.jit(lambda state, x: (state + jax.numpy.sin(x), x.sum()), donate_argnums=0)
state = jax.device_put(0.0)
for x in (0.5, 0.25):
    state, total = step(state, x)
hits, misses = (events.count(f"/jax/compilation_cache/cache_{kind}") for kind in ("hits", "misses"))
print(hits, misses, state.item().hex())
"""


@pytest.fixture
def unset():
    """JAX without a cache, as most users have it."""
    before = jax.config.values["jax_compilation_cache_dir"]
    jax.config.update("jax_compilation_cache_dir", None)
    yield
    jax.config.update("jax_compilation_cache_dir", before)


def run_program(cache) -> list[str]:
    """Cache hits, misses and the result of PROGRAM in a process of its own."""
    names = ("JAX_COMPILATION_CACHE_DIR", "PYTHONPATH")
    environ = {name: value for name, value in os.environ.items() if name not in names}
    environ |= {"JIMGEN_CACHE": str(cache), "PYTHONPATH": str(ROOT), "JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS": "0"}
    done = subprocess.run([sys.executable, "-c", PROGRAM], env=environ, capture_output=True, text=True, check=True)
    assert not done.stderr
    return done.stdout.split()


def test_second_process_compiles_nothing_and_computes_the_same_bits(tmp_path):
    hits, misses, result = run_program(tmp_path)
    assert hits == "0" and int(misses) >= 1
    assert run_program(tmp_path) == [misses, "0", result]


def test_folder_is_private_and_old_files_are_deleted(tmp_path, monkeypatch, unset):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    old, new = tmp_path / "compiled" / "sub" / "old", tmp_path / "compiled" / "new"
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "compiled")
    assert (tmp_path / "compiled").stat().st_mode & 0o077 == 0
    old.parent.mkdir()
    for path, days in ((old, MAX_AGE_DAYS + 1), (new, MAX_AGE_DAYS - 1)):
        path.touch()
        os.utime(path, (0, path.stat().st_mtime - days * 24 * 3600))
    jax.config.update("jax_compilation_cache_dir", None)
    keep_compiled_programs()
    assert not old.exists() and new.exists()


@pytest.mark.parametrize("is_file", ["cache", "cache/compiled"])
def test_no_folder_means_no_cache(is_file, tmp_path, monkeypatch, unset):
    (tmp_path / is_file).parent.mkdir(exist_ok=True)
    (tmp_path / is_file).touch()
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_folder_that_cannot_be_written_means_no_cache(ordinary_user, monkeypatch, unset):
    folder, become = ordinary_user
    (folder / "compiled").mkdir()
    monkeypatch.setenv("JIMGEN_CACHE", str(folder))
    with become():
        (folder / "compiled").chmod(0o500)
        keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] is None


def test_folder_that_the_user_has_chosen_stays(tmp_path, monkeypatch, unset):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    jax.config.update("jax_compilation_cache_dir", str(tmp_path / "chosen"))
    keep_compiled_programs()
    assert jax.config.values["jax_compilation_cache_dir"] == str(tmp_path / "chosen")
    assert not (tmp_path / "cache").exists()
