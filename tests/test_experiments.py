"""Every file of experiments/ runs."""

import ast
import math

import pytest
from small_runs import (
    EXPERIMENTS,
    figures_of,
    load_experiment,
    rows_of,
    saved_hash,
    saved_steps,
    signal_before,
    tiny_config,
    tiny_flags,
)

from jimgen.runs import train
from jimgen.runs.loop import Interrupted

NAMES = sorted(path.stem for path in EXPERIMENTS.glob("*.py"))


def test_there_are_experiments():
    assert {"dcgan", "vae"} <= set(NAMES)


@pytest.mark.parametrize("name", NAMES)
def test_experiment_trains_stops_and_resumes(name, tmp_path, monkeypatch):
    """From the command line on digits, as small as its flags allow: finite losses, pictures, a checkpoint, a page.

    Stopped after one step of two and begun again, it ends with the same weights, averages and figures, bit for bit.
    """
    module = load_experiment(name)
    train.main(module.Config, module.build, tiny_flags(name, tmp_path / "run", size=16))
    rows = rows_of(tmp_path / "run")
    losses = [value for row in rows for metric, value in row.items() if metric.endswith("/loss")]
    assert len(losses) >= 2 and all(math.isfinite(loss) for loss in losses)
    assert all(value == 0 for row in rows for metric, value in row.items() if metric.endswith("/skipped"))
    assert saved_steps(tmp_path / "run") == [2]
    for path in ("samples/real.png", "samples/step_00000002.png", "report.html"):
        assert (tmp_path / "run" / path).exists()
    config = tiny_config(name, tmp_path / "stopped", size=16)
    with monkeypatch.context() as patch, pytest.raises(Interrupted):
        signal_before(patch, 1)
        train.run(config, module.build)
    assert saved_steps(tmp_path / "stopped") == [1]
    train.run(config, module.build)
    assert saved_hash(tmp_path / "stopped") == saved_hash(tmp_path / "run")
    assert figures_of(tmp_path / "stopped") == figures_of(tmp_path / "run")


@pytest.mark.parametrize("name", NAMES)
def test_experiment_says_what_it_is(name):
    """Its docstring opens with one line, gives the command and the result; each field of its config is explained."""
    source = (EXPERIMENTS / f"{name}.py").read_text()
    first, _, rest = ast.get_docstring(ast.parse(source)).partition("\n")
    assert first.endswith(".") and f"python experiments/{name}.py" in rest and "\nResult" in rest
    config = next(node for node in ast.parse(source).body if getattr(node, "name", "") == "Config")
    for field, after in zip(config.body, [*config.body[1:], None], strict=True):
        if isinstance(field, ast.AnnAssign):
            assert isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant), field.target.id
