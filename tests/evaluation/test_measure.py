"""Evaluation on real digits: every metric gets worse with the faults that it measures."""

import json

import jax.numpy as jnp
import numpy as np
import pytest
from tiny import tiny_extractor

from jimgen import data
from jimgen.commands.metrics import _print_metrics
from jimgen.errors import UserError
from jimgen.evaluation.evaluate import Subject, evaluate
from jimgen.evaluation.extractors import load_extractor
from jimgen.evaluation.generated import GeneratedSet, save
from jimgen.evaluation.measure import NAMES, compared_with, is_better, measure
from jimgen.runs.subject import subject_of

PLAIN = ("fd", "kid", "is", "prdc", "cmmd")


@pytest.fixture(scope="module")
def digits():
    return data.load("digits")


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JIMGEN_CACHE", str(tmp_path_factory.mktemp("cache")))
        yield


def noisy(images, labels, amount, rng):
    return (images + rng.normal(size=images.shape) * 100 * amount).clip(0, 255), labels


def blurred(images, labels, amount, rng):
    """Averages with the neighbours above, below, left and right, once for each quarter."""
    x = images.astype(float)
    for _ in range(round(4 * amount)):
        x = (x + sum(np.roll(x, shift, axis) for shift in (-1, 1) for axis in (1, 2))) / 5
    return x, labels


def blended(images, labels, amount, rng):
    other = images[rng.permutation(len(images))]
    return images * (1 - amount / 2) + other * (amount / 2), labels


def dropped(images, labels, amount, rng):
    """Keeps only some classes, and repeats their images."""
    kept = np.flatnonzero(labels < 10 - 8 * amount)
    rows = np.resize(kept, len(images))
    return images[rows], labels[rows]


def junked(images, labels, amount, rng):
    junk = rng.integers(0, 256, images.shape)
    return np.where((np.arange(len(images)) % 4 < 4 * amount)[:, None, None, None], junk, images), labels


DISTANCES = ("fd", "kid", "cmmd")


@pytest.mark.parametrize(
    ("fault", "worse"),
    [
        (noisy, (*DISTANCES, "precision", "density", "coverage")),
        (blurred, (*DISTANCES, "precision", "density", "coverage")),
        (blended, (*DISTANCES, "precision", "density", "coverage")),
        (dropped, (*DISTANCES, "recall", "coverage", "is")),
        (junked, (*DISTANCES, "precision", "density", "coverage")),
    ],
)
def test_metrics_get_worse_as_a_fault_grows(digits, fault, worse):
    """0, 1/4, 1/2 and all of a fault on the test digits, in features of the shipped classifier."""
    extractor = load_extractor("digits_classifier")
    found = []
    for amount in (0.0, 0.25, 0.5, 1.0):
        rng = np.random.default_rng(0)
        images, labels = fault(digits.test.images, digits.test.labels, amount, rng)
        metrics = measure(np.rint(images).astype(np.uint8), labels, digits, [extractor], PLAIN).metrics
        found.append({name.partition("[")[0]: value for name, value in metrics.items()})
    for name in worse:
        values = [metrics[name] for metrics in found]
        assert all(is_better(name, a, b) for a, b in zip(values, values[1:], strict=False)), (name, values)


def test_copies_are_found_by_the_copying_tests_and_not_by_distances(digits):
    """A growing share of training images among the test images; the distance of copies alone is that of test images."""
    extractor = load_extractor("digits_classifier")
    found = []
    for share in (0.0, 0.25, 0.5, 1.0):
        copies = np.arange(len(digits.test.labels)) % 4 < 4 * share
        copied = digits.train.images[: len(copies)]
        images = np.where(copies[:, None, None, None], copied, digits.test.images)
        metrics = measure(images, None, digits, [extractor], ("fd", "copying", "fls")).metrics
        found.append({name.partition("[")[0]: value for name, value in metrics.items()})
    for name, sign in {"authenticity": -1, "c_t": -1, "fls_overfit": 1}.items():
        values = [sign * metrics[name] for metrics in found]
        assert (np.diff(values) > 0).all(), (name, values)
    assert found[-1]["authenticity"] == 0 and found[-1]["fd"] < 1.3 * found[0]["fd"]


def test_the_classification_accuracy_score_falls_with_wrong_labels(digits, optimised):
    """Half of the labels wrong, all wrong: a classifier trained on them is worse, and then worse than chance."""
    images, labels = digits.train.images, digits.train.labels
    scores = []
    for share in (0.0, 0.5, 1.0):
        wrong = np.arange(len(labels)) % 2 < 2 * share
        given = np.where(wrong, (labels + 1) % 10, labels)
        scores.append(measure(images, given, digits, [], ("cas",), cas_steps=40).metrics["cas"])
    assert scores[0] > 80 and scores[0] > scores[1] + 10 and scores[2] < 10


def test_labels_that_no_one_gave_are_the_classifiers(digits, optimised):
    """The name of the metric shows it."""
    extractor = load_extractor("digits_classifier")
    found = measure(digits.train.images, None, digits, [extractor], ("cas",), cas_steps=40)
    assert list(found.metrics) == ["cas_pseudo_labels"] and found.metrics["cas_pseudo_labels"] > 80
    assert len(found.per_class) == 10
    with pytest.raises(UserError, match="cas needs labels"):
        measure(digits.train.images, None, digits, [tiny_extractor(num_classes=3)], ("cas",))


