"""Measuring while training: the metrics are logged, and the best checkpoint is kept."""

import json

import pytest
from small_runs import load_experiment, rows_of, tiny_config

from jimgen.errors import UserError
from jimgen.evaluation.quality import best_so_far
from jimgen.runs import train
from jimgen.runs.load import load_run

EXTRACTOR = """
from tiny import tiny_extractor
"""


def options(tmp_path, **changed):
    hook = tmp_path / "hook.py"
    hook.write_text(EXTRACTOR)
    asked = {"steps": 6, "quality_every": 2, "quality_num": 30, "quality_extractor": f"{hook}:tiny_extractor"}
    return asked | changed


def test_the_best_checkpoint_is_kept_and_its_metric_logged(tmp_path):
    """Also across a resume: the best value so far is that of the whole run."""
    run = tmp_path / "run"
    for steps in (4, 6):
        config = tiny_config("vae", run, **options(tmp_path, steps=steps))
        train.run(config, load_experiment("vae").build)
    measured = {row["step"]: row for row in rows_of(run) if "quality/seconds" in row}
    assert sorted(measured) == [2, 4, 6]
    values = {step: row["quality/fd[tiny@8]"] for step, row in measured.items()}
    kept = [int(path.name) for path in (run / "best").iterdir() if path.name.isdecimal()]
    assert kept == [min(values, key=values.get)]
    best = load_run(run, best=True)
    assert int(best.state.step) == kept[0] and int(load_run(run).state.step) == 6
    assert best_so_far(rows_of(run), "fd") == min(values.values())


def test_the_best_value_of_a_metric_that_should_be_high():
    rows = [{"quality/recall[x]": 0.1}, {"quality/recall[x]": 0.4}, {"quality/precision[x]": 0.9}, {"loss": 1}]
    assert best_so_far(rows, "recall") == 0.4 and best_so_far(rows, "fd") is None


def test_what_cannot_be_measured_is_told_before_training(tmp_path):
    def refused(message, **changed):
        run = tmp_path / "never"
        with pytest.raises(UserError, match=message):
            train.run(tiny_config("vae", run, **options(tmp_path, **changed)), load_experiment("vae").build)
        assert not run.exists()

    refused("--quality-num 5000", quality_num=5000)
    refused("unknown extractor", quality_extractor="efficient")
    plain = tmp_path / "plain"
    train.run(tiny_config("vae", plain), load_experiment("vae").build)
    with pytest.raises(UserError, match="keeps no best checkpoint"):
        load_run(plain, best=True)
    assert not json.loads((plain / "config.json").read_text())["config"]["quality_every"]
