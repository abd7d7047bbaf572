"""Finished runs that others build on: a tokenizer's, an autoencoder's."""

from pathlib import Path
from typing import Any, TypeVar

from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.runs.folder import is_run
from jimgen.runs.load import load_run
from jimgen.train_step import eval_variables

Made = TypeVar("Made")


def load_contained(
    folder: str | Path, spec: DataSpec, kind: type[Made], name: str, nets: tuple[str, ...]
) -> tuple[Made, dict[str, Any]]:
    """What a run's `build` made, and the variables of some of its nets, for images like those of `spec`.

    Args:
        folder: of the run, as the user gave it.
        spec: of the data of the run that builds on it.
        kind: the class that its `build` must have returned.
        name: of the experiment that makes such runs, and of the flag that names the folder.
        nets: whose variables are returned, moving averages where there are.
    Raises:
        UserError: no folder given, no run there, a run of something else, or one for images of another shape.
    """
    how = f"python experiments/{name}.py --data {spec.name} --workdir runs/{name}"
    if not str(folder):
        raise UserError(f"--{name} is missing: train one, `{how}`, and give --{name} runs/{name}")
    path = Path(folder).expanduser()
    if not is_run(path):
        raise UserError(
            f"--{name} {folder} is not a run (looked in {path.absolute().parent}): give the folder of one; for a "
            f"run that was trained with it, `--change {name}=FOLDER` says where it is now"
        )
    run = load_run(path)
    if not isinstance(run.made, kind):
        article = "an" if name[0] in "aeiou" else "a"
        raise UserError(f"--{name} {folder} is a run of {run.experiment}, not of {article} {name}: train one, `{how}`")
    if run.spec.shape != spec.shape:
        raise UserError(
            f"--{name} {folder} was trained on images {list(run.spec.shape)}, these are {list(spec.shape)}: give "
            f"the --size, --fit and --channels of that run, or train another {name}"
        )
    variables = eval_variables(run.state)
    return run.made, {net: variables[net] for net in nets}
