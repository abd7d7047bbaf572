"""Rollbacks: where training goes on, what it changes, and that a resume afterwards changes nothing."""

import io
import os
import signal

import jax
import numpy as np
import pytest
from small_runs import assert_equal_trees, figures_of, loop_config, random_dataset, rows_of, saved_steps
from tiny import tiny_gan

from jimgen.errors import UserError
from jimgen.methods.method import Method
from jimgen.output import Output
from jimgen.runs import checkpoint, loop, report
from jimgen.runs.setup import abstract_state


def collapsing(at: int, healthy_until: int, most: int = 3) -> Method:
    """A tiny GAN that counts as collapsed at a step of its first attempt, and was healthy up to another step."""
    method = tiny_gan(rollbacks=most, r1=0.1)
    assert method.recovery is not None
    age, first = "discriminator/age", "discriminator/rollbacks"

    def diagnose(row):
        return "diversity" if row[age] == at and row[first] == 0 else None

    def is_healthy(variables):
        return float(variables["health"]["state"]["age"]) <= healthy_until

    return method._replace(recovery=method.recovery._replace(diagnose=diagnose, is_healthy=is_healthy))


def train(method, folder, **options):
    folder.mkdir(parents=True, exist_ok=True)
    output = Output(io.StringIO())
    options = {"steps": 9, "save_every": 2, "keep": 9} | options
    state = jax.device_get(loop.train(method, random_dataset(), loop_config(**options), folder, output))
    return state, output.file.getvalue()


def test_training_goes_on_from_the_last_healthy_checkpoint_with_new_factors(tmp_path):
    state, said = train(collapsing(at=7, healthy_until=5), tmp_path)
    assert saved_steps(tmp_path) == [2, 4, 6, 8, 9] and int(state.step) == 9
    assert "step 7: the training has collapsed (diversity); it goes on from step 4" in said.replace("\n", " ")
    health = state.variables["health"]["state"]
    assert float(health["rollbacks"]) == 1 and float(health["age"]) == 5
    event = [row for row in rows_of(tmp_path) if "rollback/from" in row]
    assert [(row["step"], row["rollback/from"], row["rollback/diversity"]) for row in event] == [(4, 7, 1)]
    steps = [row["step"] for row in rows_of(tmp_path) if "generator/loss" in row]
    assert steps == [1, 2, 3, 4, 5, 6, 7, 5, 6, 7, 8, 9]
    first, second = ([row for row in rows_of(tmp_path) if row["step"] == 5][i] for i in (0, 1))
    assert first["generator/loss"] != second["generator/loss"]  # new noise
    page = report.write_report([tmp_path], tmp_path / "report.html").read_text()
    assert "Rollbacks" in page and "Noticed at step" in page


def test_stopping_after_a_rollback_and_resuming_changes_no_bit(tmp_path, monkeypatch):
    """Also where training stops right after it has gone back, before it has saved anything else."""
    method = collapsing(at=7, healthy_until=5)
    whole, _ = train(method, tmp_path / "whole")
    for name, stop in (("soon", 5), ("late", 8)):
        with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
            after_rollback(patch, stop)
            train(method, tmp_path / name)
        resumed, _ = train(method, tmp_path / name)
        assert_equal_trees(resumed, whole)
        assert figures_of(tmp_path / name)[9] == figures_of(tmp_path / "whole")[9]
        assert steps_of(tmp_path / name) == steps_of(tmp_path / "whole")


def test_stopping_before_a_rollback_and_resuming_changes_no_bit(tmp_path, monkeypatch):
    """Training stops at a step without a regular checkpoint. It does not go back to the one that it leaves there."""
    method = collapsing(at=7, healthy_until=5)
    whole, _ = train(method, tmp_path / "whole")
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        stop_before(patch, 5)
        train(method, tmp_path / "stopped")
    assert saved_steps(tmp_path / "stopped") == [2, 4, 5]
    assert_equal_trees(train(method, tmp_path / "stopped")[0], whole)
    assert steps_of(tmp_path / "stopped") == steps_of(tmp_path / "whole")


def test_a_resume_is_not_judged_out_of_turn(tmp_path, monkeypatch):
    """The first step after a resume has a row of its own; a collapse is noticed where it is without the resume."""
    method, options = tiny_gan(rollbacks=1), {"log_every": 3, "steps": 6}
    assert method.recovery is not None
    recovery = method.recovery._replace(diagnose=lambda row: "diversity" if row["discriminator/age"] == 5 else None)
    method = method._replace(recovery=recovery)
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        stop_before(patch, 4)
        train(method, tmp_path, **options)
    train(method, tmp_path, **options)
    assert (5, None) in steps_of(tmp_path) and not any("rollback/from" in row for row in rows_of(tmp_path))


