"""Evaluation of a run or of a set of images: figures, pictures and what they are compared with, in one folder."""

import json
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, NamedTuple

import numpy as np

from jimgen import data, loop
from jimgen.curves import read_metrics
from jimgen.data.dataset import Dataset, num_rows, read_rows
from jimgen.errors import UserError
from jimgen.experiment import Run, load_run
from jimgen.files import some_of, write_atomically
from jimgen.generated import GeneratedSet, class_labels, generate, labels_for, read_generated
from jimgen.metrics.evaluation import Measured, check_metrics, compared_with, measure, title
from jimgen.metrics.extractors import Extractor, identity, load_extractor
from jimgen.metrics.neighbours import nearest
from jimgen.metrics.reference import cached_reference, chosen_rows, load_reference, require_match, source_of
from jimgen.noise import key_of
from jimgen.pictures import grid, grid_of_rows, rows_of, save_png
from jimgen.quality import OF_DATA
from jimgen.run_folder import CONFIG, METRICS

Classes = Literal["balanced", "frequency"]
Fit = Literal["resize", "pad"]
NEAREST_SHOWN, ROWS_SHOWN = 7, 10  # of nearest.png
EXTREMES_SHOWN = 40  # best ones, and as many worst


class Subject(NamedTuple):
    """What is evaluated."""

    generated: GeneratedSet
    about: dict[str, Any]  # where it comes from, for evaluation.json
    folder: Path  # where the results go
    test_figures: dict[str, float] = {}  # of a run: what its method measured on the test split, likelihoods above all


def default_extractors(name: str) -> list[str]:
    """A small classifier of the data, where one ships with the package, and a net of natural images."""
    return [*([OF_DATA[name]] if name in OF_DATA else []), "efficientnet_lite0@64"]


def draw_images(run: Run, num: int, seed: int, classes: Classes = "balanced", label: int | None = None) -> GeneratedSet:
    """`num` images from a run, the same ones for the same seed; without labels where the run knows none.

    Args:
      run: of `load_run`.
      num: at least 1; a larger set begins with the smaller one.
      seed: 0 to 2^63 - 1, of the latents.
      classes: in turn, or as often as in the training images. Without meaning where the run knows no labels.
      label: one class for all.

    Raises:
      UserError: a label that the run does not know; or its data are needed for class frequencies and are not there.
    """
    if label is not None:
        require_label(run, label)
        labels = np.full(num, label, np.int32)
    else:
        frequent = classes == "frequency" and run.conditional
        weights = class_frequencies(load_data(run.config)) if frequent else np.ones(run.spec.num_classes)
        labels = class_labels(num, weights.tolist())
    drawn = generate(run.method, loop.eval_variables(run.state), key_of(seed), labels)
    return drawn if run.conditional else drawn._replace(labels=None)


def require_label(run: Run, label: int) -> None:
    """Raises UserError for a label that is not one of the run's classes, and for any where it knows none."""
    if run.spec.num_classes < 2:
        raise UserError(f"--label {label}: the data of {run.folder} have no classes; leave it out")
    if not run.conditional:
        raise UserError(f"{run.folder} was trained without labels: leave --label out, or train with --conditional")
    if not 0 <= label < run.spec.num_classes:
        listed = ", ".join(f"{i} {name}" for i, name in enumerate(run.spec.class_names[:20]))
        raise UserError(f"--label {label} is out of range: the classes are {listed}")


def class_frequencies(dataset: Dataset) -> np.ndarray:
    """How often each class occurs in the training split: [num_classes], summing to 1."""
    if isinstance(dataset.train, data.Arrays):
        labels = dataset.train.labels
    else:  # a stream decodes to tell its labels: a few thousand say enough
        labels = read_rows(dataset.train, chosen_rows(num_rows(dataset.train), min(num_rows(dataset.train), 5000)))[1]
    return np.bincount(labels, minlength=dataset.spec.num_classes) / len(labels)


def load_data(
    config: loop.RunConfig,
    *,
    name: str | None = None,
    size: int | None = None,
    fit: Fit | None = None,
    channels: Literal[1, 3] | None = None,
    bits: int | None = None,
) -> Dataset:
    """The data that a run was trained on, as it saw them, or with other choices in place of its own, one by one.

    Raises:
      UserError: see `data.load`.
    """
    return data.load(
        config.data if name is None else name,
        size=config.size if size is None else size,
        fit=config.fit if fit is None else fit,
        channels=config.channels if channels is None else channels,
        bits=config.bits if bits is None else bits,
        data_dir=config.data_dir,
    )


def default_folder(path: Path) -> Path:
    """Where the evaluation of a run or of a set of images goes, unless told otherwise."""
    if (path / CONFIG).exists():
        return path / "evaluation"
    path = path if path.name not in ("", "..") else path.resolve()  # the folder that one is in has a name too
    return path.with_name(f"{path.name if path.is_dir() else path.stem}-evaluation")


