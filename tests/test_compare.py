"""Runs side by side: intervals, groups of seeds, and what may not be compared."""

import json
import math

import pytest

from jimgen.compare import compare, confidence_interval
from jimgen.errors import UserError


def write(folder, value, seed=0, experiment="dcgan", width=64, num=1000):
    """A run's config and evaluation, with one figure of its own and the figures that stand beside it."""
    (folder / "evaluation").mkdir(parents=True)
    config = {"seed": seed, "width": width, "workdir": str(folder)}
    (folder / "config.json").write_text(json.dumps({"experiment": experiment, "config": config}))
    found = {"data": {"name": "digits"}, "num": num, "num_real": {"train": num}, "extractors": {"tiny@8": {}}}
    found["figures"] = {"fd[tiny@8]": {"value": value, "real": 1.0, "gaussian": 9.0}}
    (folder / "evaluation" / "evaluation.json").write_text(json.dumps(found))
    return folder


def test_intervals_by_hand():
    """Student's t: 1, 2, 3 have deviation 1, t_{.975, 2} = 4.302653, so +- 4.302653 / sqrt 3 = 2.484138."""
    found = confidence_interval([1.0, 2.0, 3.0])
    assert found.mean == 2 and found.n == 3 and math.isclose(found.half_width, 2.484138, abs_tol=1e-6)
    assert math.isclose(confidence_interval([0.0, 2.0]).half_width, 12.706205, abs_tol=1e-6)
    alone = confidence_interval([5.0])
    assert alone.mean == 5 and math.isnan(alone.half_width)
    with pytest.raises(ValueError, match="at least one"):
        confidence_interval([])


def test_runs_that_differ_in_their_seed_are_one_group(tmp_path):
    runs = [write(tmp_path / f"a{seed}", value, seed=seed) for seed, value in enumerate((1.0, 2.0, 3.0))]
    runs.append(write(tmp_path / "wide", 7.0, width=128))
    groups, beside = compare(runs)
    assert [len(group.runs) for group in groups] == [3, 1]
    assert groups[0].figures["fd[tiny@8]"].mean == 2 and groups[1].figures["fd[tiny@8]"].mean == 7
    assert beside == {"fd[tiny@8]": {"real": 1.0, "gaussian": 9.0}}


def test_what_may_not_stand_side_by_side(tmp_path):
    first = write(tmp_path / "a", 1.0)
    with pytest.raises(UserError, match="different num: 500 and 1000"):
        compare([first, write(tmp_path / "b", 1.0, num=500)])
    with pytest.raises(UserError, match="has no evaluation yet"):
        compare([first, tmp_path])
    with pytest.raises(UserError, match="at least one run"):
        compare([])
    (first / "evaluation" / "evaluation.json").write_text("{")
    with pytest.raises(UserError, match="damaged"):
        compare([first])
