"""The lock of a run's folder."""

import json
import os
import signal
import subprocess
import sys

import pytest

from jimgen.errors import UserError
from jimgen.runs.lock import LOCK, only_training


def test_a_second_training_is_told_who_holds_the_folder(tmp_path):
    """And can have it as soon as the first one is done."""
    with only_training(tmp_path / "run"):
        with (
            pytest.raises(UserError, match=rf"run is being trained by process {os.getpid()} on .* since .*--workdir"),
            only_training(tmp_path / "run"),
        ):
            pass
        with only_training(tmp_path / "other"):
            pass
    with only_training(tmp_path / "run"):
        assert json.loads((tmp_path / "run" / LOCK).read_text())["process"] == os.getpid()


def test_a_training_that_is_killed_leaves_no_stale_lock(tmp_path):
    code = (
        "from pathlib import Path; from jimgen.runs.lock import only_training\n"
        f"with only_training(Path({str(tmp_path)!r})): print('held', flush=True); input()"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=f"by process {other.pid} on"), only_training(tmp_path):
            pass
        other.send_signal(signal.SIGKILL)
        other.wait()
    with only_training(tmp_path):
        pass


@pytest.mark.parametrize("content", ["", "{", "[]", '{"process": 1}'])
def test_a_lock_without_a_name_is_held_all_the_same(tmp_path, content):
    with only_training(tmp_path):
        (tmp_path / LOCK).write_text(content)
        with pytest.raises(UserError, match="trained by another process"), only_training(tmp_path):
            pass
