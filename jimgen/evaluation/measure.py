"""All metrics of a set of images against a data set, and the same metrics of real images and of a baseline.

Real test images, as many as there are images, show the best that a model can reach. One Gaussian per class is the
baseline that it must beat. A new metric is a function here and a line in METRICS.
"""

import contextlib
import hashlib
import json
import math
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple

import numpy as np

from jimgen.data.archive import read_arrays
from jimgen.data.dataset import Dataset, cache_dir, num_rows, read_rows
from jimgen.data.labels import classes_of
from jimgen.errors import UserError
from jimgen.evaluation.agreement import agreement
from jimgen.evaluation.classifier import classification_accuracy_score, pad_to_strides
from jimgen.evaluation.extractors import Extractor, Outputs, extract, identity, load_extractor
from jimgen.evaluation.modes import CLASSIFIER, doubts, fresh_images, modes
from jimgen.evaluation.reference import Reference, cached_reference, chosen_rows
from jimgen.files import is_number, read_json, write_atomically, write_npz
from jimgen.metrics import copying, frechet, inception_score, mmd
from jimgen.metrics.baseline import gaussian_per_class
from jimgen.metrics.neighbours import nearest, num_duplicates, prdc

CAS = "cas"  # classification accuracy score: trains a classifier on the images, and takes no extractor
MOST_COPIED = 60_000  # training images that the copying tests search
FLS_ROWS = 2000  # rows of each set for the feature likelihood score, whose cost grows with their product
AGREEMENT = "agreement"  # share of images that show the attributes asked for: likewise
MODES = "modes"  # combinations of digits in stacked_digits: likewise
CAS_STEPS = 400  # train steps of the classifier of CAS
FORMAT = 2  # version of the cached metrics and cells


class Measured(NamedTuple):
    """The metrics of a set of images."""

    metrics: dict[str, float]  # by name, with the extractor in brackets: "fd[efficientnet_lite0@64]"
    outputs: dict[str, Outputs]  # features and logits of the images, by the extractor's title
    per_class: list[float | None] | None  # CAS on the test images of each class; None if CAS was not measured
    warnings: tuple[str, ...] = ()  # reasons to doubt a metric


class Seen(NamedTuple):
    """The images and the data as seen by one extractor."""

    features: np.ndarray  # float32 [n, d], features of the images
    logits: np.ndarray  # float32 [n, k], logits of the images
    reference: Reference  # statistics of the training split
    dataset: Dataset
    extractor: Extractor
    seed: int

    @property
    def real(self) -> np.ndarray:
        """float32 [m, d], features of the training images."""
        assert self.reference.features is not None
        return self.reference.features


class Metric(NamedTuple):
    """One name of --metrics: a function to values by name, and what it needs."""

    measure: Callable[[Seen], dict[str, float]]
    higher_is_better: tuple[str, ...] = ()  # names among its values
    needs_features: bool = True  # whether moments of the training split are not enough
    first_extractor_only: bool = False


def title(extractor: Extractor) -> str:
    """The extractor's name in the brackets of a metric's name."""
    return f"{extractor.name}@{extractor.resolution}"


def check_metrics(metrics: Sequence[str]) -> None:
    """Raises UserError for a metric that is not one of NAMES, and for none at all."""
    if unknown := [metric for metric in metrics if metric not in NAMES]:
        raise UserError(f"unknown metrics {', '.join(unknown)}: there are {', '.join(NAMES)}")
    if not metrics:
        raise UserError(f"no metrics asked for: there are {', '.join(NAMES)}")


