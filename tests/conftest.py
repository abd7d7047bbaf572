"""Every test sees eight CPU devices, strict shapes and keys, and no network."""

import contextlib
import os
import pathlib
import shutil
import subprocess
import tempfile
from importlib import metadata

# A folder for each process of `make test`, as JAX does not write its files in one piece; a second run compiles nothing.
_CACHES = pathlib.Path(__file__).parent.parent / ".pytest_cache"
if pathlib.Path(os.environ.get("JAX_COMPILATION_CACHE_DIR", _CACHES / "jax")).parent == _CACHES:  # workers inherit ours
    worker = os.environ.get("PYTEST_XDIST_WORKER", "main")
    os.environ["JAX_COMPILATION_CACHE_DIR"] = str(_CACHES / f"jax-{worker}")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_COMPILE_TIME_SECS", "0")
os.environ.setdefault("JAX_PERSISTENT_CACHE_MIN_ENTRY_SIZE_BYTES", "-1")
os.environ.setdefault("JAX_PLATFORMS", "cpu")
# Nearly all of the time goes into compiling programs that run once on tiny arrays.
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")
if metadata.version("jaxlib").startswith("0.10."):  # its older emitters compile twice as fast; jaxlib 0.12 has none
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} --xla_cpu_use_fusion_emitters=false"

import jax  # noqa: E402
import pytest  # noqa: E402

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_debug_key_reuse", True)


def pytest_addoption(parser):
    parser.addoption("--slow", action="store_true", help="also run the tests that take minutes")


def pytest_collection_modifyitems(config, items):
    if not config.getoption("--slow"):
        for item in items:
            if "slow" in item.keywords:
                item.add_marker(pytest.mark.skip(reason="takes minutes: --slow"))


@pytest.fixture(autouse=True)
def no_network(monkeypatch):
    """A test that reaches for the network fails at once instead of hanging."""
    import socket

    def refuse(self, address, *rest):
        if self.family == socket.AF_UNIX or str(address[0]).startswith("127."):
            return connect(self, address, *rest)
        raise AssertionError(f"a test tried to reach {address}")

    connect = socket.socket.connect
    monkeypatch.setattr(socket.socket, "connect", refuse)


@pytest.fixture(autouse=True)
def memory_is_given_back(monkeypatch):
    """A process of many tests must not keep the peak of each."""
    for module in ("jimgen.cpu", "jimgen.runs.train"):  # where commands and trainings look it up
        monkeypatch.setattr(f"{module}.keep_freed_memory", lambda: None)


@pytest.fixture(autouse=True)
def same_settings_for_all():
    """A test that leaves JAX's settings, the compiler's among them, other than it found them fails itself."""
    before = dict(jax.config.values)
    yield
    assert jax.config.values == before


@pytest.fixture
def optimised():
    """For tests that compute for longer than they compile."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture
def x64():
    """Float64, in which all modes must agree to rounding."""
    with jax.enable_x64(True):
        yield


@pytest.fixture
def tiny_disk(tmp_path):
    """A file system of one megabyte, for those who may mount it."""
    folder = tmp_path / "disk"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=1m", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        pytest.skip("needs the right to mount")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


@pytest.fixture
def ordinary_user():
    """A folder that an ordinary user owns, and a context in which the process is that user: root may read all."""
    if os.geteuid() != 0:
        pytest.skip("needs the right to become another user")
    nobody = 65534
    folder = pathlib.Path(tempfile.mkdtemp())
    os.chown(folder, nobody, nobody)

    @contextlib.contextmanager
    def become():
        for path in (folder, *folder.rglob("*")):
            os.chown(path, nobody, nobody, follow_symlinks=False)
        os.seteuid(nobody)
        try:
            yield
        finally:
            os.seteuid(0)

    yield folder, become
    shutil.rmtree(folder)
