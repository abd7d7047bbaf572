"""The classifier: shapes, learning, its weights' file, and the classification accuracy score on sets made by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from jimgen.data import load
from jimgen.data.batches import batches
from jimgen.data.dataset import Arrays
from jimgen.errors import UserError
from jimgen.evaluation import classifier
from jimgen.evaluation.extractors import WEIGHTS
from jimgen.nets.classifier import Classifier


def bright_and_dark(n: int, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """8x8 pictures of noise: class 0 is dark, class 1 bright."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, 2, n)
    images = rng.integers(0, 100, (n, 8, 8, 1)) + 150 * labels[:, None, None, None]
    return images.astype(np.uint8), labels


@pytest.fixture(scope="module")
def trained() -> dict:
    """Variables after two steps on 8x8 images."""
    images, labels = bright_and_dark(20)
    return classifier.train_classifier(images, labels, num_classes=2, steps=2, batch_size=8)


@pytest.mark.parametrize(("shape", "count"), [((16, 24, 1), 426_602), ((8, 8, 3), 427_178)])
def test_shapes_and_size(shape, count):
    images, net = jnp.zeros((3, *shape)), Classifier(10)
    (features, logits), variables = jax.eval_shape(lambda: net.init_with_output(jax.random.key(0), images, train=True))
    assert features.shape == (3, 128) and logits.shape == (3, 10)
    assert sum(x.size for x in jax.tree.leaves(variables["params"])) == count


def test_sizes_that_the_strides_do_not_divide_are_refused():
    images = np.zeros((2, 28, 30, 1), np.uint8)
    with pytest.raises(ValueError, match="halves images 3 times"):
        Classifier(2).init(jax.random.key(0), jnp.zeros((2, 28, 30, 1)), train=True)
    with pytest.raises(UserError, match="multiples of 8, not 28x30.*size=32"):
        classifier.train_classifier(images, np.zeros(2, int), num_classes=2, steps=1)


def test_logits_are_a_linear_map_of_the_features_and_do_not_depend_on_the_batch(trained):
    images, _ = bright_and_dark(20)
    logits, features = classifier.predict(trained, images, batch_size=20)
    layer = trained["params"]["logits"]
    np.testing.assert_allclose(logits, features @ layer["kernel"] + layer["bias"], rtol=1e-4, atol=1e-4)
    for size in (7, 64):  # a last batch that is not full; a batch larger than the set
        for found, wanted in zip(classifier.predict(trained, images, batch_size=size), (logits, features), strict=True):
            assert found.dtype == np.float32 and found.shape == wanted.shape
            np.testing.assert_allclose(found, wanted, atol=1e-5)


def test_a_seed_gives_the_same_weights_and_another_one_others(trained):
    images, labels = bright_and_dark(20)
    same, other = (
        classifier.train_classifier(images, labels, num_classes=2, steps=2, seed=seed, batch_size=8) for seed in (0, 1)
    )
    jax.tree.map(np.testing.assert_array_equal, same, trained)
    assert np.abs(other["params"]["stem"]["kernel"] - trained["params"]["stem"]["kernel"]).max() > 0.1


def test_score_of_good_and_of_incomplete_samples(optimised):
    """Samples like the data: 1. One class alone, mislabelled: nothing else is ever said."""
    images, labels = bright_and_dark(64, seed=1)
    test_images, test_labels = bright_and_dark(30, seed=2)

    def score(images, labels):
        return classifier.classification_accuracy_score(
            images, labels, test_images, test_labels, num_classes=3, steps=20, seed=0
        )

    good = score(images, labels)
    assert good == {
        "accuracy": 1.0,
        "per_class": [1.0, 1.0, None],  # no test image of class 2
        "num_samples": 64,
        "num_test": 30,
        "steps": 20,
        "seed": 0,
    }
    mislabelled = score(images[labels == 0], 1 - labels[labels == 0])
    assert mislabelled["per_class"] == [0.0, 1.0, None]
    assert mislabelled["accuracy"] == pytest.approx(np.mean(test_labels == 1))


def test_accuracy_by_hand():
    assert classifier.accuracy(np.array([[1, 2], [3, 0], [0, 1.0]]), np.array([1, 0, 0])) == pytest.approx(2 / 3)
    with pytest.raises(ValueError, match="labels .n."):
        classifier.accuracy(np.zeros((3, 2)), np.zeros((3, 1)))


def test_every_class_counts_the_same_in_balanced_accuracy():
    """Class 0: 1 of 1; class 2: 1 of 3. Class 1 has no image."""
    logits = np.eye(3)[[0, 2, 0, 1]]
    assert classifier.balanced_accuracy(logits, np.array([0, 2, 2, 2])) == pytest.approx((1 + 1 / 3) / 2)


def test_checkpoints_are_the_variables_on_the_way_and_augmentation_changes_what_a_batch_says(trained):
    """The last checkpoint of a batch that is not augmented: bit for bit what `train_classifier` gives."""
    images, labels = bright_and_dark(20)
    trainer = classifier.make_trainer((8, 8, 1), num_classes=2, steps=2, augment=lambda images, keys: -images)

    def train(augmented: bool) -> list[dict]:
        fed = batches(
            Arrays(images, labels.astype(np.int32)), batch_size=8, seed=0, sharding=trainer.step.batch_sharding
        )
        flagged = ({**batch, "augmented": jnp.full(8, augmented)} for batch in fed)
        return classifier.train(trainer, flagged, seed=0, checkpoints=[1, 2])

    first, last = train(False)
    jax.tree.map(np.testing.assert_array_equal, last, trained)
    assert (first["params"]["stem"]["kernel"] != last["params"]["stem"]["kernel"]).any()
    mirrored = train(True)[1]
    assert (mirrored["batch_stats"]["stem_norm"]["mean"] != last["batch_stats"]["stem_norm"]["mean"]).all()


