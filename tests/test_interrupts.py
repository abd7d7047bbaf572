"""Signals, and pipes without a reader."""

import io
import os
import signal
import subprocess
import sys

import pytest

from jimgen.interrupts import STOP_SIGNALS, stop_requests
from jimgen.output import Output


@pytest.fixture
def hang_up_counts():
    """Also where the tests run under nohup."""
    before = signal.signal(signal.SIGHUP, signal.SIG_DFL)
    yield
    signal.signal(signal.SIGHUP, before)


@pytest.mark.usefixtures("hang_up_counts")
@pytest.mark.parametrize("signum", STOP_SIGNALS)
def test_the_second_signal_ends_the_process(signum):
    """After the first signal all have their default action; after the block, the previous handlers."""
    before = [signal.getsignal(name) for name in STOP_SIGNALS]
    with stop_requests(Output(io.StringIO())) as requests:
        assert requests == []
        stdout = os.dup(1)  # SIGHUP points stdout elsewhere
        os.kill(os.getpid(), signum)
        os.dup2(stdout, 1)
        os.close(stdout)
        assert [signal.getsignal(name) for name in STOP_SIGNALS] == [signal.SIG_DFL] * len(STOP_SIGNALS)
        assert requests == [signum]
    assert [signal.getsignal(name) for name in STOP_SIGNALS] == before


def test_what_nohup_ignores_stays_ignored():
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with stop_requests(Output(io.StringIO())) as requests:
        os.kill(os.getpid(), signal.SIGHUP)
        assert requests == []
    assert signal.signal(signal.SIGHUP, before) is signal.SIG_IGN


def test_ctrl_c_ends_a_process_at_once_and_silently():
    """And only within the block: before and after it, Python's own handler is in place."""
    code = (
        "import os, signal; from jimgen.interrupts import end_at_once\n"
        "before = signal.getsignal(signal.SIGINT)\n"
        "with end_at_once(): pass\n"
        "assert signal.getsignal(signal.SIGINT) is before\n"
        "with end_at_once(): os.kill(os.getpid(), signal.SIGINT)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (-signal.SIGINT, "", "")


def test_output_falls_silent_when_nobody_reads_it():
    code = (
        "from jimgen.output import Output\n"
        "import sys, time; output = Output(); output.print('first'); sys.stdin.read()\n"
        "for _ in range(3): output.print('more')\n"
        "assert output.lost; sys.exit(7)"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "first\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 7


def test_output_takes_brackets_and_names_as_they_are():
    file = io.StringIO()
    Output(file).print("runs/exp[/b] [final] :smile: 3.5 'x'")
    assert file.getvalue() == "runs/exp[/b] [final] :smile: 3.5 'x'\n"


def test_a_command_whose_pipe_nobody_reads_ends_without_a_word():
    code = (
        "from jimgen.errors import errors_in_a_line\n"
        "import sys; print('ready', flush=True); sys.stdin.read()\n"
        "with errors_in_a_line(): print('more')"
    )
    with subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    ) as process:
        assert process.stdin and process.stdout and process.stderr
        assert process.stdout.readline() == "ready\n"
        process.stdout.close()
        process.stdin.close()
        assert process.stderr.read() == ""
    assert process.returncode == 141
