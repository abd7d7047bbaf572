import socket

import numpy as np
import pytest
import tensorflow_datasets as tfds
from PIL import Image

from jimgen.data import load
from jimgen.data.dataset import Stream
from jimgen.data.tfds_source import prepare, quiet
from jimgen.errors import UserError

SHADES = {"train": 8, "test": 4}


class JimgenTestShades(tfds.core.GeneratorBasedBuilder):
    """Uniform pictures whose level is given by the label."""

    VERSION = tfds.core.Version("1.0.0")

    def _info(self):
        return self.dataset_info_from_configs(
            features=tfds.features.FeaturesDict(
                {
                    "image": tfds.features.Image(shape=(None, None, 3), encoding_format="png"),
                    "label": tfds.features.ClassLabel(names=["dark", "light"]),
                }
            ),
            supervised_keys=("image", "label"),
        )

    def _split_generators(self, dl_manager):
        return {split: self._generate_examples(count) for split, count in SHADES.items()}

    def _generate_examples(self, count):
        for row in range(count):
            yield row, {"image": Image.new("RGB", (6, 4 + row % 2), (row % 2 * 200,) * 3), "label": row % 2}


@pytest.fixture(autouse=True)
def _no_network(monkeypatch):
    def refuse(*_):
        raise ConnectionError("the network was used")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)


@pytest.fixture(scope="module")
def data_dir(tmp_path_factory):
    path = tmp_path_factory.mktemp("tfds")
    with quiet():
        prepare(JimgenTestShades(data_dir=path), tfds.download.DownloadConfig(try_download_gcs=False))
    return str(path)


def test_a_prepared_set(data_dir, capfd):
    data = load("tfds:jimgen_test_shades", data_dir=data_dir, size=4)
    assert data.spec[1:6] == ((4, 4, 3), 2, ("dark", "light"), 8, 4)
    np.testing.assert_array_equal(data.train.images[:, 0, 0, 0], data.train.labels * 200)
    assert sorted(data.test.labels) == [0, 0, 1, 1]
    assert capfd.readouterr() == ("", "")


def test_a_set_too_large_for_memory_is_a_stream(data_dir):
    data = load("tfds:jimgen_test_shades", data_dir=data_dir, size=4, resident_bytes=0)
    assert isinstance(data.train, Stream) and len(data.train) == 8
    image, label = data.train.read(3)
    assert image.shape == (4, 4, 3) and image.max() == label * 200


def test_pictures_of_several_sizes_need_a_size(data_dir):
    with pytest.raises(UserError, match="differ in size"):
        load("tfds:jimgen_test_shades", data_dir=data_dir)


def test_a_set_that_is_not_prepared_is_answered_with_the_command(tmp_path):
    with pytest.raises(UserError) as error:
        load("tfds:cifar10", data_dir=str(tmp_path))
    assert f"d.load('tfds:cifar10', data_dir='{tmp_path}', download=True)" in str(error.value)


def test_an_unknown_set_is_answered_with_the_nearest(tmp_path):
    with pytest.raises(UserError, match="did you mean tfds:cifar10"):
        load("tfds:cifar_10", data_dir=str(tmp_path))


@pytest.mark.parametrize("name", ["huggingface:mnist", "cifar10:9.9.9", "cifar10/x", "gs://x", "no_such_set_at_all"])
def test_names_that_tfds_cannot_open(name, tmp_path):
    with pytest.raises(UserError, match=name.replace(":", ".")):
        load(f"tfds:{name}", data_dir=str(tmp_path))


@pytest.mark.parametrize("resident_bytes", [0, 2**30])
def test_pictures_of_a_stream_that_do_not_fit_are_found_at_once(data_dir, tmp_path, monkeypatch, resident_bytes):
    """They are 4x6 and 5x6: the second kind does not fit into 5 if 6 wide, and none is found only in the batches."""
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    name = "tfds:jimgen_test_shades"
    for _ in range(2):  # the second time the sizes are remembered
        with pytest.raises(UserError, match="12 of 12 pictures .* first is row 0 of train: a picture of .x6"):
            load(name, data_dir=data_dir, size=5, fit="pad", resident_bytes=resident_bytes)
        load(name, data_dir=data_dir, size=6, fit="pad", resident_bytes=resident_bytes)
    with pytest.raises(UserError, match="6 of 12 pictures .* first is row . of train: a picture of 4x6"):
        load(name, data_dir=data_dir, size=40, resident_bytes=resident_bytes)
    (memory, *_) = tmp_path.glob("sizes-*.npz")
    memory.write_bytes(b"torn")
    load(name, data_dir=data_dir, size=6, fit="pad", resident_bytes=resident_bytes)
