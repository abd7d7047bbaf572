"""A finished tokenizer run, for methods that model its tokens."""

from pathlib import Path
from typing import Any

from jimgen.data.dataset import DataSpec
from jimgen.errors import UserError
from jimgen.methods.tokenizer import NETS, Tokenizer
from jimgen.runs.folder import is_run
from jimgen.runs.load import load_run
from jimgen.train_step import eval_variables

TRAIN_IT = "python experiments/tokenizer.py --data {data} --workdir runs/tokenizer"


def load_tokenizer(folder: str | Path, spec: DataSpec) -> tuple[Tokenizer, dict[str, Any]]:
    """The functions of a tokenizer run and its nets' variables, for images like those of `spec`.

    Raises:
        UserError: no folder given, no run there, a run of something else, or one for images of another shape.
    """
    how = TRAIN_IT.format(data=spec.name)
    if not str(folder):
        raise UserError(f"--tokenizer is missing: train one, `{how}`, and give --tokenizer runs/tokenizer")
    path = Path(folder).expanduser()
    if not is_run(path):
        raise UserError(
            f"--tokenizer {folder} is not a run (looked in {path.absolute().parent}): give the folder of one; for a "
            "run that was trained with it, `--change tokenizer=FOLDER` says where it is now"
        )
    run = load_run(path)
    if not isinstance(run.made, Tokenizer):
        raise UserError(f"--tokenizer {folder} is a run of {run.experiment}, not of a tokenizer: train one, `{how}`")
    if run.spec.shape != spec.shape:
        raise UserError(
            f"--tokenizer {folder} was trained on images {list(run.spec.shape)}, these are {list(spec.shape)}: give "
            "the --size, --fit and --channels of that run, or train another tokenizer"
        )
    variables = eval_variables(run.state)
    return run.made, {name: variables[name] for name in NETS}
