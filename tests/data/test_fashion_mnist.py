import gzip
import hashlib
import os
import struct
from pathlib import Path

import numpy as np
import pytest

from jimgen.data import fashion_mnist, load
from jimgen.errors import UserError

DEBIAN = Path(os.environ.get("FASHION_MNIST_DIR") or fashion_mnist.DEBIAN_DIR)
needs_debian_files = pytest.mark.skipif(
    not (DEBIAN / "t10k-labels-idx1-ubyte.gz").exists(), reason=f"dataset-fashion-mnist is not installed in {DEBIAN}"
)


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TFDS_DATA_DIR", str(tmp_path / "tfds"))
    return tmp_path / "cache" / "fashion_mnist.npz"


@pytest.fixture
def tiny(tmp_path, monkeypatch):
    """The four files with 30 train and 20 test rows, packed like Debian's; TFDS's checksums of upstream files."""
    from tensorflow_datasets.core.download.checksums import UrlInfo
    from tensorflow_datasets.image_classification import mnist

    rng = np.random.default_rng(0)
    arrays, url_infos = {}, {}
    (tmp_path / "files").mkdir()
    for name in fashion_mnist.FILES:
        num_rows = 30 if name.startswith("train") else 20
        if "images" in name:
            arrays[name] = rng.integers(0, 256, (num_rows, 28, 28), np.uint8)
            header = struct.pack(">IIII", 2051, num_rows, 28, 28)
        else:
            arrays[name] = rng.integers(0, 10, num_rows, np.uint8)
            header = struct.pack(">II", 2049, num_rows)
        packed = gzip.compress(header + arrays[name].tobytes(), mtime=1)
        (tmp_path / "files" / f"{name}.gz").write_bytes(packed)
        upstream = fashion_mnist.restore_gzip_header(packed, name, fashion_mnist.FILES[name])
        url_infos[f"{mnist.FashionMNIST.URL}{name}.gz"] = UrlInfo(
            size=len(upstream), checksum=hashlib.sha256(upstream).hexdigest(), filename=f"{name}.gz"
        )
    monkeypatch.setattr(mnist.FashionMNIST, "url_infos", url_infos)
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path / "files"))
    return arrays


def rows(images, labels):
    return sorted((image.tobytes(), int(label)) for image, label in zip(images, labels, strict=True))


def test_tfds_prepares_the_files_once_and_the_cache_serves_the_rest(tiny, cache, monkeypatch):
    first = load("fashion_mnist")
    assert first.spec[1:3] == ((28, 28, 1), 10) and (first.spec.num_train, first.spec.num_test) == (30, 20)
    for split, name in ((first.train, "train"), (first.test, "t10k")):
        files = tiny[f"{name}-images-idx3-ubyte"], tiny[f"{name}-labels-idx1-ubyte"]
        assert rows(split.images, split.labels) == rows(*files)

    monkeypatch.setattr(fashion_mnist, "_from_tfds", None)  # must not be needed again
    again = load("fashion_mnist")
    assert again.spec == first.spec
    np.testing.assert_array_equal(again.train.images, first.train.images)
    assert os.listdir(cache.parent) == [cache.name]


def test_a_corrupt_cache_is_made_again(tiny, cache):
    spec = load("fashion_mnist").spec
    whole = cache.read_bytes()
    with np.load(cache) as file:
        changed = dict(file)
    changed["train_labels"] = changed["train_labels"][::-1]
    encrypted = bytearray(whole)  # as it says, in the directory at the end
    encrypted[whole.rindex(b"PK\x01\x02") + 8] |= 1
    for damage in (whole[:5000], whole[:5000] + b"?" + whole[5001:], b"", bytes(encrypted), changed):
        if isinstance(damage, dict):
            np.savez(cache, **damage)
        else:
            cache.write_bytes(damage)
        assert load("fashion_mnist").spec == spec
        assert cache.read_bytes()[:4] == whole[:4] and cache.stat().st_size == len(whole)


def test_a_file_with_a_wrong_checksum_is_refused(tiny, tmp_path):
    file = tmp_path / "files" / "t10k-labels-idx1-ubyte.gz"
    file.write_bytes(file.read_bytes()[:-1] + b"?")
    with pytest.raises(UserError, match="wrong checksum"):
        load("fashion_mnist")


def test_nowhere_to_be_found(tmp_path, monkeypatch):
    monkeypatch.setenv("FASHION_MNIST_DIR", str(tmp_path))
    with pytest.raises(UserError, match="apt-get install dataset-fashion-mnist"):
        load("fashion_mnist")


@needs_debian_files
def test_the_restored_files_are_the_ones_tfds_knows():
    from tensorflow_datasets.image_classification import mnist

    known = {info.checksum for info in mnist.FashionMNIST.url_infos.values()}
    for name, mtime in fashion_mnist.FILES.items():
        restored = fashion_mnist.restore_gzip_header((DEBIAN / f"{name}.gz").read_bytes(), name, mtime)
        assert hashlib.sha256(restored).hexdigest() in known


@needs_debian_files
@pytest.mark.slow
def test_the_whole_set():
    data = load("fashion_mnist")
    assert (data.spec.num_train, data.spec.num_test) == (60000, 10000)
    assert np.bincount(data.train.labels).tolist() == [6000] * 10
    assert data.spec.hash == "c8d92d83c478199226bfe45ffe45869d35c06ad6eb12261efc4977d85b684e8c"
