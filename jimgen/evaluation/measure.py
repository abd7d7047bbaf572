"""All metrics of a set of images against a data set, and of what they should be compared with.

Beside each metric stand two others: that of as many real test images, the best that a model can hope for, and that of
one Gaussian per class, the baseline that it must beat. A new metric is a function here and a line in METRICS.
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
from jimgen.errors import UserError
from jimgen.evaluation.classifier import classification_accuracy_score
from jimgen.evaluation.extractors import Extractor, Outputs, extract, identity
from jimgen.evaluation.reference import Reference, cached_reference, chosen_rows
from jimgen.files import is_number, read_json, write_atomically, write_npz
from jimgen.metrics import copying, frechet, inception_score, mmd
from jimgen.metrics.baseline import gaussian_per_class
from jimgen.metrics.neighbours import nearest, num_duplicates, prdc

CAS = "cas"  # trains a classifier on the images, and takes no extractor
MOST_COPIED = 60_000  # training images that the copying tests look through
FLS_ROWS = 2000  # of each set: its cost grows with the product
CAS_STEPS = 400  # of the classifier that the classification accuracy score trains
FORMAT = 2  # of what is remembered of real images and of the Gaussians


class Measured(NamedTuple):
    """What was measured of a set of images."""

    metrics: dict[str, float]  # by name, the extractor in brackets: "fd[efficientnet_lite0@64]"
    outputs: dict[str, Outputs]  # of the images, by the extractor's title
    per_class: list[float | None] | None  # accuracy on real test images of each class, where CAS was measured
    warnings: tuple[str, ...] = ()  # what to know before believing a metric


class Seen(NamedTuple):
    """The images and the data as one extractor sees them."""

    features: np.ndarray  # of the images, float32 [n, d]
    logits: np.ndarray  # of the images, float32 [n, k]
    reference: Reference  # of the training split
    dataset: Dataset
    extractor: Extractor
    seed: int

    @property
    def real(self) -> np.ndarray:
        """Features of the training images, float32 [m, d]."""
        assert self.reference.features is not None
        return self.reference.features


class Metric(NamedTuple):
    """One name of --metrics: what it measures, by the names of its values."""

    measure: Callable[[Seen], dict[str, float]]
    higher_is_better: tuple[str, ...] = ()
    needs_features: bool = True  # of the reference, not its moments alone
    first_extractor_only: bool = False


def title(extractor: Extractor) -> str:
    """The extractor as the brackets of a metric's name show it."""
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
    """Every metric of images against the training split; against the test split where its definition asks for that.

    As many training images as there are images stand for the data, or all if there are fewer: distances depend on
    both counts. The copying tests look through up to 60,000 training images, with the first extractor's features.
    CAS needs labels; without them, the first extractor that knows the classes gives each image one, and the metric is
    called cas_pseudo_labels.

    Args:
        images: uint8 [n, h, w, c], of the data's shape.
        labels: int [n], or None.
        dataset: real images, both splits.
        extractors: at least one, unless `cas` is all that is asked for.
        metrics: names of NAMES.
        seed: of subsets, shuffles, cells and the classifier.
        references: of the training split, one for each extractor in turn; default made from the data, and remembered.
        cas_steps: updates of the classifier that CAS trains.

    Raises:
        UserError: images of another shape than the data's; too few of them; an unknown metric; features that are NaN.
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
            for name, metric in METRICS.items():
                if name in metrics and (i == 0 or not metric.first_extractor_only):
                    found |= {f"{value}[{title(extractor)}]": x for value, x in metric.measure(seen).items()}
            if "prdc" in metrics:
                warnings += _about_duplicates(seen.real, title(extractor))
        per_class = None
        if CAS in metrics:
            name, labels = _labels_for_cas(labels, dataset, outputs)
            score = _cas(images, labels, dataset, seed, cas_steps)
            found[name], per_class = 100 * score["accuracy"], score["per_class"]
    except ValueError as error:  # of the metrics: too few samples, NaN, ...
        raise UserError(f"cannot evaluate {len(images)} images: {error}") from error
    return Measured(found, outputs, per_class, tuple(warnings))


def _require_features(reference: Reference, metrics: Sequence[str]) -> None:
    needs = [name for name in metrics if name in METRICS and METRICS[name].needs_features]
    if needs and reference.features is None:
        raise UserError(f"the reference holds no features, which {', '.join(needs)} need: make it with --features")


def compared_with(
    dataset: Dataset, extractors: Sequence[Extractor], metrics: Sequence[str], *, count: int, seed: int = 0
) -> dict[str, dict[str, float]]:
    """The metrics of `count` real test images (or all there are) and of one Gaussian per class; they are remembered.

    Returns:
        {"real": metrics, "gaussian": metrics}. CAS of "real" is that of `count` training images.
    """
    wanted = [FORMAT, dataset.spec.hash, [identity(e) for e in extractors], sorted(metrics), count, seed]
    path = cache_dir() / "baselines" / f"{_hash_of(wanted)}.json"
    with contextlib.suppress(UserError):  # torn: measured again
        remembered = read_json(path, fix="remove it")
        if remembered is not None and _are_metrics(remembered):
            return remembered
    others = [metric for metric in metrics if metric != "cas"]
    train = read_rows(dataset.train, chosen_rows(num_rows(dataset.train), min(count, num_rows(dataset.train))))
    test = read_rows(dataset.test, chosen_rows(num_rows(dataset.test), min(count, num_rows(dataset.test))))
    wanted_labels = np.resize(train[1], count)
    try:
        gaussian = gaussian_per_class(*train, wanted_labels, seed=seed)
    except ValueError as error:  # too few images of a class
        raise UserError(f"{count} images are too few to compare with: {error}. Give a larger --num.") from error
    real = measure(*test, dataset, extractors, others, seed=seed).metrics if others else {}
    if "cas" in metrics:
        real["cas"] = 100 * _cas(*train, dataset, seed, CAS_STEPS)["accuracy"]
    found = {
        "real": real,
        "gaussian": measure(gaussian, wanted_labels, dataset, extractors, metrics, seed=seed).metrics,
    }
    write_atomically(path, json.dumps(found))
    return found


def _are_metrics(found: dict[str, Any]) -> bool:
    """Whether this is what `compared_with` remembers."""
    sets = [found.get("real"), found.get("gaussian")]
    return all(isinstance(metrics, dict) and all(map(is_number, metrics.values())) for metrics in sets)


def is_better(name: str, value: float, than: float) -> bool:
    """Whether a value of a metric is better than another one."""
    return value > than if name.partition("[")[0] in HIGHER_IS_BETTER else value < than


def _frechet_distance(seen: Seen) -> dict[str, float]:
    return {"fd": frechet.frechet_distance(frechet.moments(seen.features), seen.reference.moments)}


def _frechet_distance_infinity(seen: Seen) -> dict[str, float]:
    moments = seen.reference.moments
    return {"fd_infinity": frechet.frechet_distance_infinity(seen.features, moments, seed=seen.seed)}


def _kid(seen: Seen) -> dict[str, float]:
    size = min(1000, len(seen.features), len(seen.real))
    kid = mmd.kernel_inception_distance(seen.features, seen.real, subset_size=size, seed=seen.seed)
    # Up to 1000 images there is one subset, the whole, and no standard deviation.
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
NAMES = (*METRICS, CAS)
HIGHER_IS_BETTER = {CAS, "cas_pseudo_labels"} | {
    name for metric in METRICS.values() for name in metric.higher_is_better
}


def _unit(features: np.ndarray) -> np.ndarray:
    """The rows at length 1; those of zeros as they are."""
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
    """What duplicates among real images do to `prdc`, if there are any."""
    found = num_duplicates(real)
    if not found:
        return []
    return [
        f"{found} of the {len(real)} real images have the same features [{name}] as another one: balls that reach to "
        "such neighbours are small or empty, so precision, density and coverage come out too low"
    ]


def _cells(dataset: Dataset, extractor: Extractor, train: np.ndarray, test: np.ndarray, seed: int) -> copying.Cells:
    """`copying.cut_into_cells`, remembered: it takes longer than all else that a run's own images ask for."""
    wanted = [FORMAT, dataset.spec.hash, identity(extractor), len(train), seed]
    path = cache_dir() / "cells" / f"{_hash_of(wanted)}.npz"
    with contextlib.suppress(UserError, TypeError):  # not there, or torn: made again
        return copying.Cells(**read_arrays(path, copying.Cells._fields))
    cells = copying.cut_into_cells(train, test, seed=seed)
    write_npz(path, cells._asdict())
    return cells


def _hash_of(wanted: Sequence[Any]) -> str:
    return hashlib.sha256(json.dumps(wanted).encode()).hexdigest()[:32]


def _labels_for_cas(labels: np.ndarray | None, dataset: Dataset, outputs: dict[str, Outputs]) -> tuple[str, np.ndarray]:
    """The metric's name and the labels to train on."""
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
    images, test = _padded(images), _padded(test)
    classes = dataset.spec.num_classes
    return classification_accuracy_score(images, labels, test, test_labels, num_classes=classes, steps=steps, seed=seed)


def _padded(images: np.ndarray) -> np.ndarray:
    """Background below and right, up to multiples of 8: what the classifier's strides divide."""
    below, right = (-side % 8 for side in images.shape[1:3])
    return np.pad(images, ((0, 0), (0, below), (0, right), (0, 0)))