def evaluate(
    subject: Subject,
    dataset: Dataset,
    *,
    extractors: Sequence[str] = (),
    metrics: Sequence[str] = ("fd", "kid", "prdc", "copying"),
    references: Sequence[Path] = (),
    seed: int = 0,
) -> dict[str, Any]:
    """Measures, and writes evaluation.json, nearest.png and extremes.png into the subject's folder.

    Args:
      subject: images and where the results go.
      dataset: what they are compared with.
      extractors: names; default those that suit the data.
      metrics: names of metrics.evaluation.METRICS.
      references: files of `jimgen reference`, one for each extractor; default made from the data.
      seed: of subsets, shuffles and classifiers.

    Returns:
      The content of evaluation.json: subject, data, num, seed, extractors (identities), figures ({name: {"value",
      "real", "gaussian"}}, and "test/..." of a run's own test figures), warnings (sentences), per_class (rows),
      seconds.

    Raises:
      UserError: see `metrics.evaluation.measure`; references that do not match.
    """
    began = time.perf_counter()
    check_metrics(metrics)
    images = subject.generated.images
    labels = labels_for(subject.generated, dataset.spec.class_names)
    given = subject.generated.labels
    if "cas" in metrics and given is not None and labels is None and dataset.spec.num_classes > 1:
        theirs = subject.generated.class_names or [str(label) for label in np.unique(given)]
        raise UserError(
            f"cas needs labels that are classes of {dataset.spec.name}: those of the images are {some_of(theirs)}, the "
            f"classes are {some_of(dataset.spec.class_names)}; call them alike, or number them from 0"
        )
    nets = [load_extractor(name) for name in extractors or default_extractors(dataset.spec.name)]
    count = min(len(images), num_rows(dataset.train))
    if references and len(references) != len(nets):
        raise UserError(f"{len(references)} references for {len(nets)} extractors: give one for each, in their order")
    stored = [load_reference(path) for path in references]
    for reference, net in zip(stored, nets, strict=False):
        require_match(reference, source_of(dataset, net, "train", count))
    measured = measure(images, labels, dataset, nets, metrics, seed=seed, references=stored)
    own = time.perf_counter() - began
    beside = compared_with(dataset, nets, metrics, count=len(images), seed=seed)
    if "cas_pseudo_labels" in measured.figures:
        beside = {who: _renamed(figures) for who, figures in beside.items()}
    _draw(subject, dataset, nets[0], measured, count)
    result = {
        "subject": subject.about,
        "data": {"name": dataset.spec.name, "hash": dataset.spec.hash, "shape": dataset.spec.shape},
        "num": len(images),
        "num_real": {"train": count, "test": min(len(images), num_rows(dataset.test))},
        "seed": seed,
        "extractors": {title(net): identity(net) for net in nets},
        "figures": {
            name: {"value": value, **{who: figures[name] for who, figures in beside.items() if name in figures}}
            for name, value in measured.figures.items()
        }
        | {name: {"value": value} for name, value in subject.test_figures.items()},
        "warnings": list(measured.warnings),
        "per_class": _per_class(labels, dataset, measured),
        "seconds": {"images": round(own, 1), "with_comparison": round(time.perf_counter() - began, 1)},
    }
    write_atomically(subject.folder / "evaluation.json", json.dumps(result, indent=2) + "\n")
    return result


def _renamed(figures: dict[str, float]) -> dict[str, float]:
    return {name.replace("cas", "cas_pseudo_labels") if name == "cas" else name: x for name, x in figures.items()}


def _draw(subject: Subject, dataset: Dataset, net: Extractor, measured: Measured, count: int) -> None:
    """nearest.png: the samples that lie closest to a training image, each beside the 7 training images nearest to it.
    extremes.png: the samples closest to the data on average over 5 neighbours, and below them those farthest away.

    Distances are divided by those that training images have there among themselves, else both would show only the
    class whose images are most alike."""
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
    save_png(subject.folder / "nearest.png", grid(sheet, columns=1 + neighbours))
    order = np.argsort(distances[:, :5].mean(axis=1), kind="stable")
    shown = min(EXTREMES_SHOWN, len(order) // 2)
    best, worst = images[order[:shown]], images[order[len(order) - shown :]]
    save_png(subject.folder / "extremes.png", grid_of_rows([*rows_of(best, 10), *rows_of(worst, 10)]))


def _per_class(labels: np.ndarray | None, dataset: Dataset, measured: Measured) -> list[dict[str, Any]]:
    """A row a class: its share among the images as a classifier sees them and among training images, the share of
    images drawn for it that the classifier recognises, and what a classifier trained on the images makes of it."""
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


def subject_of(
    path: Path,
    num: int,
    seed: int,
    classes: Classes,
    out: Path | None,
    best: bool = False,
    changes: Sequence[str] = (),
    bits: int | None = None,
) -> tuple[Subject, Run | None]:
    """A run's folder, an .npz or a folder of pictures as a subject; and the run, or None.

    Of a file or folder the first `num` images are taken.

    Raises:
      UserError: nothing of the kind there, or fewer images than asked for.
    """
    if (path / CONFIG).exists():
        run = load_run(path, best, changes)
        drawn, step = draw_images(run, num, seed, classes), int(run.state.step)
        about = {"run": str(path), "step": step, "best": best, "classes": classes, "seed": seed}
        about["changes"] = list(changes)
        return Subject(drawn, about, out or default_folder(path), _test_figures(path, step)), run
    found = read_generated(path, bits=bits)
    if len(found.images) < num:
        raise UserError(f"{path} holds {len(found.images)} images: --num {num} is too many")
    labels = None if found.labels is None else found.labels[:num]
    drawn = found._replace(images=found.images[:num], labels=labels)
    return Subject(drawn, {"images": str(path)}, out or default_folder(path)), None


def _test_figures(folder: Path, step: int) -> dict[str, float]:
    """What training measured on the test split at this step."""
    rows = read_metrics(folder / METRICS) if (folder / METRICS).exists() else []
    found = [row for row in rows if row["step"] == step]
    return {name: value for row in found for name, value in row.items() if name.startswith("test/")}
