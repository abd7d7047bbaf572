"""Runs in processes of their own: killed, stopped, and read by others while they train."""

import ast
import random
import re
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path

import pytest
from small_runs import EXPERIMENTS, ROOT, figures_of, saved_hash, saved_steps, tiny_flags


def start(workdir: Path, steps: int, **options) -> subprocess.Popen:
    """`python experiments/vae.py`, slow enough to be met in mid-run: it saves at every step."""
    flags = tiny_flags("vae", workdir, **{"steps": steps, "save_every": 1} | options)
    return subprocess.Popen(
        [sys.executable, str(EXPERIMENTS / "vae.py"), *flags],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )


def read_until(process: subprocess.Popen, step: int) -> str:
    """What the process prints until it has done a step, or until it ends."""
    said = []
    assert process.stdout is not None
    for line in process.stdout:
        said.append(line)
        if (found := re.match(r"step (\d+)/", line)) and int(found[1]) >= step:
            break
    return "".join(said)


def finished(workdir: Path, steps: int, **options) -> str:
    """What a process prints that runs to the end."""
    process = start(workdir, steps, **options)
    said, _ = process.communicate(timeout=300)
    assert process.returncode == 0, said
    return said


@contextmanager
def read_by_others(run: Path) -> Iterator[dict[str, int]]:
    """A process that goes on reading a run within the block. Afterwards: how often each command was answered."""
    answered: dict[str, int] = {}
    with subprocess.Popen(
        [sys.executable, str(ROOT / "tests" / "reader.py"), str(run)],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as reader:
        assert reader.stdout is not None and reader.stdout.readline() == "ready\n"
        try:
            yield answered
        finally:
            said, complaints = reader.communicate(timeout=300)
        assert reader.returncode == 0, complaints
        answered.update(ast.literal_eval(said))


@pytest.fixture
def process_run(request, tmp_path):
    """An undisturbed run in a process of its own, beside the test: its steps, folder and process."""
    steps = 500 if request.config.getoption("--slow") else 30
    folder = tmp_path / "whole"
    with start(folder, steps) as process:
        yield steps, folder, process


def test_a_process_that_is_killed_and_stopped_ends_as_one_that_is_not(process_run, tmp_path, request):
    """kill -9 at random moments, many of them within a save, while others read: what is on the disk is always whole.

    Then SIGTERM: exit status 143 and a checkpoint at the step it says. At the end, the bits of an undisturbed run.
    """
    steps, whole, undisturbed = process_run
    folder, moments, reached = tmp_path / "run", random.Random(0), 0
    slow = request.config.getoption("--slow")
    kills = 100 if slow else 2
    with read_by_others(folder) if slow else nullcontext():
        for kill in range(kills):
            process = start(folder, steps)
            said = read_until(process, min(reached + moments.randint(1, 3 * steps // (4 * kills)), steps - 1))
            time.sleep(moments.uniform(0, 0.05))
            process.kill()
            said += process.communicate(timeout=300)[0]
            assert process.returncode == -signal.SIGKILL, (kill, said)
            assert "corrupt" not in said and ("resuming at step" in said) == (reached > 0), (kill, said)
            assert (done := max(saved_steps(folder), default=0)) >= reached
            reached = done

    process = start(folder, steps)
    said = read_until(process, reached + 1)
    process.send_signal(signal.SIGTERM)
    said += process.communicate(timeout=300)[0]
    assert process.returncode == 143, said
    stopped = int(re.search(r"saved at step (\d+) after SIGTERM", said)[1])
    assert reached < stopped < steps and saved_steps(folder)[-1] == stopped

    said = finished(folder, steps)
    assert f"resuming at step {stopped} of {steps}" in said and "corrupt" not in said
    said, _ = undisturbed.communicate(timeout=300)
    assert undisturbed.returncode == 0, said
    assert figures_of(folder) == figures_of(whole)  # first: it shows at which step they part
    assert saved_hash(folder) == saved_hash(whole)


@pytest.mark.slow
def test_a_run_that_is_read_while_it_trains_ends_as_one_that_is_not(tmp_path):
    """By sample, reconstruct, evaluate, report and runs, in a loop: they delete and rename nothing under it."""
    options = {"steps": 200, "save_every": 10, "net": "mlp", "hidden": 256, "batch_size": 512}
    finished(tmp_path / "whole", **options)
    expected = saved_hash(tmp_path / "whole")
    (tmp_path / "runs").mkdir()
    for turn in range(20):
        run = tmp_path / "runs" / f"run{turn}"
        with read_by_others(run) as answered:
            said = finished(run, **options)
        assert "corrupt" not in said and saved_hash(run) == expected, (turn, said)
        assert figures_of(run) == figures_of(tmp_path / "whole")
        assert sum(answered.values()) >= 2, answered
        print(f"turn {turn}: answered {answered}")
