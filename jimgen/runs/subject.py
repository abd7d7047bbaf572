"""A run as the subject of sampling, evaluation and comparison."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, cast

from jimgen import data
from jimgen.curves import read_metrics
from jimgen.data.attributes import values_by_name
from jimgen.data.dataset import Dataset, DataSpec
from jimgen.data.fitting import fitting_of
from jimgen.data.images import PLAIN, Reading
from jimgen.errors import UserError
from jimgen.evaluation.asked import NONE, Given, balanced_labels, frequent_labels
from jimgen.evaluation.compare import Group, compare
from jimgen.evaluation.evaluate import Subject
from jimgen.evaluation.generated import GeneratedSet, generate, read_generated
from jimgen.evaluation.results import RESULTS, read_evaluation
from jimgen.files import some_of
from jimgen.noise import key_of
from jimgen.runs import compatibility
from jimgen.runs.config import RunConfig, uncompared_fields
from jimgen.runs.folder import CONFIG, EVALUATION, METRICS_FILE, UTILITY, Saved, read_saved
from jimgen.runs.load import Run, load_run
from jimgen.train_step import eval_variables

Classes = Literal["balanced", "frequency"]


def draw_images(
    run: Run,
    num: int,
    seed: int,
    classes: Classes = "balanced",
    given: Given = NONE,
    turn: int | None = None,
    data_name: str | None = None,
) -> GeneratedSet:
    """`num` images from a run, the same ones for the same seed; without labels where the run knows none.

    Args:
        run: of `load_run`.
        num: at least 1; a larger set begins with the smaller one.
        seed: 0 to 2^63 - 1, of the latents.
        classes: "balanced": the classes in turn, and attributes left open; "frequency": labels as often as in the
            training images. Ignored by runs without labels.
        given: values by column of the labels, from `given_labels`.
        turn: the column whose values a balanced set shows in turn, from `column_by_name`; default: that of
            `column_in_turn`.
        data_name: data set whose frequencies are meant; default: the run's own.
    Raises:
        UserError: the run's data are needed for their frequencies and are not there; or see `require_same_labels`.
    """
    if classes == "frequency" and run.conditional:
        dataset = load_data(run.config, name=data_name)
        require_same_labels(run, dataset.spec)
        labels = frequent_labels(dataset, num, seed, given)
    else:
        labels = balanced_labels(run.spec, num, given, turn)
    drawn = generate(run.method, eval_variables(run.state), key_of(seed), labels)
    if not run.conditional:
        return drawn._replace(labels=None)
    return drawn._replace(attributes=run.spec.attributes)


def given_labels(run: Run, label: int | None, settings: Sequence[str]) -> dict[int, int]:
    """The values by column that --label and --set ask for.

    Raises:
        UserError: a class, an attribute or a value that the run's data do not have; any where the run knows no labels.
    """
    if label is None and not settings:
        return {}
    asked = f"--label {label}" if label is not None else f"--set {settings[0]}"
    if not run.spec.conditions:
        raise UserError(f"{asked}: the data of {run.folder} have no classes; leave it out")
    if not run.conditional:
        raise UserError(
            f"{run.folder} was trained without labels: leave {asked.split()[0]} out, or train with --conditional"
        )
    given = values_by_name(run.spec.columns, settings)
    if label is not None:
        if not 0 <= label < run.spec.num_classes:
            listed = ", ".join(f"{i} {name}" for i, name in enumerate(run.spec.class_names[:20]))
            raise UserError(f"--label {label} is out of range: the classes are {listed}")
        if given.get(0, label) != label:
            raise UserError(f"--label {label} and --set ask for two classes: give one of them")
        given[0] = label
    return given


def require_same_labels(run: Run, spec: DataSpec) -> None:
    """Raises UserError where labels of these data are not what the run was trained with, if it knows labels."""
    same = (spec.num_classes, spec.attributes) == (run.spec.num_classes, run.spec.attributes)
    if run.conditional and not same:
        there, here = (
            ", ".join(f"{column.name} ({len(column.values)} values)" for column in each.columns)
            for each in (spec, run.spec)
        )
        raise UserError(f"--data {spec.name} has other labels than the run: {there}; the run takes {here}")


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
    without = config.without if name is None else ()
    name = config.data if name is None else name
    return data.load(name, **fitting._asdict(), without=without, data_dir=config.data_dir)


def default_folder(path: Path) -> Path:
    """Where the evaluation of a run or of a set of images goes, unless told otherwise."""
    if (path / CONFIG).exists():
        return path / EVALUATION
    path = path if path.name not in ("", "..") else path.resolve()  # the folder that one is in has a name too
    return path.with_name(f"{path.name if path.is_dir() else path.stem}-evaluation")


def default_file(path: Path) -> Path:
    """Where the downstream utility of a run or of a set of images goes, unless told otherwise."""
    folder = default_folder(path)
    if (path / CONFIG).exists():
        return path / UTILITY
    return folder.with_name(f"{folder.name.removesuffix(f'-{EVALUATION}')}-{UTILITY}")


def subject_of(
    path: Path,
    num: int,
    seed: int,
    classes: Classes | None,
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
        return subject_of_run(run, num, seed, classes, out, best, changes), run
    found = read_generated(path, reading=reading)
    if len(found.images) < num:
        raise UserError(f"{path} holds {len(found.images)} images: --num {num} is too many")
    labels = None if found.labels is None else found.labels[:num]
    drawn = found._replace(images=found.images[:num], labels=labels)
    return Subject(drawn, {"images": str(path)}, out or default_folder(path)), None


def subject_of_run(
    run: Run,
    num: int,
    seed: int,
    classes: Classes | None,
    out: Path | None,
    best: bool = False,
    changes: Sequence[str] = (),
) -> Subject:
    """Images drawn from a loaded run as a subject; arguments as of `subject_of`."""
    classes = classes or ("frequency" if run.spec.attributes else "balanced")
    drawn, step = draw_images(run, num, seed, classes), int(run.state.step)
    about = {"run": str(run.folder), "step": step, "best": best, "classes": classes, "seed": seed}
    about["changes"] = list(changes)
    return Subject(drawn, about, out or default_folder(run.folder), _test_metrics(run.folder, step))


def require_same_classes(run: Run, spec: DataSpec) -> None:
    """Raises UserError where a run knows no classes, or others than these data."""
    if not run.conditional or run.spec.num_classes < 2:
        raise UserError(f"{run.folder} draws images without classes: train a class-conditional run (--conditional)")
    if run.spec.class_names != spec.class_names:
        raise UserError(
            f"{spec.name} has other classes than the run: {some_of(spec.class_names)} there, "
            f"{some_of(run.spec.class_names)} here; an .npz names them in class_names"
        )


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
    return compare(identities(evaluations), evaluations)


def evaluation_of(run: Path) -> dict[str, Any]:
    """The content of a run's evaluation.json, or of that in the folder of an evaluation.

    Raises:
        UserError: there is none, or it is damaged.
    """
    for path in (run / EVALUATION / RESULTS, run / RESULTS):
        if found := read_evaluation(path):
            return found
    raise UserError(f"{run} has no evaluation yet: run `jimgen evaluate {run}`")


def identities(evaluations: Mapping[Path, dict[str, Any]]) -> dict[Path, str]:
    """What tells each run apart from the others, and how images were drawn from it, but for the seeds.

    Fields that say how a run is carried out do not count. Data count by their content. A field that some run of the
    experiment lacks, as it was written before the field existed, counts only where it is not at its default. A set of
    images that is no run is identified by its path.

    Args:
        evaluations: run -> content of its evaluation.json.
    Raises:
        UserError: a config.json is damaged.
    """
    saved = {run: read_saved(run, fix="restore it from a copy, or compare without this run") for run in evaluations}
    configs = {run: compatibility.renamed(found.config) for run, found in saved.items() if found is not None}
    found = {run: str(run) for run in evaluations}
    for run, config in configs.items():
        experiment, _, data, uncompared, different = cast(Saved, saved[run])
        subject = evaluations[run].get("subject", {})
        drawn = {name: subject.get(name) for name in ("best", "classes", "changes")}
        ignored = {*uncompared, *uncompared_fields(RunConfig, best=bool(drawn["best"]))}
        alike = [configs[other] for other in configs if cast(Saved, saved[other]).experiment == experiment]
        changed = compatibility.renamed(dict.fromkeys(different))
        ignored |= {name for name in config if name not in changed and not all(name in other for other in alike)}
        counted = {name: value for name, value in config.items() if name not in ignored}
        found[run] = json.dumps([experiment, counted | {"data": data.hash}, drawn], sort_keys=True)
    return found