def measure(
    images: np.ndarray,
    labels: np.ndarray | None,
    dataset: Dataset,
    extractors: Sequence[Extractor],
    metrics: Sequence[str],
    *,
    seed: int = 0,
    references: Sequence[Reference] = (),
    cas_steps: int = CAS_STEPS,
) -> Measured:
    """Measures images against the training split, or against the test split where a metric's definition requires it.

    The images are compared with as many training images, or with all if there are fewer, as distances depend on both
    counts. The copying tests search up to 60,000 training images, with the first extractor's features. CAS needs
    labels; without them, the first extractor that knows the classes labels the images, and the metric is called
    cas_pseudo_labels.

    Args:
        images: uint8 [n, h, w, c], of the data's shape.
        labels: int [n], or [n, columns] of the data's columns, or None.
        dataset: real images, both splits.
        extractors: at least one, unless there is no metric but `cas`, `agreement` and `modes`.
        metrics: names out of NAMES.
        seed: random seed for subsets, shuffles, cells and the classifier.
        references: statistics of the training split, one for each extractor; by default made from the data, and cached.
        cas_steps: train steps of the classifier of CAS.
    Raises:
        UserError: the images are too few or differ in shape from the data, a metric is unknown, or features are NaN.
    """
    check_metrics(metrics)
    if images.shape[1:] != dataset.spec.shape:
        raise UserError(
            f"the images are {list(images.shape[1:])}, the data {dataset.spec.name} {list(dataset.spec.shape)}: bring "
            "them to one size and number of channels (--size, --fit, --channels), or compare with other data"
        )
    count = min(len(images), num_rows(dataset.train))
    found: dict[str, float] = {}
    outputs: dict[str, Outputs] = {}
    warnings: list[str] = []
    try:
        for i, extractor in enumerate(extractors):
            features, logits = outputs[title(extractor)] = extract(extractor, images)
            reference = references[i] if references else None
            reference = reference or cached_reference(dataset, extractor, split="train", count=count)
            _require_features(reference, metrics)
            seen = Seen(features, logits, reference, dataset, extractor, seed)
            found |= _by_extractor(seen, metrics, is_first=i == 0)
            if "prdc" in metrics:
                warnings += _about_duplicates(seen.real, title(extractor))
        per_class = None
        if CAS in metrics:
            name, classes = _labels_for_cas(labels, dataset, outputs)
            score = _cas(images, classes, dataset, seed, cas_steps)
            found[name], per_class = 100 * score["accuracy"], score["per_class"]
        if AGREEMENT in metrics:
            found |= agreement(images, labels, dataset)
        if MODES in metrics:
            found |= modes(images, dataset)
            warnings += doubts(found)
    except ValueError as error:  # from a metric: too few samples, NaN, ...
        raise UserError(f"cannot evaluate {len(images)} images: {error}") from error
    return Measured(found, outputs, per_class, tuple(warnings))


def _by_extractor(seen: Seen, metrics: Sequence[str], is_first: bool) -> dict[str, float]:
    """The values of the named metrics that use this extractor, which is the first one or not."""
    asked = [METRICS[name] for name in METRICS if name in metrics]
    values = [metric.measure(seen) for metric in asked if is_first or not metric.first_extractor_only]
    return {f"{name}[{title(seen.extractor)}]": x for found in values for name, x in found.items()}


def _require_features(reference: Reference, metrics: Sequence[str]) -> None:
    needs = [name for name in metrics if name in METRICS and METRICS[name].needs_features]
    if needs and reference.features is None:
        raise UserError(f"the reference has no features, which {', '.join(needs)} need: make it with --features")


