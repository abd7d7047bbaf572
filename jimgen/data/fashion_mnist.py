"""Fashion-MNIST: 60,000 train and 10,000 test pictures of clothes, 28x28, grey, ten classes.

The rows are TFDS's, in TFDS's order, from the first of these that exists: our cache; a set that TFDS has prepared; the
files of the Debian package dataset-fashion-mnist, which TFDS's own builder prepares; a download. Preparing and decoding
70,000 pictures takes a while, so the arrays are cached.
"""

import contextlib
import gzip
import os
import struct
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from jimgen.data.archive import read_arrays
from jimgen.data.dataset import Arrays, Source, Stream, cache_dir, data_hash, read_all
from jimgen.data.tfds_source import prepare, quiet, source_of
from jimgen.errors import UserError
from jimgen.files import write_npz

SHAPE = (28, 28, 1)
CLASS_NAMES = (
    "T-shirt/top",
    "Trouser",
    "Pullover",
    "Dress",
    "Coat",
    "Sandal",
    "Shirt",
    "Sneaker",
    "Bag",
    "Ankle boot",
)
DEBIAN_DIR = "/usr/share/datasets/fashion-mnist"  # or FASHION_MNIST_DIR
# The upstream files, and the compression times in their gzip headers.
FILES = {
    "train-images-idx3-ubyte": 1504176606,
    "train-labels-idx1-ubyte": 1504176606,
    "t10k-images-idx3-ubyte": 1504176627,
    "t10k-labels-idx1-ubyte": 1504176627,
}


def open_fashion_mnist(*, data_dir: str | None, download: bool) -> Source:
    """Fashion-MNIST as Arrays: from the cache, else decoded and cached.

    Raises:
        UserError: the set is not found and `download` is false, a checksum is wrong, or the cache cannot be written.
    """
    path = cache_dir() / "fashion_mnist.npz"
    splits = _read_cache(path)
    if splits is None:
        splits = _from_tfds(data_dir, download)
        _write_cache(path, *splits)
    return Source(*splits, class_names=CLASS_NAMES, shape=SHAPE)


def _read_cache(path: Path) -> tuple[Arrays, Arrays] | None:
    """The cached splits, or None if they are missing or differ from what was written."""
    try:
        saved = read_arrays(path, ("train_images", "train_labels", "test_images", "test_labels", "hash"))
        train = Arrays(saved["train_images"], saved["train_labels"])
        test = Arrays(saved["test_images"], saved["test_labels"])
        return (train, test) if str(saved["hash"]) == data_hash(train, test) else None
    except (UserError, KeyError):
        return None


def _write_cache(path: Path, train: Arrays, test: Arrays) -> None:
    arrays = {
        "train_images": train.images,
        "train_labels": train.labels,
        "test_images": test.images,
        "test_labels": test.labels,
        "hash": data_hash(train, test),
    }
    try:
        write_npz(path, arrays)
    except UserError as error:
        raise UserError(f"{error} JIMGEN_CACHE sets the folder for data.") from error


def _from_tfds(data_dir: str | None, download: bool) -> tuple[Arrays, Arrays]:
    with quiet(), tempfile.TemporaryDirectory() as work:
        import tensorflow_datasets as tfds

        found = tfds.builder("fashion_mnist", data_dir=data_dir)
        if found.is_prepared():
            with contextlib.suppress(UserError):  # TFRecord files, which only TensorFlow reads, or damaged ones
                return _decode(source_of(found))

        debian = Path(os.environ.get("FASHION_MNIST_DIR") or DEBIAN_DIR)
        files = None
        if all((debian / f"{name}.gz").is_file() for name in FILES):
            files = Path(work) / "files"
            files.mkdir()
            for name, mtime in FILES.items():
                data = (debian / f"{name}.gz").read_bytes()
                (files / f"{name}.gz").write_bytes(restore_gzip_header(data, name, mtime))
        elif not download:
            raise UserError(
                f"fashion_mnist is neither in {debian} nor, readable, in {found.data_dir}. Install it: "
                "apt-get install dataset-fashion-mnist\n"
                "or download it: python -c \"import jimgen.data as d; d.load('fashion_mnist', download=True)\""
            )
        print("preparing fashion_mnist, once: about half a minute", file=sys.stderr)
        builder = _builder_without_tensorflow()(data_dir=work, file_format="array_record")
        config = tfds.download.DownloadConfig(manual_dir=files, try_download_gcs=False, force_checksums_validation=True)
        prepare(builder, config)
        return _decode(source_of(builder))


def restore_gzip_header(data: bytes, name: str, mtime: int) -> bytes:
    """Puts back name and time, which Debian drops from gzip headers: the files are then upstream's, bit for bit."""
    fixed_header = 10
    return struct.pack("<4sIBB", b"\x1f\x8b\x08\x08", mtime, 0, 3) + name.encode() + b"\0" + data[fixed_header:]


def _builder_without_tensorflow() -> Any:
    """TFDS's builder of Fashion-MNIST (its info, urls, checksums, order), reading the files without TensorFlow."""
    from tensorflow_datasets.image_classification import mnist

    class FashionMNIST(mnist.FashionMNIST, skip_registration=True):
        name = "fashion_mnist"
        # Checksums: TFDS would look for them beside this file, find none, and check nothing.
        url_infos = mnist.FashionMNIST.url_infos

        def _split_generators(self, dl_manager: Any) -> dict[str, Any]:
            paths = dl_manager.download({name: f"{self.URL}{name}.gz" for name in FILES})
            return {
                "train": self._generate_examples(paths["train-images-idx3-ubyte"], paths["train-labels-idx1-ubyte"]),
                "test": self._generate_examples(paths["t10k-images-idx3-ubyte"], paths["t10k-labels-idx1-ubyte"]),
            }

        def _generate_examples(self, image_path: Any, label_path: Any) -> Iterator[Any]:
            # idx files: a header of 16 bytes (images) or 8 (labels), then the values.
            images = np.frombuffer(gzip.decompress(Path(image_path).read_bytes()), np.uint8, offset=16)
            labels = np.frombuffer(gzip.decompress(Path(label_path).read_bytes()), np.uint8, offset=8)
            for row, image in enumerate(images.reshape(-1, 28, 28)):
                yield row, {"image": Image.fromarray(image), "label": int(labels[row])}

    return FashionMNIST


def _decode(source: Source) -> tuple[Arrays, Arrays]:
    assert isinstance(source.train, Stream) and isinstance(source.test, Stream)
    (train, train_faults), (test, test_faults) = read_all(source.train, SHAPE), read_all(source.test, SHAPE)
    if faults := [*train_faults.values(), *test_faults.values()]:
        raise UserError(f"fashion_mnist as prepared by TFDS is damaged: {faults[0]}")
    return train, test
