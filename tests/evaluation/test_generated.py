"""Generated sets: the same set for the same seed on any devices, and files that read back unchanged."""

import io
import json
import zipfile

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from PIL import Image
from tiny import SHAPE, state_of, tiny_batch, tiny_gan, tiny_vae

from jimgen import data
from jimgen.alpha import composite
from jimgen.data.batches import scale_images
from jimgen.data.dataset import Attribute, DataSpec
from jimgen.data.images import Reading
from jimgen.errors import UserError
from jimgen.evaluation.asked import class_labels
from jimgen.evaluation.evaluate import Subject, evaluate
from jimgen.evaluation.generated import GeneratedSet, asked_values, generate, labels_for, read_generated, save
from jimgen.pictures import to_uint8


def test_class_labels_are_in_turn_where_classes_weigh_the_same():
    assert class_labels(7, [1, 1, 1]).tolist() == [0, 1, 2, 0, 1, 2, 0]
    assert class_labels(3, [0.2]).tolist() == [0, 0, 0]


def test_every_beginning_of_the_labels_keeps_the_proportions():
    """Counts differ by less than one image from shares of 5 : 3 : 2, and a larger set begins with the smaller."""
    weights = np.array([5, 3, 2, 0])
    labels = class_labels(200, weights.tolist())
    assert labels.dtype == np.int32
    for n in range(1, 201):
        assert np.abs(np.bincount(labels[:n], minlength=4) - n * weights / 10).max() < 1
    np.testing.assert_array_equal(class_labels(31, weights.tolist()), labels[:31])


@pytest.mark.parametrize("weights", [[-1, 2], [0, 0], [float("nan"), 1]])
def test_class_weights_that_make_no_sense(weights):
    with pytest.raises(ValueError, match="class weights"):
        class_labels(3, weights)


@pytest.mark.parametrize("family", [tiny_gan, tiny_vae])
def test_the_same_set_on_any_number_of_devices(family):
    """Bit for bit, across chunks, and for any number of images."""
    method = family()
    variables, key = state_of(method, tiny_batch()).variables, jax.random.key(5)
    labels = np.arange(23, dtype=np.int32) % 3
    whole = generate(method, variables, key, labels, chunk=4, devices=jax.devices()[:1])
    assert whole.images.shape == (23, *SHAPE) and whole.images.dtype == np.uint8
    np.testing.assert_array_equal(whole.labels, labels)
    assert len(np.unique(whole.images.reshape(23, -1), axis=0)) == 23
    for n, devices in ((23, 8), (23, 3), (9, 2), (1, 8)):
        part = generate(method, variables, key, labels[:n], chunk=4, devices=jax.devices()[:devices])
        np.testing.assert_array_equal(part.images, whole.images[:n])
    other = generate(method, variables, jax.random.key(6), labels, chunk=4)
    assert (other.images != whole.images).any()


@pytest.fixture
def images():
    return np.random.default_rng(0).integers(0, 256, (12, 5, 4, 3), np.uint8)


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("labelled", [True, False])
@pytest.mark.parametrize("name", ["set.npz", "set"])
def test_sets_come_back_as_they_were(tmp_path, images, channels, labelled, name):
    """Labels skip a class, so that folders must be read by their numbers and not by their order."""
    labels = np.array([3, 0, 1, 1, 0, 3, 3, 0, 1, 0, 1, 3], np.int32) if labelled else None
    written = GeneratedSet(images[..., :channels], labels)
    read = read_generated(save(tmp_path / name, written))
    np.testing.assert_array_equal(read.images, written.images)
    assert (read.labels is None) == (not labelled)
    if labelled:
        np.testing.assert_array_equal(read.labels, labels)


@pytest.mark.parametrize("name", ["set.npz", "set"])
def test_sets_with_attributes_keep_their_class_numbers(tmp_path, images, name):
    """Also where several classes are missing: 1 and 3 of the data's 5."""
    labels = np.array([[0, 1], [2, 0], [4, 2]] * 4, np.int32)  # the last value is "any"
    attributes = (Attribute("hair", ("black", "red")),)
    read = read_generated(save(tmp_path / name, GeneratedSet(images, labels, attributes=attributes)))
    classes = tuple("abcde")
    spec = DataSpec("faces", (5, 4, 3), 5, classes, 1, 1, "", attributes)
    order = np.argsort(read.images.sum(axis=(1, 2, 3)))
    wanted = labels[np.argsort(images.sum(axis=(1, 2, 3)))]
    np.testing.assert_array_equal(labels_for(read, classes)[order], wanted[:, 0])
    np.testing.assert_array_equal(asked_values(read, spec)[order], wanted)