def test_the_best_checkpoint_is_that_of_the_best_value_of_all_attempts(tmp_path, monkeypatch):
    """Also where an attempt from which training went back had one at the same step or later, and after a resume."""
    method, values = collapsing(at=7, healthy_until=5), iter([5.0, 4.0, 3.0, 2.0, 6.0, 7.0])
    monkeypatch.setattr(loop, "measure_quality", lambda *args, **options: (value := next(values), {"fd[x]": value}))
    options = {"quality_every": 2, "quality_num": 20}
    with monkeypatch.context() as patch, pytest.raises(loop.Interrupted):
        after_rollback(patch, 7)
        train(method, tmp_path, **options)  # steps 2, 4, 6, then 6 again
    assert saved_steps(tmp_path, "best") == [6]
    target = abstract_state(method, random_dataset().spec, 0, jax.sharding.SingleDeviceSharding(jax.devices()[0]))
    best, _ = checkpoint.read(tmp_path / "best", target)
    assert best is not None and best.variables["health"]["state"]["rollbacks"] == 1
    train(method, tmp_path, **options)
    assert saved_steps(tmp_path, "best") == [6]


def test_an_earlier_step_can_become_the_best_one_after_a_rollback(tmp_path, monkeypatch):
    method, values = collapsing(at=7, healthy_until=2), iter([5.0, 4.0, 3.0, 2.0, 6.0, 7.0, 8.0])
    monkeypatch.setattr(loop, "measure_quality", lambda *args, **options: (value := next(values), {"fd[x]": value}))
    train(method, tmp_path, quality_every=2, quality_num=20)  # steps 2, 4, 6, then 4, 6, 8 and 9
    assert saved_steps(tmp_path, "best") == [4]


def steps_of(folder):
    """The steps of the rows, and where rollbacks were noticed."""
    return [(row["step"], row.get("rollback/from")) for row in rows_of(folder) if "discriminator/loss" in row]


def stop_before(monkeypatch, step):
    """Stops training before a step of the first attempt."""
    after_rollback(monkeypatch, step, attempts=1)


def after_rollback(monkeypatch, step, attempts=2):
    """Stops training before a step of the second attempt."""
    original, calls = loop.batches, []

    def feed(*args, start_step=0, **options):
        calls.append(start_step)
        attempt = len(calls)
        for number, batch in enumerate(original(*args, start_step=start_step, **options), start_step + 1):
            if (attempt, number) == (attempts, step):
                os.kill(os.getpid(), signal.SIGTERM)
            yield batch

    monkeypatch.setattr(loop, "batches", feed)


def test_without_a_healthy_checkpoint_training_begins_anew(tmp_path):
    state, _ = train(collapsing(at=3, healthy_until=0), tmp_path, save_every=2)
    assert int(state.step) == 9 and float(state.variables["health"]["state"]["age"]) == 9
    assert saved_steps(tmp_path) == [0, 2, 4, 6, 8, 9]


@pytest.mark.parametrize("most", [0, 1])
def test_rollbacks_are_bounded(tmp_path, most):
    """A training that collapses again goes on, once its rollbacks are used."""
    method = tiny_gan(rollbacks=most, r1=0.1)
    recovery = method.recovery._replace(diagnose=lambda row: "diversity" if row["discriminator/age"] == 3 else None)
    state, _ = train(method._replace(recovery=recovery), tmp_path)
    assert float(state.variables["health"]["state"]["rollbacks"]) == most
    assert sum("rollback/from" in row for row in rows_of(tmp_path)) == most


def test_losses_that_stay_nan_lead_back_before_they_stop_the_training(tmp_path):
    method = tiny_gan(rollbacks=2)
    judge, draw = method.phases

    def broken(variables, batch, key):
        loss, aux = draw.objective(variables, batch, key)
        return loss * np.nan, aux

    method = method._replace(phases=(judge, draw._replace(objective=broken)))
    with pytest.raises(UserError, match="was not finite in 3 updates in a row"):
        train(method, tmp_path, max_skipped=3)
    assert [row["rollback/not_finite"] for row in rows_of(tmp_path) if "rollback/from" in row] == [1, 2]
