"""Downstream utility on faint blobs: real images in place of generated ones help, noise does not."""

import contextlib
import json
import math
from collections.abc import Callable, Iterator
from pathlib import Path

import jax
import numpy as np
import pytest

from jimgen.data.dataset import Arrays, Dataset, DataSpec
from jimgen.errors import UserError
from jimgen.evaluation import arms, utility
from jimgen.evaluation.arms import Score, arms_of, mixed_batches
from jimgen.evaluation.evaluate import Subject
from jimgen.evaluation.few import pools_of
from jimgen.evaluation.generated import GeneratedSet

ARMS = ["real", "augmented", "real+generated", "generated"]
SIZE, STEPS = 8, 12


def blobs(num: int, seed: int) -> Arrays:
    """Noise with a faint bright half: the upper one of class 0, the lower one of class 1."""
    rng = np.random.default_rng(seed)
    labels = np.arange(num, dtype=np.int32) % 2
    images = rng.normal(110, 50, (num, SIZE, SIZE, 1))
    images[labels == 0, : SIZE // 2] += 30
    images[labels == 1, SIZE // 2 :] += 30
    return Arrays(images.clip(0, 255).astype(np.uint8), labels)


def noise(num: int) -> Arrays:
    rng = np.random.default_rng(9)
    return Arrays(rng.integers(0, 256, (num, SIZE, SIZE, 1), np.uint8), rng.integers(0, 2, num).astype(np.int32))


def dataset() -> Dataset:
    train, test = blobs(60, 0), blobs(101, 1)  # one more test image of class 0
    return Dataset(DataSpec("blobs", (SIZE, SIZE, 1), 2, ("up", "down"), 60, 101, "b" * 64), train, test)


def subject_of(split: Arrays, **changes) -> Subject:
    generated = GeneratedSet(split.images, split.labels)._replace(**changes)
    return Subject(generated, {"images": "x.npz"}, Path("unused"))


def once(function: Callable) -> Callable:
    """The function, called once: later calls return the same, whatever their arguments."""
    kept: list = []

    def call(*arguments, **options):
        if not kept:
            kept.append(function(*arguments, **options))
        return kept[0]

    return call


@contextlib.contextmanager
def optimising() -> Iterator[None]:
    """As the fixture `optimised`, for a fixture of the module."""
    before = jax.config.values["jax_disable_most_optimizations"]
    jax.config.update("jax_disable_most_optimizations", False)
    yield
    jax.config.update("jax_disable_most_optimizations", before)


@pytest.fixture(scope="module")
def measured() -> dict:
    """Results with good images, noise and wrong labels, and how often the step and the prediction were traced."""
    with pytest.MonkeyPatch.context() as patched, optimising():
        traces = []

        def counted(name, function):
            return lambda *arguments: (traces.append(name), function(*arguments))[1]

        patched.setattr(arms, "BATCH_SIZE", 16)
        patched.setattr(arms, "random_shift", counted("step", arms.random_shift))
        patched.setattr(arms, "scale_images", counted("predict", arms.scale_images))
        for name in ("make_trainer", "compiled_predict"):  # one program for all three, as compiling takes longest
            patched.setattr(utility, name, once(getattr(utility, name)))
        found: dict = {"said": [], "traces": traces}
        good = blobs(400, 2)
        wrong = good._replace(labels=1 - good.labels)
        for name, images in (("good", good), ("noise", noise(400)), ("wrong", wrong)):
            pools = pools_of(dataset())
            found[name] = utility.utility(
                subject_of(images),
                pools,
                per_class=[2],
                seeds=range(1 if name == "wrong" else 3),
                steps=STEPS,
                shares=(0.5, 0.75) if name == "good" else (0.75,),
                say=found["said"].append,
            )
    return found


def test_real_images_in_place_of_generated_ones_help(measured):
    for row in measured["good"]["results"]:
        assert list(row["arms"]) == ARMS
        assert row["arms"]["real+generated"]["verdict"] == "helps", row
        assert row["sentences"][0].endswith("helps.")


def test_noise_with_random_labels_does_not_count_as_help(measured):
    for row in measured["noise"]["results"]:
        assert row["arms"]["real+generated"]["verdict"] != "helps", row
        assert row["arms"]["generated"]["verdict"] != "helps"
        assert abs(row["arms"]["generated"]["accuracy"]["mean"] - 0.5) < 0.15  # chance


def test_all_arms_and_seeds_share_one_compiled_step(measured):
    """And all numbers of validation and test images one compiled prediction."""
    assert sorted(measured["traces"]) == ["predict", "step"]


def test_arms_that_see_no_generated_image_do_not_depend_on_them(measured):
    for one, two in zip(measured["good"]["results"], measured["noise"]["results"], strict=True):
        for name in ("real", "augmented"):
            assert one["arms"][name] == two["arms"][name]


def test_a_result_says_what_it_depends_on(measured):
    found = measured["good"]
    assert json.loads(json.dumps(found)) == found | {"data": {**found["data"], "shape": [SIZE, SIZE, 1]}}
    assert found["data"]["hash"] == "b" * 64 and found["num"] == 400 and found["num_test"] == 101
    assert found["seeds"] == [0, 1, 2] and found["training"]["steps"] == STEPS and len(found["subject"]["sha256"]) == 64
    assert found["few"] is found["trained_on"] is None and "is not known here" in found["notes"][0]
    assert [row["held_out_per_class"] for row in found["results"]] == [10]
    arm = found["results"][0]["arms"]["real+generated"]
    assert len(arm["seeds"]) == 3 and {score["share"] for score in arm["seeds"]} <= {0.5, 0.75}
    assert {score["step"] for score in arm["seeds"]} <= {3, 6, 9, 12}
    values = [score["accuracy"] for score in arm["seeds"]]
    assert arm["accuracy"]["mean"] == pytest.approx(np.mean(values))
    assert "balanced_difference" in arm  # test images are 51 and 50
    assert len(measured["said"]) == 7 and measured["said"][2].endswith("; 0 s left")


def test_generated_images_with_wrong_labels_teach_the_opposite(measured):
    """Validation images can only choose the least bad checkpoint."""
    (row,) = measured["wrong"]["results"]
    assert row["arms"]["generated"]["accuracy"]["mean"] < 0.6 and row["arms"]["generated"]["verdict"] == "no interval"


def test_batches_hold_the_share_and_pass_over_all_images():
    real = Arrays(np.zeros((6, 8, 8, 1), np.uint8), np.arange(6, dtype=np.int32))
    generated = Arrays(np.ones((50, 8, 8, 1), np.uint8), np.arange(100, 150, dtype=np.int32))
    for share, num in ((0.0, 0), (0.25, 16), (0.75, 48), (1.0, 64)):
        fed = mixed_batches(real, generated, share=share, augmented=True, seed=3)
        seen = [next(fed) for _ in range(2)]
        for batch in seen:
            assert batch["image"].shape == (64, 8, 8, 1) and int(batch["image"][:, 0, 0, 0].sum()) == num
            assert ((batch["label"] >= 100) == (batch["image"][:, 0, 0, 0] == 1)).all()
            assert batch["augmented"].all() and batch["index"].tolist() == list(range(64))
        if 0 < num < 64:
            same = next(mixed_batches(real, generated, share=share, augmented=False, seed=3))
            np.testing.assert_array_equal(same["label"], seen[0]["label"])
            assert set(seen[0]["label"][:6]) == set(range(6))  # a whole epoch before any image comes again
        if share == 1:
            assert set(seen[0]["label"]) == set(range(100, 150))


def scores(*accuracies: float) -> list[Score]:
    return [Score(x, x / 2, 1.0, 0.0, 1) for x in accuracies]


def test_summary_by_hand():
    """Differences .2, .3, .1 have mean .2 and s = .1, so +- .2484; against augmentation always +.1."""
    found = utility.summary(
        5,
        {
            "real": scores(0.1, 0.2, 0.6),
            "augmented": scores(0.2, 0.4, 0.6),
            "real+generated": scores(0.3, 0.5, 0.7),
            "generated": scores(0.0, 0.1, 0.5),
        },
        is_balanced=False,
    )
    mixed, alone = found["arms"]["real+generated"], found["arms"]["generated"]
    assert mixed["accuracy"]["mean"] == pytest.approx(0.5)
    assert mixed["difference"] == {"mean": pytest.approx(0.2), "half_width": pytest.approx(0.2484138), "n": 3}
    assert mixed["balanced_difference"]["half_width"] == pytest.approx(0.1242069)
    assert mixed["verdict"] == mixed["balanced_verdict"] == "no difference shown" and alone["verdict"] == "hurts"
    assert found["beyond_augmented"]["verdict"] == "helps" and "difference" not in found["arms"]["real"]
    first, second = found["sentences"]
    assert first == (
        "5 real images per class, with generated ones, against real images alone: +20.0 points "
        "(95% interval -4.8 to +44.8, 3 seeds): no difference shown."
    )
    assert "against real images with augmentation: +10.0 points" in second and second.endswith("3 seeds): helps.")


def test_one_seed_has_no_interval_and_says_so():
    found = utility.summary(5, {name: scores(i / 4) for i, name in enumerate(ARMS)}, is_balanced=True)
    arm = found["arms"]["generated"]
    assert arm["difference"] == {"mean": 0.75, "half_width": None, "n": 1} and arm["verdict"] == "no interval"
    assert "balanced_accuracy" not in arm and not math.isnan(json.loads(json.dumps(arm))["accuracy"]["mean"])
    assert "+50.0 points with one seed: no interval, so it shows nothing. Give more --seeds." in found["sentences"][0]


@pytest.mark.parametrize(
    ("num_train", "is_few", "expected"),
    [
        (60, False, "trained on 60 images of run: its images carry knowledge of all of them"),
        (4, False, "trained on 4 images of run"),  # which ones is not known
        (4, True, None),  # 2 of each class, those of the arm real
        (6, True, "trained on 6 images of run"),
    ],
)
def test_what_the_generator_knows_beyond_the_few_images_is_said(num_train, is_few, expected):
    trained_on = dataset().spec._replace(name="run", num_train=num_train, hash="f" * 64)
    pools = pools_of(dataset())._replace(few=trained_on if is_few else None)
    notes = utility._notes_on_knowledge(trained_on, pools, [2])
    assert (notes == []) if expected is None else (expected in notes[0] and "--few" in notes[0])


def test_classes_without_generated_images_are_told():
    some = blobs(10, 0)._replace(labels=np.zeros(10, np.int32))
    assert "no generated images of down" in utility._notes_on_images(some, dataset().spec)[0]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"labels": None}, "the images have no labels: draw them from a class-conditional run"),
        ({"labels": np.full(8, 2, np.int32)}, "labels of the images are 2, the classes of blobs are up, down"),
        ({"class_names": ("up", "left")}, "labels of the images are up, left"),
        ({"images": np.zeros((8, 8, 16, 1), np.uint8)}, "the images are .8, 16, 1., the data blobs .8, 8, 1."),
    ],
)
def test_images_that_do_not_fit_the_data_are_refused(changes, message):
    with pytest.raises(UserError, match=message):
        utility.utility(subject_of(blobs(8, 0), **changes), pools_of(dataset()), per_class=[1], seeds=[0])


@pytest.mark.parametrize("shares", [(), (0.0,), (1.0,), (0.5, 0.001), (math.nan,)])
def test_shares_that_leave_out_real_or_generated_images_are_refused(shares):
    with pytest.raises(UserError, match="shares .*: give numbers between 0 and 1"):
        arms_of(shares)