def test_a_folder_of_named_classes(tmp_path, images):
    """Folders from elsewhere: classes in the order of their names."""
    for i, name in enumerate(("cat", "ant", "cat")):
        (tmp_path / name).mkdir(exist_ok=True)
        Image.fromarray(images[i]).save(tmp_path / name / f"{i}.png")
    read = read_generated(tmp_path)
    np.testing.assert_array_equal(read.images, images[:3])
    assert read.labels.tolist() == [1, 0, 1]


def test_sets_that_cannot_be_read(tmp_path, images):
    def refused(message, path):
        with pytest.raises(UserError, match=message):
            read_generated(path)

    refused("there is no", tmp_path / "none.npz")
    refused("neither an .npz file nor a folder", tmp_path / "none")
    (tmp_path / "torn.npz").write_bytes(b"PK no zip")
    refused("cannot be read as npz", tmp_path / "torn.npz")
    for message, arrays in {
        "no array `images`": {"labels": np.zeros(3)},
        "float64, expected uint8": {"images": images / 255},
        r"expected .n, h, w. or .n, h, w, 1, 3 or 4": {"images": images[..., :2]},
        "expected 12 labels": {"images": images, "labels": np.zeros(3, np.int32)},
        "labels go from 0 to 9223372036854775808": {"images": images, "labels": np.eye(12, dtype=np.uint64)[0] << 63},
        "labels go from -1": {"images": images, "labels": np.arange(12) - 1},
        "several labels for an image": {"images": images, "labels": np.ones((12, 2), np.int32)},
    }.items():
        np.savez(tmp_path / "bad.npz", **arrays)
        refused(message, tmp_path / "bad.npz")
    (tmp_path / "empty").mkdir()
    refused("holds no pictures", tmp_path / "empty")
    for i, side in enumerate((3, 5)):
        Image.fromarray(images[0, :side]).save(tmp_path / "empty" / f"{i}.png")
    refused("several sizes", tmp_path / "empty")


def test_nothing_is_overwritten(tmp_path, images):
    (tmp_path / "here").mkdir()
    (tmp_path / "here" / "mine.txt").write_text("mine")
    with pytest.raises(UserError, match="is there already"):
        save(tmp_path / "here", GeneratedSet(images, None))
    assert [path.name for path in (tmp_path / "here").iterdir()] == ["mine.txt"]


def folder_of(root, names, copies=3):
    """Class folders in which the level of pictures is the index in `names`."""
    for level, name in enumerate(names):
        (root / name).mkdir(parents=True)
        for copy in range(copies):
            Image.new("L", (4, 4), level).save(root / name / f"{copy:02d}-{level}.png")
    return root


@pytest.mark.parametrize(
    "names",
    [
        [str(i) for i in range(12)],
        [str(i) for i in range(1, 11)],
        ["ant", "bee", "cat"],
        ["7", "10", "300"],
        ["a2", "a10"],
        ["0001", "0002"],
        ["1", "01"],
        ["train/b", "train/a"],
    ],
)
def test_a_folder_has_the_same_classes_as_training_data_and_as_a_generated_set(tmp_path, names):
    """Otherwise a set scored 24 of 100 against itself, where folders had the names 0 to 11."""
    folder = folder_of(tmp_path / "set", names)
    trained = data.load(f"folder:{folder}")
    level_of = {int(image[0, 0, 0]): int(label) for image, label in zip(*trained.train, strict=True)}
    drawn = read_generated(folder)
    labels = labels_for(drawn, trained.spec.class_names)
    assert [level_of[int(level)] for level in drawn.images[:, 0, 0, 0]] == labels.tolist()


