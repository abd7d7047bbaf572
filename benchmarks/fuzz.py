"""Reads damaged files of every kind that jimgen reads, and checks the results.

    python benchmarks/fuzz.py --minutes 10

Each input must give the right result or a UserError. A finding is anything else: another exception, more than 10 s of
work, more than 4 GiB of memory, a wrong result, a file that reading has changed. Inputs depend only on --seed, kind and
number; each finding is printed with the command that repeats it. Exits with 1 if there are findings. Needs Linux.
"""

import contextlib
import multiprocessing
import os
import resource
import shutil
import signal
import sys
import tempfile
import time
import traceback
import warnings
import zlib
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from pathlib import Path
from typing import NamedTuple

os.environ.setdefault("JAX_PLATFORMS", "cpu")
os.environ.setdefault("JAX_DISABLE_MOST_OPTIMIZATIONS", "1")

# isort: split
import numpy as np
import tyro
from fuzz_kinds import KINDS
from fuzz_trial import Trial, Wrong

from jimgen.errors import UserError

SECONDS = 10  # largest processor time of one input
PATIENCE = 60  # longest wait of one input for other programs, locks or files, in seconds
MEMORY = 4 * 2**30  # largest memory of one input, in bytes beyond what the process already uses
GRACE = 300  # seconds without a result after which a process is killed, as libraries can ignore the alarm
LONGEST_MESSAGE = 1000  # largest number of characters of a readable UserError
FINE = ("right", "UserError")


@dataclass(frozen=True)
class Args:
    minutes: float = 10.0
    """time limit in minutes"""
    inputs: int = 10_000
    """largest number of inputs"""
    seed: int = 0
    """random seed for the inputs"""
    kinds: tuple[str, ...] = ()
    """names of the kinds of input; by default all"""
    first: int = 0
    """number of the first input"""
    processes: int = 2
    """number of worker processes"""
    save: Path | None = None
    """folder for copies of the files of findings"""


class Outcome(NamedTuple):
    """The result of one input. `ending` is one of FINE or a finding: "exception", "wrong", "hang", "memory", ..."""

    kind: str
    number: int
    ending: str
    detail: str = ""
    seconds: float = 0.0


class Hang(BaseException):
    """Raised by the alarm. Not an Exception, as readers may catch those of their libraries."""


def main(args: Args) -> int:
    if unknown := [kind for kind in args.kinds if kind not in KINDS]:
        sys.exit(f"error: unknown kinds {', '.join(unknown)}: there are {', '.join(KINDS)}")
    outcomes, began = [], time.monotonic()
    for outcome in _all_outcomes(args, began + 60 * args.minutes):
        outcomes.append(outcome)
        if outcome.ending not in FINE:
            again = f"--seed {args.seed} --kinds {outcome.kind} --first {outcome.number} --inputs 1 --processes 1"
            print(
                f"\n{outcome.kind}: {outcome.ending}\n{outcome.detail.rstrip()}\npython {__file__} {again}", flush=True
            )
    print(f"\n{_table(outcomes)}\n{len(outcomes)} inputs in {time.monotonic() - began:.0f} s, seed {args.seed}")
    return int(any(outcome.ending not in FINE for outcome in outcomes))


def try_input(kind: str, number: int, seed: int, work: Path, save: Path | None = None) -> Outcome:
    """Makes one input in a folder below `work`, reads it and judges the result."""
    folder = work / f"{kind}-{number}"
    trial = make_input(kind, number, seed, folder)
    began = time.monotonic()
    ending, detail = judge(trial, folder)
    seconds = time.monotonic() - began
    if save is not None and ending not in FINE:
        shutil.copytree(folder, save / folder.name, dirs_exist_ok=True)
    shutil.rmtree(folder)
    return Outcome(kind, number, ending, detail, seconds)


def make_input(kind: str, number: int, seed: int, folder: Path) -> Trial:
    """Makes one input in a new folder: the same for the same kind, number and seed."""
    folder.mkdir(parents=True)
    rng = np.random.default_rng([seed, zlib.crc32(kind.encode()), number])
    return KINDS[kind].make(folder, rng)


def judge(trial: Trial, folder: Path) -> tuple[str, str]:
    """Reads an input; returns the ending, as in `Outcome`, and details."""
    before = _contents(folder)
    _forget_peak_memory()
    held = _peak_memory()
    try:
        with _alarm(), warnings.catch_warnings():
            warnings.simplefilter("ignore")
            ending, detail = _read_and_check(trial)
    except Hang:
        ending, detail = "hang", traceback.format_exc(limit=-4)
    if (taken := _peak_memory() - held) > MEMORY:
        ending, detail = "memory", f"{taken / 2**30:.1f} GiB. {ending}: {detail}"
    after = _contents(folder)
    if changed := sorted(name for name in before.keys() | after.keys() if before.get(name) != after.get(name)):
        ending, detail = "changed", f"reading changed {', '.join(changed[:5])}. {ending}: {detail}"
    return ending, detail