@pytest.mark.parametrize(
    ("images", "labels", "message"),
    [
        (np.zeros((2, 8, 8, 1), np.float32), [0, 1], "uint8 .n, h, w, c."),
        (np.zeros((2, 8, 8), np.uint8), [0, 1], "uint8 .n, h, w, c."),
        (np.zeros((0, 8, 8, 1), np.uint8), [], "uint8 .n, h, w, c."),
        (np.zeros((2, 8, 8, 1), np.uint8), [0], "integer labels .2."),
        (np.zeros((2, 8, 8, 1), np.uint8), [0.0, 1.0], "integer labels"),
        (np.zeros((2, 8, 8, 1), np.uint8), [0, 2], "outside .0, 2."),
        (np.zeros((2, 8, 8, 1), np.uint8), [-1, 0], "outside .0, 2."),
    ],
)
def test_bad_input_is_refused(images, labels, message):
    with pytest.raises(UserError, match=message):
        classifier.train_classifier(images, np.array(labels), num_classes=2, steps=1)


def test_samples_and_test_images_must_agree():
    images, labels = bright_and_dark(8)
    with pytest.raises(UserError, match="the samples' size"):
        classifier.classification_accuracy_score(
            np.repeat(images, 2, axis=1), labels, images, labels, num_classes=2, steps=1
        )


def test_weights_come_back_in_half_precision(tmp_path, trained):
    path = tmp_path / "weights.npz"
    classifier.save_weights(path, trained, {"data": "x", "seed": 3})
    found, meta, sha256 = classifier.load_weights(path)
    assert meta == {"data": "x", "seed": 3} and len(sha256) == 64
    assert jax.tree.structure(found) == jax.tree.structure(trained)
    jax.tree.map(lambda a, b: np.testing.assert_array_equal(a, b.astype(np.float16).astype(np.float32)), found, trained)
    for content in (b"", b"no npz", path.read_bytes()[:-30]):
        path.write_bytes(content)
        with pytest.raises(UserError, match="cannot read these weights"):
            classifier.load_weights(path)
    with pytest.raises(UserError, match="cannot read these weights"):
        classifier.load_weights(tmp_path / "nothing.npz")


@pytest.mark.parametrize(
    ("members", "what"),
    [
        ({"meta": "[1]"}, "not an object"),
        ({"meta": "[" * 100_000}, "recursion"),
        ({"meta": "{}", "params/a": np.array([np.nan], np.float16)}, "not finite"),
        ({"meta": "{}", "params/a": np.zeros(1), "params/a/b": np.zeros(1)}, ""),  # an array where a group should be
        ({"meta": "{}", "params/a": np.array(["x"])}, "could not convert"),
    ],
)
def test_weights_of_another_kind_are_refused(tmp_path, members, what):
    np.savez(tmp_path / "weights.npz", **members)
    with pytest.raises(UserError, match=f"cannot read these weights .*{what}"):
        classifier.load_weights(tmp_path / "weights.npz")


@pytest.mark.parametrize(("place", "value"), [(6, 1), (8, 9)])
def test_archives_that_python_cannot_unpack_are_refused(tmp_path, place, value):
    """Encrypted members, and members packed by deflate64, as in both headers of a member."""
    np.savez(tmp_path / "weights.npz", meta="{}", **{"params/a": np.zeros(1)})
    content = bytearray((tmp_path / "weights.npz").read_bytes())
    for signature, offset in ((b"PK\x03\x04", place), (b"PK\x01\x02", place + 2)):
        content[content.index(signature) + offset] = value
    (tmp_path / "weights.npz").write_bytes(content)
    with pytest.raises(UserError, match="cannot read these weights"):
        classifier.load_weights(tmp_path / "weights.npz")


def test_the_command_writes_weights_that_load(tmp_path, capsys, optimised):
    args = classifier.Args(data="digits", out=tmp_path / "digits.npz", size=8, steps=2)
    classifier.main(args)
    _, meta, _ = classifier.load_weights(args.out)
    assert meta == json.loads(capsys.readouterr().out)
    assert meta["shape"] == [8, 8, 1] and meta["steps"] == 2 and 0 <= meta["accuracy"] <= 1
    assert meta["data_hash"] == load("digits", size=8, fit="pad").spec.hash


@pytest.mark.parametrize(("name", "least"), [("digits", 0.97), ("fashion_mnist", 0.905)])
def test_the_shipped_weights_are_good(name, least):
    """Their accuracy on the test split is the stored one, and their data have the stored hash."""
    variables, meta, _ = classifier.load_weights(WEIGHTS / f"{name}.npz")
    assert meta["accuracy"] > least and (WEIGHTS / f"{name}.npz").stat().st_size < 1_000_000
    if name == "digits":  # always there
        data = load(name, size=meta["shape"][0], fit=meta["fit"])
        found = classifier.accuracy(classifier.predict(variables, data.test.images)[0], data.test.labels)
        assert data.spec.hash == meta["data_hash"] and found == pytest.approx(meta["accuracy"], abs=0.004)