def test_real_images_stand_beside_and_are_remembered(digits, monkeypatch):
    """The real metrics are those of test images, the Gaussian's are worse; a second call measures nothing."""
    extractor, metrics = tiny_extractor(), ("fd", "prdc", "copying")
    first = compared_with(digits, [extractor], metrics, count=300)
    assert set(first["real"]) == set(first["gaussian"]) >= {"fd[tiny@8]", "precision[tiny@8]", "c_t[tiny@8]"}
    assert first["real"]["fd[tiny@8]"] < first["gaussian"]["fd[tiny@8]"]
    monkeypatch.setattr("jimgen.evaluation.measure.measure", None)
    assert compared_with(digits, [extractor], metrics, count=300) == first


@pytest.mark.parametrize(
    "text", ["", "[]", "[" * 100_000, "{}", '{"real": {"fd": "x"}, "gaussian": {}}', '{"real": 3}']
)
def test_what_was_remembered_and_is_damaged_is_measured_again(digits, tmp_path, monkeypatch, text):
    monkeypatch.setenv("JIMGEN_CACHE", str(tmp_path))
    first = compared_with(digits, [tiny_extractor()], ("fd",), count=50)
    (remembered,) = (tmp_path / "baselines").iterdir()
    whole = remembered.read_text()
    remembered.write_text(text)
    assert compared_with(digits, [tiny_extractor()], ("fd",), count=50) == first
    assert remembered.read_text() == whole


def test_an_evaluation_writes_what_it_returns(digits, tmp_path, monkeypatch):
    """Metrics with the identities of extractors, a row per class, two pictures."""
    monkeypatch.setattr("jimgen.evaluation.evaluate.load_extractor", lambda name: tiny_extractor())
    subject = Subject(GeneratedSet(digits.test.images[:200], digits.test.labels[:200]), {"images": "x"}, tmp_path)
    result = evaluate(subject, digits, extractors=["tiny"], metrics=("fd", "prdc"))
    written = json.loads((tmp_path / "evaluation.json").read_text())
    assert written == json.loads(json.dumps(result))
    assert written["extractors"]["tiny@8"]["weights_hash"] == "0" * 64
    assert set(written["metrics"]["fd[tiny@8]"]) == {"value", "real", "gaussian"}
    assert written["num"] == 200 and written["num_real"] == {"train": 200, "test": 200}
    assert [row["class"] for row in written["per_class"]] == [str(i) for i in range(10)]
    assert sum(row["share"] for row in written["per_class"]) == pytest.approx(1)
    for name in ("nearest.png", "extremes.png"):
        assert (tmp_path / name).stat().st_size > 1000


def test_duplicates_among_real_images_are_told(digits, tmp_path, monkeypatch, capsys):
    """The first of 100 training images replaces 8 others: evaluation.json and the printed text warn of it."""
    rows = np.where(np.arange(100) < 9, 0, np.arange(100))
    train = data.Arrays(digits.train.images[rows], digits.train.labels[rows])
    dataset = digits._replace(train=train, spec=digits.spec._replace(hash="with duplicates"))
    monkeypatch.setattr("jimgen.evaluation.evaluate.load_extractor", lambda name: tiny_extractor())
    subject = Subject(GeneratedSet(digits.test.images[:100], None), {"images": "x"}, tmp_path)
    result = evaluate(subject, dataset, extractors=["tiny"], metrics=("prdc", "kid"))
    (warning,) = json.loads((tmp_path / "evaluation.json").read_text())["warnings"]
    assert warning.startswith("8 of the 100 real images have the same features [tiny@8] as another one")
    _print_metrics(result)
    assert f"warning: {warning}" in capsys.readouterr().out
    # Of 100 images each subset would be the whole: no deviation between them, and no NaN in JSON.
    assert "kid[tiny@8]" in result["metrics"] and "kid_std[tiny@8]" not in result["metrics"]
    assert not measure(digits.test.images[:100], None, digits, [tiny_extractor()], ("prdc",)).warnings


def test_cmmd_of_features_that_are_all_zero_is_a_number(digits):
    dead = tiny_extractor(
        forward=lambda levels: (0 * levels.reshape(len(levels), -1)[:, :6], jnp.zeros((len(levels), 10)))
    )
    metrics = measure(digits.test.images[:20], None, digits, [dead], ("cmmd",)).metrics
    assert metrics["cmmd[tiny@8]"] == 0


def test_bad_input_is_told_before_anything_is_measured(digits, tmp_path):
    extractor = tiny_extractor()
    with pytest.raises(UserError, match="unknown metrics fid"):
        measure(digits.test.images, None, digits, [extractor], ("fid",))
    with pytest.raises(UserError, match="no metrics"):
        measure(digits.test.images, None, digits, [extractor], ())
    with pytest.raises(UserError, match=r"the images are \[4, 8, 1\]"):
        measure(digits.test.images[:, :4], None, digits, [extractor], ("fd",))
    with pytest.raises(UserError, match="expected at least"):
        measure(digits.test.images[:3], None, digits, [extractor], ("prdc",))
    save(tmp_path / "few.npz", GeneratedSet(digits.test.images[:5], None))
    with pytest.raises(UserError, match="holds 5 images: --num 10000"):
        subject_of(tmp_path / "few.npz", 10_000, 0, "balanced", None)


def test_every_metric_has_a_direction():
    """Lower is better by default; these are not."""
    assert is_better("precision[x]", 0.9, 0.8) and is_better("fd[x]", 1.0, 2.0) and not is_better("cas", 10.0, 20.0)
    assert set(PLAIN) <= set(NAMES)
