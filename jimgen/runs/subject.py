"""A run as the subject of sampling, evaluation and comparison."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from jimgen import data
from jimgen.curves import read_metrics
from jimgen.data.dataset import Dataset
from jimgen.data.fitting import fitting_of
from jimgen.data.images import PLAIN, Reading
from jimgen.errors import UserError
from jimgen.evaluation.compare import Group, compare
from jimgen.evaluation.evaluate import Subject
from jimgen.evaluation.generated import GeneratedSet, class_frequencies, class_labels, generate, read_generated
from jimgen.evaluation.results import RESULTS, read_evaluation
from jimgen.noise import key_of
from jimgen.runs import compatibility
from jimgen.runs.config import RunConfig, uncompared_fields
from jimgen.runs.folder import CONFIG, EVALUATION, METRICS_FILE, read_saved
from jimgen.runs.load import Run, load_run
from jimgen.train_step import eval_variables

Classes = Literal["balanced", "frequency"]


def draw_images(
    run: Run,
    num: int,
    seed: int,
    classes: Classes = "balanced",
    label: int | None = None,
    data_name: str | None = None,
) -> GeneratedSet:
    """`num` images from a run, the same ones for the same seed; without labels where the run knows none.

    Args:
        run: of `load_run`.
        num: at least 1; a larger set begins with the smaller one.
        seed: 0 to 2^63 - 1, of the latents.
        classes: "balanced": the classes in turn; "frequency": as often as in the training images. Ignored by runs
            without labels.
        label: one class for all.
        data_name: data set whose class frequencies are meant; default: the run's own.
    Raises:
        UserError: a label that the run does not know; or its data are needed for class frequencies and are not there.
    """
    if label is not None:
        require_label(run, label)
        labels = np.full(num, label, np.int32)
    else:
        frequent = classes == "frequency" and run.conditional
        weights = (
            class_frequencies(load_data(run.config, name=data_name)) if frequent else np.ones(run.spec.num_classes)
        )
        labels = class_labels(num, weights.tolist())
    drawn = generate(run.method, eval_variables(run.state), key_of(seed), labels)
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


def load_data(
    config: RunConfig,
    *,
    name: str | None = None,
    **changes: Any,
) -> Dataset:
    """The data that a run was trained on, or with other choices of `data.load` in place of its own, where not None.

    Training images are not augmented: they are centred where training saw random parts.

    Raises:
        UserError: see `data.load`.
    """
    asked = {choice: value for choice, value in changes.items() if value is not None}
    usual = config.fitting()._replace(crop="centre", crop_scale=1.0)._asdict()
    fitting = fitting_of(**usual | asked)
    return data.load(config.data if name is None else name, **fitting._asdict(), data_dir=config.data_dir)


def default_folder(path: Path) -> Path:
    """Where the evaluation of a run or of a set of images goes, unless told otherwise."""
    if (path / CONFIG).exists():
        return path / EVALUATION
    path = path if path.name not in ("", "..") else path.resolve()  # the folder that one is in has a name too
    return path.with_name(f"{path.name if path.is_dir() else path.stem}-evaluation")


def subject_of(
    path: Path,
    num: int,
    seed: int,
    classes: Classes,
    out: Path | None,
    best: bool = False,
    changes: Sequence[str] = (),
    reading: Reading = PLAIN,
) -> tuple[Subject, Run | None]:
    """A run's folder, an .npz or a folder of pictures as a subject; and the run, or None.

    Of a file or folder the first `num` images are taken; `reading` is that of `read_generated`.

    Raises:
        UserError: nothing of the kind there, or fewer images than asked for.
    """
    if (path / CONFIG).exists():
        run = load_run(path, best, changes)
        drawn, step = draw_images(run, num, seed, classes), int(run.state.step)
        about = {"run": str(path), "step": step, "best": best, "classes": classes, "seed": seed}
        about["changes"] = list(changes)
        return Subject(drawn, about, out or default_folder(path), _test_metrics(path, step)), run
    found = read_generated(path, reading=reading)
    if len(found.images) < num:
        raise UserError(f"{path} holds {len(found.images)} images: --num {num} is too many")
    labels = None if found.labels is None else found.labels[:num]
    drawn = found._replace(images=found.images[:num], labels=labels)
    return Subject(drawn, {"images": str(path)}, out or default_folder(path)), None


def _test_metrics(folder: Path, step: int) -> dict[str, float]:
    """The metrics of the test split that training logged at this step."""
    rows = read_metrics(folder / METRICS_FILE) if (folder / METRICS_FILE).exists() else []
    found = [row for row in rows if row["step"] == step]
    return {name: value for row in found for name, value in row.items() if name.startswith("test/")}


def compare_runs(runs: Sequence[Path]) -> tuple[list[Group], dict[str, dict[str, float]]]:
    """`evaluation.compare.compare` of evaluated runs, or of folders of evaluations.

    Raises:
        UserError: one has no evaluation, or a damaged one; or see `compare`.
    """
    evaluations = {run: evaluation_of(run) for run in runs}
    return compare({run: identity(run, found) for run, found in evaluations.items()}, evaluations)


def evaluation_of(run: Path) -> dict[str, Any]:
    """The content of a run's evaluation.json, or of that in the folder of an evaluation.

    Raises:
        UserError: there is none, or it is damaged.
    """
    for path in (run / EVALUATION / RESULTS, run / RESULTS):
        if found := read_evaluation(path):
            return found
    raise UserError(f"{run} has no evaluation yet: run `jimgen evaluate {run}`")


def identity(run: Path, evaluation: dict[str, Any]) -> str:
    """What tells a run apart from others, and how images were drawn from it, but for the seeds.

    Fields that say how a run is carried out do not count. Data count by their content. A set of images that is no run
    is identified by its path.

    Raises:
        UserError: its config.json is damaged.
    """
    saved = read_saved(run, fix="restore it from a copy, or compare without this run")
    if saved is None:
        return str(run)
    drawn = {name: evaluation.get("subject", {}).get(name) for name in ("best", "classes", "changes")}
    ignored = {*saved.uncompared, *uncompared_fields(RunConfig, best=bool(drawn["best"]))}
    config = {name: value for name, value in compatibility.renamed(saved.config).items() if name not in ignored}
    return json.dumps([saved.experiment, config | {"data": saved.data.hash}, drawn], sort_keys=True)