def test_an_archive_with_a_label_file_has_the_same_classes_as_either(tmp_path):
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        labels = [[f"{i // 4:05d}/{i}.png", (i + 1) % 3] for i in range(12)]
        for i, (name, _) in enumerate(labels):
            file = io.BytesIO()
            Image.new("L", (4, 4), i).save(file, "png")
            archive.writestr(f"around/{name}", file.getvalue())
        archive.writestr("around/dataset.json", json.dumps({"labels": labels}))
    trained = data.load(f"folder:{tmp_path / 'set.zip'}")
    assert trained.spec.class_names == ("0", "1", "2")
    drawn = read_generated(tmp_path / "set.zip")
    for images, found in (trained.train, (drawn.images, labels_for(drawn, trained.spec.class_names))):
        np.testing.assert_array_equal((images[:, 0, 0, 0] + 1) % 3, found)


def test_a_split_folder_is_no_set(tmp_path):
    folder_of(tmp_path / "set", ["train/a", "train/b", "valid/a", "valid/b"])
    with pytest.raises(UserError, match="holds train/ and valid/: give the path of one"):
        read_generated(tmp_path / "set")
    assert labels_for(read_generated(tmp_path / "set" / "valid"), ("a", "b")).tolist() == [0, 1] * 3


@pytest.mark.parametrize("labels", [[0, 1, 2], [0, 2], [1]])
def test_a_saved_set_keeps_its_class_numbers_whatever_the_classes_are_called(tmp_path, images, labels):
    written = GeneratedSet(images[: len(labels)], np.array(labels, np.int32))
    for name in ("set.npz", "set"):
        read = read_generated(save(tmp_path / name, written))
        for class_names in (("cat", "dog", "elk"), ("1", "2", "3"), ("0", "1", "2")):
            assert labels_for(read, class_names).tolist() == labels


def test_labels_that_are_no_classes_of_the_data(tmp_path, images):
    read = read_generated(folder_of(tmp_path / "set", ["ant", "cat"]))
    assert labels_for(read, ("cat", "ant")).tolist() == [1, 0] * 3  # by name, not by order
    assert labels_for(read, ("x", "y")).tolist() == [0, 1] * 3  # by order
    assert labels_for(read, ("ant", "bee")) is None  # `cat` is neither
    assert labels_for(read, ("x", "y", "z")) is None
    assert labels_for(read, ("all",)) is None
    with pytest.raises(
        UserError, match="cas needs labels .* those of the images are ant, cat, the classes are 0, 1, 2"
    ):
        evaluate(Subject(read, {}, tmp_path / "evaluation"), data.load("digits"), metrics=["fd", "cas"])
    assert not (tmp_path / "evaluation").exists()
    for labels in ([0, 3], [-1, 0]):
        assert labels_for(GeneratedSet(images[:2], np.array(labels, np.int32)), ("x", "y")) is None


def test_generated_folders_are_read_as_training_folders_are(tmp_path, images):
    """All formats of pictures, links, no system files; natural order of names; archives too."""
    for i, name in enumerate(("2.bmp", "10.tiff", "9.png", "11.jp2")):
        Image.fromarray(images[i]).save(tmp_path / name)
    (tmp_path / "._9.png").write_bytes(b"\0\5\26\7")
    (tmp_path / "__MACOSX").mkdir()
    (tmp_path / "__MACOSX" / "9.png").touch()
    (tmp_path / "notes.txt").touch()
    read = read_generated(tmp_path)
    np.testing.assert_array_equal(read.images[[0, 1, 2]], images[[0, 2, 1]])
    assert len(read.images) == 4 and read.labels is None
    with zipfile.ZipFile(tmp_path / "set.zip", "w") as archive:
        for path in tmp_path.iterdir():
            if path.is_file() and path.name != "set.zip":
                archive.write(path, path.name)
    np.testing.assert_array_equal(read_generated(tmp_path / "set.zip").images, read.images)
    (tmp_path / "5.heic").touch()
    with pytest.raises(UserError, match=r"5\.heic: \.heic is not supported"):
        read_generated(tmp_path)
    (tmp_path / "5.heic").unlink()
    (tmp_path / "class").mkdir()
    Image.fromarray(images[0]).save(tmp_path / "class" / "1.png")
    with pytest.raises(UserError, match="holds both pictures"):
        read_generated(tmp_path)


