"""Downstream utility: whether generated images help to train a classifier of real ones, with paired seeds.

A seed draws few real images of each class, validation images and first weights, the same for all arms (see
`evaluation.arms`). Validation images, which are real and neither training nor test images, choose the checkpoint and
the share of generated images. Test images only measure.

References:
    Ravuri and Vinyals, Classification Accuracy Score for Conditional Generative Models, arXiv:1905.10887.
"""

import hashlib
import math
import time
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

import numpy as np

from jimgen.alpha import colour_text
from jimgen.data.dataset import Arrays, DataSpec
from jimgen.data.labels import classes_of
from jimgen.errors import UserError
from jimgen.evaluation.arms import (
    AUGMENTED,
    BATCH_SIZE,
    CHECKPOINTS,
    MIXED,
    REAL,
    SHARES,
    Score,
    arms_of,
    compiled_predict,
    score_arm,
    shifted,
)
from jimgen.evaluation.classifier import LEARNING_RATE, WEIGHT_DECAY, make_trainer, pad_to_strides
from jimgen.evaluation.evaluate import Subject
from jimgen.evaluation.few import Pools, draw
from jimgen.evaluation.generated import GeneratedSet, labels_for
from jimgen.evaluation.opaque import opaque_images
from jimgen.files import some_of
from jimgen.metrics.intervals import Interval, confidence_interval, paired_interval, verdict
from jimgen.nets.classifier import Classifier

STEPS = 300


