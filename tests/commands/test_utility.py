"""The command `jimgen utility`: on a run and on a set of images, and what it refuses before it draws any."""

import json

import numpy as np
import pytest

from jimgen import data
from jimgen.runs.subject import default_file

QUICK = ["--per-class", 2, "--steps", 1, "--shares", 0.5]


@pytest.fixture(autouse=True)
def small_batches(monkeypatch):
    monkeypatch.setattr("jimgen.evaluation.arms.BATCH_SIZE", 32)


def test_utility_of_a_run_is_printed_and_written(folders, jimgen, optimised):
    said = jimgen("utility", folders["vae"], *QUICK, "--seeds", 2, "--num", 20)
    path = folders["vae"] / "utility.json"
    found = json.loads(path.read_text())
    assert said.splitlines()[-1] == str(path) and "real+generated" in said and "accuracy %" in said
    assert found["subject"]["run"] == str(folders["vae"]) and found["trained_on"]["name"] == "digits"
    assert found["num"] == 20 and found["seeds"] == [0, 1] and found["results"][0]["per_class"] == 2
    assert f"note: The run was trained on {found['trained_on']['num']} images of digits" in said
    assert all(sentence in said for sentence in found["results"][0]["sentences"])


def test_utility_of_a_set_lies_beside_it_and_takes_few_images_of_another_set(jimgen, tmp_path, optimised):
    digits = data.load("digits")
    rows = np.concatenate([np.flatnonzero(digits.train.labels == label)[:2] for label in range(10)])
    images, labels = digits.train.images[rows], digits.train.labels[rows]
    np.savez(
        tmp_path / "few.npz",
        **{f"{split}_images": images + (split == "test") for split in ("train", "test")},
        **{f"{split}_labels": labels for split in ("train", "test")},
        class_names=digits.spec.class_names,
    )
    np.savez(tmp_path / "set.npz", images=images, labels=labels)
    asked = ["--data", "digits", "--few", f"npz:{tmp_path / 'few.npz'}", "--num", 20, "--seeds", 1]
    said = jimgen("utility", tmp_path / "set.npz", *asked, *QUICK)
    found = json.loads((tmp_path / "set-utility.json").read_text())
    assert found["few"]["num"] == 20 and "with one seed: no interval" in said and "±" not in said
    assert default_file(tmp_path / "set.npz") == tmp_path / "set-utility.json"


@pytest.mark.parametrize(
    ("run", "flags", "message"),
    [
        ("dcgan", ["--per-class", 2], "draws images without classes: train a class-conditional run"),
        ("vae", ["--per-class", 0], "--per-class 0: must be at least 1"),
        ("vae", ["--per-class", 5000], "5000 real images per class are too many: class 0 has"),
        ("vae", ["--per-class"], "--per-class: give at least one number"),
        ("vae", ["--seeds", 0], "--seeds 0: must be at least 1"),
        ("vae", ["--shares", 1], "give numbers between 0 and 1"),
        ("vae", ["--out", "x.txt"], "give a name that ends in .json"),
        ("vae", ["--data", "other"], "has other classes than the run: a, b"),
    ],
)
def test_what_cannot_be_measured_is_refused_before_images_are_drawn(
    folders, refused, monkeypatch, tmp_path, run, flags, message
):
    def draw_images(*arguments):
        raise AssertionError("drawn")

    monkeypatch.setattr("jimgen.runs.subject.draw_images", draw_images)
    labels = np.arange(60) % 2
    images = np.zeros((60, 8, 8, 1), np.uint8)
    np.savez(tmp_path / "other.npz", images=images, labels=labels, class_names=["a", "b"])
    flags = [f"npz:{tmp_path / 'other.npz'}" if flag == "other" else flag for flag in flags]
    assert message in refused("utility", folders[run], *flags)