def test_a_generated_set_that_may_not_be_read_is_an_error(ordinary_user, images):
    root, become = ordinary_user
    save(root / "set", GeneratedSet(images, np.arange(12, dtype=np.int32) % 2))
    save(root / "set.npz", GeneratedSet(images, None))
    with become():
        for path, opened in (("set/0001", "set"), ("set", "set"), ("set.npz", "set.npz")):
            mode = (root / path).stat().st_mode
            (root / path).chmod(0)
            with pytest.raises(UserError, match=f"cannot read {root / path}: Permission denied"):
                read_generated(root / opened)
            (root / path).chmod(mode)


@pytest.mark.parametrize("labels", [np.eye(3)[[0, 1, 2, 0]], np.array([[0], [1], [2], [0]])])
def test_labels_of_arrays_may_be_one_hot_or_a_column(tmp_path, images, labels):
    np.savez(tmp_path / "x.npz", images=images[:4], labels=labels)
    assert read_generated(tmp_path / "x.npz").labels.tolist() == [0, 1, 2, 0]
    np.savez(tmp_path / "x.npz", images=images[:4], labels=labels + 0.5)
    with pytest.raises(UserError, match="labels"):
        read_generated(tmp_path / "x.npz")


@pytest.mark.parametrize("labels", [[0, -1], [0, 2**31], np.array([0, 2**63], np.uint64)])
def test_labels_that_are_no_classes_are_refused(tmp_path, labels):
    np.savez(tmp_path / "a.npz", images=np.zeros((2, 4, 4, 1), np.uint8), labels=labels)
    with pytest.raises(UserError, match="number the classes from 0"):
        read_generated(tmp_path / "a.npz")


def test_a_soft_red_disc_passes_through_unchanged(tmp_path, monkeypatch):
    """From files through the model's range and back to files: alpha stays, and the disc looks the same on any
    background, within one level. What hides under full transparency never shows."""
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path / "cache"))
    y, x = np.mgrid[:20, :20] - 9.5
    alpha = np.clip((7 - np.hypot(y, x)) / 3 + 0.5, 0, 1)
    straight = np.zeros((20, 20, 4), np.uint8)
    straight[..., :3] = np.where(alpha[..., None] > 0, (230, 20, 10), (0, 255, 0))
    straight[..., 3] = np.rint(255 * alpha)
    (tmp_path / "set").mkdir()
    for i in range(2):
        Image.fromarray(straight).save(tmp_path / "set" / f"{i}.png")
    loaded = data.load(f"folder:{tmp_path / 'set'}", channels=4)
    assert loaded.spec.shape == (20, 20, 4)
    drawn = GeneratedSet(to_uint8(scale_images(jnp.asarray(loaded.train.images))), None)
    np.testing.assert_array_equal(drawn.images, loaded.train.images)
    for name in ("out", "out.npz"):
        again = read_generated(save(tmp_path / name, drawn), reading=Reading(alpha=True)).images
        for background in ((0, 0, 0), (255, 255, 255), (20, 90, 200)):
            share = straight[..., 3:] / 255
            expected = straight[..., :3] * share + np.array(background) * (1 - share)
            assert np.abs(composite(again[0], background) - expected).max() <= 1.01
            plain = read_generated(tmp_path / name, reading=Reading(background)).images
            assert np.abs(plain[0] - expected).max() <= 1.01
            read = data.load(f"folder:{tmp_path / 'set'}", background=background).train.images
            assert np.abs(read[0] - expected).max() <= 0.51
        np.testing.assert_array_equal(again[0, ..., 3], straight[..., 3])
    with Image.open(tmp_path / "out" / "000000.png") as picture:
        written = np.asarray(picture)
    solid = straight[..., 3] > 25
    assert np.abs(written[solid].astype(int) - straight[solid]).max() <= 6 and not written[alpha == 0].any()


def test_arrays_with_alpha_are_straight_in_files_and_need_channels_4(tmp_path):
    half = np.full((20, 2, 2, 4), (200, 100, 0, 51), np.uint8)
    np.savez(tmp_path / "x.npz", images=half)
    kept = data.load(f"npz:{tmp_path / 'x.npz'}", channels=4).train.images
    assert kept[0, 0, 0].tolist() == [40, 20, 0, 51]
    plain = data.load(f"npz:{tmp_path / 'x.npz'}", background="white").train.images
    assert plain[0, 0, 0].tolist() == [244, 224, 204]