def compared_with(
    dataset: Dataset, extractors: Sequence[Extractor], metrics: Sequence[str], *, count: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """Measures `count` real test images (or all) and samples of one Gaussian per class; the metrics are cached.

    Returns:
        {"real": metrics, "gaussian": metrics}. CAS of "real" is that of `count` training images, modes of "real" are
        those of `count` new combinations of test digits.
    """
    wanted = [FORMAT, dataset.spec.hash, [identity(e) for e in extractors], sorted(metrics), count, seed]
    wanted += [dataset.spec.columns] if AGREEMENT in metrics else []  # whose names stand in those of the metrics
    wanted += [identity(load_extractor(CLASSIFIER))] if MODES in metrics else []
    path = cache_dir() / "baselines" / f"{_hash_of(wanted)}.json"
    with contextlib.suppress(UserError):  # damaged: measure again
        remembered = read_json(path, fix="remove it")
        if remembered is not None and _are_metrics(remembered):
            return remembered
    others = [metric for metric in metrics if metric not in (CAS, MODES)]
    train = read_rows(dataset.train, chosen_rows(num_rows(dataset.train), min(count, num_rows(dataset.train))))
    test = read_rows(dataset.test, chosen_rows(num_rows(dataset.test), min(count, num_rows(dataset.test))))
    wanted_labels = train[1][np.arange(count) % len(train[1])]
    try:
        gaussian = gaussian_per_class(train[0], *map(classes_of, (train[1], wanted_labels)), seed=seed)
    except ValueError as error:  # too few images of a class
        raise UserError(f"{count} images are too few to compare with: {error}. Give a larger --num.") from error
    real = measure(*test, dataset, extractors, others, seed=seed).metrics if others else {}
    if CAS in metrics:
        real["cas"] = 100 * _cas(*train, dataset, seed, CAS_STEPS)["accuracy"]
    if MODES in metrics:
        real |= modes(fresh_images(dataset, count), dataset)
    found = {
        "real": real,
        "gaussian": measure(gaussian, wanted_labels, dataset, extractors, metrics, seed=seed).metrics,
    }
    write_atomically(path, json.dumps(found))
    return found


def _are_metrics(found: dict[str, Any]) -> bool:
    """Whether a JSON object has the form that `compared_with` caches."""
    sets = [found.get("real"), found.get("gaussian")]
    return all(isinstance(metrics, dict) and all(map(is_number, metrics.values())) for metrics in sets)


def is_better(name: str, value: float, than: float) -> bool:
    """Whether a value of a metric is better than another value of it."""
    return value > than if name.partition("[")[0] in HIGHER_IS_BETTER else value < than


def _frechet_distance(seen: Seen) -> dict[str, float]:
    return {"fd": frechet.frechet_distance(frechet.moments(seen.features), seen.reference.moments)}


def _frechet_distance_infinity(seen: Seen) -> dict[str, float]:
    moments = seen.reference.moments
    return {"fd_infinity": frechet.frechet_distance_infinity(seen.features, moments, seed=seen.seed)}


def _kid(seen: Seen) -> dict[str, float]:
    size = min(1000, len(seen.features), len(seen.real))
    kid = mmd.kernel_inception_distance(seen.features, seen.real, subset_size=size, seed=seen.seed)
    # Up to 1000 images the only subset is the whole set, and there is no standard deviation.
    return {"kid": kid.mean} | ({} if math.isnan(kid.std) else {"kid_std": kid.std})


def _inception_score(seen: Seen) -> dict[str, float]:
    num_splits = min(10, len(seen.logits))
    return {"is": inception_score.inception_score(seen.logits, num_splits=num_splits, seed=seen.seed).mean}


def _prdc(seen: Seen) -> dict[str, float]:
    return prdc(seen.real, seen.features)._asdict()


def _cmmd(seen: Seen) -> dict[str, float]:
    return {"cmmd": mmd.cmmd(_unit(seen.features), _unit(seen.real))}


def _copying(seen: Seen) -> dict[str, float]:
    train, test = _both_splits(seen)
    cells = _cells(seen.dataset, seen.extractor, train, test, seen.seed)
    neighbours = nearest(seen.features, train, copying.NEIGHBOURS)
    return {
        "authenticity": copying.authenticity(train, seen.features, neighbours=neighbours),
        "c_t": copying.c_t(cells, train, seen.features, neighbours=neighbours),
    }


def _feature_likelihood_score(seen: Seen) -> dict[str, float]:
    rng = np.random.default_rng(seen.seed)
    parts = [x[rng.permutation(len(x))[:FLS_ROWS]] for x in (*_both_splits(seen), seen.features)]
    fls = copying.feature_likelihood_score(*parts, seed=seen.seed)
    return {"fls": fls.score, "fls_gap": fls.generalization_gap, "fls_overfit": fls.percent_overfit}


METRICS = {
    "fd": Metric(_frechet_distance, needs_features=False),
    "fd_infinity": Metric(_frechet_distance_infinity, needs_features=False),
    "kid": Metric(_kid),
    "is": Metric(_inception_score, ("is",), needs_features=False),
    "prdc": Metric(_prdc, ("precision", "recall", "density", "coverage")),
    "cmmd": Metric(_cmmd),
    "copying": Metric(_copying, ("authenticity",), needs_features=False, first_extractor_only=True),
    "fls": Metric(_feature_likelihood_score, needs_features=False, first_extractor_only=True),
}
NAMES = (*METRICS, CAS, AGREEMENT, MODES)
HIGHER_IS_BETTER = {CAS, AGREEMENT, MODES, "cas_pseudo_labels"} | {
    name for metric in METRICS.values() for name in metric.higher_is_better
}


def _unit(features: np.ndarray) -> np.ndarray:
    """Scales rows to length 1; rows of zeros do not change."""
    lengths = np.linalg.norm(features, axis=1, keepdims=True)
    return features / np.where(lengths > 0, lengths, 1)


def _both_splits(seen: Seen) -> tuple[np.ndarray, np.ndarray]:
    """Features of up to MOST_COPIED training images, and of all test images."""
    dataset, extractor = seen.dataset, seen.extractor
    most = min(MOST_COPIED, num_rows(dataset.train))
    train = cached_reference(dataset, extractor, split="train", count=most).features
    test = cached_reference(dataset, extractor, split="test", count=num_rows(dataset.test)).features
    assert train is not None and test is not None
    return train, test


def _about_duplicates(real: np.ndarray, name: str) -> list[str]:
    """Warns that duplicates among real images distort `prdc`, if there are any."""
    found = num_duplicates(real)
    if not found:
        return []
    return [
        f"{found} of the {len(real)} real images have the same features [{name}] as another one: their balls are too "
        "small or empty, so precision, density and coverage are too low"
    ]


def _cells(dataset: Dataset, extractor: Extractor, train: np.ndarray, test: np.ndarray, seed: int) -> copying.Cells:
    """`copying.cut_into_cells`, cached: it takes longer than all metrics of a run's own images."""
    wanted = [FORMAT, dataset.spec.hash, identity(extractor), len(train), seed]
    path = cache_dir() / "cells" / f"{_hash_of(wanted)}.npz"
    with contextlib.suppress(UserError, TypeError):  # missing or damaged: make them again
        return copying.Cells(**read_arrays(path, copying.Cells._fields))
    cells = copying.cut_into_cells(train, test, seed=seed)
    write_npz(path, cells._asdict())
    return cells


def _hash_of(wanted: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:32]


def _labels_for_cas(labels: np.ndarray | None, dataset: Dataset, outputs: dict[str, Outputs]) -> tuple[str, np.ndarray]:
    """The name of the metric and the labels to train on."""
    classes = dataset.spec.num_classes
    if classes < 2:
        raise UserError(f"cas needs classes, and {dataset.spec.name} has only one: leave it out of --metrics")
    if labels is not None:
        return "cas", labels
    for seen in outputs.values():
        if seen.logits.shape[1] == classes:
            return "cas_pseudo_labels", seen.logits.argmax(axis=1).astype(np.int32)
    raise UserError("cas needs labels: the images have none, and no extractor here knows the classes of the data")


def _cas(images: np.ndarray, labels: np.ndarray, dataset: Dataset, seed: int, steps: int) -> dict[str, Any]:
    test, test_labels = read_rows(dataset.test, range(num_rows(dataset.test)))
    images, test = pad_to_strides(images), pad_to_strides(test)
    classes = dataset.spec.num_classes
    labels, test_labels = classes_of(labels), classes_of(test_labels)
    return classification_accuracy_score(images, labels, test, test_labels, num_classes=classes, steps=steps, seed=seed)
