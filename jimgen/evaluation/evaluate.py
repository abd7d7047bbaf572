"""Evaluation of a set of images: metrics with their comparisons, and pictures, in one folder."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from jimgen.alpha import BLACK, Colour, colour_text
from jimgen.data.dataset import Dataset, num_rows, read_rows
from jimgen.data.labels import classes_of
from jimgen.errors import UserError
from jimgen.evaluation.agreement import require_asked
from jimgen.evaluation.asked import class_frequencies
from jimgen.evaluation.extractors import Extractor, identity, load_extractor
from jimgen.evaluation.generated import GeneratedSet, asked_values, labels_for
from jimgen.evaluation.measure import AGREEMENT, CAS, MODES, Measured, check_metrics, compared_with, measure, title
from jimgen.evaluation.modes import are_stacked_digits, require_stacked_digits
from jimgen.evaluation.opaque import opaque_dataset, opaque_images
from jimgen.evaluation.quality import OF_DATA
from jimgen.evaluation.reference import (
    Reference,
    cached_reference,
    chosen_rows,
    load_reference,
    require_match,
    source_of,
)
from jimgen.evaluation.results import EXTREMES, NEAREST, RESULTS
from jimgen.files import some_of, write_atomically
from jimgen.metrics.neighbours import nearest
from jimgen.pictures import grid, grid_of_rows, rows_of, save_png

NEAREST_SHOWN, ROWS_SHOWN = 7, 10  # neighbours and rows in nearest.png
EXTREMES_SHOWN = 40  # best images in extremes.png, and as many worst ones


class Subject(NamedTuple):
    """A set of images to evaluate."""

    generated: GeneratedSet
    about: dict[str, Any]  # the origin of the images, for evaluation.json
    folder: Path  # folder for the results
    test_metrics: dict[str, float] = {}  # metrics of a run's method on the test split, such as likelihoods


def default_extractors(name: str) -> list[str]:
    """A small classifier of the data, if one ships with the package, and a net of natural images."""
    return [*([OF_DATA[name]] if name in OF_DATA else []), "efficientnet_lite0@64"]


def default_metrics(generated: GeneratedSet, dataset: Dataset) -> list[str]:
    """The metrics that need nothing but images; agreement with labels of attributes, and modes of stacked_digits."""
    found = ["fd", "kid", "prdc", "copying"]
    found += [AGREEMENT] if asked_values(generated, dataset.spec) is not None else []
    return found + ([MODES] if are_stacked_digits(dataset) else [])


def evaluate(
    subject: Subject,
    dataset: Dataset,
    *,
    extractors: Sequence[str] = (),
    metrics: Sequence[str] = (),
    references: Sequence[Path] = (),
    seed: int = 0,
    background: Colour = BLACK,
) -> dict[str, Any]:
    """Measures a set and writes evaluation.json, nearest.png and extremes.png into the subject's folder.

    Args:
        subject: images, and the folder for the results.
        dataset: real images to compare with.
        extractors: names; by default `default_extractors`.
        metrics: names out of evaluation.measure.NAMES; by default `default_metrics`.
        references: files of `jimgen reference`, one for each extractor; by default made from the data.
        seed: random seed for subsets, shuffles and classifiers.
        background: colour under transparent images, generated and real ones; stated in the result where there are any.
    Returns:
        The content of evaluation.json: subject, data, num, seed, extractors (identities), metrics ({name: {"value",
        "real", "gaussian"}}, and "test/..." of a run's own test metrics), warnings (sentences), per_class (rows),
        seconds.
    Raises:
        UserError: references do not match; or see `evaluation.measure.measure`.
    """
    began = time.perf_counter()
    metrics = metrics or default_metrics(subject.generated, dataset)
    check_metrics(metrics)
    is_transparent = 4 in (subject.generated.images.shape[-1], dataset.spec.shape[-1])
    seen = subject.generated._replace(images=opaque_images(subject.generated.images, background))
    subject, dataset = subject._replace(generated=seen), opaque_dataset(dataset, background)
    images, labels = subject.generated.images, labels_for(subject.generated, dataset.spec.class_names)
    asked = asked_values(subject.generated, dataset.spec)
    if CAS in metrics:
        _require_labels_of_classes(subject.generated, labels, dataset)
    if AGREEMENT in metrics:
        require_asked(asked, dataset)
    if MODES in metrics:
        require_stacked_digits(dataset)
    nets = [load_extractor(name) for name in extractors or default_extractors(dataset.spec.name)]
    count = min(len(images), num_rows(dataset.train))
    stored = _stored_references(references, nets, dataset, count)
    measured = measure(images, labels if asked is None else asked, dataset, nets, metrics, seed=seed, references=stored)
    own = time.perf_counter() - began
    beside = compared_with(dataset, nets, metrics, count=len(images), seed=seed)
    if "cas_pseudo_labels" in measured.metrics:
        beside = {who: _renamed(found) for who, found in beside.items()}
    _draw(subject, dataset, nets[0], measured, count)
    about_data = {"name": dataset.spec.name, "hash": dataset.spec.hash, "shape": dataset.spec.shape}
    result = {
        "subject": subject.about,
        "data": about_data | ({"background": colour_text(background)} if is_transparent else {}),
        "num": len(images),
        "num_real": {"train": count, "test": min(len(images), num_rows(dataset.test))},
        "seed": seed,
        "extractors": {title(net): identity(net) for net in nets},
        "metrics": {
            name: {"value": value, **{who: found[name] for who, found in beside.items() if name in found}}
            for name, value in measured.metrics.items()
        }
        | {name: {"value": value} for name, value in subject.test_metrics.items()},
        "warnings": list(measured.warnings),
        "per_class": _per_class(labels, dataset, measured),
        "seconds": {"images": round(own, 1), "with_comparison": round(time.perf_counter() - began, 1)},
    }
    write_atomically(subject.folder / RESULTS, json.dumps(result, indent=2) + "\n")
    return result


def _require_labels_of_classes(generated: GeneratedSet, labels: np.ndarray | None, dataset: Dataset) -> None:
    """Raises UserError if the images have labels that are not classes of the data: CAS would have to guess them."""
    if generated.labels is not None and labels is None and dataset.spec.num_classes > 1:
        theirs = generated.class_names or [str(label) for label in np.unique(classes_of(generated.labels))]
        raise UserError(
            f"cas needs labels that are classes of {dataset.spec.name}: those of the images are {some_of(theirs)}, the "
            f"classes are {some_of(dataset.spec.class_names)}; call them alike, or number them from 0"
        )


def _stored_references(
    paths: Sequence[Path], nets: Sequence[Extractor], dataset: Dataset, count: int
) -> list[Reference]:
    """Reads references, one for each extractor or none. Raises UserError if they do not match."""
    if paths and len(paths) != len(nets):
        raise UserError(f"{len(paths)} references for {len(nets)} extractors: give one for each, in their order")
    stored = [load_reference(path) for path in paths]
    for reference, net in zip(stored, nets, strict=False):
        require_match(reference, source_of(dataset, net, "train", count))
    return stored


def _renamed(metrics: dict[str, float]) -> dict[str, float]:
    return {"cas_pseudo_labels" if name == CAS else name: value for name, value in metrics.items()}


def _draw(subject: Subject, dataset: Dataset, net: Extractor, measured: Measured, count: int) -> None:
    """Draws nearest.png: the samples closest to a training image, each beside the 7 training images nearest to it.
    Draws extremes.png: the samples closest to the data, on average over 5 neighbours, above those farthest from it.

    Distances are divided by those between training images there, or both would show only the class whose images are
    most alike."""
    reference = cached_reference(dataset, net, split="train", count=count)
    assert reference.features is not None
    images = subject.generated.images
    neighbours = min(NEAREST_SHOWN, count - 1)
    distances, indices = nearest(measured.outputs[title(net)].features, reference.features, neighbours)
    closest, of_closest = np.unique(indices[:, 0], return_inverse=True)
    usual = nearest(reference.features[closest], reference.features, neighbours + 1)[0][of_closest, 1:]
    distances = distances / np.maximum(usual, 1e-12)
    rows = chosen_rows(num_rows(dataset.train), count)
    chosen = np.argsort(distances[:, 0], kind="stable")[:ROWS_SHOWN]
    beside = read_rows(dataset.train, rows[indices[chosen]].reshape(-1))[0]
    beside = beside.reshape(len(chosen), neighbours, *images.shape[1:])
    sheet = np.concatenate([images[chosen][:, None], beside], axis=1).reshape(-1, *images.shape[1:])
    save_png(subject.folder / NEAREST, grid(sheet, columns=1 + neighbours))
    order = np.argsort(distances[:, :5].mean(axis=1), kind="stable")
    shown = min(EXTREMES_SHOWN, len(order) // 2)
    best, worst = images[order[:shown]], images[order[len(order) - shown :]]
    save_png(subject.folder / EXTREMES, grid_of_rows([*rows_of(best, 10), *rows_of(worst, 10)]))


def _per_class(labels: np.ndarray | None, dataset: Dataset, measured: Measured) -> list[dict[str, Any]]:
    """One row per class: its share among the images, by a classifier, and among training images; the share of images
    drawn for it that the classifier recognises; and the accuracy on it of a classifier trained on the images (CAS)."""
    spec = dataset.spec
    seen = next((out for out in measured.outputs.values() if out.logits.shape[1] == spec.num_classes), None)
    if spec.num_classes < 2 or seen is None and measured.per_class is None:
        return []
    rows: list[dict[str, Any]] = [{"class": name} for name in spec.class_names]
    if seen is not None:
        predicted, frequencies = seen.logits.argmax(axis=1), class_frequencies(dataset)
        for label, row in enumerate(rows):
            row["share"] = float(np.mean(predicted == label))
            row["share_of_data"] = float(frequencies[label])
            if labels is not None and (labels == label).any():
                row["recognised"] = float(np.mean(predicted[labels == label] == label))
    for row, accuracy in zip(rows, measured.per_class or (), strict=False):
        row["cas"] = accuracy
    return rows