def _read_and_check(trial: Trial) -> tuple[str, str]:
    try:
        trial.check(trial.read())
    except UserError as error:
        message = str(error)
        if trial.must_read:
            return "refused", f"no relevant part was damaged: {message}"
        if not message.strip() or len(message) > LONGEST_MESSAGE:
            return "message", f"a message of {len(message)} characters: {message[:300]}"
        return "UserError", message
    except Wrong as error:
        return "wrong", str(error)
    except (Exception, SystemExit):
        return "exception", traceback.format_exc(limit=-6)
    return "right", ""


def _schedule(kinds: Mapping[str, int]) -> list[str]:
    """One round of kinds, each as often as its weight, spread evenly."""
    places = [((turn + 0.5) / weight, name) for name, weight in kinds.items() for turn in range(weight)]
    return [name for _, name in sorted(places)]


def _all_outcomes(args: Args, stop: float) -> Iterator[Outcome]:
    """Yields outcomes from the worker processes. A process that dies or hangs is replaced."""
    schedule = _schedule({name: KINDS[name].weight for name in args.kinds or KINDS})
    context = multiprocessing.get_context("spawn")
    last = args.first + args.inputs

    with tempfile.TemporaryDirectory(prefix="fuzz-") as work:
        workers = {}

        def start(number: int) -> None:
            ours, theirs = context.Pipe(duplex=False)
            options = (theirs, schedule, range(number, last, args.processes), args.seed, Path(work), args.save, stop)
            process = context.Process(target=_work, args=options, daemon=True)
            process.start()
            theirs.close()
            workers[ours] = [process, number, time.monotonic()]

        for i in range(min(args.processes, args.inputs)):
            start(args.first + i)
        while workers:
            for connection in wait(list(workers), timeout=1):
                assert isinstance(connection, Connection)
                process, number, _ = workers[connection]
                try:
                    outcome = connection.recv()
                except EOFError:
                    process.join()
                    del workers[connection]
                    if process.exitcode:
                        last_words = (Path(work) / f"stderr-{process.pid}").read_text(errors="replace")[-2000:]
                        detail = f"exit code {process.exitcode}\n{last_words}"
                        yield Outcome(schedule[number % len(schedule)], number, "death", detail)
                        start(number + args.processes)
                    continue
                workers[connection][1:] = [outcome.number + args.processes, time.monotonic()]
                yield outcome
            for process, _, since in list(workers.values()):
                if time.monotonic() - since > GRACE:
                    process.kill()


def _work(
    outcomes: Connection, schedule: list[str], numbers: range, seed: int, work: Path, save: Path | None, stop: float
) -> None:
    """Tries inputs in a worker process. Messages of libraries on stderr go to a file."""
    log = os.open(work / f"stderr-{os.getpid()}", os.O_CREAT | os.O_WRONLY)
    os.dup2(log, sys.stderr.fileno())
    os.environ["JIMGEN_CACHE"] = str(work / f"cache-{os.getpid()}")
    tempfile.tempdir = str(work)
    _limit_memory()
    for number in numbers:
        if time.monotonic() > stop:
            break
        outcomes.send(try_input(schedule[number % len(schedule)], number, seed, work, save))


def _limit_memory() -> None:
    """Limits memory so that a huge allocation raises MemoryError before it takes the whole machine."""
    held = int(_status("VmData").split()[0]) * 1024
    resource.setrlimit(resource.RLIMIT_DATA, (held + MEMORY + 2**30, resource.RLIM_INFINITY))


def _status(field: str) -> str:
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(line.partition(":")[2].strip() for line in lines if line.startswith(field))


def _peak_memory() -> int:
    """The largest resident memory in bytes since `_forget_peak_memory`."""
    return int(_status("VmHWM").split()[0]) * 1024


def _forget_peak_memory() -> None:
    with contextlib.suppress(OSError):  # if the kernel refuses, the peak is that of all inputs
        Path("/proc/self/clear_refs").write_text("5")


@contextlib.contextmanager
def _alarm() -> Iterator[None]:
    def ring(signum: int, frame: object) -> None:
        raise Hang

    timers = [(signal.SIGPROF, signal.ITIMER_PROF, SECONDS), (signal.SIGALRM, signal.ITIMER_REAL, PATIENCE)]
    before = {number: signal.signal(number, ring) for number, _, _ in timers}
    for _, timer, seconds in timers:
        signal.setitimer(timer, seconds)
    try:
        yield
    finally:
        for number, timer, _ in timers:
            signal.setitimer(timer, 0)
            signal.signal(number, before[number])


def _contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() if path.is_file() else b"" for path in folder.rglob("*")}


def _table(outcomes: list[Outcome]) -> str:
    """Inputs, right results, UserErrors and findings of each kind, and its slowest input."""
    lines = ["kind                   inputs   right  UserError  findings  slowest"]
    for kind in [*dict.fromkeys(outcome.kind for outcome in outcomes), "all"]:
        of_kind = [outcome for outcome in outcomes if kind in (outcome.kind, "all")]
        endings = Counter(outcome.ending for outcome in of_kind)
        right, refused = endings["right"], endings["UserError"]
        slowest = max((outcome.seconds for outcome in of_kind), default=0)
        findings = len(of_kind) - right - refused
        lines.append(f"{kind:22} {len(of_kind):6}  {right:6}  {refused:9}  {findings:8}  {slowest:5.1f} s")
    return "\n".join(lines)


if __name__ == "__main__":
    sys.exit(main(tyro.cli(Args, description=__doc__)))