def utility(
    subject: Subject,
    pools: Pools,
    *,
    per_class: Sequence[int],
    seeds: Sequence[int],
    trained_on: DataSpec | None = None,
    steps: int = STEPS,
    shares: Sequence[float] = SHARES,
    flip: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[str, Any]:
    """Measures whether generated images help to train a classifier.

    Args:
        subject: generated images with labels.
        pools: real images, of `pools_of`.
        per_class, seeds, steps, shares, flip, say: as of `compare_arms`.
        trained_on: data that the generator was trained on, if known.
    Returns:
        The content of utility.json: subject, data, few, trained_on, num (generated images), num_test, seeds, training
        (how classifiers were trained), notes (sentences), results (see `summary`; one for each number per class),
        seconds.
    Raises:
        UserError: see `labelled_images` and `compare_arms`.
    """
    began, spec = time.perf_counter(), pools.spec
    is_transparent = pools.is_transparent or subject.generated.images.shape[-1] == 4
    seen = subject.generated._replace(images=opaque_images(subject.generated.images, pools.background))
    generated = labelled_images(seen, spec)
    notes = [*_notes_on_knowledge(trained_on, pools, per_class), *_notes_on_images(generated, spec)]
    found = compare_arms(
        pools, generated, per_class=per_class, seeds=seeds, steps=steps, shares=shares, flip=flip, say=say
    )
    digest = hashlib.sha256(generated.images.tobytes() + generated.labels.tobytes()).hexdigest()
    return {
        "subject": {**subject.about, "sha256": digest},
        "data": {"name": spec.name, "hash": spec.hash, "shape": spec.shape}
        | ({"background": colour_text(pools.background)} if is_transparent else {}),
        "few": _about(pools.few),
        "trained_on": _about(trained_on),
        "num": len(generated.images),
        "num_test": len(pools.test.images),
        "seeds": list(seeds),
        "training": {
            "steps": steps,
            "batch_size": BATCH_SIZE,
            "learning_rate": LEARNING_RATE,
            "weight_decay": WEIGHT_DECAY,
            "widths": list(Classifier.widths),
            "checkpoints": list(CHECKPOINTS),
            "shares": list(shares),
            "flip": flip,
        },
        "notes": notes,
        "results": [
            {"per_class": count, "held_out_per_class": pools.held_out_per_class(count)}
            | summary(count, scores, is_balanced=_is_balanced(pools.test.labels))
            for count, scores in found.items()
        ],
        "seconds": round(time.perf_counter() - began, 1),
    }


def compare_arms(
    pools: Pools,
    generated: Arrays,
    *,
    per_class: Sequence[int],
    seeds: Sequence[int],
    steps: int = STEPS,
    shares: Sequence[float] = SHARES,
    flip: bool = False,
    say: Callable[[str], None] = lambda line: None,
) -> dict[int, dict[str, list[Score]]]:
    """Trains and tests all arms for every number of real images per class and every seed.

    All trainings run one compiled step.

    Args:
        pools: real images to draw from, and test images.
        generated: images uint8 [m, h, w, c] of the shape of the real ones, and their classes int32 [m].
        per_class: numbers of real images of each class.
        seeds: one for each repetition.
        steps: train steps of every training.
        shares: of generated images in a batch, to choose from; see `arms_of`.
        flip: mirror half of the images in the arm `augmented`.
        say: called with a line of progress after each seed.
    Returns: {number per class: {name of the arm: scores in the order of seeds}}.
    Raises:
        UserError: a class has too few images for some number, an update was not finite, or see `arms_of`.
    """
    arms = arms_of(shares)
    for count in per_class:
        pools.held_out_per_class(count)  # says at once what cannot be drawn
    generated, test = _padded(generated), _padded(pools.test)
    augment = partial(shifted, flip=flip)
    trainer = make_trainer(test.images.shape[1:], num_classes=pools.spec.num_classes, steps=steps, augment=augment)
    predict = compiled_predict(pools.spec.num_classes)
    found: dict[int, dict[str, list[Score]]] = {count: {arm.name: [] for arm in arms} for count in per_class}
    began, rounds = time.perf_counter(), [(count, seed) for count in per_class for seed in seeds]
    for done, (count, seed) in enumerate(rounds, start=1):
        real, validation = map(_padded, draw(pools, count, seed))
        scores = {
            arm.name: score_arm(arm, trainer, predict, real, validation, generated, test, seed=seed) for arm in arms
        }
        for name, score in scores.items():
            found[count][name].append(score)
        left = (time.perf_counter() - began) * (len(rounds) - done) / done
        accuracies = ", ".join(f"{name} {score.accuracy:.1%}" for name, score in scores.items())
        say(f"{count} per class, seed {seed}: {accuracies}; {left:.0f} s left")
    return found


def summary(count: int, scores: Mapping[str, Sequence[Score]], *, is_balanced: bool) -> dict[str, Any]:
    """Means over seeds, paired differences, and what they show, for one number of real images per class.

    Args:
        count: number of real images per class.
        scores: those of each arm, in the order of seeds.
        is_balanced: whether test images are as many of each class. If not, balanced accuracies are listed too.
    Returns:
        arms: {name: {accuracy, seeds (scores) and, for arms other than `real`, difference, verdict}}, where accuracies
        and differences are {mean, half_width (None for one seed), n}, in [-1, 1], and differences are to `real`.
        Names with "balanced_" before them are of balanced accuracy. beyond_augmented: difference and verdict of
        real+generated against `augmented`. sentences: the verdicts on real+generated.
    """
    kinds = ("accuracy",) if is_balanced else ("accuracy", "balanced_accuracy")
    arms: dict[str, Any] = {}
    for name, own in scores.items():
        arms[name] = {"seeds": [score._asdict() for score in own]}
        for kind in kinds:
            values, baseline = ([getattr(score, kind) for score in found] for found in (own, scores[REAL]))
            prefix = kind.removesuffix("accuracy")
            arms[name][kind] = _plain(confidence_interval(values))
            if name != REAL:
                difference = paired_interval(values, baseline)
                arms[name] |= {f"{prefix}difference": _plain(difference), f"{prefix}verdict": verdict(difference)}
    mixed, *others = ([score.accuracy for score in scores[name]] for name in (MIXED, REAL, AUGMENTED))
    to_real, to_augmented = (paired_interval(mixed, other) for other in others)
    return {
        "arms": arms,
        "beyond_augmented": {"difference": _plain(to_augmented), "verdict": verdict(to_augmented)},
        "sentences": [
            sentence(count, to_real, "real images alone"),
            sentence(count, to_augmented, "real images with augmentation"),
        ],
    }


def sentence(count: int, difference: Interval, beside: str) -> str:
    """The verdict on real+generated against another arm, as text."""
    mean, half_width, n = difference
    start = f"{count} real images per class, with generated ones, against {beside}: {100 * mean:+.1f} points"
    if math.isnan(half_width):
        return f"{start} with one seed: no interval, so it shows nothing. Give more --seeds."
    low, high = 100 * (mean - half_width), 100 * (mean + half_width)
    return f"{start} (95% interval {low:+.1f} to {high:+.1f}, {n} seeds): {verdict(difference)}."


def labelled_images(generated: GeneratedSet, spec: DataSpec) -> Arrays:
    """Generated images with their classes, int32 [n], as those of a data set.

    Raises:
        UserError: there are no labels, they are not classes of the data, or the images have another shape.
    """
    if generated.labels is None:
        raise UserError(
            "the images have no labels: draw them from a class-conditional run, or put them in class folders"
        )
    labels = labels_for(generated, spec.class_names)
    if labels is None:
        theirs = generated.class_names or [str(label) for label in np.unique(classes_of(generated.labels))]
        raise UserError(
            f"labels of the images are {some_of(theirs)}, the classes of {spec.name} are {some_of(spec.class_names)}: "
            "call them alike, or number them from 0"
        )
    if generated.images.shape[1:] != spec.shape:
        raise UserError(
            f"the images are {list(generated.images.shape[1:])}, the data {spec.name} {list(spec.shape)}: bring "
            "them to one size and number of channels (--size, --fit, --channels)"
        )
    return Arrays(generated.images, np.asarray(labels, np.int32))


def _notes_on_knowledge(trained_on: DataSpec | None, pools: Pools, per_class: Sequence[int]) -> list[str]:
    """A sentence on real images that the generator has seen and a classifier of the arm `real` has not; or none."""
    if trained_on is None:
        return [
            "What the generator was trained on is not known here. Its images carry knowledge of all real images that "
            "it saw, not only of those in the arm real."
        ]
    seen = trained_on.num_train
    is_same = pools.few is not None and pools.few.hash == trained_on.hash
    if is_same and all(seen == pools.spec.num_classes * count for count in per_class):
        return []
    return [
        f"The run was trained on {seen} images of {trained_on.name}: its images carry knowledge of all of them, not "
        "only of those in the arm real. So this measures what sharing the generator in place of its data would give. "
        "To measure what a generator adds to few images, train it on these alone (see --few)."
    ]


def _notes_on_images(generated: Arrays, spec: DataSpec) -> list[str]:
    """A sentence on classes without generated images, where there are any; and one on validation images."""
    there = np.bincount(generated.labels, minlength=spec.num_classes)
    lacking = [name for name, num in zip(spec.class_names, there, strict=True) if not num]
    about = [f"There are no generated images of {some_of(lacking)}."] if lacking else []
    return [
        *about,
        "Validation images are real labelled images beside those counted per class; none trains a classifier.",
    ]


def _about(spec: DataSpec | None) -> dict[str, Any] | None:
    return spec and {"name": spec.name, "hash": spec.hash, "num": spec.num_train}


def _is_balanced(labels: np.ndarray) -> bool:
    """Whether all classes that occur do so equally often."""
    return len(np.unique(np.unique(labels, return_counts=True)[1])) == 1


def _plain(interval: Interval) -> dict[str, float | None]:
    """An interval for JSON, which has no nan."""
    return {name: None if math.isnan(value) else value for name, value in interval._asdict().items()}


def _padded(split: Arrays) -> Arrays:
    """The split with images padded to multiples of the classifier's strides."""
    return split._replace(images=pad_to_strides(split.images))
